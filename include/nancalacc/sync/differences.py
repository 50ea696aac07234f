"""What a set of rows would change against known state: one SELECT for each kind of object.

The rows are those of a fetch in staging, or those saved for WPS under a task id; both give the
same changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    String,
    Subquery,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    null,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, array
from sqlalchemy.types import Text

from nancalacc.store.tables import known_departments
from nancalacc.sync import phone_columns
from nancalacc.sync.known import KEYS, KNOWN, Columns, differing, to_write
from nancalacc.sync.mapping import ROOT_DID, ROOT_ROW_PID
from nancalacc.sync.phone_columns import PHONES
from nancalacc.sync.publish import FINAL, Snapshot
from nancalacc.sync.staging import TABLES, Fetch

ACTIVE = "active"
NAMES: Mapping[str, str] = {"departments": "name", "users": "nick_name"}
PLACES: Mapping[str, str] = {"departments": "pid", "users": "def_did"}
"""Where an object is: the department above, or the main one."""


@dataclass(frozen=True, slots=True)
class Target:
    """A set of rows as WPS is to have them.

    `rows`: the rows of a kind, with the hashes of numbers. `columns`: what they say, given them and the
    known rows of the same objects (for what is carried over).
    """

    rows: Callable[[str], Subquery]
    columns: Callable[[str, Any, Any], Columns]


def of_fetch(fetch: Fetch, *, managers_read: bool) -> Target:
    """The accepted rows of a fetch, with what was not read carried over."""

    def rows(kind: str) -> Subquery:
        table = TABLES[kind]
        return select(table).where(fetch.accepted(table)).subquery("s")

    def columns(kind: str, staged: Any, known: Any) -> Columns:
        return to_write(kind, staged=staged, known=known, managers_read=managers_read)

    return Target(rows, columns)


def of_snapshot(snapshot: Snapshot, *, fetch: Fetch) -> Target:
    """The rows of a fetch as they were saved for WPS under a task id, without the root row."""

    def rows(kind: str) -> Subquery:
        table, staged = FINAL[kind], TABLES[kind]
        statement = select(table).where(
            table.c.task_id == snapshot.task_id, table.c.third_company_id == snapshot.third_company_id
        )
        if kind == "users":
            statement = statement.add_columns(
                *(phone_columns.key_of_saved(name, saved=table, staged=staged) for name in PHONES)
            ).outerjoin(staged, and_(fetch.accepted(staged), staged.c.uid == table.c.uid))
        if kind == "departments":
            statement = statement.where(table.c.pid.is_distinct_from(ROOT_ROW_PID))
        return statement.subquery("s")

    def columns(kind: str, saved: Any, known: Any) -> Columns:
        names = to_write(kind, staged=TABLES[kind], known=KNOWN[kind], managers_read=False)
        return {name: saved.c[name] for name in names}

    return Target(rows, columns)


def changes(kind: str, *, target: Target, third_company_id: str) -> Select[Any]:
    """Every object of a kind that is added, changed or removed, with a digest of what it becomes.

    Columns: kind, action, uid, did, name, old_name, place, old_place, fields (names of columns that
    differ), is_moved, is_disabled, digest. A membership has neither name nor place.
    """
    rows, table = target.rows(kind), KNOWN[kind]
    known = select(table).where(table.c.third_company_id == third_company_id).subquery("k")
    columns = target.columns(kind, rows, known)
    key = KEYS[kind][0]
    is_added, is_removed = known.c[key].is_(None), rows.c[key].is_(None)
    differs = differing(kind, columns, rows=rows, known=known)
    is_changed = and_(~is_added, ~is_removed)
    action = case((is_added, "added"), (is_removed, "removed"), else_="changed")
    named = func.array_remove(array([case((differs[name], name)) for name in differs]), null())
    fields = case((is_changed, named), else_=cast(array([], type_=Text), ARRAY(Text)))
    ids = {name: func.coalesce(rows.c[name], known.c[name]) for name in KEYS[kind]}
    is_moved: ColumnElement[bool] = false()
    if kind in PLACES:
        is_moved = and_(is_changed, differs[PLACES[kind]])
    is_disabled: ColumnElement[bool] = false()
    if kind == "users":
        is_disabled = and_(
            is_changed, known.c.employment_status == ACTIVE, differs["employment_status"].is_(True)
        )
    becomes = {
        name: phone_columns.identity(name, value, rows=rows, known=known) if name in PHONES else value
        for name, value in columns.items()
    }
    content = func.jsonb_build_array(
        literal(kind, String),
        action,
        *ids.values(),
        func.to_jsonb(fields),
        *(case((is_removed, null()), else_=becomes[name]) for name in differs),
        type_=JSONB,
    )
    missing = cast(null(), String)
    name, place = NAMES.get(kind), PLACES.get(kind)
    on = and_(*(known.c[each] == rows.c[each] for each in KEYS[kind]))
    return (
        select(
            literal(kind, String).label("kind"),
            action.label("action"),
            ids.get("uid", missing).label("uid"),
            ids.get("did", missing).label("did"),
            (case((~is_removed, columns[name])) if name else missing).label("name"),
            (known.c[name] if name else missing).label("old_name"),
            (case((~is_removed, columns[place])) if place else missing).label("place"),
            (known.c[place] if place else missing).label("old_place"),
            fields.label("fields"),
            is_moved.label("is_moved"),
            is_disabled.label("is_disabled"),
            func.sha256(func.convert_to(cast(content, Text), "UTF8")).label("digest"),
        )
        .select_from(rows.join(known, on, full=True))
        .where(or_(is_added, is_removed, *differs.values()))
    )


def subtrees(name: str, departments: Subquery) -> CTE:
    """Which department directly below the root each department lies in: columns did, top.

    The root is its own; what hangs nowhere is in none.
    """
    root = select(literal(ROOT_DID, String).label("did"), literal(ROOT_DID, String).label("top"))
    tops = root.cte(name, recursive=True)
    top = case((tops.c.did == ROOT_DID, departments.c.did), else_=tops.c.top)
    below = select(departments.c.did, top).join_from(departments, tops, departments.c.pid == tops.c.did)
    # A union of distinct rows ends also where the departments make a circle.
    return tops.union(below)


def known_subtrees(third_company_id: str) -> CTE:
    """The subtrees of the departments that are known."""
    table = known_departments
    known = select(table.c.did, table.c.pid).where(table.c.third_company_id == third_company_id)
    return subtrees("known_tops", known.subquery("kd"))


def new_subtrees(target: Target) -> CTE:
    """The subtrees of the departments as they are to be."""
    rows = target.rows("departments")
    return subtrees("new_tops", select(rows.c.did, rows.c.pid).subquery("nd"))
