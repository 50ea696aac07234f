"""Conflicts: what DingTalk says and WPS cannot have, held back until the conflict is gone.

Found while a fetch is resolved, staged with it, and kept as the present ones when WPS has been given
the result. A conflict names an object and, where there is one, the other that it clashes with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert

from nancalacc.store import queries
from nancalacc.store.tables import conflicts, saga_transactions, staged_conflicts
from nancalacc.sync.staging import Fetch

NAMED = 20
NO_WAY = "is only in departments whose parents lead to no root: stays where WPS has them"


class Kind(StrEnum):
    """What is in conflict."""

    MOBILE = "mobile"
    """Two people with one mobile number: held back from all but one."""
    EMAIL = "email"
    """The same with an e-mail address."""
    ACCOUNT = "account"
    """Two people would have one account: all but one have a suffix."""
    USERID = "userid"
    """A userid that is another one's without case and accents: the record is held back."""
    PLACE = "place"
    """A person whose departments lead to no root."""
    NAME = "name"
    """A department's name is a sibling's: it has a suffix."""
    PARENT = "parent"
    """A department with two parents, an unknown one or itself above itself: it stays where it is."""


OF_PEOPLE = frozenset({Kind.MOBILE, Kind.EMAIL, Kind.ACCOUNT, Kind.USERID, Kind.PLACE})


@dataclass(frozen=True, slots=True)
class Conflict:
    """`key` is a uid or did, `other` the one it clashes with; `reason` goes on from "it …"."""

    kind: Kind
    key: str
    other: str | None
    reason: str


def add(connection: Connection, found: Iterable[Conflict], *, fetch: Fetch) -> None:
    """Stage conflicts of a fetch; of one object's of a kind the first stays."""
    rows = [
        fetch.key() | {"kind": each.kind.value, "key": each.key, "other": each.other, "reason": each.reason}
        for each in found
    ]
    if rows:
        connection.execute(insert(staged_conflicts).on_conflict_do_nothing(), rows)


def summary(connection: Connection, *, fetch: Fetch, third_company_id: str) -> dict[str, Any]:
    """How many conflicts of which kind there are, how many of them are new, and examples, for action_data."""
    staged = staged_conflicts
    is_known = and_(
        conflicts.c.third_company_id == third_company_id,
        conflicts.c.kind == staged.c.kind,
        conflicts.c.key == staged.c.key,
    )
    rows = connection.execute(
        select(staged.c.kind, func.count(), func.count().filter(conflicts.c.key.is_(None)))
        .select_from(staged.outerjoin(conflicts, is_known))
        .where(fetch.of(staged))
        .group_by(staged.c.kind)
        .order_by(staged.c.kind)
    ).all()
    examples = connection.execute(
        select(staged.c.kind, staged.c.key, staged.c.other, staged.c.reason)
        .where(fetch.of(staged))
        .order_by(staged.c.kind, staged.c.key)
        .limit(NAMED)
    )
    return {
        "present": {row[0]: row[1] for row in rows},
        "new": sum(row[2] for row in rows),
        "examples": [dict(row._mapping) for row in examples],
    }


def replace(
    connection: Connection,
    *,
    fetch: Fetch,
    third_company_id: str,
    people: Collection[str] | None = None,
    departments: Collection[str] = (),
) -> Mapping[str, int]:
    """The conflicts of a fetch are the present ones; returns how many are new and how many released.

    With `people` only those of these people and departments: the others stay as they are.
    """
    of_fetch, of_company = [fetch.of(staged_conflicts)], [conflicts.c.third_company_id == third_company_id]
    if people is not None:
        of_fetch.append(_about(staged_conflicts, people, departments))
        of_company.append(_about(conflicts, people, departments))
    staged = staged_conflicts
    still = exists().where(*of_fetch, staged.c.kind == conflicts.c.kind, staged.c.key == conflicts.c.key)
    released = connection.execute(delete(conflicts).where(*of_company, ~still)).rowcount
    columns = ("kind", "key", "other", "reason")
    rows = select(
        literal(third_company_id), literal(fetch.transaction_id), *(staged.c[name] for name in columns)
    ).where(*of_fetch)
    statement = insert(conflicts).from_select(["third_company_id", "transaction_id", *columns], rows)
    is_new: ColumnElement[bool] = literal_column("xmax = 0")
    kept = connection.execute(
        statement.on_conflict_do_update(
            index_elements=["third_company_id", "kind", "key"],
            set_={name: statement.excluded[name] for name in ("other", "reason")},
        ).returning(is_new)
    ).scalars()
    return {"new": sum(kept), "released": released}


def _about(table: Any, people: Collection[str], departments: Collection[str]) -> ColumnElement[bool]:
    """The condition for conflicts of these people and departments."""
    of_people = table.c.kind.in_([kind.value for kind in OF_PEOPLE])
    return or_(
        and_(of_people, table.c.key == func.any(list(people))),
        and_(~of_people, table.c.key == func.any(list(departments))),
    )


def clashing(
    connection: Connection, kinds: Collection[Kind], keys: Collection[str], *, third_company_id: str
) -> list[tuple[str, str]]:
    """The objects that clash with one of these in a present conflict, each with that one."""
    table = conflicts
    wanted = list(keys)
    rows = connection.execute(
        select(table.c.key, table.c.other).where(
            table.c.third_company_id == third_company_id,
            table.c.kind.in_([kind.value for kind in kinds]),
            or_(table.c.key == func.any(wanted), table.c.other == func.any(wanted)),
        )
    )
    return [
        pair
        for row in rows
        for pair in ((row.key, row.other), (row.other, row.key))
        if pair[0] is not None and pair[1] in keys
    ]


def page(
    connection: Connection,
    *,
    dags: Collection[str],
    kinds: Sequence[Kind] = (),
    third_company_id: str | None = None,
    after: tuple[str, ...] | None = None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Present conflicts by company, kind and key, from the first one that comes after `after`.

    `dags`: the DAGs whose sagas may be seen. Shown are the conflicts of the companies that have such
    sagas; `transaction_id` is None where another saga found the conflict, or one that is gone.
    """
    key = tuple_(conflicts.c.third_company_id, conflicts.c.kind, conflicts.c.key)
    finder = (
        select(saga_transactions.c.transaction_id)
        .where(
            saga_transactions.c.transaction_id == conflicts.c.transaction_id,
            saga_transactions.c.dag_id.in_(list(dags)),
        )
        .scalar_subquery()
    )
    columns = [column for column in conflicts.c if column.name != "transaction_id"]
    statement: Select[Any] = (
        select(*columns, finder.label("transaction_id"))
        .where(queries.company_is_seen(conflicts.c.third_company_id, dags=dags))
        .order_by(key)
        .limit(limit)
    )
    if kinds:
        statement = statement.where(conflicts.c.kind.in_([kind.value for kind in kinds]))
    if third_company_id is not None:
        statement = statement.where(conflicts.c.third_company_id == third_company_id)
    if after is not None:
        statement = statement.where(key > after)
    return connection.execute(statement).all()


def count(
    connection: Connection, *, dags: Collection[str], third_company_id: str | None = None
) -> dict[Kind, int]:
    """How many conflicts there are at present, by kind, in companies that have sagas of these DAGs."""
    statement = (
        select(conflicts.c.kind, func.count())
        .where(queries.company_is_seen(conflicts.c.third_company_id, dags=dags))
        .group_by(conflicts.c.kind)
        .order_by(conflicts.c.kind)
    )
    if third_company_id is not None:
        statement = statement.where(conflicts.c.third_company_id == third_company_id)
    return {Kind(kind): number for kind, number in connection.execute(statement)}
