"""The inbox of DingTalk's events.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "dingtalk_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("dingtalk_conn_id", sa.String(length=250), nullable=False),
        sa.Column("wps_conn_id", sa.String(length=250), nullable=False),
        sa.Column("event_id", sa.String(length=128), nullable=False),
        sa.Column("event_type", sa.String(length=100), nullable=False),
        sa.Column("corp_id", sa.String(length=128), nullable=True),
        sa.Column(
            "object_ids",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("born_at", postgresql.TIMESTAMP(), nullable=True),
        sa.Column(
            "received_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "next_attempt_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column("transaction_id", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("handled_at", postgresql.TIMESTAMP(), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'claimed', 'done', 'dead')", name="dingtalk_events_ck_status"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dingtalk_conn_id", "wps_conn_id", "event_id", name="dingtalk_events_uk_event"),
    )
    op.create_index(
        "dingtalk_events_idx_pending",
        "dingtalk_events",
        ["dingtalk_conn_id", "wps_conn_id", "next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "dingtalk_events_idx_status_received_at",
        "dingtalk_events",
        ["status", "received_at"],
        unique=False,
    )
    op.create_index("dingtalk_events_idx_transaction", "dingtalk_events", ["transaction_id"], unique=False)
