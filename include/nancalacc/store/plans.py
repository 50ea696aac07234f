"""Plans as people look at them: the latest of a saga, its changes in pages, and who decided what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select

from nancalacc.store.tables import (
    known_departments,
    plan_changes,
    plan_decisions,
    plan_subtrees,
    sync_plans,
)

SHOWN = ("position", "kind", "action", "uid", "did", "name", "old_name", "place", "old_place", "fields",
         "is_moved", "is_disabled", "subtree")  # fmt: skip
"""Columns of a change that people see; the digest is none of them."""
SEARCHED = ("uid", "did", "name", "old_name")


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Which changes are wanted; what is empty does not matter.

    `sort`: added, changed, moved, disabled or removed. `subtree`: None means every one.
    """

    kind: str = ""
    sort: str = ""
    subtree: str | None = None
    text: str = ""


def latest(connection: Connection, transaction_id: str) -> Row[Any] | None:
    """The latest plan of a saga."""
    table = sync_plans
    statement = select(table).where(table.c.transaction_id == transaction_id)
    return connection.execute(
        statement.order_by(table.c.epoch.desc(), table.c.attempt.desc()).limit(1)
    ).first()


def subtrees(connection: Connection, plan: Row[Any], *, limit: int) -> tuple[Sequence[Row[Any]], int]:
    """The subtrees in which most is removed or changes, and how many there are."""
    table = plan_subtrees

    def number(sort: str) -> ColumnElement[int]:
        kinds = ("departments", "users", "memberships")
        return sum(
            (func.coalesce(table.c.counts[kind][sort].as_integer(), 0) for kind in kinds[1:]),
            start=func.coalesce(table.c.counts[kinds[0]][sort].as_integer(), 0),
        )

    rows = connection.execute(
        select(table.c.did, table.c.name, table.c.counts, func.count().over().label("every"))
        .where(_of(plan, table))
        .order_by(number("removed").desc(), number("changed").desc(), number("added").desc(), table.c.did)
        .limit(limit)
    ).all()
    return rows, rows[0].every if rows else 0


def decisions(connection: Connection, transaction_id: str) -> Sequence[Row[Any]]:
    """What people decided about the plans of a saga, in order."""
    table = plan_decisions
    statement = select(table).where(table.c.transaction_id == transaction_id)
    return connection.execute(statement.order_by(table.c.id)).all()


def changes(
    connection: Connection, plan: Row[Any], wanted: ChangeFilter, *, after: int = 0, limit: int
) -> Sequence[dict[str, Any]]:
    """Changes of a plan behind a position, with the names of the departments they are about."""
    table = plan_changes
    rows = connection.execute(
        select(*(table.c[name] for name in SHOWN))
        .where(_of(plan, table), table.c.position > after, *_conditions(wanted))
        .order_by(table.c.position)
        .limit(limit)
    ).all()
    found = [dict(row._mapping) for row in rows]
    for change in found:
        if change["kind"] == "memberships":
            change["place"] = change["did"]
    names = _names(connection, plan, {change[which] for change in found for which in ("place", "old_place")})
    return [
        change | {f"{which}_name": names.get(change[which]) for which in ("place", "old_place")}
        for change in found
    ]


def _names(connection: Connection, plan: Row[Any], dids: set[str | None]) -> dict[str, str]:
    """The names of departments as they are to be, or else as they are known."""
    wanted = [did for did in dids if did]
    known, new = known_departments, plan_changes
    # Those of departments come first in a plan.
    last = sum(plan.counts["departments"][action] for action in ("added", "changed", "removed"))
    statements = (
        select(known.c.did, known.c.name).where(
            known.c.third_company_id == plan.third_company_id, known.c.did == func.any(wanted)
        ),
        select(new.c.did, new.c.name).where(
            _of(plan, new), new.c.position <= last, new.c.name.is_not(None), new.c.did == func.any(wanted)
        ),
    )
    return {row.did: row.name for statement in statements for row in connection.execute(statement)}


def _of(plan: Row[Any], table: Any) -> ColumnElement[bool]:
    return and_(
        table.c.transaction_id == plan.transaction_id,
        table.c.epoch == plan.epoch,
        table.c.attempt == plan.attempt,
    )


def _conditions(wanted: ChangeFilter) -> list[ColumnElement[bool]]:
    table = plan_changes.c
    found: list[ColumnElement[bool]] = []
    if wanted.kind:
        found.append(table.kind == wanted.kind)
    if wanted.sort == "moved":
        found.append(table.is_moved)
    elif wanted.sort == "disabled":
        found.append(table.is_disabled)
    elif wanted.sort:
        found.append(table.action == wanted.sort)
    if wanted.subtree is not None:
        found.append(table.subtree == wanted.subtree)
    for word in wanted.text.split():
        found.append(or_(*[table[name].icontains(word, autoescape=True) for name in SEARCHED]))
    return found
