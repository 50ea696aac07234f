"""Phone numbers told apart without being read: equal ones are encrypted differently each time [wps 5.4].

A mobile number has a keyed hash beside it, `phone_key`. A landline has none: of it is only told whether
there is one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Case, ColumnElement, FromClause, String, and_, case, cast, func, null, or_

PHONES = ("phone", "telephone")


def key_of(name: str) -> str:
    """The column of the hash beside a number."""
    return f"{name}_key"


def identity(name: str, value: ColumnElement[Any], *, rows: FromClause, known: FromClause) -> Case[Any]:
    """What tells a number from others: '' for none, NULL where nothing does.

    `value`: the number as WPS is to have it, from `rows` or, where it was not read, from `known`.
    """
    return case((~_is_there(value), ""), (value == known.c[name], _key(known, name)), else_=_key(rows, name))


def differs(
    name: str, value: ColumnElement[Any], *, rows: FromClause, known: FromClause
) -> ColumnElement[bool]:
    """Whether a number is another one than is known; False where nothing tells."""
    is_other = identity(name, value, rows=rows, known=known) != _key(known, name)
    before, after = _is_there(known.c[name]), _is_there(value)
    return or_(before != after, and_(before, after, func.coalesce(is_other, False)))


def key_of_saved(name: str, *, saved: FromClause, staged: FromClause) -> ColumnElement[Any]:
    """The hash of a number that was saved as it was staged; anything else stands for itself."""
    return case((saved.c[name] == staged.c[name], _key(staged, name)), else_=saved.c[name]).label(
        key_of(name)
    )


def _key(rows: FromClause, name: str) -> ColumnElement[Any]:
    return rows.c.get(key_of(name), cast(null(), String))


def _is_there(value: ColumnElement[Any]) -> ColumnElement[bool]:
    return func.coalesce(value, "") != ""
