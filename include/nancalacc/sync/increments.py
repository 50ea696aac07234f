"""The planned rows of a batch: published round by round, and what WPS made of them.

WPS reads a row when the second of its sync_time is over, and never again once its watermark has
passed [wps 5.3]. So rows are stamped with seconds that are still to come when they are committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, text, update

from nancalacc.store.tables import (
    staged_increments,
    tb_las_department_increment,
    tb_las_department_user_increment,
    tb_las_user_increment,
)
from nancalacc.sync.mapping import ROOT_ROW_DID
from nancalacc.sync.planned_rows import COLUMNS, assign, slots
from nancalacc.sync.planning import DEPARTMENTS, KINDS, MEMBERSHIPS, USERS, offsets_of
from nancalacc.sync.publish import EMPLOYMENT_TYPE, SOURCE, use_zone

FINAL: Mapping[str, Table] = {
    DEPARTMENTS: tb_las_department_increment,
    USERS: tb_las_user_increment,
    MEMBERSHIPS: tb_las_department_user_increment,
}
AHEAD_SECONDS = 2
"""How far ahead of the present second the first rows are stamped."""
CONSTANTS: Mapping[str, Mapping[str, str]] = {
    DEPARTMENTS: {"source": SOURCE},
    USERS: {"source": SOURCE, "employment_type": EMPLOYMENT_TYPE},
    MEMBERSHIPS: {},
}
COMPANY_ROOT = "-1"
"""The parent in increments of what hangs right below the company; snapshots have '0' there [wps 5.2, 5.3]."""
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
    offsets = offsets_of(slots(connection, transaction_id=transaction_id, number=number))
    assign(connection, "later", offsets, transaction_id=transaction_id)
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


def is_open(connection: Connection, *, transaction_id: str, number: int) -> bool:
    """True while there is a row of the round that WPS has not dealt with."""
    values = {"saga": transaction_id, "round": number}
    return any(connection.execute(IS_OPEN[kind], values | {"kind": kind}).scalar_one() for kind in KINDS)


def verdicts(connection: Connection, *, transaction_id: str, number: int) -> list[Verdict]:
    """What WPS says about the rows of a round."""
    found = []
    for kind in KINDS:
        rows = connection.execute(VERDICTS[kind], {"saga": transaction_id, "kind": kind, "round": number})
        found += [
            Verdict(kind, row.position, row.key, row.is_last, row.status, row.msg or "") for row in rows
        ]
    return found


def settle(connection: Connection, settled: Sequence[Verdict], *, transaction_id: str, zone: str) -> None:
    """These rows are dealt with; WPS is not to try the refused ones again, which are outdated by then."""
    use_zone(connection, zone)
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


def _insert(kind: str) -> Any:
    constants = CONSTANTS[kind]
    columns = {f'"{name}"': f'r."{name}"' for name in COLUMNS[kind]}
    if kind == DEPARTMENTS:
        columns['"pid"'] = f"""CASE r."pid" WHEN '{ROOT_ROW_DID}' THEN '{COMPANY_ROOT}' ELSE r."pid" END"""
    names = ", ".join([*columns, *constants])
    values = ", ".join([*columns.values(), *(f"'{value}'" for value in constants.values())])
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
IS_OPEN = {
    kind: text(
        f"SELECT EXISTS (SELECT FROM staged_increments s JOIN {table.name} t ON t.id = s.row_id"  # noqa: S608
        f" WHERE {OF_ROUND} AND NOT s.is_settled AND t.status = 0)"
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
