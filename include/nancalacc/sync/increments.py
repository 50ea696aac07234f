"""The rows of a batch: planned in staging, published round by round, and what WPS made of them.

WPS reads a row when the second of its sync_time is over, and never again once its watermark has
passed [wps 5.3]. So rows are stamped with seconds that are still to come when they are committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, insert, select, text, update

from nancalacc.store.tables import (
    known_departments,
    known_users,
    staged_changes,
    staged_increments,
    tb_las_department_increment,
    tb_las_department_user_increment,
    tb_las_user_increment,
)
from nancalacc.sync import publish
from nancalacc.sync.fetch_changes import Change
from nancalacc.sync.known import KNOWN, OPTIONAL, same_object, to_write
from nancalacc.sync.mapping import fold
from nancalacc.sync.planning import (
    DEPARTMENTS,
    KINDS,
    MEMBERSHIPS,
    UNIQUE,
    USERS,
    Content,
    Increment,
    Slot,
    offsets_of,
    rounds_of,
)
from nancalacc.sync.publish import EMPLOYMENT_TYPE, SOURCE, use_zone
from nancalacc.sync.staging import TABLES, Fetch

FINAL: Mapping[str, Table] = {
    DEPARTMENTS: tb_las_department_increment,
    USERS: tb_las_user_increment,
    MEMBERSHIPS: tb_las_department_user_increment,
}
AHEAD_SECONDS = 2
"""How far ahead of the present second the first rows are stamped."""
PERSON = ("account", "nick_name", "def_did", "def_did_order", "leader", "employment_status", *OPTIONAL)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    DEPARTMENTS: ("did", "pid", "name", "order"),
    USERS: ("uid", *PERSON),
    MEMBERSHIPS: ("uid", "did", "order", "main", "dids"),
}
CONSTANTS: Mapping[str, Mapping[str, str]] = {
    DEPARTMENTS: {"source": SOURCE},
    USERS: {"source": SOURCE, "employment_type": EMPLOYMENT_TYPE},
    MEMBERSHIPS: {},
}
WITHDRAWN = datetime(2000, 1, 1)  # noqa: DTZ001 - local time without zone by contract
"""Before every watermark of WPS: it does not try the row again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What WPS says about a row: `status` 0 nothing yet, 1 applied, -1 refused, None when it is gone."""

    kind: str
    position: int
    key: str
    is_last: bool
    status: int | None
    message: str


# What is to be written


def saved_rows(
    connection: Connection, kind: str, *, fetch: Fetch, third_company_id: str, managers_read: bool
) -> list[Content]:
    """The accepted rows of a fetch as WPS is to have them; people with their `account_key`."""
    staged, known = TABLES[kind], KNOWN[kind]
    columns = dict(to_write(kind, staged=staged, known=known, managers_read=managers_read))
    if kind == USERS:
        columns["account_key"] = staged.c.account_key
        columns |= {name: func.coalesce(staged.c[name], known.c[name]) for name in ("phone_key", "email_key")}
    rows = connection.execute(
        select(*(column.label(name) for name, column in columns.items()))
        .select_from(
            staged.outerjoin(
                known, same_object(kind, staged=staged, known=known, third_company_id=third_company_id)
            )
        )
        .where(fetch.accepted(staged))
        .order_by(*(columns[name] for name in ("did", "uid") if name in columns))
    )
    return [dict(row._mapping) for row in rows]


def removed(connection: Connection, kind: str, *, transaction_id: str) -> list[str]:
    """The objects that WPS is to forget."""
    return list(
        connection.execute(
            select(staged_changes.c.key)
            .where(_of_changes(transaction_id, kind, Change.REMOVE, Change.REMOVE_AGAIN))
            .order_by(staged_changes.c.key)
        ).scalars()
    )


def removals(connection: Connection, *, transaction_id: str) -> set[tuple[str, str]]:
    """Kind and key of every object that WPS is to forget."""
    return {
        (kind, key)
        for kind in (DEPARTMENTS, USERS)
        for key in removed(connection, kind, transaction_id=transaction_id)
    }


def needless(connection: Connection, *, transaction_id: str) -> set[tuple[str, str]]:
    """Kind and key of the objects that WPS may well have forgotten already."""
    return {
        (kind, key)
        for kind in (DEPARTMENTS, USERS)
        for key in connection.execute(
            select(staged_changes.c.key).where(_of_changes(transaction_id, kind, Change.REMOVE_AGAIN))
        ).scalars()
    }


def known_rows(
    connection: Connection, kind: str, *, transaction_id: str, third_company_id: str
) -> dict[str, Content]:
    """What WPS has of the objects that are saved or removed, or may have of those put back by a full job."""
    table, key = (known_departments, "did") if kind == DEPARTMENTS else (known_users, "uid")
    names = (*COLUMNS[kind], *UNIQUE.values()) if kind == USERS else COLUMNS[kind]
    changes = _of_changes(transaction_id, kind, Change.SAVE, Change.REMOVE)
    rows = connection.execute(
        select(*(table.c[name] for name in names))
        .join(staged_changes, staged_changes.c.key == table.c[key])
        .where(table.c.third_company_id == third_company_id, changes)
    )
    found: dict[str, Content] = {row._mapping[key]: dict(row._mapping) for row in rows}
    final = publish.FINAL[kind]
    latest = select(func.max(final.c.task_id)).where(
        final.c.third_company_id == third_company_id, final.c[key] == staged_changes.c.key
    )
    put_back = connection.execute(
        select(*(final.c[name] for name in COLUMNS[kind]))
        .join(staged_changes, staged_changes.c.key == final.c[key])
        .where(
            _of_changes(transaction_id, kind, Change.REMOVE_AGAIN),
            final.c.third_company_id == third_company_id,
            final.c.task_id == latest.correlate(staged_changes).scalar_subquery(),
        )
    )
    for row in put_back:
        content = dict(row._mapping)
        if kind == USERS:
            content["account_key"] = fold(content["account"])
        found[content[key]] = content
    return found


def _of_changes(transaction_id: str, kind: str, *actions: Change) -> ColumnElement[bool]:
    return and_(
        staged_changes.c.transaction_id == transaction_id,
        staged_changes.c.kind == kind,
        staged_changes.c.action.in_([action.value for action in actions]),
    )


def parents(connection: Connection, *, third_company_id: str) -> dict[str, str | None]:
    """The pid of every department that WPS has."""
    table = known_departments
    rows = connection.execute(
        select(table.c.did, table.c.pid).where(table.c.third_company_id == third_company_id)
    )
    return {row.did: row.pid for row in rows}


def plan(connection: Connection, kind: str, increments: Iterable[Increment], *, transaction_id: str) -> int:
    """Put the rows of one kind into staging, in place of an earlier attempt's; returns their number."""
    connection.execute(
        delete(staged_increments).where(
            staged_increments.c.transaction_id == transaction_id, staged_increments.c.kind == kind
        )
    )
    rows = [
        {
            "transaction_id": transaction_id,
            "kind": kind,
            "position": position,
            "key": each.key,
            "update_type": each.update_type,
            "content": dict(each.content),
            "is_last": each.is_last,
            "later": each.later,
        }
        for position, each in enumerate(increments)
    ]
    if rows:
        connection.execute(insert(staged_increments), rows)
    return len(rows)


def schedule(connection: Connection, *, transaction_id: str) -> int:
    """Spread all planned rows over rounds; returns how many rounds there are."""
    rounds = rounds_of(_slots(connection, transaction_id=transaction_id))
    _assign(connection, "round", rounds, transaction_id=transaction_id)
    return max(rounds.values(), default=-1) + 1


# What is published


def next_round(connection: Connection, *, transaction_id: str) -> int | None:
    """The first round that is not settled completely, None when all are."""
    found: int | None = connection.execute(
        text('SELECT min("round") FROM staged_increments WHERE transaction_id = :saga AND NOT is_settled'),
        {"saga": transaction_id},
    ).scalar_one()
    return found


def publish_round(
    connection: Connection,
    *,
    transaction_id: str,
    number: int,
    third_company_id: str,
    platform_id: str,
    zone: str,
) -> int:
    """Insert the rows of a round, unless they are there, and stamp them; returns their number.

    WPS can see them when the transaction has committed, which must be soon.
    """
    use_zone(connection, zone)
    rows = 0
    for kind in KINDS:
        values = {"saga": transaction_id, "kind": kind, "round": number}
        connection.execute(TAKE_IDS[kind], values)
        rows += connection.execute(
            INSERT[kind], values | {"company": third_company_id, "platform": platform_id}
        ).rowcount
    stamp(connection, transaction_id=transaction_id, number=number, zone=zone)
    return rows


def stamp(connection: Connection, *, transaction_id: str, number: int, zone: str) -> int:
    """Let the rows of a round that WPS has not dealt with be seen a moment from now; returns their number."""
    use_zone(connection, zone)
    offsets = offsets_of(_slots(connection, transaction_id=transaction_id, number=number))
    _assign(connection, "later", offsets, transaction_id=transaction_id)
    first = connection.execute(FIRST_MOMENT, {"ahead": AHEAD_SECONDS}).scalar_one()
    return sum(
        connection.execute(
            STAMP[kind], {"saga": transaction_id, "kind": kind, "round": number, "first": first}
        ).rowcount
        for kind in KINDS
    )


def seconds_to_wait(connection: Connection, *, transaction_id: str, number: int, zone: str) -> float:
    """How long it takes until the second of the round's last open row is over."""
    use_zone(connection, zone)
    waits = [
        connection.execute(WAIT[kind], {"saga": transaction_id, "kind": kind, "round": number}).scalar_one()
        for kind in KINDS
    ]
    return max((float(each) for each in waits if each is not None), default=0.0)


def verdicts(connection: Connection, *, transaction_id: str, number: int) -> list[Verdict]:
    """What WPS says about the rows of a round."""
    found = []
    for kind in KINDS:
        rows = connection.execute(VERDICTS[kind], {"saga": transaction_id, "kind": kind, "round": number})
        found += [
            Verdict(kind, row.position, row.key, row.is_last, row.status, row.msg or "") for row in rows
        ]
    return found


def settle(connection: Connection, settled: Sequence[Verdict], *, transaction_id: str) -> None:
    """These rows are dealt with; WPS is not to try the refused ones again, which are outdated by then."""
    for kind in KINDS:
        positions = [each.position for each in settled if each.kind == kind]
        refused = [each.position for each in settled if each.kind == kind and each.status == -1]
        if refused:
            connection.execute(
                WITHDRAW[kind],
                {"saga": transaction_id, "kind": kind, "positions": refused, "moment": WITHDRAWN},
            )
        connection.execute(
            update(staged_increments)
            .where(
                staged_increments.c.transaction_id == transaction_id,
                staged_increments.c.kind == kind,
                staged_increments.c.position.in_(positions),
            )
            .values(is_settled=True)
        )


def _slots(connection: Connection, *, transaction_id: str, number: int | None = None) -> list[Slot]:
    table = staged_increments
    statement = select(table.c.kind, table.c.position, table.c.key, table.c.update_type, table.c.later).where(
        table.c.transaction_id == transaction_id
    )
    if number is not None:
        statement = statement.where(table.c["round"] == number, ~table.c.is_settled)
    return [Slot(*row) for row in connection.execute(statement.order_by(table.c.kind, table.c.position))]


def _assign(
    connection: Connection, column: str, values: Mapping[tuple[str, int], int], *, transaction_id: str
) -> None:
    connection.execute(
        text(
            f'UPDATE staged_increments s SET "{column}" = new.value'  # noqa: S608 - a name of ours
            " FROM unnest(CAST(:kinds AS text[]), CAST(:positions AS int[]), CAST(:numbers AS int[]))"
            " AS new (kind, position, value)"
            " WHERE s.transaction_id = :saga AND s.kind = new.kind AND s.position = new.position"
        ),
        {
            "saga": transaction_id,
            "kinds": [kind for kind, _ in values],
            "positions": [position for _, position in values],
            "numbers": list(values.values()),
        },
    )


def _insert(kind: str) -> Any:
    constants = CONSTANTS[kind]
    columns = [f'"{name}"' for name in COLUMNS[kind]]
    names = ", ".join([*columns, *constants])
    values = ", ".join([*(f"r.{name}" for name in columns), *(f"'{value}'" for value in constants.values())])
    table = FINAL[kind].name
    return text(
        f"INSERT INTO {table} (id, third_company_id, platform_id, update_type, status, {names})"  # noqa: S608
        f" SELECT s.row_id, :company, :platform, s.update_type, 0, {values}"
        f" FROM staged_increments s, jsonb_populate_record(NULL::{table}, s.content) r"
        f' WHERE s.transaction_id = :saga AND s.kind = :kind AND s."round" = :round'
        f" AND NOT EXISTS (SELECT FROM {table} t WHERE t.id = s.row_id)"
        " ORDER BY s.position"
    )


OF_ROUND = 's.transaction_id = :saga AND s.kind = :kind AND s."round" = :round'
TAKE_IDS = {
    kind: text(
        f"UPDATE staged_increments s SET row_id = nextval(pg_get_serial_sequence('{table.name}', 'id'))"  # noqa: S608
        f" WHERE {OF_ROUND} AND row_id IS NULL"
    )
    for kind, table in FINAL.items()
}
INSERT = {kind: _insert(kind) for kind in KINDS}
FIRST_MOMENT = text(
    "SELECT date_trunc('second', clock_timestamp()::timestamp) + make_interval(secs => :ahead)"
)
STAMP = {
    kind: text(
        f"UPDATE {table.name} t SET sync_time = CAST(:first AS timestamp) + make_interval(secs => s.later)"  # noqa: S608
        f" FROM staged_increments s WHERE {OF_ROUND} AND t.id = s.row_id AND t.status = 0"
    )
    for kind, table in FINAL.items()
}
WAIT = {
    kind: text(
        "SELECT extract(epoch FROM max(t.sync_time) + interval '1 second' - clock_timestamp()::timestamp)"  # noqa: S608
        f" FROM {table.name} t JOIN staged_increments s ON t.id = s.row_id WHERE {OF_ROUND} AND t.status = 0"
    )
    for kind, table in FINAL.items()
}
VERDICTS = {
    kind: text(
        "SELECT s.position, s.key, s.is_last, t.status, t.msg FROM staged_increments s"  # noqa: S608
        f" LEFT JOIN {table.name} t ON t.id = s.row_id WHERE {OF_ROUND} AND NOT s.is_settled"
        " ORDER BY s.position"
    )
    for kind, table in FINAL.items()
}
WITHDRAW = {
    kind: text(
        f"UPDATE {table.name} t SET sync_time = :moment FROM staged_increments s"  # noqa: S608
        " WHERE s.transaction_id = :saga AND s.kind = :kind AND s.position = ANY(:positions)"
        " AND t.id = s.row_id AND t.status = -1"
    )
    for kind, table in FINAL.items()
}
