"""What proves a fetch complete, the scope it was read with, and what is held back because of conflicts.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"

UTC_NOW = sa.text("timezone('utc', clock_timestamp())")


def upgrade() -> None:
    for table in ("staged_users", "known_users"):
        for column in ("phone_key", "email_key"):
            op.add_column(table, sa.Column(column, sa.String(length=64), nullable=True))
    for column in ("phone_key", "email_key"):
        op.create_index(f"known_users_idx_{column}", "known_users", ["third_company_id", column])
    op.create_table(
        "staged_evidence",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("dept_id", sa.BigInteger(), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("settings", sa.String(length=64), nullable=False),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("reported", sa.Integer(), nullable=True),
        sa.Column("listed_at", postgresql.TIMESTAMP(), nullable=True),
        sa.Column("pages", sa.Integer(), nullable=True),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("went_back", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("proven_at", postgresql.TIMESTAMP(), nullable=True),
        sa.Column("listed_notes", postgresql.JSONB(), nullable=True),
        sa.Column("notes", postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_id", "epoch", "attempt", "dept_id"),
    )
    op.create_table(
        "staged_conflicts",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("other", sa.String(length=255), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", "epoch", "attempt", "kind", "key"),
    )
    op.create_table(
        "known_scopes",
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("departments", postgresql.JSONB(), nullable=False),
        sa.Column("user_fields", postgresql.JSONB(), nullable=False),
        sa.Column("task_id", sa.String(length=20), nullable=False),
        sa.Column("updated_at", postgresql.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.PrimaryKeyConstraint("third_company_id"),
    )
    op.create_table(
        "conflicts",
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("other", sa.String(length=255), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", postgresql.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("third_company_id", "kind", "key"),
    )
    op.create_index("conflicts_idx_other", "conflicts", ["third_company_id", "kind", "other"])
    op.create_index("conflicts_idx_since", "conflicts", ["since"])
