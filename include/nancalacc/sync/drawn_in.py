"""Whom a batch must read because of conflicts: who clashes with it now, and who no longer does.

A number that is free goes to somebody whom no event names, and one that is taken is somebody's whom no
event names either. With them in the batch the rules of the full sync give the same result on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, func, or_, select

from nancalacc.store.tables import known_users
from nancalacc.sync import conflicts
from nancalacc.sync.conflicts import Kind
from nancalacc.sync.mapping import PersonRow

CONTACTS = (("phone", "phone_key"), ("email", "email_key"))

Pair = tuple[str, str]
"""An object to be read, and the one because of which."""


def people(
    connection: Connection, present: Mapping[str, PersonRow | None], *, third_company_id: str
) -> list[Pair]:
    """The people whom those concern who were read; None stands for who is gone."""
    table = known_users
    names = ("uid", "account_key", "phone", "phone_key", "email", "email_key")
    known = {
        row.uid: row._mapping
        for row in connection.execute(
            select(*(table.c[name] for name in names)).where(
                table.c.third_company_id == third_company_id, table.c.uid == func.any(list(present))
            )
        )
    }
    found: list[Pair] = []
    for value, key in CONTACTS:
        wanted: dict[str, str] = {}
        freed: dict[str, str] = {}
        for uid, row in present.items():
            now = getattr(row, key) if row is not None else ""
            if now:
                wanted[now] = uid
            before = known.get(uid)
            # None was not read: whoever has it keeps it.
            if before is not None and before[value] and before[key] and now not in {None, before[key]}:
                freed[before[key]] = uid
        if wanted or freed:
            rows = connection.execute(
                select(table.c.uid, table.c[key]).where(
                    table.c.third_company_id == third_company_id,
                    or_(
                        table.c[key].in_(wanted) & (func.coalesce(table.c[value], "") != ""),
                        table.c[key].in_(freed),
                    ),
                )
            )
            found += [(row[0], wanted.get(row[1]) or freed[row[1]]) for row in rows]
    renamed = {
        uid
        for uid, row in present.items()
        if row is None or uid not in known or row.account_key not in {None, known[uid]["account_key"]}
    }
    return found + conflicts.clashing(
        connection, (Kind.ACCOUNT, Kind.USERID), renamed, third_company_id=third_company_id
    )


def departments(connection: Connection, dids: Collection[str], *, third_company_id: str) -> list[Pair]:
    """The departments that are held back because of one that was read."""
    return conflicts.clashing(connection, (Kind.PARENT,), dids, third_company_id=third_company_id)


def people_of(connection: Connection, dids: Collection[str], *, third_company_id: str) -> list[Pair]:
    """The people who are held back because of a department that was read."""
    return [
        pair
        for pair in conflicts.clashing(connection, (Kind.PLACE,), dids, third_company_id=third_company_id)
        if pair[1] in dids
    ]
