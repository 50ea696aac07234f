"""What came of reading WPS's directory back, its copy while it is compared, and what an undo leaves alone.

Revision ID: 0008
Revises: 0007
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"

UTC_NOW = sa.text("timezone('utc', clock_timestamp())")


def upgrade() -> None:
    op.create_table(
        "verifications",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("transaction_id", sa.String(length=64), nullable=True),
        sa.Column("task_id", sa.String(length=20), nullable=True),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "counts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("looks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("queued", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("verifications_idx_company", "verifications", ["third_company_id", "id"])
    op.create_index("verifications_idx_transaction", "verifications", ["transaction_id"])
    op.create_table(
        "verification_differences",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("verification_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=True),
        sa.Column("what", sa.String(length=20), nullable=False),
        sa.Column("fields", sa.String(length=100), nullable=True),
        sa.ForeignKeyConstraint(["verification_id"], ["verifications.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "verification_differences_idx_verification", "verification_differences", ["verification_id"]
    )
    op.create_table(
        "undo_left",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["saga_transactions.transaction_id"],
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("transaction_id", "kind", "key"),
    )
    _create_copy(
        "directory_departments",
        sa.Column("parent_wps_id", sa.String(length=255), nullable=True),
        sa.Column("did", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("name_key", sa.String(length=255), nullable=True),
    )
    _create_copy(
        "directory_users",
        sa.Column("uid", sa.String(length=255), nullable=True),
        sa.Column("uid_key", sa.String(length=255), nullable=True),
        sa.Column("account", sa.String(length=255), nullable=True),
        sa.Column("account_key", sa.String(length=255), nullable=True),
        sa.Column("nick_name", sa.String(length=255), nullable=True),
        sa.Column("has_places", sa.Boolean(), nullable=False),
    )
    _create_copy("directory_memberships", sa.Column("wps_dept_id", sa.String(length=255), nullable=False))


def _create_copy(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        sa.Column("verification_id", sa.BigInteger(), nullable=False),
        sa.Column("wps_id", sa.String(length=255), nullable=False),
        *columns,
    )
    op.create_index(f"{name}_idx_verification", name, ["verification_id"])
