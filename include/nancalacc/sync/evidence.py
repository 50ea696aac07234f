"""What proves a fetch complete, department by department.

A department is proven when its pages were read to the last one and their rows, with the details of
the people whose home it is, are in staging: the same transaction says so. The tree is recorded once
it was read as a whole. A retried fetch goes on from both (`resuming`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from nancalacc.errors import IncompleteAnswerError
from nancalacc.store.tables import UTC_NOW, staged_evidence
from nancalacc.sync import staging
from nancalacc.sync.findings import Findings
from nancalacc.sync.mapping import whole
from nancalacc.sync.staging import Fetch

NAMED = 10

MEMBERS = (("staged_users", "def_did"), ("staged_memberships", "did"))
"""What the pages gave, and the column of the department without which it cannot be."""
NOT_LISTED = """
    DELETE FROM staged_evidence
    WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND listed_at IS NULL
"""
OUTSIDE = """
    DELETE FROM {table} s
    WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt) AND NOT EXISTS (
        SELECT FROM staged_evidence e
        WHERE (e.transaction_id, e.epoch, e.attempt) = (:transaction_id, :epoch, :attempt)
            AND e.did = s.{did})
"""
DROP_OUTSIDE = (
    text(NOT_LISTED),
    *(text(OUTSIDE.format(table=table, did=did)) for table, did in MEMBERS),
)


@dataclass(slots=True)
class Proof:
    """What was found out about the people of one department, until it is written down."""

    dept_id: int
    pages: int = 0
    members: int = 0
    went_back: bool = False
    findings: Findings = field(default_factory=Findings)
    ignored: Counter[str] = field(default_factory=Counter)

    def notes(self) -> dict[str, Any]:
        """The findings as they are stored."""
        return {**self.findings.as_data(), "ignored": dict(self.ignored)}


@dataclass(frozen=True, slots=True)
class Listed:
    """A department of the tree; `reported` is the number of members DingTalk states for it."""

    dept_id: int
    did: str
    parent_id: int | None
    reported: int | None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tree:
    """What the evidence of a fetch holds when it begins: the departments, and which are proven."""

    listed: Collection[int]
    proven: Collection[int]
    pages: int
    age_seconds: float


def tree(connection: Connection, *, fetch: Fetch) -> Tree:
    """What is proven so far."""
    table = staged_evidence
    rows = connection.execute(
        select(
            table.c.dept_id,
            table.c.listed_at.is_not(None),
            table.c.proven_at.is_not(None),
            table.c.pages,
            func.extract("epoch", UTC_NOW - func.least(table.c.listed_at, table.c.proven_at)),
        ).where(fetch.of(table))
    ).all()
    return Tree(
        listed={row[0] for row in rows if row[1]},
        proven={row[0] for row in rows if row[2]},
        pages=sum(row[3] or 0 for row in rows if row[2]),
        age_seconds=max((float(row[4] or 0) for row in rows), default=0.0),
    )


def keep_tree(connection: Connection, departments: Iterable[Listed], *, settings: str, fetch: Fetch) -> None:
    """Record a tree that was read as a whole; what was proven of departments outside it is dropped.

    `settings` tells with which ones it was read.
    """
    rows = [
        fetch.key()
        | {
            "dept_id": each.dept_id,
            "did": each.did,
            "settings": settings,
            "parent_id": each.parent_id,
            "reported": each.reported,
            "listed_notes": dict(each.notes) or None,
        }
        for each in departments
    ]
    adding = insert(staged_evidence).values(listed_at=UTC_NOW)
    names = ("parent_id", "reported", "listed_at", "listed_notes")
    connection.execute(
        adding.on_conflict_do_update(
            index_elements=["transaction_id", "epoch", "attempt", "dept_id"],
            set_={name: adding.excluded[name] for name in names},
        ),
        rows,
    )
    staging.prefer_hash_joins(connection)
    for statement in DROP_OUTSIDE:
        connection.execute(statement, fetch.key())


def prove(connection: Connection, proofs: Iterable[Proof], *, fetch: Fetch) -> None:
    """These departments are proven: call it in the transaction that stages the last of their rows."""
    rows = [
        {
            "of": each.dept_id,
            "has_pages": each.pages,
            "has_members": each.members,
            "back": each.went_back,
            "found": each.notes(),
        }
        for each in proofs
    ]
    if not rows:
        return
    table = staged_evidence
    connection.execute(
        update(table)
        .where(fetch.of(table), table.c.dept_id == bindparam("of"))
        .values(
            pages=bindparam("has_pages"),
            members=bindparam("has_members"),
            went_back=bindparam("back"),
            notes=bindparam("found", type_=JSONB),
            proven_at=UTC_NOW,
        ),
        rows,
    )


def forget_tree(connection: Connection, *, fetch: Fetch) -> None:
    """The tree is not as it was read: the next attempt reads it again, and keeps what pages it can."""
    table = staged_evidence
    connection.execute(update(table).where(fetch.of(table)).values(listed_at=None, listed_notes=None))


def forget(connection: Connection, *, fetch: Fetch) -> None:
    """Something proven was shown to be wrong: the next attempt reads everything anew."""
    connection.execute(delete(staged_evidence).where(fetch.of(staged_evidence)))


def require_complete(connection: Connection, *, fetch: Fetch) -> None:
    """Raise IncompleteAnswerError unless every department of the tree is proven."""
    table = staged_evidence
    missing = [
        str(each)
        for each in connection.execute(
            select(table.c.dept_id)
            .where(fetch.of(table), table.c.proven_at.is_(None))
            .order_by(table.c.dept_id)
            .limit(NAMED)
        ).scalars()
    ]
    if missing:
        raise IncompleteAnswerError(
            f"The pages of departments {', '.join(missing)} were not read to their end: nothing is saved."
            " The organisation has to be read again"
        )


def notes_of(connection: Connection, *, fetch: Fetch) -> tuple[Findings, Counter[str]]:
    """The findings of everything that is proven, and what was ignored."""
    table = staged_evidence
    findings, ignored = Findings(), Counter[str]()
    rows = connection.execute(
        select(table.c.listed_notes, table.c.notes, table.c.proven_at)
        .where(fetch.of(table))
        .order_by(table.c.dept_id)
    )
    for row in rows:
        for notes in filter(None, (row.listed_notes, row.proven_at and row.notes)):
            findings.merge(notes)
            ignored.update(notes.get("ignored", {}))
    return findings, ignored


def short(connection: Connection, *, fetch: Fetch) -> list[int]:
    """Departments of which DingTalk reports more members than were listed in it and below it.

    It is not documented whether `member_count` [dt 2.3] counts direct members or everybody below,
    hidden people or not, so this is short whatever it counts, and still no error: the app may not
    see everybody.
    """
    rows = _counted(connection, fetch=fetch)
    below = _below({row.dept_id: (row.parent_id, row.members or 0) for row in rows})
    return sorted(
        row.dept_id for row in rows if row.reported is not None and row.reported > below[row.dept_id]
    )


def recount(
    connection: Connection, dept_id: int, *, reported: int | None, members: int, fetch: Fetch
) -> None:
    """What DingTalk reports and lists of a department by now."""
    table = staged_evidence
    connection.execute(
        update(table)
        .where(fetch.of(table), table.c.dept_id == dept_id)
        .values(reported=reported, members=members)
    )


def summary(connection: Connection, *, fetch: Fetch) -> dict[str, Any]:
    """Departments and pages proven, and how the counts that DingTalk reports compare, for action_data."""
    rows = _counted(connection, fetch=fetch)
    too_few = short(connection, fetch=fetch)
    return {
        "departments": len(rows),
        "pages": sum(row.pages or 0 for row in rows),
        "members": sum(row.members or 0 for row in rows),
        "cursors_went_back": sum(row.went_back for row in rows),
        "counts": {
            "reported": sum(row.reported is not None for row in rows),
            "equal": sum(row.reported == (row.members or 0) for row in rows),
            "short": len(too_few),
            "examples": too_few[:NAMED],
        },
    }


def reported_members(record: Mapping[str, Any]) -> int | None:
    """The number of members that a department's record states, if it does [dt 2.3]."""
    found = whole(record.get("member_count"))
    return whole(record.get("owning_member_count")) if found is None else found


def _counted(connection: Connection, *, fetch: Fetch) -> Sequence[Row[Any]]:
    table = staged_evidence
    columns = ("dept_id", "parent_id", "reported", "members", "pages", "went_back")
    return connection.execute(select(*(table.c[name] for name in columns)).where(fetch.of(table))).all()


def _below(departments: Mapping[int, tuple[int | None, int]]) -> Mapping[int, int]:
    """The number of members of each department with everything below it."""
    totals: Counter[int] = Counter()
    for dept_id, (_, members) in departments.items():
        seen: set[int] = set()
        place: int | None = dept_id
        while place is not None and place in departments and place not in seen:
            seen.add(place)
            totals[place] += members
            place = departments[place][0]
    return totals
