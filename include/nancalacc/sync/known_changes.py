"""Known state after increments: what WPS has confirmed, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from nancalacc.store.tables import known_memberships, staged_memberships
from nancalacc.sync.known import KEYS, KNOWN, same_object, to_write
from nancalacc.sync.staging import TABLES, Fetch

SOURCE = "increment"
"""Stands in known state for the task id of a full sync."""


def save(
    connection: Connection,
    kind: str,
    keys: Collection[str],
    *,
    fetch: Fetch,
    third_company_id: str,
    managers_read: bool,
) -> None:
    """Take over what was staged of these objects; of memberships all those of these people."""
    staged, known = TABLES[kind], KNOWN[kind]
    columns: dict[str, Any] = dict(to_write(kind, staged=staged, known=known, managers_read=managers_read))
    if kind == "departments":
        columns["name_key"] = staged.c.name_key
    if kind == "users":
        columns |= {
            "uid_key": staged.c.uid_key,
            "account_key": staged.c.account_key,
            **{
                name: func.coalesce(staged.c[name], known.c[name])
                for name in ("manager", "phone_key", "email_key")
            },
        }
    if kind == "memberships":
        columns["leader"] = func.coalesce(staged.c.leader, known.c.leader)
    columns |= {"third_company_id": literal(third_company_id), "task_id": literal(SOURCE)}
    key = KEYS[kind][0]
    rows = (
        select(*columns.values())
        .select_from(
            staged.outerjoin(
                known, same_object(kind, staged=staged, known=known, third_company_id=third_company_id)
            )
        )
        .where(fetch.accepted(staged), staged.c[key] == func.any(list(keys)))
    )
    statement = insert(known).from_select(list(columns), rows)
    primary = ["third_company_id", *KEYS[kind]]
    changed: dict[str, Any] = {name: statement.excluded[name] for name in columns if name not in primary}
    changed["updated_at"] = statement.excluded["updated_at"]
    connection.execute(statement.on_conflict_do_update(index_elements=primary, set_=changed))
    if kind == "memberships":
        _forget_former(connection, keys, fetch=fetch, third_company_id=third_company_id)


def forget(connection: Connection, kind: str, keys: Collection[str], *, third_company_id: str) -> None:
    """Delete objects that are gone, people with their memberships."""
    kinds = ("users", "memberships") if kind == "users" else (kind,)
    for each in kinds:
        table, key = KNOWN[each], KEYS[each][0]
        connection.execute(
            delete(table).where(
                table.c.third_company_id == third_company_id, table.c[key] == func.any(list(keys))
            )
        )


def _forget_former(
    connection: Connection, uids: Collection[str], *, fetch: Fetch, third_company_id: str
) -> None:
    known, staged = known_memberships, staged_memberships
    present = select(staged.c.did).where(
        fetch.accepted(staged), staged.c.uid == known.c.uid, staged.c.did == known.c.did
    )
    connection.execute(
        delete(known).where(
            known.c.third_company_id == third_company_id,
            known.c.uid == func.any(list(uids)),
            ~present.exists(),
        )
    )
