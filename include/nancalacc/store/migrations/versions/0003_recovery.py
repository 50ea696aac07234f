"""What saga_recovery has tried, and when it tries again.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column(
        "saga_transactions",
        sa.Column("recovery_tries", sa.Integer(), server_default="0", nullable=False),
    )
    op.add_column("saga_transactions", sa.Column("recovery_at", postgresql.TIMESTAMP(), nullable=True))
    op.add_column("saga_transactions", sa.Column("recovery_error", sa.Text(), nullable=True))
