"""WPS's directory read back into tables [wps 4].

Rows go into the database in batches as they come, so that memory holds a page, not an organisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert

from nancalacc.clients.fan_out import fan_out
from nancalacc.clients.wps import WpsClient
from nancalacc.errors import IncompleteAnswerError
from nancalacc.store.database import Database
from nancalacc.store.tables import directory_departments, directory_memberships, directory_users
from nancalacc.sync.mapping import ROOT_ROW_DID, WIDTH, fold
from nancalacc.sync.mapping import text as cleaned

BATCH_ROWS = 2000
AT_ONCE = 8
PAGE_SIZE = 50
BUILT_IN = "buildin"
"""`source` of what WPS itself made, such as the administrator [wps 4]."""
COPIES = (directory_departments, directory_users, directory_memberships)

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """How much WPS showed; `foreign` is what is not ours: made in WPS itself, without our id."""

    departments: int
    users: int
    foreign: int


class DirectoryCopy:
    """One reading of WPS's directory into the tables, under the id of its verification."""

    def __init__(self, database: Database, client: WpsClient, *, verification_id: int) -> None:
        self._database = database
        self._client = client
        self._id = verification_id
        self._seen: set[str] = set()
        self._departments: list[dict[str, Any]] = []
        self._users: list[dict[str, Any]] = []
        self._places: list[dict[str, Any]] = []
        self._number_of_users = 0
        self._foreign = 0

    async def read(self) -> Shown:
        """Read departments and users; the first call of each kind is tried once only.

        Raises what the client raises, IncompleteAnswerError when departments form a ring.
        """
        self._forget()
        root = await self._client.root_department(probe=True)
        root_id = _text(root.get("id"))
        if not root_id:
            raise IncompleteAnswerError("WPS GET /v7/depts/root: the root department has no id")
        self._seen.add(root_id)
        self._departments.append(self._row(root_id, parent=None, did=ROOT_ROW_DID, name=root.get("name")))
        # The users first: who may not read them need not wait for all the departments.
        async for user in self._client.users(probe=True):
            self._add_user(user)
        async with aclosing(fan_out([root_id], work=self._expand, at_once=AT_ONCE)) as departments:
            async for found in departments:
                for department, parent in found:
                    self._add_department(department, parent=parent)
        self._flush()
        return Shown(len(self._seen) - 1, self._number_of_users, self._foreign)

    async def _expand(self, wps_id: str) -> tuple[list[tuple[Record, str]], list[str]]:
        """The departments right below one, and their ids, to go on with."""
        found: list[tuple[Record, str]] = []
        following: list[str] = []
        async for department in self._client.department_children(wps_id):
            child = _text(department.get("id"))
            if not child:
                raise IncompleteAnswerError(f"WPS shows a department below {wps_id} that has no id")
            if child in self._seen:
                if child in following:
                    continue  # Pages shift when something is added meanwhile.
                raise IncompleteAnswerError(
                    f"WPS shows department {child} below {wps_id} and elsewhere: it was moved while the"
                    " directory was read, or the departments form a ring"
                )
            self._seen.add(child)
            found.append((department, wps_id))
            following.append(child)
        return (found, following)

    def _add_department(self, department: Record, *, parent: str) -> None:
        did = _text(department.get("ex_dept_id"))
        is_ours = bool(did) and department.get("source") != BUILT_IN
        self._foreign += not is_ours
        self._departments.append(
            self._row(
                _text(department.get("id")),
                parent=parent,
                did=did if is_ours else None,
                name=department.get("name"),
            )
        )
        self._flush(BATCH_ROWS)

    def _add_user(self, user: Record) -> None:
        wps_id, uid = _text(user.get("id")), _text(user.get("ex_user_id"))
        if not wps_id:
            raise IncompleteAnswerError("WPS GET /v7/users: a user has no id")
        is_ours = bool(uid) and user.get("source") != BUILT_IN
        self._foreign += not is_ours
        self._number_of_users += 1
        places = user.get("depts")
        account = _text(user.get("login_name"))
        self._users.append(
            {
                "verification_id": self._id,
                "wps_id": wps_id,
                "uid": uid if is_ours else None,
                "uid_key": fold(uid) if is_ours else None,
                "account": account or None,
                "account_key": fold(account) or None,
                "nick_name": _text(user.get("user_name")) or None,
                "has_places": isinstance(places, list),
            }
        )
        if is_ours and isinstance(places, list):
            self._places += [
                {"verification_id": self._id, "wps_id": wps_id, "wps_dept_id": dept_id}
                for place in places
                if isinstance(place, dict) and (dept_id := _text(place.get("dept_id")))
            ]
        self._flush(BATCH_ROWS)

    def _row(self, wps_id: str, *, parent: str | None, did: str | None, name: object) -> dict[str, Any]:
        shown = _text(name)
        return {
            "verification_id": self._id,
            "wps_id": wps_id,
            "parent_wps_id": parent,
            "did": did,
            "name": shown or None,
            "name_key": fold(shown) or None,
        }

    def _flush(self, at_least: int = 1) -> None:
        waiting = (self._departments, self._users, self._places)
        if sum(map(len, waiting)) < at_least:
            return
        with self._database.transaction() as connection:
            for table, rows in zip(COPIES, waiting, strict=True):
                if rows:
                    connection.execute(insert(table), rows)
                rows.clear()

    def _forget(self) -> None:
        with self._database.transaction() as connection:
            forget(connection, self._id)


def forget(connection: Connection, verification_id: int) -> None:
    """Delete the copy that was made for a verification."""
    for table in COPIES:
        connection.execute(delete(table).where(table.c.verification_id == verification_id))


def calls_needed(*, departments: int, users: int) -> int:
    """How many calls a reading takes at least."""
    return 2 + departments + users // PAGE_SIZE


def _text(value: object) -> str:
    """An id or a name as text that fits its column."""
    return (cleaned(value) or "")[:WIDTH]
