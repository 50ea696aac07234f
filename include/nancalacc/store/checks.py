"""What came of reading WPS back, and what an undo left alone, as people look at them.

A verification counts when it has ended with a verdict that says something; one that could not be, or was
of an older sync, leaves the one before as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Row, Select, and_, func, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from nancalacc.store.tables import (
    known_departments,
    known_users,
    saga_transactions,
    undo_left,
    verification_differences,
    verifications,
)

SAYING = ("verified", "drifted", "stopped", "pending")
BAD = ("drifted", "stopped")
HAS_SAID = and_(verifications.c.ended_at.is_not(None), verifications.c.verdict.in_(SAYING))


def latest(connection: Connection, transaction_id: str) -> Row[Any] | None:
    """The newest verification of what a saga published."""
    table = verifications
    statement = select(table).where(table.c.transaction_id == transaction_id, HAS_SAID)
    return connection.execute(statement.order_by(table.c.id.desc()).limit(1)).first()


def bad_verdicts(connection: Connection, *, dags: Collection[str]) -> Sequence[Row[Any]]:
    """Of each company the newest verification, where WPS differs from a saga of these DAGs."""
    table, saga = verifications, saga_transactions
    newest = (
        select(table)
        .where(HAS_SAID)
        .ext(distinct_on(table.c.third_company_id))
        .order_by(table.c.third_company_id, table.c.id.desc())
        .subquery("newest")
    )
    statement = (
        select(newest)
        .join(saga, saga.c.transaction_id == newest.c.transaction_id)
        .where(newest.c.verdict.in_(BAD), saga.c.dag_id.in_(list(dags)), saga.c.deleted_at.is_(None))
        .order_by(newest.c.third_company_id)
    )
    return connection.execute(statement).all()


def differences(
    connection: Connection,
    verification: Row[Any],
    *,
    kind: str = "",
    what: str = "",
    after: int = 0,
    limit: int,
) -> Sequence[Row[Any]]:
    """Differences that a verification found, behind a row's id; names are those we know."""
    table = verification_differences
    statement, name = _named(table, verification.third_company_id)
    place = known_departments.alias("place")
    statement = (
        statement.outerjoin(
            place, and_(place.c.third_company_id == verification.third_company_id, place.c.did == table.c.did)
        )
        .add_columns(table, name, place.c.name.label("place_name"))
        .where(table.c.verification_id == verification.id, table.c.id > after)
    )
    if kind:
        statement = statement.where(table.c.kind == kind)
    if what:
        statement = statement.where(table.c.what == what)
    return connection.execute(statement.order_by(table.c.id).limit(limit)).all()


def left_alone(
    connection: Connection,
    transaction_id: str,
    *,
    third_company_id: str | None,
    kind: str = "",
    reason: str = "",
    after: tuple[str, ...] | None = None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Objects that an undo left as they are, by kind and key, behind the one with the key `after`."""
    table = undo_left
    key = tuple_(table.c.kind, table.c.key)
    statement, name = _named(table, third_company_id or "")
    statement = statement.add_columns(table, name).where(table.c.transaction_id == transaction_id)
    if kind:
        statement = statement.where(table.c.kind == kind)
    if reason:
        statement = statement.where(table.c.reason == reason)
    if after is not None:
        statement = statement.where(key > after)
    return connection.execute(statement.order_by(key).limit(limit)).all()


def _named(table: Any, company: str) -> tuple[Select[Any], ColumnElement[str | None]]:
    """A selection without columns from a table of objects, and the name we know of each object."""
    department, person = known_departments, known_users
    source: FromClause = table.outerjoin(
        department,
        and_(
            table.c.kind == "departments",
            department.c.third_company_id == company,
            department.c.did == table.c.key,
        ),
    ).outerjoin(
        person,
        and_(
            table.c.kind != "departments", person.c.third_company_id == company, person.c.uid == table.c.key
        ),
    )
    return select().select_from(source), func.coalesce(department.c.name, person.c.nick_name).label("name")
