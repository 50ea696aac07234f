"""The tables of WPS, of the sagas, and our own.

Revision ID: 0001
Revises:
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

SET_MTIME = """
CREATE OR REPLACE FUNCTION las_set_mtime() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.mtime := now(); RETURN NEW; END $$
"""
TABLES_WITH_MTIME = (
    "tb_company_cfg",
    "tb_las_department",
    "tb_las_user",
    "tb_las_department_increment",
    "tb_las_user_increment",
    "tb_las_department_user_increment",
)
MOMENTS_BY_DEFAULT = {
    "saga_transactions": ("start_time", "created_at", "updated_at"),
    "saga_steps": ("created_at", "updated_at"),
    "saga_events": ("created_at",),
}


def _added_to_transactions() -> list[sa.Column[Any]]:
    return [
        sa.Column("dag_id", sa.String(length=250), nullable=True),
        sa.Column("run_id", sa.String(length=250), nullable=True),
        sa.Column("third_company_id", sa.String(length=20), nullable=True),
        sa.Column("task_id", sa.String(length=20), nullable=True),
        sa.Column("definition", sa.String(length=255), server_default="", nullable=False),
        sa.Column(
            "params",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("failed_step", sa.String(length=64), nullable=True),
        sa.Column("goal", sa.String(length=20), nullable=True),
    ]


def _added_to_steps() -> list[sa.Column[Any]]:
    return [
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("heartbeat_at", postgresql.TIMESTAMP(), nullable=True),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("pivot_state", sa.String(length=20), nullable=True),
    ]


def _complete(table: str, added: list[sa.Column[Any]]) -> None:
    """Give a shared table what is ours where somebody else has made it first."""
    for column in added:
        op.add_column(table, column, if_not_exists=True)
    for name in MOMENTS_BY_DEFAULT[table]:
        # Where a table of WPS is written, too, now() is the company's local time.
        op.alter_column(table, name, server_default=sa.text("timezone('utc', clock_timestamp())"))


def upgrade() -> None:
    op.create_table(
        "company_locks",
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=True),
        sa.Column("since", postgresql.TIMESTAMP(), nullable=True),
        sa.Column("waiting", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("third_company_id"),
    )
    op.create_index("company_locks_idx_holder", "company_locks", ["holder"], unique=False)
    op.create_table(
        "known_departments",
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("name_key", sa.String(length=255), nullable=True),
        sa.Column("order", sa.Integer(), nullable=True),
        sa.Column("task_id", sa.String(length=20), nullable=False),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("third_company_id", "did"),
    )
    op.create_table(
        "known_memberships",
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("order", sa.Integer(), nullable=True),
        sa.Column("main", sa.SmallInteger(), nullable=False),
        sa.Column("leader", sa.Boolean(), nullable=True),
        sa.Column("task_id", sa.String(length=20), nullable=False),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("third_company_id", "uid", "did"),
    )
    op.create_index(
        "known_memberships_idx_did", "known_memberships", ["third_company_id", "did"], unique=False
    )
    op.create_table(
        "known_users",
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("uid_key", sa.String(length=255), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("account_key", sa.String(length=255), nullable=False),
        sa.Column("nick_name", sa.String(length=255), nullable=False),
        sa.Column("def_did", sa.String(length=255), nullable=True),
        sa.Column("def_did_order", sa.Integer(), nullable=True),
        sa.Column("avatar", sa.String(length=255), nullable=True),
        sa.Column("email", sa.String(length=80), nullable=True),
        sa.Column("title", sa.String(length=255), nullable=True),
        sa.Column("work_place", sa.String(length=255), nullable=True),
        sa.Column("leader", sa.String(length=255), nullable=True),
        sa.Column("employer", sa.String(length=255), nullable=True),
        sa.Column("employment_status", sa.String(length=60), nullable=True),
        sa.Column("phone", sa.String(length=200), nullable=True),
        sa.Column("telephone", sa.String(length=200), nullable=True),
        sa.Column("task_id", sa.String(length=20), nullable=False),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("third_company_id", "uid"),
    )
    op.create_index(
        "known_users_idx_account_key", "known_users", ["third_company_id", "account_key"], unique=False
    )
    op.create_index("known_users_idx_uid_key", "known_users", ["third_company_id", "uid_key"], unique=False)
    op.create_table(
        "saga_transactions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("current_step", sa.String(length=64), nullable=True),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "start_time",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column("end_time", postgresql.TIMESTAMP(), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column("deleted_at", postgresql.TIMESTAMP(), nullable=True),
        *_added_to_transactions(),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'completed', 'failed', 'compensating', 'compensated', 'cancelled')",
            name="saga_transactions_ck_status",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("transaction_id", name="saga_transactions_uk_transaction_id"),
        if_not_exists=True,
    )
    _complete("saga_transactions", _added_to_transactions())
    op.create_index(
        "saga_transactions_idx_company",
        "saga_transactions",
        ["third_company_id", "created_at"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "saga_transactions_idx_created_at",
        "saga_transactions",
        ["created_at"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "saga_transactions_idx_deleted_at",
        "saga_transactions",
        ["deleted_at"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "saga_transactions_idx_start_time",
        "saga_transactions",
        ["start_time"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "saga_transactions_idx_status_created_at",
        "saga_transactions",
        ["status", "created_at"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "staged_departments",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("name_key", sa.String(length=255), nullable=True),
        sa.Column("order", sa.Integer(), nullable=True),
        sa.Column("rejected", sa.Text(), nullable=True),
    )
    op.create_index(
        "staged_departments_idx_fetch",
        "staged_departments",
        ["transaction_id"],
        unique=False,
        postgresql_using="brin",
    )
    op.create_table(
        "staged_memberships",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("order", sa.Integer(), nullable=True),
        sa.Column("main", sa.SmallInteger(), nullable=False),
        sa.Column("leader", sa.Boolean(), nullable=True),
        sa.Column("rejected", sa.Text(), nullable=True),
    )
    op.create_index(
        "staged_memberships_idx_fetch",
        "staged_memberships",
        ["transaction_id"],
        unique=False,
        postgresql_using="brin",
    )
    op.create_table(
        "staged_users",
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("uid_key", sa.String(length=255), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=True),
        sa.Column("account_key", sa.String(length=255), nullable=True),
        sa.Column("nick_name", sa.String(length=255), nullable=True),
        sa.Column("def_did", sa.String(length=255), nullable=True),
        sa.Column("def_did_order", sa.Integer(), nullable=True),
        sa.Column("avatar", sa.String(length=255), nullable=True),
        sa.Column("email", sa.String(length=80), nullable=True),
        sa.Column("title", sa.String(length=255), nullable=True),
        sa.Column("work_place", sa.String(length=255), nullable=True),
        sa.Column("leader", sa.String(length=255), nullable=True),
        sa.Column("employer", sa.String(length=255), nullable=True),
        sa.Column("employment_status", sa.String(length=60), nullable=True),
        sa.Column("phone", sa.String(length=200), nullable=True),
        sa.Column("telephone", sa.String(length=200), nullable=True),
        sa.Column("departments", sa.Integer(), nullable=True),
        sa.Column("rejected", sa.Text(), nullable=True),
    )
    op.create_index(
        "staged_users_idx_fetch", "staged_users", ["transaction_id"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "task",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "updated_at", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("due_date", postgresql.TIMESTAMP(precision=0), nullable=True),
        sa.Column("start_date", postgresql.TIMESTAMP(precision=0), nullable=True),
        sa.Column("completed_at", postgresql.TIMESTAMP(precision=0), nullable=True),
        sa.Column("creator_id", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.SmallInteger(), server_default="0", nullable=True),
        sa.Column("estimated_time", sa.Integer(), nullable=True),
        sa.Column("actual_time", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index("task_idx_status", "task", ["status"], unique=False, if_not_exists=True)
    op.create_index("task_idx_title", "task", ["title"], unique=False, if_not_exists=True)
    op.create_index("task_uk_title", "task", ["title"], unique=True, if_not_exists=True)
    op.create_table(
        "tb_company_cfg",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("platform_ids", sa.String(length=100), nullable=False),
        sa.Column("company_id", sa.String(length=20), nullable=False),
        sa.Column("status", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("ctime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True),
        sa.Column(
            "mtime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("company_id", name="uk_company_id"),
        sa.UniqueConstraint("third_company_id", name="uk_third_company_id"),
        if_not_exists=True,
    )
    op.create_table(
        "tb_las_department",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("task_id", sa.String(length=20), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("platform_id", sa.String(length=60), nullable=False),
        sa.Column("pid", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("order", sa.Integer(), server_default="0", nullable=True),
        sa.Column("source", sa.String(length=20), server_default="sync", nullable=True),
        sa.Column("ctime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True),
        sa.Column(
            "mtime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("check_type", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("type", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("did", "task_id", "third_company_id", "platform_id", name="uk_task_did"),
        if_not_exists=True,
    )
    op.create_index(
        "las_department_idx_pid",
        "tb_las_department",
        ["pid", "task_id", "third_company_id", "platform_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "las_department_idx_task_company",
        "tb_las_department",
        ["task_id", "third_company_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "tb_las_department_increment",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("platform_id", sa.String(length=60), nullable=False),
        sa.Column("pid", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("order", sa.Integer(), nullable=True),
        sa.Column("source", sa.String(length=20), server_default="sync", nullable=True),
        sa.Column("sync_type", sa.String(length=20), server_default="auto", nullable=True),
        sa.Column("update_type", sa.String(length=20), nullable=False),
        sa.Column("status", sa.Integer(), server_default="0", nullable=True),
        sa.Column("msg", sa.String(length=2000), nullable=True),
        sa.Column("operator", sa.String(length=100), server_default="系统", nullable=False),
        sa.Column(
            "sync_time", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True
        ),
        sa.Column("ctime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True),
        sa.Column(
            "mtime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("type", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index(
        "las_dept_inc_idx_mtime", "tb_las_department_increment", ["mtime"], unique=False, if_not_exists=True
    )
    op.create_index(
        "las_dept_inc_idx_name", "tb_las_department_increment", ["name"], unique=False, if_not_exists=True
    )
    op.create_index(
        "las_dept_inc_idx_sync_time",
        "tb_las_department_increment",
        ["sync_time", "status", "third_company_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "tb_las_department_user",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("task_id", sa.String(length=20), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("platform_id", sa.String(length=60), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("order", sa.Integer(), nullable=True),
        sa.Column("main", sa.Integer(), server_default="0", nullable=True),
        sa.Column(
            "ctime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("check_type", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "uid", "did", "task_id", "third_company_id", "platform_id", name="las_department_user_uid"
        ),
        if_not_exists=True,
    )
    op.create_index(
        "las_du_idx_did", "tb_las_department_user", ["did", "task_id"], unique=False, if_not_exists=True
    )
    op.create_index(
        "las_du_idx_task_company",
        "tb_las_department_user",
        ["task_id", "third_company_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "las_du_idx_uid", "tb_las_department_user", ["uid", "task_id"], unique=False, if_not_exists=True
    )
    op.create_table(
        "tb_las_department_user_increment",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("platform_id", sa.String(length=60), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("did", sa.String(length=255), nullable=False),
        sa.Column("order", sa.Integer(), nullable=True),
        sa.Column("main", sa.Integer(), server_default="0", nullable=True),
        sa.Column("sync_type", sa.String(length=20), server_default="auto", nullable=True),
        sa.Column("update_type", sa.String(length=20), nullable=False),
        sa.Column("status", sa.Integer(), server_default="0", nullable=True),
        sa.Column("msg", sa.String(length=2000), nullable=True),
        sa.Column("operator", sa.String(length=100), server_default="系统", nullable=False),
        sa.Column(
            "sync_time", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True
        ),
        sa.Column(
            "ctime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "mtime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("dids", sa.String(length=5000), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index(
        "las_du_inc_idx_mtime",
        "tb_las_department_user_increment",
        ["mtime"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "las_du_inc_idx_sync_time",
        "tb_las_department_user_increment",
        ["sync_time", "status", "third_company_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "tb_las_user",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("task_id", sa.String(length=20), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("platform_id", sa.String(length=60), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("def_did", sa.String(length=255), nullable=True),
        sa.Column("def_did_order", sa.Integer(), server_default="0", nullable=True),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("nick_name", sa.String(length=255), nullable=False),
        sa.Column("password", sa.String(length=255), nullable=True),
        sa.Column("avatar", sa.String(length=255), nullable=True),
        sa.Column("email", sa.String(length=80), nullable=True),
        sa.Column("gender", sa.String(length=60), nullable=True),
        sa.Column("title", sa.String(length=255), nullable=True),
        sa.Column("work_place", sa.String(length=255), nullable=True),
        sa.Column("leader", sa.String(length=255), nullable=True),
        sa.Column("employer", sa.String(length=255), nullable=True),
        sa.Column("employment_status", sa.String(length=60), server_default="notactive", nullable=False),
        sa.Column("employment_type", sa.String(length=60), nullable=True),
        sa.Column("phone", sa.String(length=200), nullable=True),
        sa.Column("telephone", sa.String(length=200), nullable=True),
        sa.Column("source", sa.String(length=20), server_default="sync", nullable=True),
        sa.Column("custom_fields", sa.String(length=5000), nullable=True),
        sa.Column("ctime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True),
        sa.Column(
            "mtime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("check_type", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("account", "task_id", "third_company_id", name="uk_task_company_name"),
        sa.UniqueConstraint("uid", "task_id", "platform_id", name="uk_task_uid"),
        if_not_exists=True,
    )
    op.create_index(
        "las_user_idx_task_company",
        "tb_las_user",
        ["task_id", "third_company_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "tb_las_user_increment",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("third_company_id", sa.String(length=20), nullable=False),
        sa.Column("platform_id", sa.String(length=60), nullable=False),
        sa.Column("uid", sa.String(length=255), nullable=False),
        sa.Column("def_did", sa.String(length=255), nullable=True),
        sa.Column("def_did_order", sa.Integer(), server_default="0", nullable=True),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("nick_name", sa.String(length=255), nullable=False),
        sa.Column("password", sa.String(length=255), nullable=True),
        sa.Column("avatar", sa.String(length=255), nullable=True),
        sa.Column("email", sa.String(length=80), nullable=True),
        sa.Column("gender", sa.String(length=60), nullable=True),
        sa.Column("title", sa.String(length=255), nullable=True),
        sa.Column("work_place", sa.String(length=255), nullable=True),
        sa.Column("leader", sa.String(length=255), nullable=True),
        sa.Column("employer", sa.String(length=255), nullable=True),
        sa.Column("employment_status", sa.String(length=60), nullable=False),
        sa.Column("employment_type", sa.String(length=60), nullable=True),
        sa.Column("phone", sa.String(length=200), nullable=True),
        sa.Column("telephone", sa.String(length=200), nullable=True),
        sa.Column("source", sa.String(length=20), server_default="sync", nullable=True),
        sa.Column("custom_fields", sa.String(length=5000), nullable=True),
        sa.Column("sync_type", sa.String(length=20), server_default="auto", nullable=True),
        sa.Column("update_type", sa.String(length=20), nullable=False),
        sa.Column("status", sa.Integer(), server_default="0", nullable=True),
        sa.Column("msg", sa.String(length=2000), nullable=True),
        sa.Column("operator", sa.String(length=100), server_default="系统", nullable=False),
        sa.Column(
            "sync_time", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True
        ),
        sa.Column("ctime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=True),
        sa.Column(
            "mtime", postgresql.TIMESTAMP(precision=0), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index(
        "las_user_inc_idx_mtime", "tb_las_user_increment", ["mtime"], unique=False, if_not_exists=True
    )
    op.create_index(
        "las_user_inc_idx_nick_name", "tb_las_user_increment", ["nick_name"], unique=False, if_not_exists=True
    )
    op.create_index(
        "las_user_inc_idx_sync_time",
        "tb_las_user_increment",
        ["sync_time", "status", "third_company_id"],
        unique=False,
        if_not_exists=True,
    )
    op.create_table(
        "saga_steps",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("step_id", sa.String(length=64), nullable=False),
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("step_name", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("action_data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("compensate_data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_retries", sa.Integer(), server_default="3", nullable=False),
        sa.Column("start_time", postgresql.TIMESTAMP(), nullable=True),
        sa.Column("end_time", postgresql.TIMESTAMP(), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column("deleted_at", postgresql.TIMESTAMP(), nullable=True),
        *_added_to_steps(),
        sa.CheckConstraint("pivot_state IN ('intended', 'refused')", name="saga_steps_ck_pivot_state"),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'completed', 'failed', 'compensating', 'compensated', 'skipped')",
            name="saga_steps_ck_status",
        ),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["saga_transactions.transaction_id"], onupdate="CASCADE", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("step_id", name="saga_steps_uk_step_id"),
        if_not_exists=True,
    )
    _complete("saga_steps", _added_to_steps())
    op.create_index(
        "saga_steps_idx_deleted_at", "saga_steps", ["deleted_at"], unique=False, if_not_exists=True
    )
    op.create_index(
        "saga_steps_idx_start_time", "saga_steps", ["start_time"], unique=False, if_not_exists=True
    )
    op.create_index("saga_steps_idx_status", "saga_steps", ["status"], unique=False, if_not_exists=True)
    op.create_index(
        "saga_steps_idx_transaction_start_time",
        "saga_steps",
        ["transaction_id", "start_time"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "saga_steps_idx_transaction_status",
        "saga_steps",
        ["transaction_id", "status"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "saga_steps_uk_position",
        "saga_steps",
        ["transaction_id", "position"],
        unique=True,
        postgresql_where=sa.text("position > 0"),
        if_not_exists=True,
    )
    op.create_table(
        "saga_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("transaction_id", sa.String(length=64), nullable=False),
        sa.Column("step_id", sa.String(length=64), nullable=True),
        sa.Column("event_type", sa.String(length=50), nullable=False),
        sa.Column("event_data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(),
            server_default=sa.text("timezone('utc', clock_timestamp())"),
            nullable=False,
        ),
        sa.Column("deleted_at", postgresql.TIMESTAMP(), nullable=True),
        sa.ForeignKeyConstraint(["step_id"], ["saga_steps.step_id"], onupdate="CASCADE", ondelete="SET NULL"),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["saga_transactions.transaction_id"], onupdate="CASCADE", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    _complete("saga_events", [])
    op.create_index(
        "saga_events_idx_created_at", "saga_events", ["created_at"], unique=False, if_not_exists=True
    )
    op.create_index(
        "saga_events_idx_deleted_at", "saga_events", ["deleted_at"], unique=False, if_not_exists=True
    )
    op.create_index("saga_events_idx_step_id", "saga_events", ["step_id"], unique=False, if_not_exists=True)
    op.create_index(
        "saga_events_idx_transaction_created_at",
        "saga_events",
        ["transaction_id", "created_at"],
        unique=False,
        if_not_exists=True,
    )
    op.create_index(
        "saga_events_idx_type_created_at",
        "saga_events",
        ["event_type", "created_at"],
        unique=False,
        if_not_exists=True,
    )
    op.execute(SET_MTIME)
    for table in TABLES_WITH_MTIME:
        op.execute(
            f"CREATE OR REPLACE TRIGGER {table}_set_mtime BEFORE UPDATE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION las_set_mtime()"
        )
