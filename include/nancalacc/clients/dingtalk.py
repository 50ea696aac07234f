"""The DingTalk client: scope, departments and users, complete or an error [dt 1, 2]."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from nancalacc.clients.dingtalk_errors import Call
from nancalacc.clients.dingtalk_session import DingTalkSession
from nancalacc.clients.fan_out import fan_out
from nancalacc.clients.rate_limit import RateLimiter
from nancalacc.clients.transport import Transport
from nancalacc.config import DingTalkSettings
from nancalacc.errors import (
    ConfigurationError,
    IncompleteAnswerError,
    ObjectNotFoundError,
    OrganisationChangedError,
)

T = TypeVar("T")
Record = dict[str, Any]

SCOPES_PATH = "auth/scopes"
LISTSUB_PATH = "topapi/v2/department/listsub"
DEPARTMENT_PATH = "topapi/v2/department/get"
USER_LIST_PATH = "topapi/v2/user/list"
USER_PATH = "topapi/v2/user/get"

STATED_PARENT = "stated_parent_id"
"""What a department's own record says about its parent, beside the one under which it was listed."""
PAGE_SIZE = 100
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Scopes:
    """What the app may read [dt 2.9]; department 1 means everything."""

    departments: tuple[int, ...]
    users: tuple[str, ...]
    user_fields: tuple[str, ...]
    conditions: tuple[str, ...]


class MemberPage(NamedTuple):
    """A page of the direct members of a department.

    `is_last`: DingTalk says that no more follow; `went_back`: a cursor on the way here was smaller
    than the one before it, but none came twice.
    """

    dept_id: int
    records: list[Record]
    is_last: bool
    went_back: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """A department that was listed, and under which one."""

    dept_id: int
    parent_id: int | None


@dataclass(frozen=True, slots=True)
class _Page:
    """A page to read; `seen` are the cursors of the department so far."""

    dept_id: int
    cursor: int = 0
    seen: set[int] = field(default_factory=lambda: {0})
    went_back: bool = False


class DingTalkClient:
    """Calls of one DingTalk app; one instance belongs to one event loop.

    Errors are those of `DingTalkSession.get`, and what the methods say. `at_once` is the number of
    departments, pages or users in the works at the same time. The generators should be closed when
    left early (`contextlib.aclosing`).
    """

    def __init__(
        self,
        settings: DingTalkSettings,
        *,
        transport: Transport,
        limiter: RateLimiter | None = None,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        at_once: int = AT_ONCE,
    ) -> None:
        self._conn_id = settings.conn_id
        self._session = DingTalkSession(
            settings, transport=transport, limiter=limiter, clock=clock, sleep=sleep
        )
        self._at_once = at_once

    @property
    def calls(self) -> Counter[str]:
        """How many requests were sent, repeated ones included, by path."""
        return self._session.calls

    @property
    def throttled(self) -> int:
        """How many answers meant "too many calls"."""
        return self._session.throttled

    async def scopes(self) -> Scopes:
        """What the app may read [dt 2.9]."""
        call = self._call(SCOPES_PATH)
        payload = await self._session.get(call)
        granted = payload.get("auth_org_scopes")
        if not isinstance(granted, dict):
            raise IncompleteAnswerError(f"{call}: the answer has no auth_org_scopes")
        departments = _list(granted.get("authed_dept") or [], name="authed_dept", call=call)
        return Scopes(
            departments=tuple(_integer(item, name="authed_dept", call=call) for item in departments),
            users=_texts(granted.get("authed_user")),
            user_fields=_texts(payload.get("auth_user_field")),
            conditions=_texts(payload.get("condition_field")),
        )

    async def sub_departments(self, dept_id: int) -> list[Record]:
        """The departments right below one, without `order` [dt 2.1]; `dept_id` of each is an int."""
        call = self._call(LISTSUB_PATH, f"department {dept_id}")
        payload = await self._session.get(call, {"dept_id": dept_id})
        items = _records(payload, name="result", call=call)
        return [
            item | {"dept_id": _integer(item.get("dept_id"), name="dept_id", call=call)} for item in items
        ]

    async def department(self, dept_id: int) -> Record:
        """The full record of a department [dt 2.3]; the root has no `parent_id`.

        Raises ObjectNotFoundError when there is no such department (any more).
        """
        call = self._call(DEPARTMENT_PATH, f"department {dept_id}")
        record = _record(await self._result(call, {"dept_id": dept_id}), call=call)
        if _integer(record.get("dept_id"), name="dept_id", call=call) != dept_id:
            raise IncompleteAnswerError(f"{call}: the answer is about department {record.get('dept_id')}")
        return record | {"dept_id": dept_id}

    async def user(self, userid: str) -> Record:
        """The full record of a user [dt 2.7].

        Raises ObjectNotFoundError when there is no such user (any more), ObjectError when
        the user is disabled, outside the app's scope, or the userid is none.
        """
        call = self._call(USER_PATH, f"user {userid!r}")
        record = _record(await self._result(call, {"userid": userid}), call=call)
        found = str(record.get("userid") or "")
        if found.casefold() != userid.casefold():
            raise IncompleteAnswerError(f"{call}: the answer is about user {found!r}")
        return record

    def departments(
        self, root_id: int, *, listed_again: Callable[[int, int], None] | None = None
    ) -> AsyncGenerator[Record, None]:
        """Every department from `root_id` down, at any depth, each after its parent.

        A record is that of `department` with the `parent_id` under which it was listed, and its own
        under STATED_PARENT; the root comes first and keeps its own. Raises OrganisationChangedError
        when a department is gone since it was listed, ConfigurationError when the root does not exist.
        One that is listed below two parents is read once: `listed_again` is told its id and the
        further parent; without it, that raises OrganisationChangedError.
        """
        known: dict[int, int | None] = {root_id: None}
        work = partial(self._expand, known=known, listed_again=listed_again)
        return fan_out([_Place(root_id, None)], work=work, at_once=self._at_once)

    def members(self, dept_ids: Iterable[int] | AsyncIterable[int]) -> AsyncGenerator[MemberPage, None]:
        """The pages of all departments, as they come [dt 2.4].

        Pages of one department keep their order; one without members gives an empty page.
        Raises as `user_pages` does, and OrganisationChangedError for a department that is gone.
        """
        source: Iterable[int | _Page] | AsyncIterable[int | _Page] = dept_ids
        return fan_out(source, work=self._member_page, at_once=self._at_once)

    async def user_pages(self, dept_id: int) -> AsyncGenerator[list[Record], None]:
        """The pages of the direct members of one department, at most 100 records each [dt 2.4].

        Records are passed on as they came, also those without a userid. Raises
        IncompleteAnswerError for a cursor that repeats or is missing, an empty page that is not
        the last, or a page without a list; ObjectNotFoundError when there is no such department.
        """
        page: _Page | None = _Page(dept_id)
        while page is not None:
            records, page = await self._read_page(page)
            yield records

    def users(self, userids: Iterable[str] | AsyncIterable[str]) -> AsyncGenerator[Record, None]:
        """The full records of users, in no order; who does not exist (any more) is left out."""

        async def read(userid: str) -> tuple[Record | None, Iterable[str]]:
            try:
                return await self.user(userid), ()
            except ObjectNotFoundError:
                return None, ()

        return _present(fan_out(userids, work=read, at_once=self._at_once))

    async def _expand(
        self,
        place: _Place,
        *,
        known: dict[int, int | None],
        listed_again: Callable[[int, int], None] | None,
    ) -> tuple[Record, list[_Place]]:
        """Read a department and list those below it, which are added to `known` (child to parent)."""
        try:
            record, listed = await _both(self.department(place.dept_id), self.sub_departments(place.dept_id))
        except ObjectNotFoundError:
            if place.parent_id is None:
                raise ConfigurationError(
                    f"Department {place.dept_id} does not exist in DingTalk: correct root_dept_id of"
                    f" connection {self._conn_id!r}"
                ) from None
            raise _vanished(place.dept_id, "it was listed") from None
        children = []
        for item in listed:
            dept_id = item["dept_id"]
            if dept_id in known:
                if known[dept_id] == place.dept_id:
                    continue
                if listed_again is not None:
                    listed_again(dept_id, place.dept_id)
                    continue
                raise OrganisationChangedError(
                    f"DingTalk lists department {dept_id} below {place.dept_id} and again as"
                    f" {_where(known[dept_id])}: it was moved while the tree was read, or the tree is a ring"
                )
            known[dept_id] = place.dept_id
            children.append(_Place(dept_id, place.dept_id))
        if place.parent_id is not None:
            record[STATED_PARENT] = record.get("parent_id")
            record["parent_id"] = place.parent_id
        return record, children

    async def _member_page(self, item: int | _Page) -> tuple[MemberPage, list[_Page]]:
        page = item if isinstance(item, _Page) else _Page(item)
        try:
            records, following = await self._read_page(page)
        except ObjectNotFoundError:
            raise _vanished(page.dept_id, "the departments were read") from None
        found = MemberPage(page.dept_id, records, is_last=following is None, went_back=page.went_back)
        return found, [following] if following else []

    async def _read_page(self, page: _Page) -> tuple[list[Record], _Page | None]:
        call = self._call(USER_LIST_PATH, f"department {page.dept_id}, cursor {page.cursor}")
        body = {"dept_id": page.dept_id, "cursor": page.cursor, "size": PAGE_SIZE}
        result = _record(await self._result(call, body), call=call)
        records = _records(result, name="list", call=call)
        if not _flag(result.get("has_more"), name="has_more", call=call):
            return records, None
        if not records:
            raise IncompleteAnswerError(f"{call}: the page is empty, but there should be more")
        cursor = _integer(result.get("next_cursor"), name="next_cursor", call=call)
        if cursor in page.seen:
            raise IncompleteAnswerError(
                f"{call}: the next cursor is {cursor} again, so the pages would never end"
            )
        page.seen.add(cursor)
        went_back = page.went_back or cursor < page.cursor
        return records, _Page(page.dept_id, cursor, page.seen, went_back)

    def _call(self, path: str, subject: str = "") -> Call:
        return Call(conn_id=self._conn_id, path=path, subject=subject)

    async def _result(self, call: Call, body: Mapping[str, Any]) -> object:
        return (await self._session.get(call, body)).get("result")


def _vanished(dept_id: int, since: str) -> OrganisationChangedError:
    return OrganisationChangedError(
        f"Department {dept_id} was removed from DingTalk after {since}: the organisation changed while"
        " it was read and has to be read again"
    )


def _where(parent_id: int | None) -> str:
    return "the root" if parent_id is None else f"a child of {parent_id}"


async def _both(first: Awaitable[T], second: Awaitable[list[Record]]) -> tuple[T, list[Record]]:
    """Await two calls at the same time; when one fails, the other is cancelled."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _present(results: AsyncGenerator[Record | None, None]) -> AsyncGenerator[Record, None]:
    try:
        async for record in results:
            if record is not None:
                yield record
    finally:
        await results.aclose()


def _record(value: object, *, call: Call) -> Record:
    if not isinstance(value, dict):
        raise IncompleteAnswerError(f"{call}: the answer has no result object")
    return value


def _list(value: object, *, name: str, call: Call) -> list[Any]:
    if not isinstance(value, list):
        raise IncompleteAnswerError(f"{call}: the answer has no list {name!r}")
    return value


def _records(holder: Record, *, name: str, call: Call) -> list[Record]:
    """The objects of a list, which is there; null is how some servers write an empty one."""
    items = [] if holder.get(name, ...) is None else _list(holder.get(name), name=name, call=call)
    if not all(isinstance(item, dict) for item in items):
        raise IncompleteAnswerError(f"{call}: the list {name!r} holds something that is no object")
    return items


def _texts(value: object) -> tuple[str, ...]:
    """The items of a list that tells more, but nothing that is needed: none when it is no list."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _integer(value: object, *, name: str, call: Call) -> int:
    """A number, which DingTalk may write as a string [dt 2]."""
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise IncompleteAnswerError(f"{call}: the answer has no whole number {name!r}")
    return value


def _flag(value: object, *, name: str, call: Call) -> bool:
    text = str(value).lower()
    if text not in {"true", "false"}:
        raise IncompleteAnswerError(f"{call}: the answer does not say {name!r}")
    return text == "true"
