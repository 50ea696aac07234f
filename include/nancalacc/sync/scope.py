"""What the DingTalk app may see, and whether that is as much as when WPS was last given anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from nancalacc.clients.dingtalk import DingTalkClient, Scopes
from nancalacc.config import DingTalkSettings
from nancalacc.errors import ConfigurationError, GuardError, ObjectError, ObjectNotFoundError
from nancalacc.store.tables import UTC_NOW, known_scopes
from nancalacc.sync.mapping import parent_of

WHOLE_COMPANY = 1
"""The department that contains all others [dt 2]."""
OUT_OF_SCOPE = frozenset({"50002", "50004"})
"""The codes for a user or a department that the app may not see [dt 4.1]."""
DEEPEST = 100


@dataclass(frozen=True, slots=True)
class FormerScope:
    """The scope of the sync whose result WPS has."""

    departments: tuple[int, ...]
    user_fields: tuple[str, ...]
    task_id: str

    def lost_fields(self, scopes: Scopes) -> list[str]:
        """The fields of people that were granted then and are not any more."""
        return sorted(set(self.user_fields) - set(scopes.user_fields))


async def check_scope(
    client: DingTalkClient,
    *,
    settings: DingTalkSettings,
    former: FormerScope | None = None,
    may_be_narrower: bool = False,
) -> Scopes:
    """Return what may be read; raises GuardError unless that is all below root_dept_id [dt 2.9].

    Raises it too when less may be read than by the last completed sync, even if the root is still
    among it, unless `may_be_narrower`. A narrowed scope would look like an organisation that people
    have left.
    """
    scopes = await client.scopes()
    root = settings.root_dept_id
    place = await _holder(client, root, authed=scopes.departments)
    if place is None:
        raise ConfigurationError(
            f"Connection {settings.conn_id!r}: department {root} (root_dept_id), or one above it,"
            " does not exist in DingTalk: correct 'root_dept_id' in extra"
        )
    if not place:
        raise GuardError(
            f"The DingTalk app of connection {settings.conn_id!r} may not read department {root}"
            f" (root_dept_id) as a whole: its scope is authed_dept {list(scopes.departments)}. Nothing is"
            " synced, because what it cannot see would be deleted: widen the scope in DingTalk's console or"
            " correct 'root_dept_id' in extra"
        )
    if former is not None and not may_be_narrower:
        await _require_as_wide(client, scopes, settings=settings, former=former)
    return scopes


async def ends_below_company(client: DingTalkClient, *, root_dept_id: int) -> bool:
    """Whether the app may read everything below the root, and not the whole company.

    What it may not read is then beyond the root.
    """
    authed = (await client.scopes()).departments
    return WHOLE_COMPANY not in authed and bool(await _holder(client, root_dept_id, authed=authed))


async def _require_as_wide(
    client: DingTalkClient, scopes: Scopes, *, settings: DingTalkSettings, former: FormerScope
) -> None:
    missing = [
        dept_id
        for dept_id in former.departments
        if await _holder(client, dept_id, authed=scopes.departments) is False
    ]
    if missing:
        raise GuardError(
            f"The DingTalk app of connection {settings.conn_id!r} may read less than at the last completed"
            f" sync ({former.task_id}): departments {missing} are not in its scope any more, authed_dept is"
            f" {list(scopes.departments)}. Nothing is synced: widen the scope in DingTalk's console. If it"
            " was narrowed on purpose, start one run with allow_mass_delete = true"
        )


async def _holder(client: DingTalkClient, dept_id: int, *, authed: Collection[int]) -> bool | None:
    """Whether a department lies in the scope; None when it, or one above it, does not exist."""
    place: int | None = dept_id
    for _ in range(DEEPEST):
        if place is None:
            break
        if place in authed or WHOLE_COMPANY in authed:
            return True
        if place == WHOLE_COMPANY:
            break
        try:
            place = parent_of(await client.department(place))
        except ObjectNotFoundError:
            return None
        except ObjectError:
            # A department outside the scope cannot be read; its parents cannot either.
            break
    return False


def former_scope(connection: Connection, *, third_company_id: str) -> FormerScope | None:
    """The scope that was kept last; None before the first completed sync."""
    table = known_scopes
    row = connection.execute(
        select(table.c.departments, table.c.user_fields, table.c.task_id).where(
            table.c.third_company_id == third_company_id
        )
    ).one_or_none()
    return row and FormerScope(tuple(row.departments), tuple(row.user_fields), row.task_id)


def keep_scope(
    connection: Connection, evidence: Mapping[str, Any], *, third_company_id: str, task_id: str
) -> None:
    """Keep the scope of a completed sync, as the evidence of its fetch tells it."""
    values = {
        "departments": list(evidence["authed_dept"]),
        "user_fields": list(evidence.get("user_fields", ())),
        "task_id": task_id,
        "updated_at": UTC_NOW,
    }
    connection.execute(
        insert(known_scopes)
        .values(third_company_id=third_company_id, **values)
        .on_conflict_do_update(index_elements=["third_company_id"], set_=values)
    )
