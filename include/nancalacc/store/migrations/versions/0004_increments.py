"""What a batch of events prepares and publishes, and when events are handled again.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("staged_users", sa.Column("manager", sa.String(length=255), nullable=True))
    op.add_column("known_users", sa.Column("manager", sa.String(length=255), nullable=True))
    op.add_column("dingtalk_events", sa.Column("repeat_at", postgresql.TIMESTAMP(), nullable=True))
    op.add_column("dingtalk_events", sa.Column("returns", sa.Integer(), server_default="0", nullable=False))
    op.add_column("dingtalk_events", sa.Column("batch_limit", sa.Integer(), nullable=True))
    op.create_index(
        "dingtalk_events_idx_repeat",
        "dingtalk_events",
        ["dingtalk_conn_id", "wps_conn_id", "repeat_at"],
        unique=False,
        postgresql_where=sa.text("repeat_at IS NOT NULL"),
    )
    op.create_table(
        "staged_changes",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("event_ids", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_id", "kind", "key"),
    )
    op.create_table(
        "staged_increments",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("update_type", sa.String(length=20), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("is_last", sa.Boolean(), nullable=False),
        sa.Column("later", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("row_id", sa.BigInteger(), nullable=True),
        sa.Column("is_settled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", "kind", "position"),
    )
