"""What people are told about, signs of life of listeners, and the last sync of a company at once.

Revision ID: 0007
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0004"

UTC_NOW = sa.text("timezone('utc', clock_timestamp())")


def upgrade() -> None:
    op.create_table(
        "incidents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("transaction_id", sa.String(length=64), nullable=True),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_try_at", postgresql.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("is_sending", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("sent_at", postgresql.TIMESTAMP(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("part_of", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key", name="incidents_uk_key"),
    )
    op.create_index("incidents_idx_kind_created_at", "incidents", ["kind", "created_at"], unique=False)
    op.create_index(
        "incidents_idx_unsent",
        "incidents",
        ["next_try_at"],
        unique=False,
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    op.create_table(
        "listeners",
        sa.Column("listener", sa.String(length=255), nullable=False),
        sa.Column("dingtalk_conn_id", sa.String(length=250), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("seen_at", postgresql.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("is_connected", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("listener", "dingtalk_conn_id"),
    )
    op.add_column("dingtalk_events", sa.Column("incident_id", sa.BigInteger(), nullable=True))
    op.create_index(
        "dingtalk_events_idx_untold",
        "dingtalk_events",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status = 'dead' AND incident_id IS NULL"),
    )
    op.create_index(
        "saga_transactions_idx_completed",
        "saga_transactions",
        ["third_company_id", "definition", "end_time"],
        unique=False,
        postgresql_where=sa.text("status = 'completed'"),
    )
