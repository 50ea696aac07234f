"""The tables: those shared with WPS and other tools [wps 5, 6], and our own.

Shared names are fixed: columns may be added, none renamed or dropped. Timestamps of
the `tb_*` and `task` tables are local time of the company's zone, those of the saga
tables and of our own are UTC.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TIMESTAMP

from nancalacc.saga.state import PivotState, SagaStatus, StepStatus

metadata = MetaData()

NOW = text("now()")
UTC_NOW = text("timezone('utc', clock_timestamp())")
SECONDS = TIMESTAMP(precision=0)
MOMENT = TIMESTAMP()


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=False), primary_key=True)


def _required(name: str, length: int) -> Column[str]:
    return Column(name, String(length), nullable=False)


def _optional(name: str, length: int, default: str | None = None) -> Column[str]:
    return Column(name, String(length), server_default=default)


def _times(*, ctime_required: bool = False, mtime: bool = True) -> list[Column[Any]]:
    columns: list[Column[Any]] = [Column("ctime", SECONDS, server_default=NOW, nullable=not ctime_required)]
    if mtime:
        columns.append(Column("mtime", SECONDS, server_default=NOW, nullable=False))
    return columns


def _profile() -> list[Column[Any]]:
    """Columns of a person which both user tables of WPS share."""
    return [
        _optional("password", 255),
        _optional("avatar", 255),
        _optional("email", 80),
        _optional("gender", 60),
        _optional("title", 255),
        _optional("work_place", 255),
        _optional("leader", 255),
        _optional("employer", 255),
    ]


tb_company_cfg = Table(
    "tb_company_cfg",
    metadata,
    _id(),
    _required("third_company_id", 20),
    _required("platform_ids", 100),
    _required("company_id", 20),
    Column("status", SmallInteger, nullable=False, server_default="1"),
    *_times(),
    UniqueConstraint("third_company_id", name="uk_third_company_id"),
    UniqueConstraint("company_id", name="uk_company_id"),
)

tb_las_department = Table(
    "tb_las_department",
    metadata,
    _id(),
    _required("did", 255),
    _required("task_id", 20),
    _required("third_company_id", 20),
    _required("platform_id", 60),
    _optional("pid", 255),
    _required("name", 255),
    Column("order", Integer, server_default="0"),
    _optional("source", 20, "sync"),
    *_times(),
    Column("check_type", SmallInteger, nullable=False, server_default="0"),
    _optional("type", 255),
    UniqueConstraint("did", "task_id", "third_company_id", "platform_id", name="uk_task_did"),
    Index("las_department_idx_pid", "pid", "task_id", "third_company_id", "platform_id"),
    Index("las_department_idx_task_company", "task_id", "third_company_id"),
)

tb_las_user = Table(
    "tb_las_user",
    metadata,
    _id(),
    _required("task_id", 20),
    _required("third_company_id", 20),
    _required("platform_id", 60),
    _required("uid", 255),
    _optional("def_did", 255),
    Column("def_did_order", Integer, server_default="0"),
    _required("account", 255),
    _required("nick_name", 255),
    *_profile(),
    Column("employment_status", String(60), nullable=False, server_default="notactive"),
    _optional("employment_type", 60),
    _optional("phone", 200),
    _optional("telephone", 200),
    _optional("source", 20, "sync"),
    _optional("custom_fields", 5000),
    *_times(),
    Column("check_type", SmallInteger, nullable=False, server_default="0"),
    UniqueConstraint("uid", "task_id", "platform_id", name="uk_task_uid"),
    UniqueConstraint("account", "task_id", "third_company_id", name="uk_task_company_name"),
    Index("las_user_idx_task_company", "task_id", "third_company_id"),
)

tb_las_department_user = Table(
    "tb_las_department_user",
    metadata,
    _id(),
    _required("task_id", 20),
    _required("third_company_id", 20),
    _required("platform_id", 60),
    _required("uid", 255),
    _required("did", 255),
    Column("order", Integer),
    Column("main", Integer, server_default="0"),
    *_times(ctime_required=True, mtime=False),
    Column("check_type", SmallInteger, nullable=False, server_default="0"),
    UniqueConstraint(
        "uid", "did", "task_id", "third_company_id", "platform_id", name="las_department_user_uid"
    ),
    Index("las_du_idx_did", "did", "task_id"),
    Index("las_du_idx_uid", "uid", "task_id"),
    Index("las_du_idx_task_company", "task_id", "third_company_id"),
)

OPERATOR = "系统"

tb_las_department_increment = Table(
    "tb_las_department_increment",
    metadata,
    _id(),
    _required("did", 255),
    _required("third_company_id", 20),
    _required("platform_id", 60),
    _optional("pid", 255),
    _required("name", 255),
    Column("order", Integer),
    _optional("source", 20, "sync"),
    _optional("sync_type", 20, "auto"),
    _required("update_type", 20),
    Column("status", Integer, server_default="0"),
    _optional("msg", 2000),
    Column("operator", String(100), nullable=False, server_default=OPERATOR),
    Column("sync_time", SECONDS, server_default=NOW),
    *_times(),
    _optional("type", 255),
    Index("las_dept_inc_idx_sync_time", "sync_time", "status", "third_company_id"),
    Index("las_dept_inc_idx_mtime", "mtime"),
    Index("las_dept_inc_idx_name", "name"),
)

tb_las_user_increment = Table(
    "tb_las_user_increment",
    metadata,
    _id(),
    _required("third_company_id", 20),
    _required("platform_id", 60),
    _required("uid", 255),
    _optional("def_did", 255),
    Column("def_did_order", Integer, server_default="0"),
    _required("account", 255),
    _required("nick_name", 255),
    *_profile(),
    _required("employment_status", 60),
    _optional("employment_type", 60),
    _optional("phone", 200),
    _optional("telephone", 200),
    _optional("source", 20, "sync"),
    _optional("custom_fields", 5000),
    _optional("sync_type", 20, "auto"),
    _required("update_type", 20),
    Column("status", Integer, server_default="0"),
    _optional("msg", 2000),
    Column("operator", String(100), nullable=False, server_default=OPERATOR),
    Column("sync_time", SECONDS, server_default=NOW),
    *_times(),
    Index("las_user_inc_idx_mtime", "mtime"),
    Index("las_user_inc_idx_sync_time", "sync_time", "status", "third_company_id"),
    Index("las_user_inc_idx_nick_name", "nick_name"),
)

tb_las_department_user_increment = Table(
    "tb_las_department_user_increment",
    metadata,
    _id(),
    _required("third_company_id", 20),
    _required("platform_id", 60),
    _required("uid", 255),
    _required("did", 255),
    Column("order", Integer),
    Column("main", Integer, server_default="0"),
    _optional("sync_type", 20, "auto"),
    _required("update_type", 20),
    Column("status", Integer, server_default="0"),
    _optional("msg", 2000),
    Column("operator", String(100), nullable=False, server_default=OPERATOR),
    Column("sync_time", SECONDS, server_default=NOW),
    *_times(ctime_required=True),
    _optional("dids", 5000),
    Index("las_du_inc_idx_sync_time", "sync_time", "status", "third_company_id"),
    Index("las_du_inc_idx_mtime", "mtime"),
)

task = Table(
    "task",
    metadata,
    _id(),
    _required("title", 255),
    Column("description", Text),
    Column("status", String(20), nullable=False, server_default="pending"),
    Column("created_at", SECONDS, nullable=False, server_default=NOW),
    Column("updated_at", SECONDS, nullable=False, server_default=NOW),
    Column("due_date", SECONDS),
    Column("start_date", SECONDS),
    Column("completed_at", SECONDS),
    Column("creator_id", BigInteger, nullable=False),
    Column("progress", SmallInteger, server_default="0"),
    Column("estimated_time", Integer),
    Column("actual_time", Integer),
    Index("task_idx_status", "status"),
    Index("task_idx_title", "title"),
    Index("task_uk_title", "title", unique=True),
)


def _one_of(column: str, kind: type[StrEnum], name: str) -> CheckConstraint:
    values = ", ".join(f"'{member.value}'" for member in kind)
    return CheckConstraint(f"{column} IN ({values})", name=name)


def _recorded() -> list[Column[Any]]:
    return [
        Column("created_at", MOMENT, nullable=False, server_default=UTC_NOW),
        Column("updated_at", MOMENT, nullable=False, server_default=UTC_NOW),
        Column("deleted_at", MOMENT),
    ]


saga_transactions = Table(
    "saga_transactions",
    metadata,
    _id(),
    _required("transaction_id", 64),
    _required("name", 255),
    Column("status", String(20), nullable=False, server_default="pending"),
    _optional("current_step", 64),
    Column("progress", Integer, nullable=False, server_default="0"),
    Column("start_time", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("end_time", MOMENT),
    *_recorded(),
    _optional("dag_id", 250),
    _optional("run_id", 250),
    _optional("third_company_id", 20),
    _optional("task_id", 20),
    Column("definition", String(255), nullable=False, server_default=""),
    Column("params", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("error_message", Text),
    _optional("failed_step", 64),
    _optional("goal", 20),
    Column("recovery_tries", Integer, nullable=False, server_default="0"),
    Column("recovery_at", MOMENT),
    Column("recovery_error", Text),
    UniqueConstraint("transaction_id", name="saga_transactions_uk_transaction_id"),
    _one_of("status", SagaStatus, "saga_transactions_ck_status"),
    Index("saga_transactions_idx_start_time", "start_time"),
    Index("saga_transactions_idx_created_at", "created_at"),
    Index("saga_transactions_idx_deleted_at", "deleted_at"),
    Index("saga_transactions_idx_status_created_at", "status", "created_at"),
    Index("saga_transactions_idx_company", "third_company_id", "created_at"),
    Index(
        "saga_transactions_idx_completed",
        "third_company_id",
        "definition",
        "end_time",
        postgresql_where=text("status = 'completed'"),
    ),
)

saga_steps = Table(
    "saga_steps",
    metadata,
    _id(),
    _required("step_id", 64),
    Column(
        "transaction_id",
        String(64),
        ForeignKey("saga_transactions.transaction_id", ondelete="CASCADE", onupdate="CASCADE"),
        nullable=False,
    ),
    _required("step_name", 255),
    Column("status", String(20), nullable=False, server_default="pending"),
    Column("action_data", JSONB),
    Column("compensate_data", JSONB),
    Column("error_message", Text),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    Column("max_retries", Integer, nullable=False, server_default="3"),
    Column("start_time", MOMENT),
    Column("end_time", MOMENT),
    *_recorded(),
    Column("position", Integer, nullable=False, server_default="0"),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("heartbeat_at", MOMENT),
    _optional("worker", 255),
    _optional("pivot_state", 20),
    UniqueConstraint("step_id", name="saga_steps_uk_step_id"),
    _one_of("status", StepStatus, "saga_steps_ck_status"),
    _one_of("pivot_state", PivotState, "saga_steps_ck_pivot_state"),
    Index("saga_steps_idx_status", "status"),
    Index("saga_steps_idx_start_time", "start_time"),
    Index("saga_steps_idx_deleted_at", "deleted_at"),
    Index("saga_steps_idx_transaction_status", "transaction_id", "status"),
    Index("saga_steps_idx_transaction_start_time", "transaction_id", "start_time"),
    Index(
        "saga_steps_uk_position",
        "transaction_id",
        "position",
        unique=True,
        postgresql_where=text("position > 0"),
    ),
)

saga_events = Table(
    "saga_events",
    metadata,
    _id(),
    Column(
        "transaction_id",
        String(64),
        ForeignKey("saga_transactions.transaction_id", ondelete="CASCADE", onupdate="CASCADE"),
        nullable=False,
    ),
    Column(
        "step_id",
        String(64),
        ForeignKey("saga_steps.step_id", ondelete="SET NULL", onupdate="CASCADE"),
    ),
    _required("event_type", 50),
    Column("event_data", JSONB),
    Column("created_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("deleted_at", MOMENT),
    Index("saga_events_idx_step_id", "step_id"),
    Index("saga_events_idx_created_at", "created_at"),
    Index("saga_events_idx_deleted_at", "deleted_at"),
    Index("saga_events_idx_transaction_created_at", "transaction_id", "created_at"),
    Index("saga_events_idx_type_created_at", "event_type", "created_at"),
)

company_locks = Table(
    "company_locks",
    metadata,
    Column("third_company_id", String(20), primary_key=True),
    Column("holder", String(64)),
    Column("since", MOMENT),
    Column("waiting", String(64)),
    Index("company_locks_idx_holder", "holder"),
)


def _person(*, in_known_state: bool) -> list[Column[Any]]:
    """A person as WPS is to have them; NULL in staging = not read, carried over from known state.

    `manager` is whom DingTalk names, `leader` the same person if WPS knows them. `phone_key` and
    `email_key` are keyed hashes of what DingTalk says: they tell equal values without holding them,
    and stay when the value itself is held back because somebody else has it. '' = has none.
    """
    return [
        _required("uid", 255),
        _required("uid_key", 255),
        Column("account", String(255), nullable=not in_known_state),
        Column("account_key", String(255), nullable=not in_known_state),
        Column("nick_name", String(255), nullable=not in_known_state),
        _optional("def_did", 255),
        Column("def_did_order", Integer),
        _optional("avatar", 255),
        _optional("email", 80),
        _optional("title", 255),
        _optional("work_place", 255),
        _optional("leader", 255),
        _optional("manager", 255),
        _optional("employer", 255),
        _optional("employment_status", 60),
        _optional("phone", 200),
        _optional("telephone", 200),
        _optional("phone_key", 64),
        _optional("email_key", 64),
    ]


def _staged() -> list[Column[Any]]:
    """The key of one fetch: a transaction and the epoch and attempt of the step that fetched.

    No primary key and only a BRIN index: a fetch is written once, read whole and thrown away,
    and without a B-tree COPY takes little more than half the time.
    """
    return [
        _required("transaction_id", 64),
        Column("epoch", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
    ]


staged_departments = Table(
    "staged_departments",
    metadata,
    *_staged(),
    _required("did", 255),
    _optional("pid", 255),
    _optional("name", 255),
    _optional("name_key", 255),
    Column("order", Integer),
    Column("rejected", Text),
    Index("staged_departments_idx_fetch", "transaction_id", postgresql_using="brin"),
)

staged_users = Table(
    "staged_users",
    metadata,
    *_staged(),
    *_person(in_known_state=False),
    Column("departments", Integer),
    Column("rejected", Text),
    Index("staged_users_idx_fetch", "transaction_id", postgresql_using="brin"),
)

staged_memberships = Table(
    "staged_memberships",
    metadata,
    *_staged(),
    _required("uid", 255),
    _required("did", 255),
    Column("order", Integer),
    Column("main", SmallInteger, nullable=False),
    Column("leader", Boolean),
    Column("rejected", Text),
    Index("staged_memberships_idx_fetch", "transaction_id", postgresql_using="brin"),
)

staged_evidence = Table(
    "staged_evidence",
    metadata,
    Column("transaction_id", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("dept_id", BigInteger, primary_key=True),
    _required("did", 255),
    _required("settings", 64),
    Column("parent_id", BigInteger),
    Column("reported", Integer),
    Column("listed_at", MOMENT),
    Column("pages", Integer),
    Column("members", Integer),
    Column("went_back", Boolean, nullable=False, server_default=text("false")),
    Column("proven_at", MOMENT),
    Column("listed_notes", JSONB),
    Column("notes", JSONB),
)

staged_conflicts = Table(
    "staged_conflicts",
    metadata,
    Column("transaction_id", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("key", String(255), primary_key=True),
    _optional("other", 255),
    Column("reason", Text, nullable=False),
)

known_departments = Table(
    "known_departments",
    metadata,
    Column("third_company_id", String(20), primary_key=True),
    Column("did", String(255), primary_key=True),
    _optional("pid", 255),
    _required("name", 255),
    _optional("name_key", 255),
    Column("order", Integer),
    _required("task_id", 20),
    Column("updated_at", MOMENT, nullable=False, server_default=UTC_NOW),
)

known_users = Table(
    "known_users",
    metadata,
    Column("third_company_id", String(20), primary_key=True),
    Column("uid", String(255), primary_key=True),
    *[column for column in _person(in_known_state=True) if column.name != "uid"],
    _required("task_id", 20),
    Column("updated_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Index("known_users_idx_uid_key", "third_company_id", "uid_key"),
    Index("known_users_idx_account_key", "third_company_id", "account_key"),
    Index("known_users_idx_phone_key", "third_company_id", "phone_key"),
    Index("known_users_idx_email_key", "third_company_id", "email_key"),
)

known_memberships = Table(
    "known_memberships",
    metadata,
    Column("third_company_id", String(20), primary_key=True),
    Column("uid", String(255), primary_key=True),
    Column("did", String(255), primary_key=True),
    Column("order", Integer),
    Column("main", SmallInteger, nullable=False),
    Column("leader", Boolean),
    _required("task_id", 20),
    Column("updated_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Index("known_memberships_idx_did", "third_company_id", "did"),
)


known_scopes = Table(
    "known_scopes",
    metadata,
    Column("third_company_id", String(20), primary_key=True),
    Column("departments", JSONB, nullable=False),
    Column("user_fields", JSONB, nullable=False),
    _required("task_id", 20),
    Column("updated_at", MOMENT, nullable=False, server_default=UTC_NOW),
)

conflicts = Table(
    "conflicts",
    metadata,
    Column("third_company_id", String(20), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("key", String(255), primary_key=True),
    _optional("other", 255),
    Column("reason", Text, nullable=False),
    Column("since", MOMENT, nullable=False, server_default=UTC_NOW),
    _required("transaction_id", 64),
    Index("conflicts_idx_other", "third_company_id", "kind", "other"),
    Index("conflicts_idx_since", "since"),
)


class EventStatus(StrEnum):
    """How far an event of DingTalk is: waiting, in a batch, dealt with, or given up with a reason."""

    PENDING = "pending"
    CLAIMED = "claimed"
    DONE = "done"
    DEAD = "dead"


dingtalk_events = Table(
    "dingtalk_events",
    metadata,
    _id(),
    _required("dingtalk_conn_id", 250),
    _required("wps_conn_id", 250),
    _required("event_id", 128),
    _required("event_type", 100),
    _optional("corp_id", 128),
    Column("object_ids", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("born_at", MOMENT),
    Column("received_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("status", String(20), nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", MOMENT, nullable=False, server_default=UTC_NOW),
    _optional("transaction_id", 64),
    Column("error", Text),
    Column("handled_at", MOMENT),
    Column("repeat_at", MOMENT),
    Column("returns", Integer, nullable=False, server_default="0"),
    Column("batch_limit", Integer),
    Column("incident_id", BigInteger),
    # Only ever appended to.
    Column("actions", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    UniqueConstraint("dingtalk_conn_id", "wps_conn_id", "event_id", name="dingtalk_events_uk_event"),
    _one_of("status", EventStatus, "dingtalk_events_ck_status"),
    Index(
        "dingtalk_events_idx_pending",
        "dingtalk_conn_id",
        "wps_conn_id",
        "next_attempt_at",
        postgresql_where=text("status = 'pending'"),
    ),
    Index(
        "dingtalk_events_idx_repeat",
        "dingtalk_conn_id",
        "wps_conn_id",
        "repeat_at",
        postgresql_where=text("repeat_at IS NOT NULL"),
    ),
    Index("dingtalk_events_idx_transaction", "transaction_id"),
    Index("dingtalk_events_idx_status_received_at", "status", "received_at"),
    Index(
        "dingtalk_events_idx_untold",
        "id",
        postgresql_where=text("status = 'dead' AND incident_id IS NULL"),
    ),
)

staged_changes = Table(
    "staged_changes",
    metadata,
    Column("transaction_id", String(64), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("key", String(255), primary_key=True),
    _required("action", 20),
    Column("event_ids", JSONB, nullable=False),
    Column("reason", Text),
)

staged_increments = Table(
    "staged_increments",
    metadata,
    Column("transaction_id", String(64), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("position", Integer, primary_key=True),
    _required("key", 255),
    _required("update_type", 20),
    Column("content", JSONB, nullable=False),
    Column("is_last", Boolean, nullable=False),
    Column("later", Integer, nullable=False),
    Column("round", Integer),
    Column("row_id", BigInteger),
    Column("is_settled", Boolean, nullable=False, server_default=text("false")),
)

verifications = Table(
    "verifications",
    metadata,
    _id(),
    _required("third_company_id", 20),
    _optional("transaction_id", 64),
    _optional("task_id", 20),
    _required("dag_id", 250),
    _required("run_id", 250),
    _required("verdict", 20),
    Column("message", Text, nullable=False, server_default=""),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("looks", Integer, nullable=False, server_default="0"),
    Column("queued", Integer, nullable=False, server_default="0"),
    Column("started_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("ended_at", MOMENT),
    Index("verifications_idx_company", "third_company_id", "id"),
    Index("verifications_idx_transaction", "transaction_id"),
)

verification_differences = Table(
    "verification_differences",
    metadata,
    _id(),
    Column(
        "verification_id",
        BigInteger,
        ForeignKey("verifications.id", ondelete="CASCADE"),
        nullable=False,
    ),
    _required("kind", 20),
    _required("key", 255),
    _optional("did", 255),
    _required("what", 20),
    _optional("fields", 100),
    Index("verification_differences_idx_verification", "verification_id"),
)

undo_left = Table(
    "undo_left",
    metadata,
    Column(
        "transaction_id",
        String(64),
        ForeignKey("saga_transactions.transaction_id", ondelete="CASCADE", onupdate="CASCADE"),
        primary_key=True,
    ),
    Column("kind", String(20), primary_key=True),
    Column("key", String(255), primary_key=True),
    _required("reason", 40),
)


def _shown() -> list[Column[Any]]:
    """What WPS shows, of one look at its directory; deleted when the look is over."""
    return [Column("verification_id", BigInteger, nullable=False), _required("wps_id", 255)]


directory_departments = Table(
    "directory_departments",
    metadata,
    *_shown(),
    _optional("parent_wps_id", 255),
    _optional("did", 255),
    _optional("name", 255),
    _optional("name_key", 255),
    Index("directory_departments_idx_verification", "verification_id"),
)

directory_users = Table(
    "directory_users",
    metadata,
    *_shown(),
    _optional("uid", 255),
    _optional("uid_key", 255),
    _optional("account", 255),
    _optional("account_key", 255),
    _optional("nick_name", 255),
    Column("has_places", Boolean, nullable=False),
    Index("directory_users_idx_verification", "verification_id"),
)

directory_memberships = Table(
    "directory_memberships",
    metadata,
    *_shown(),
    _required("wps_dept_id", 255),
    Index("directory_memberships_idx_verification", "verification_id"),
)


def _planned() -> list[Column[Any]]:
    """The key of a plan: that of the fetch whose rows it compares with known state."""
    return [
        Column("transaction_id", String(64), primary_key=True),
        Column("epoch", Integer, primary_key=True, autoincrement=False),
        Column("attempt", Integer, primary_key=True, autoincrement=False),
    ]


sync_plans = Table(
    "sync_plans",
    metadata,
    *_planned(),
    _required("third_company_id", 20),
    _required("hash", 64),
    Column("counts", JSONB, nullable=False),
    Column("examples", JSONB, nullable=False),
    Column("created_at", MOMENT, nullable=False, server_default=UTC_NOW),
)

plan_changes = Table(
    "plan_changes",
    metadata,
    *_planned(),
    Column("position", Integer, primary_key=True, autoincrement=False),
    _required("kind", 20),
    _required("action", 20),
    _optional("uid", 255),
    _optional("did", 255),
    _optional("name", 255),
    _optional("old_name", 255),
    _optional("place", 255),
    _optional("old_place", 255),
    Column("fields", ARRAY(Text), nullable=False),
    Column("is_moved", Boolean, nullable=False),
    Column("is_disabled", Boolean, nullable=False),
    _required("subtree", 255),
    Column("digest", BYTEA, nullable=False),
)

plan_subtrees = Table(
    "plan_subtrees",
    metadata,
    *_planned(),
    Column("did", String(255), primary_key=True),
    _optional("name", 255),
    Column("counts", JSONB, nullable=False),
)

plan_decisions = Table(
    "plan_decisions",
    metadata,
    _id(),
    _required("transaction_id", 64),
    _required("plan_hash", 64),
    Column("is_approved", Boolean, nullable=False),
    _optional("decided_by", 250),
    _optional("reason", 500),
    Column("decided_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Index("plan_decisions_idx_transaction_id", "transaction_id"),
)


class IncidentKind(StrEnum):
    """What people are told about: a saga undone, one that does not get on or waits, dead events, drift."""

    ROLLBACK = "rollback"
    STUCK = "stuck"
    APPROVAL = "approval"
    DEAD_EVENTS = "dead_events"
    DRIFT = "drift"


incidents = Table(
    "incidents",
    metadata,
    _id(),
    _required("key", 128),
    _required("kind", 20),
    _optional("transaction_id", 64),
    Column("facts", JSONB, nullable=False),
    Column("created_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("next_try_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("is_sending", Boolean, nullable=False, server_default=text("false")),
    Column("sent_at", MOMENT),
    Column("error", Text),
    Column("part_of", BigInteger),
    UniqueConstraint("key", name="incidents_uk_key"),
    Index("incidents_idx_kind_created_at", "kind", "created_at"),
    Index("incidents_idx_unsent", "next_try_at", postgresql_where=text("sent_at IS NULL")),
)

listeners = Table(
    "listeners",
    metadata,
    Column("listener", String(255), primary_key=True),
    Column("dingtalk_conn_id", String(250), primary_key=True),
    Column("started_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("seen_at", MOMENT, nullable=False, server_default=UTC_NOW),
    Column("is_connected", Boolean, nullable=False),
)
