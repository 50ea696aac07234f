"""Staging: what one attempt of a fetch read, in tables, until it is saved.

A fetch is known by (transaction, epoch, attempt). Rows come in by COPY in small
transactions; a rejected row stays, with the reason in `rejected`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection as PsycopgConnection
from psycopg import sql
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, select, text, true

from nancalacc.errors import DatabaseError, GuardError
from nancalacc.store.tables import (
    staged_conflicts,
    staged_departments,
    staged_evidence,
    staged_memberships,
    staged_users,
)
from nancalacc.sync.mapping import DepartmentRow, MembershipRow, PersonRow

TABLES: dict[str, Table] = {
    "departments": staged_departments,
    "users": staged_users,
    "memberships": staged_memberships,
}
COPY = {
    kind: sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.name),
        sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
    )
    for kind, table in TABLES.items()
}
"""Every column in the order of the table, which is that of the rows' `values()`."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The key of what one attempt read."""

    transaction_id: str
    epoch: int
    attempt: int

    def of(self, table: Any) -> ColumnElement[bool]:
        """The condition for this fetch's rows of a staging table (or of an alias of one)."""
        return and_(
            table.c.transaction_id == self.transaction_id,
            table.c.epoch == self.epoch,
            table.c.attempt == self.attempt,
        )

    def accepted(self, table: Any) -> ColumnElement[bool]:
        """The condition for this fetch's rows that are to be written."""
        return and_(self.of(table), table.c.rejected.is_(None))

    def key(self) -> dict[str, Any]:
        """The values of the key's three columns."""
        return {"transaction_id": self.transaction_id, "epoch": self.epoch, "attempt": self.attempt}

    def as_data(self) -> dict[str, int]:
        """How action_data names this fetch."""
        return {"epoch": self.epoch, "attempt": self.attempt}

    @classmethod
    def recorded(cls, transaction_id: str, action_data: Mapping[str, Any]) -> Fetch:
        """The fetch that the action_data of the fetching step names."""
        named = action_data["fetch"]
        return cls(transaction_id, epoch=int(named["epoch"]), attempt=int(named["attempt"]))


@dataclass(slots=True)
class Batch:
    """Rows that are still to be copied."""

    departments: list[DepartmentRow] = field(default_factory=list)
    users: list[PersonRow] = field(default_factory=list)
    memberships: list[MembershipRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.departments) + len(self.users) + len(self.memberships)

    def clear(self) -> None:
        """Forget the rows."""
        self.departments.clear()
        self.users.clear()
        self.memberships.clear()


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows of each kind."""

    departments: int
    users: int
    memberships: int

    def as_data(self) -> dict[str, int]:
        """The counts for action_data."""
        return {"departments": self.departments, "users": self.users, "memberships": self.memberships}


def copy(connection: Connection, batch: Batch, *, fetch: Fetch) -> None:
    """Write a batch into staging."""
    _copy_rows(connection, "departments", (row.values() for row in batch.departments), fetch=fetch)
    _copy_rows(connection, "users", (row.values() for row in batch.users), fetch=fetch)
    _copy_rows(connection, "memberships", (row.values() for row in batch.memberships), fetch=fetch)


def _copy_rows(connection: Connection, kind: str, rows: Iterable[tuple[Any, ...]], *, fetch: Fetch) -> None:
    driver = connection.connection.driver_connection
    if not isinstance(driver, PsycopgConnection):
        raise DatabaseError("Staging needs a psycopg connection")
    key = (fetch.transaction_id, fetch.epoch, fetch.attempt)
    with driver.cursor() as cursor, cursor.copy(COPY[kind]) as copying:
        for row in rows:
            copying.write_row(key + row)


def delete_all(connection: Connection, *, transaction_id: str) -> int:
    """Delete whatever any attempt of this saga has staged; returns the number of rows."""
    return sum(
        connection.execute(delete(table).where(table.c.transaction_id == transaction_id)).rowcount
        for table in (*TABLES.values(), staged_evidence, staged_conflicts)
    )


def delete_people(connection: Connection, uids: Iterable[str], *, fetch: Fetch) -> None:
    """Delete everything staged about these people."""
    wanted = list(uids)
    for table in (staged_users, staged_memberships):
        connection.execute(delete(table).where(fetch.of(table), table.c.uid == func.any(wanted)))


def count(connection: Connection, *, fetch: Fetch, rejected: bool = False) -> Counts:
    """How many rows are accepted, or rejected."""
    found = {}
    for kind, table in TABLES.items():
        wanted = table.c.rejected.is_not(None) if rejected else table.c.rejected.is_(None)
        found[kind] = connection.execute(
            select(func.count()).select_from(table).where(fetch.of(table), wanted)
        ).scalar_one()
    return Counts(**found)


def require(connection: Connection, kind: str, *, fetch: Fetch, expected: int) -> None:
    """Raise GuardError unless staging holds the recorded number of accepted rows."""
    table = TABLES[kind]
    found = connection.execute(
        select(func.count()).select_from(table).where(fetch.accepted(table))
    ).scalar_one()
    if found != expected:
        raise GuardError(
            f"Staging holds {found} {kind} of fetch {fetch.epoch}.{fetch.attempt}, {expected} were recorded:"
            " nothing is saved. Clear fetch_dingtalk_data with its downstream tasks"
        )


def prefer_hash_joins(connection: Connection) -> None:
    """Keep nested loops out of this transaction.

    Staging is filled and used within minutes, before PostgreSQL knows its size; what it guesses
    then can make a join of large tables quadratic.
    """
    connection.execute(text("SET LOCAL enable_nestloop = off"))


def listed_departments(connection: Connection, uid: str, *, fetch: Fetch) -> list[str]:
    """The departments whose pages listed this person."""
    table = staged_memberships
    return list(
        connection.execute(
            select(table.c.did).where(fetch.of(table), table.c.uid == uid).distinct().order_by(table.c.did)
        ).scalars()
    )


def listed_people(connection: Connection, did: str, *, fetch: Fetch) -> set[str]:
    """The people whom the pages of a department listed."""
    table = staged_memberships
    wanted = select(table.c.uid).where(fetch.of(table), table.c.did == did, table.c.uid != "")
    return set(connection.execute(wanted).scalars())


def contradictions(connection: Connection, *, fetch: Fetch, limit: int) -> list[str]:
    """People about whom the pages do not agree, at most `limit` of them.

    Everybody must be listed once in each of their departments, the main one among them;
    who moved while the pages were read is not.
    """
    users, memberships = staged_users, staged_memberships
    people = (
        select(users.c.uid, func.count().label("rows"), func.max(users.c.departments).label("departments"))
        .where(fetch.accepted(users))
        .group_by(users.c.uid)
        .subquery("people")
    )
    places = (
        select(
            memberships.c.uid,
            memberships.c.did,
            func.count().label("rows"),
            func.sum(memberships.c.main).label("mains"),
        )
        .where(fetch.accepted(memberships))
        .group_by(memberships.c.uid, memberships.c.did)
        .subquery("places")
    )
    listings = (
        select(
            places.c.uid,
            func.count().label("departments"),
            func.sum(places.c.rows).label("rows"),
            func.sum(places.c.mains).label("mains"),
        )
        .group_by(places.c.uid)
        .subquery("listings")
    )
    agree = and_(
        people.c.rows == 1,
        listings.c.departments == people.c.departments,
        listings.c.rows == people.c.departments,
        listings.c.mains == 1,
    )
    statement = (
        select(func.coalesce(people.c.uid, listings.c.uid))
        .select_from(people.join(listings, people.c.uid == listings.c.uid, full=True))
        .where(agree.is_not(true()))
        .limit(limit)
    )
    return list(connection.execute(statement).scalars())
