"""The rows of a batch in staging: what their plan needs to know, and the plan itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, text

from nancalacc.store.tables import known_departments, known_users, staged_changes, staged_increments
from nancalacc.sync import publish
from nancalacc.sync.known import KNOWN, OPTIONAL, same_object, to_write
from nancalacc.sync.mapping import fold
from nancalacc.sync.planning import (
    DEPARTMENTS,
    MEMBERSHIPS,
    UNIQUE,
    USERS,
    Content,
    Increment,
    Slot,
    rounds_of,
)
from nancalacc.sync.staging import TABLES, Fetch
from nancalacc.sync.touched import Change

PERSON = ("account", "nick_name", "def_did", "def_did_order", "leader", "employment_status", *OPTIONAL)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    DEPARTMENTS: ("did", "pid", "name", "order"),
    USERS: ("uid", *PERSON),
    MEMBERSHIPS: ("uid", "did", "order", "main", "dids"),
}
"""What a row of each kind says about its object."""


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
    rounds = rounds_of(slots(connection, transaction_id=transaction_id))
    assign(connection, "round", rounds, transaction_id=transaction_id)
    return max(rounds.values(), default=-1) + 1


def slots(connection: Connection, *, transaction_id: str, number: int | None = None) -> list[Slot]:
    """The planned rows, or those of a round that WPS has not dealt with, as far as their order goes."""
    table = staged_increments
    statement = select(table.c.kind, table.c.position, table.c.key, table.c.update_type, table.c.later).where(
        table.c.transaction_id == transaction_id
    )
    if number is not None:
        statement = statement.where(table.c["round"] == number, ~table.c.is_settled)
    return [Slot(*row) for row in connection.execute(statement.order_by(table.c.kind, table.c.position))]


def assign(
    connection: Connection, column: str, values: Mapping[tuple[str, int], int], *, transaction_id: str
) -> None:
    """Write a number into a column of planned rows, which are named by kind and position."""
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
