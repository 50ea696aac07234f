"""Whom else a change concerns: objects of known state that must be read again together with it.

A change of one object may change what WPS is to have of another one, which no event names: the
members of a department that is gone, the reports of somebody who left, a namesake.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, func, or_, select

from nancalacc.store.tables import known_departments, known_memberships, known_users
from nancalacc.sync.mapping import fold

Name = tuple[str, str]
"""The did of the parent and the name as a comparison sees it."""


def known_dids(connection: Connection, dids: Iterable[str], *, third_company_id: str) -> set[str]:
    """Those departments that WPS knows."""
    table = known_departments
    return set(
        connection.execute(
            select(table.c.did).where(
                table.c.third_company_id == third_company_id, table.c.did == func.any(list(dids))
            )
        ).scalars()
    )


def known_uids(connection: Connection, uids: Iterable[str], *, third_company_id: str) -> set[str]:
    """Those people whom WPS knows."""
    table = known_users
    return set(
        connection.execute(
            select(table.c.uid).where(
                table.c.third_company_id == third_company_id, table.c.uid == func.any(list(uids))
            )
        ).scalars()
    )


def known_places(connection: Connection, uid: str, *, third_company_id: str) -> list[str]:
    """The departments in which WPS has a person, the main one first."""
    table = known_memberships
    return list(
        connection.execute(
            select(table.c.did)
            .where(table.c.third_company_id == third_company_id, table.c.uid == uid)
            .order_by(table.c.main.desc(), table.c.did)
        ).scalars()
    )


def children(connection: Connection, did: str, *, third_company_id: str) -> list[str]:
    """The departments right below one."""
    table = known_departments
    return list(
        connection.execute(
            select(table.c.did).where(table.c.third_company_id == third_company_id, table.c.pid == did)
        ).scalars()
    )


def members(connection: Connection, did: str, *, third_company_id: str) -> list[str]:
    """The people in a department."""
    table = known_memberships
    return list(
        connection.execute(
            select(table.c.uid).where(table.c.third_company_id == third_company_id, table.c.did == did)
        ).scalars()
    )


def reports(
    connection: Connection, gone: Collection[str], new: Collection[str], *, third_company_id: str
) -> list[tuple[str, str]]:
    """People whose leader is gone, or whose manager has become known, each with that other person."""
    table = known_users
    rows = connection.execute(
        select(table.c.uid, table.c.leader, table.c.manager).where(
            table.c.third_company_id == third_company_id,
            or_(
                table.c.leader == func.any(list(gone)),
                table.c.manager == func.any(list(new)),
            ),
        )
    )
    return [
        (row.uid, row.leader if row.leader in gone else row.manager)
        for row in rows
        if row.leader in gone or row.leader != row.manager
    ]


def known_names(connection: Connection, dids: Iterable[str], *, third_company_id: str) -> dict[str, Name]:
    """Where departments are and what they are called, by did."""
    table = known_departments
    rows = connection.execute(
        select(table.c.did, table.c.pid, table.c.name).where(
            table.c.third_company_id == third_company_id, table.c.did == func.any(list(dids))
        )
    )
    return {row.did: (row.pid or "", row.name) for row in rows}


def namesakes(
    connection: Connection, names: Collection[Name], *, third_company_id: str
) -> list[tuple[str, Name]]:
    """Departments that have one of these names, or would have it without what tells them apart."""
    table = known_departments
    rows = connection.execute(
        select(table.c.did, table.c.pid, table.c.name).where(
            table.c.third_company_id == third_company_id,
            table.c.pid == func.any(sorted({pid for pid, _ in names})),
        )
    )
    found = []
    for row in rows:
        for name in {row.name, own_name(row.name, did=row.did)}:
            if (row.pid, fold(name)) in names:
                found.append((row.did, (row.pid, fold(name))))
    return found


def own_name(name: str, *, did: str) -> str:
    """The name without the id that tells it from an equal one."""
    return name.removesuffix(name_suffix(did))


def name_suffix(did: str) -> str:
    """What makes the name of a department distinct."""
    return f" ({did})"


def same_accounts(
    connection: Connection, keys: Collection[str], *, third_company_id: str
) -> list[tuple[str, str]]:
    """People who have one of these accounts, or userids that compare equal, each with the key."""
    table = known_users
    wanted = list(keys)
    rows = connection.execute(
        select(table.c.uid, table.c.uid_key, table.c.account_key).where(
            table.c.third_company_id == third_company_id,
            or_(table.c.account_key == func.any(wanted), table.c.uid_key == func.any(wanted)),
        )
    )
    return [(row.uid, row.account_key if row.account_key in keys else row.uid_key) for row in rows]
