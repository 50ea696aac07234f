"""The plan of a sync: what it will change, written down before it does.

A plan belongs to a fetch. Its hash covers every change and what each object becomes, in any order
and without what differs from one reading to the next: the same organisation gives the same hash.
Everything is computed in the database; nothing of it grows in this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    String,
    Subquery,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import BYTEA, aggregate_order_by

from nancalacc.store.tables import plan_changes, plan_subtrees, sync_plans
from nancalacc.sync import differences, staging
from nancalacc.sync.differences import Target
from nancalacc.sync.known import KNOWN
from nancalacc.sync.publish import Snapshot
from nancalacc.sync.staging import Fetch

EXAMPLES = 5
"""How many changes of each sort a summary names."""
ACTIONS = ("removed", "changed", "added")
SORTS = ("added", "changed", "moved", "disabled", "removed")
"""What is counted; moved and disabled ones are among the changed ones."""
PLACED_BY: Mapping[str, str] = {"departments": "did", "users": "def_did", "memberships": "did"}
"""The department by which a known object lies in a subtree."""
NOTHING = literal(b"", BYTEA)
ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")

Counts = Mapping[str, Mapping[str, int]]
"""By kind of object: how many are known, and how many of each sort change."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is written down about a plan as a whole.

    `examples`: the first changes of each sort, as {"kind", "sort", "uid", "did", "name"}.
    """

    fetch: Fetch
    third_company_id: str
    hash: str
    counts: Counts
    examples: tuple[Mapping[str, Any], ...]

    @property
    def is_empty(self) -> bool:
        """True when nothing changes."""
        return not any(counts[sort] for counts in self.counts.values() for sort in SORTS)

    def as_data(self) -> dict[str, Any]:
        """The plan for action_data and events: its hash and counts."""
        return {"hash": self.hash, "counts": {kind: dict(counts) for kind, counts in self.counts.items()}}


@dataclass(frozen=True, slots=True)
class Subtree:
    """A department directly below the root (or the root itself) with what changes in it."""

    did: str
    name: str | None
    counts: Counts


def find(connection: Connection, *, fetch: Fetch) -> Plan | None:
    """The plan of a fetch, None while there is none."""
    table = sync_plans
    row = connection.execute(select(table).where(fetch.of(table))).one_or_none()
    if row is None:
        return None
    return Plan(
        fetch,
        third_company_id=row.third_company_id,
        hash=row.hash,
        counts=row.counts,
        examples=tuple(row.examples),
    )


def make(connection: Connection, *, fetch: Fetch, third_company_id: str, managers_read: bool) -> Plan:
    """The plan of a fetch, made and written down if there is none yet.

    Of several processes that want it at once one makes it. What earlier attempts of the same saga
    planned and never published is forgotten, but for their summaries.
    """
    connection.execute(ONE_AT_A_TIME, {"key": f"plan {fetch.transaction_id}"})
    made = find(connection, fetch=fetch)
    if made is not None:
        return made
    staging.prefer_hash_joins(connection)
    for table in (plan_changes, plan_subtrees):
        connection.execute(
            delete(table).where(table.c.transaction_id == fetch.transaction_id, table.c.epoch == fetch.epoch)
        )
    target = differences.of_fetch(fetch, managers_read=managers_read)
    position = 0
    for kind in KNOWN:
        position += _write_changes(
            connection, kind, fetch=fetch, target=target, third_company_id=third_company_id, start=position
        )
    counts = _counts(connection, fetch=fetch, third_company_id=third_company_id)
    _write_subtrees(connection, fetch=fetch, third_company_id=third_company_id)
    connection.execute(
        insert(sync_plans).values(
            **fetch.key(),
            third_company_id=third_company_id,
            hash=_hash(
                connection, select(plan_changes.c.digest).where(fetch.of(plan_changes)).subquery("digests")
            ),
            counts=counts,
            examples=_examples(connection, fetch=fetch, counts=counts),
        )
    )
    plan = find(connection, fetch=fetch)
    assert plan is not None  # noqa: S101 - written above
    return plan


def hash_of_snapshot(connection: Connection, *, snapshot: Snapshot, fetch: Fetch) -> str:
    """The hash of what the rows of a fetch, as saved under a task id, change against known state."""
    staging.prefer_hash_joins(connection)
    target = differences.of_snapshot(snapshot, fetch=fetch)
    every = (
        differences.changes(kind, target=target, third_company_id=snapshot.third_company_id).subquery(kind)
        for kind in KNOWN
    )
    return _hash(connection, union_all(*(select(each.c.digest) for each in every)).subquery("digests"))


def subtrees(connection: Connection, *, fetch: Fetch) -> tuple[Subtree, ...]:
    """The subtrees in which something changes."""
    table = plan_subtrees
    rows = connection.execute(
        select(table.c.did, table.c.name, table.c.counts).where(fetch.of(table)).order_by(table.c.did)
    )
    return tuple(Subtree(row.did, row.name, row.counts) for row in rows)


def _hash(connection: Connection, digests: Subquery) -> str:
    ordered = func.string_agg(digests.c.digest, aggregate_order_by(NOTHING, digests.c.digest), type_=BYTEA)
    found: str = connection.execute(
        select(func.encode(func.sha256(func.coalesce(ordered, NOTHING)), "hex"))
    ).scalar_one()
    return found


def _write_changes(
    connection: Connection, kind: str, *, fetch: Fetch, target: Target, third_company_id: str, start: int
) -> int:
    """Write the changes of one kind of object, the removed ones first; returns their number."""
    found = differences.changes(kind, target=target, third_company_id=third_company_id).subquery("c")
    was, will_be = differences.known_subtrees(third_company_id), differences.new_subtrees(target)
    old, new = (found.c.old_place, found.c.place) if kind == "users" else (found.c.did, found.c.did)
    rank = case({action: place for place, action in enumerate(ACTIONS)}, value=found.c.action)
    order = (rank, found.c.did.collate("C"), found.c.uid.collate("C"))
    values: dict[str, ColumnElement[Any]] = {
        "transaction_id": literal(fetch.transaction_id),
        "epoch": literal(fetch.epoch),
        "attempt": literal(fetch.attempt),
        "position": cast(literal(start) + func.row_number().over(order_by=order), Integer),
        **dict(found.c.items()),
        "subtree": func.coalesce(was.c.top, will_be.c.top, ""),
    }
    rows = select(*values.values()).select_from(
        found.outerjoin(was, was.c.did == old).outerjoin(will_be, will_be.c.did == new)
    )
    statement = insert(plan_changes).from_select(list(values), rows)
    return connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount


def _chosen(changes: FromClause) -> dict[str, ColumnElement[bool]]:
    """The conditions for each sort of change, of rows of plan_changes."""
    return {
        "moved": changes.c.is_moved.is_(True),
        "disabled": changes.c.is_disabled.is_(True),
        **{action: changes.c.action == action for action in ACTIONS},
    }


def _sorts(changes: FromClause) -> dict[str, ColumnElement[int]]:
    """How many changes of each sort there are."""
    chosen = _chosen(changes)
    return {sort: func.count().filter(chosen[sort]) for sort in SORTS}


def _counts(connection: Connection, *, fetch: Fetch, third_company_id: str) -> dict[str, dict[str, int]]:
    known = {
        kind: connection.execute(
            select(func.count()).select_from(table).where(table.c.third_company_id == third_company_id)
        ).scalar_one()
        for kind, table in KNOWN.items()
    }
    counts = {kind: {"known": known[kind], **dict.fromkeys(SORTS, 0)} for kind in KNOWN}
    sorts = _sorts(plan_changes)
    rows = connection.execute(
        select(plan_changes.c.kind, *sorts.values())
        .where(fetch.of(plan_changes))
        .group_by(plan_changes.c.kind)
    )
    for row in rows:
        counts[row.kind] |= dict(zip(sorts, row[1:], strict=True))
    return counts


def _write_subtrees(connection: Connection, *, fetch: Fetch, third_company_id: str) -> None:
    """Write what changes in each subtree in which something does."""
    changes = select(plan_changes).where(fetch.of(plan_changes)).cte("changes")
    tops = differences.known_subtrees(third_company_id)
    known = union_all(
        *(
            select(literal(kind, String).label("kind"), tops.c.top, func.count().label("number"))
            .join_from(table, tops, tops.c.did == table.c[PLACED_BY[kind]])
            .where(table.c.third_company_id == third_company_id)
            .group_by(tops.c.top)
            for kind, table in KNOWN.items()
        )
    ).subquery("known")
    sorts = {sort: number.label(sort) for sort, number in _sorts(changes).items()}
    changed = (
        select(changes.c.subtree, changes.c.kind, *sorts.values())
        .group_by(changes.c.subtree, changes.c.kind)
        .subquery("changed")
    )
    numbers = func.jsonb_build_object(
        "known",
        func.coalesce(known.c.number, 0),
        *(part for sort in SORTS for part in (sort, changed.c[sort])),
    )
    names = _names(changes, third_company_id=third_company_id)
    rows = (
        select(
            *(literal(value).label(name) for name, value in fetch.key().items()),
            changed.c.subtree,
            func.max(names.c.name),
            func.jsonb_object_agg(changed.c.kind, numbers),
        )
        .select_from(
            changed.outerjoin(
                known, and_(known.c.top == changed.c.subtree, known.c.kind == changed.c.kind)
            ).outerjoin(names, names.c.did == changed.c.subtree)
        )
        .group_by(changed.c.subtree)
    )
    columns = ["transaction_id", "epoch", "attempt", "did", "name", "counts"]
    connection.execute(insert(plan_subtrees).from_select(columns, rows))


def _names(changes: FromClause, *, third_company_id: str) -> Subquery:
    """The names of departments, known and new."""
    known = KNOWN["departments"]
    return union_all(
        select(known.c.did, known.c.name).where(known.c.third_company_id == third_company_id),
        select(changes.c.did, changes.c.name).where(
            changes.c.kind == "departments", changes.c.action == "added"
        ),
    ).subquery("names")


def _examples(connection: Connection, *, fetch: Fetch, counts: Counts) -> list[dict[str, Any]]:
    """The first changes of each sort."""
    table = plan_changes
    chosen = _chosen(table)
    found = []
    for kind, sort in ((kind, sort) for kind in KNOWN for sort in SORTS if counts[kind][sort]):
        rows = connection.execute(
            select(table.c.uid, table.c.did, func.coalesce(table.c.name, table.c.old_name).label("name"))
            .where(fetch.of(table), table.c.kind == kind, chosen[sort])
            .order_by(table.c.position)
            .limit(EXAMPLES)
        )
        found += [{"kind": kind, "sort": sort, **row._mapping} for row in rows]
    return found
