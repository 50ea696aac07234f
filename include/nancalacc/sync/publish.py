"""The tables that WPS reads, and the `task` list: written for one task id, private until the root row.

Every WPS job fails safe without a root row [wps 5.2], so all other rows may be written,
replaced and deleted at any time; inserting the root row is what publishes them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from nancalacc.errors import ConfigurationError
from nancalacc.saga.state import SagaStatus
from nancalacc.store.tables import (
    saga_transactions,
    task,
    tb_company_cfg,
    tb_las_department,
    tb_las_department_increment,
    tb_las_department_user,
    tb_las_department_user_increment,
    tb_las_user,
    tb_las_user_increment,
)
from nancalacc.sync.known import KEYS, KNOWN, same_object, to_write
from nancalacc.sync.mapping import ROOT_ROW_DID, ROOT_ROW_PID
from nancalacc.sync.staging import TABLES, Counts, Fetch

SELECTED = 1
"""check_type of a row that WPS applies [wps 5.2]."""
SOURCE = "sync"
EMPLOYMENT_TYPE = "permanent"
CREATOR = 1
"""task.creator_id has no default; the original writes a constant [wps 6]."""

SNAPSHOT_SAGAS = ("full_sync", "undo_sync")
"""Names of the definitions that publish a whole snapshot under a task id."""
FINAL = {"departments": tb_las_department, "users": tb_las_user, "memberships": tb_las_department_user}
INCREMENTS = {
    "departments": tb_las_department_increment,
    "users": tb_las_user_increment,
    "memberships": tb_las_department_user_increment,
}
CONFIG_COLUMNS = ("platform_ids", "company_id", "status")
PLATFORM_IDS_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One set of rows: of a task id, a company and its platform."""

    task_id: str
    third_company_id: str
    platform_id: str


def use_zone(connection: Connection, zone: str) -> None:
    """Let this transaction's now() be the company's local time, as the tables of WPS want it [wps 5]."""
    connection.execute(text("SELECT set_config('TimeZone', :zone, true)"), {"zone": zone})


# The task list


def claim_task(connection: Connection, *, task_id: str, description: str) -> bool:
    """Make the task id ours: its `task` row in progress. False when somebody else's row has it.

    The description says whose it is, so that a later attempt finds its own row again.
    """
    now = func.now()
    values = {"status": "in_progress", "start_date": now, "progress": 0}
    statement = (
        upsert(task)
        .values(title=task_id, description=description, creator_id=CREATOR, **values)
        .on_conflict_do_update(
            index_elements=[task.c.title],
            set_=values | {"completed_at": None, "actual_time": None, "updated_at": now},
            where=task.c.description == description,
        )
        .returning(task.c.id)
    )
    return connection.execute(statement).first() is not None


def task_id_is_taken(connection: Connection, *, task_id: str, transaction_id: str, description: str) -> bool:
    """True when the id is another saga's, in the task list, or that of rows, without being ours.

    Of whatever company. A dry run uses up no id.
    """
    its_id = saga_transactions.c.task_id == task_id
    is_ours = saga_transactions.c.transaction_id == transaction_id
    has_title = task.c.title == task_id
    ours = func.coalesce(task.c.description, "") == description
    taken = [
        select(literal(1)).where(its_id, ~is_ours, ~is_dry_run(saga_transactions)),
        select(literal(1)).where(has_title, ~ours),
    ]
    rows_are_ours = or_(exists().where(its_id, is_ours), exists().where(has_title, ours))
    taken += [
        select(literal(1)).where(table.c.task_id == task_id, ~rows_are_ours) for table in FINAL.values()
    ]
    # Each is looked for until the first row: a snapshot may have very many.
    return any(connection.execute(each.limit(1)).first() is not None for each in taken)


def cancel_task(connection: Connection, *, task_id: str) -> None:
    """End the `task` row of an undone sync."""
    connection.execute(
        update(task).where(task.c.title == task_id).values(status="cancelled", updated_at=func.now())
    )


def complete_task(connection: Connection, *, task_id: str) -> None:
    """End the `task` row of a sync that went through; actual_time is in minutes, rounded up."""
    minutes = func.ceil(func.extract("epoch", func.now() - task.c.start_date) / 60)
    connection.execute(
        update(task)
        .where(task.c.title == task_id)
        .values(
            status="completed",
            progress=100,
            completed_at=func.now(),
            updated_at=func.now(),
            actual_time=func.greatest(minutes, 1),
        )
    )


def newest_published(connection: Connection, *, third_company_id: str) -> str | None:
    """The greatest task id of this company that WPS has, or may have, been given."""
    roots = select(func.max(tb_las_department.c.task_id)).where(
        tb_las_department.c.pid == ROOT_ROW_PID, tb_las_department.c.third_company_id == third_company_id
    )
    sagas = select(func.max(saga_transactions.c.task_id)).where(
        saga_transactions.c.third_company_id == third_company_id,
        saga_transactions.c.definition.in_(SNAPSHOT_SAGAS),
        saga_transactions.c.status == SagaStatus.COMPLETED.value,
        ~is_dry_run(saga_transactions),
    )
    found = connection.execute(roots.union_all(sagas)).scalars()
    return max((task_id for task_id in found if task_id), default=None)


def is_dry_run(sagas: FromClause) -> ColumnElement[bool]:
    """Whether a saga, of the table or an alias of it, was to publish nothing."""
    return func.coalesce(sagas.c.params["dry_run"].astext, "false") == "true"


def newest_increments(connection: Connection) -> dict[str, int]:
    """The greatest id in each increment table, by kind."""
    return {
        kind: connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()
        for kind, table in INCREMENTS.items()
    }


# The tenant's row


def company_config(
    connection: Connection, *, third_company_id: str, lock: bool = False
) -> dict[str, Any] | None:
    """The tenant's row as it is, `mtime` as text; with `lock` it stays so until the transaction ends."""
    table = tb_company_cfg
    statement = select(*(table.c[name] for name in CONFIG_COLUMNS), table.c.mtime).where(
        table.c.third_company_id == third_company_id
    )
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    return None if row is None else dict(row._mapping) | {"mtime": row.mtime.isoformat()}


def platforms_of(platform_ids: str) -> list[str]:
    """The sources that a tenant's row names, whose rows WPS reads [wps 5]."""
    return [each.strip() for each in platform_ids.split(",") if each.strip()]


def write_company_config(
    connection: Connection, *, third_company_id: str, company_id: str, platform_id: str
) -> dict[str, Any] | None:
    """Have the tenant's row name the company and our source; returns it as it is then.

    Other sources that it names stay: their rows, of which we know nothing, would stall WPS [wps 9.9]. A
    row that says so already is left alone, mtime included. Raises ConfigurationError when another
    tenant has this company_id, which must be unique [wps 5], or there is no room for our source.
    """
    table = tb_company_cfg
    before = company_config(connection, third_company_id=third_company_id, lock=True)
    listed = "" if before is None else str(before["platform_ids"])
    if platform_id not in (sources := platforms_of(listed)):
        listed = ",".join([*sources, platform_id])
    if len(listed) > PLATFORM_IDS_WIDTH:
        raise ConfigurationError(
            f"tb_company_cfg: platform_ids of {third_company_id!r} has no room for {platform_id!r} beside"
            f" {sources!r}: take out of the row those that nobody uses any more"
        )
    values = {"platform_ids": listed, "company_id": company_id, "status": SELECTED}
    other = connection.execute(
        select(table.c.third_company_id).where(
            table.c.company_id == company_id, table.c.third_company_id != third_company_id
        )
    ).scalar_one_or_none()
    if other is not None:
        raise ConfigurationError(
            f"tb_company_cfg: company_id {company_id!r} belongs to third_company_id {other!r}"
            f" already, so it cannot be that of {third_company_id!r} too: correct 'company_id' or"
            " 'third_company_id' in the extra of the WPS connection"
        )
    connection.execute(
        upsert(table)
        .values(third_company_id=third_company_id, **values)
        .on_conflict_do_update(
            index_elements=[table.c.third_company_id],
            set_=dict(values),
            where=or_(*(table.c[name].is_distinct_from(value) for name, value in values.items())),
        )
    )
    return company_config(connection, third_company_id=third_company_id)


def restore_company_config(
    connection: Connection,
    *,
    third_company_id: str,
    before: Mapping[str, Any] | None,
    written: Mapping[str, Any],
) -> None:
    """Put the tenant's row back, unless somebody has changed it since `written`."""
    if company_config(connection, third_company_id=third_company_id, lock=True) != dict(written):
        return
    ours = tb_company_cfg.c.third_company_id == third_company_id
    if before is None:
        connection.execute(delete(tb_company_cfg).where(ours))
        return
    old = {name: before[name] for name in CONFIG_COLUMNS}
    if old == {name: written[name] for name in CONFIG_COLUMNS}:
        return
    connection.execute(update(tb_company_cfg).where(ours).values(old))


# The rows of a snapshot


def save(connection: Connection, kind: str, *, fetch: Fetch, snapshot: Snapshot, managers_read: bool) -> int:
    """Replace this task id's rows by the accepted rows of a fetch; returns their number.

    The root row is not among them.
    """
    remove(connection, kind, task_id=snapshot.task_id, third_company_id=snapshot.third_company_id)
    staged, known, final = TABLES[kind], KNOWN[kind], FINAL[kind]
    columns = dict(to_write(kind, staged=staged, known=known, managers_read=managers_read))
    columns |= {
        "task_id": literal(snapshot.task_id),
        "third_company_id": literal(snapshot.third_company_id),
        "platform_id": literal(snapshot.platform_id),
        "check_type": literal(SELECTED),
    }
    if kind != "memberships":
        columns["source"] = literal(SOURCE)
    if kind == "users":
        columns["employment_type"] = literal(EMPLOYMENT_TYPE)
    rows = (
        select(*columns.values())
        .select_from(
            staged.outerjoin(
                known,
                same_object(kind, staged=staged, known=known, third_company_id=snapshot.third_company_id),
            )
        )
        .where(fetch.accepted(staged))
    )
    statement = insert(final).from_select(list(columns), rows).execution_options(preserve_rowcount=True)
    return connection.execute(statement).rowcount


def remove(connection: Connection, kind: str, *, task_id: str, third_company_id: str) -> None:
    """Delete all rows of one kind of a task id, the root row included."""
    table = FINAL[kind]
    connection.execute(
        delete(table).where(table.c.task_id == task_id, table.c.third_company_id == third_company_id)
    )


def count_rows(connection: Connection, *, snapshot: Snapshot) -> Counts:
    """How many rows of the task id there are, the root row not counted."""
    found = {}
    for kind, table in FINAL.items():
        statement = (
            select(func.count())
            .select_from(table)
            .where(
                table.c.task_id == snapshot.task_id,
                table.c.third_company_id == snapshot.third_company_id,
                table.c.platform_id == snapshot.platform_id,
            )
        )
        if kind == "departments":
            pid = tb_las_department.c.pid
            statement = statement.where(or_(pid.is_(None), pid != ROOT_ROW_PID))
        found[kind] = connection.execute(statement).scalar_one()
    return Counts(**found)


def contained(
    connection: Connection, kind: str, keys: Collection[str], *, task_id: str, third_company_id: str
) -> list[str]:
    """Those dids or uids that the rows of a task id hold."""
    table, key = FINAL[kind], KEYS[kind][0]
    return list(
        connection.execute(
            select(table.c[key]).where(
                table.c.task_id == task_id,
                table.c.third_company_id == third_company_id,
                table.c[key] == func.any(list(keys)),
            )
        ).scalars()
    )


def insert_root(connection: Connection, *, snapshot: Snapshot, company_name: str) -> None:
    """Publish: insert the row without which WPS takes nothing of this task id [wps 5.2]."""
    connection.execute(
        upsert(tb_las_department)
        .values(
            did=ROOT_ROW_DID,
            pid=ROOT_ROW_PID,
            name=company_name[:255],
            order=0,
            source=SOURCE,
            check_type=SELECTED,
            task_id=snapshot.task_id,
            third_company_id=snapshot.third_company_id,
            platform_id=snapshot.platform_id,
        )
        .on_conflict_do_nothing()
    )


def remove_root(connection: Connection, *, task_id: str, third_company_id: str) -> None:
    """Take the root row away again: no job can take this task id any more."""
    table = tb_las_department
    connection.execute(
        delete(table).where(
            table.c.task_id == task_id,
            table.c.third_company_id == third_company_id,
            table.c.pid == ROOT_ROW_PID,
        )
    )
