"""Reading the present state of what events name, and of what that concerns, from DingTalk [design 6].

Events say only that something happened. Every object is read once, however many events name it, and
what is read draws in more: an unknown parent up to the root, everything in a department that is
gone, people whose leader left, namesakes. At the end all rows that can differ from known state are
there, so that the rules of the full sync give the same result on them alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.fan_out import fan_out
from nancalacc.errors import (
    ConfigurationError,
    IncompleteAnswerError,
    ObjectError,
    ObjectNotFoundError,
)
from nancalacc.saga.context import StepContext
from nancalacc.sync import drawn_in, neighbours
from nancalacc.sync.claims import ClaimedEvent
from nancalacc.sync.inbox import DEPARTMENT_TYPES, LEAVING_TYPES
from nancalacc.sync.mapping import (
    ROOT_DID,
    Mapper,
    Record,
    departments_of,
    fold,
    parent_of,
    suffixed,
    text,
    unusable,
    whole,
)
from nancalacc.sync.refusals import Refusals, Verdict
from nancalacc.sync.scope import WHOLE_COMPANY

READERS = 16
DEPARTMENTS, USERS = "departments", "users"

Key = tuple[str, str]
"""The kind of an object and its id at DingTalk, as text."""


class Place(StrEnum):
    """Where a department is, seen from the root of the sync."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    HELD = "held"
    """It is there, but leads to no root, or its parent does not list it: it stays where WPS has it."""
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Present:
    """A person who is there: the record, and the departments below the root, in DingTalk's order."""

    record: Record
    dept_ids: tuple[int, ...]


class ChangeReading:
    """One reading of changed objects by one attempt of the fetching step.

    `departments` and `users` hold what was read, None for what is gone; `failed` says why an object
    could not be read; `causes` tells the ids of the events because of which each was read. `unusable`
    counts, by department and reason, the people in it under whose userids nothing can be written.
    """

    def __init__(
        self, ctx: StepContext, *, client: DingTalkClient, mapper: Mapper, third_company_id: str
    ) -> None:
        self.departments: dict[int, Record | None] = {}
        self.users: dict[str, Record | None] = {}
        self.failed: dict[Key, str] = {}
        self.causes: defaultdict[Key, set[int]] = defaultdict(set)
        self.unusable: Counter[tuple[int, str]] = Counter()
        self._ctx = ctx
        self._client = client
        self._mapper = mapper
        self._company = third_company_id
        self._refusals = Refusals(client, root_dept_id=mapper.root_dept_id)
        self._named: set[Key] = set()
        self._leaving: set[Key] = set()
        self._outside: set[int] = set()
        self._waiting: dict[Key, None] = {}
        self._known: dict[int, bool] = {}
        self._places: dict[str, list[int]] = {}
        self._listed: set[int] = set()
        self._unlisted: set[int] = set()

    async def read(self, events: Iterable[ClaimedEvent]) -> None:
        """Read everything the events name and what that draws in.

        Raises what does not concern a single object; an answer that is incomplete counts as the
        object's fault only when others were answered.
        """
        for event in events:
            kind = DEPARTMENTS if event.event_type in DEPARTMENT_TYPES else USERS
            for object_id in event.object_ids:
                self._named.add((kind, object_id))
                if event.event_type in LEAVING_TYPES:
                    self._leaving.add((kind, object_id))
                self._want((kind, object_id), causes={event.id})
        while self._waiting:
            await self._read_waiting()
            with self._ctx.transaction() as connection:
                self._follow(connection)
            await self._list_new_departments()
            self._ctx.report({"departments": len(self.departments), "users": len(self.users)})
        await self._look_for_listings()

    def place(self, dept_id: int) -> Place:
        """Where a department is, once everything is read.

        What is below a department that is held back is inside if WPS has that one.
        """
        path: list[int] = []
        above = dept_id
        while True:
            if self._is_above(above) or above in self._outside:
                return Place.OUTSIDE
            if (DEPARTMENTS, str(above)) in self.failed:
                return Place.UNREADABLE
            if above not in self.departments:
                return Place.INSIDE if self._known.get(above) else Place.OUTSIDE
            record = self.departments[above]
            if record is None:
                if not path:
                    return Place.OUTSIDE
                held = path[-1:]
                break
            if above == self._mapper.root_dept_id:
                return Place.INSIDE
            path.append(above)
            if above in self._unlisted:
                held = path[-1:]
                break
            above = self._parent(record)
            if above in path:
                held = path[path.index(above) :]
                break
        if dept_id in held:
            return Place.HELD
        first = next(each for each in path if each in held)
        return Place.INSIDE if self._known.get(first) else Place.HELD

    def is_in_wps(self, dept_id: int) -> bool:
        """Whether WPS has a department that is held back, so that people can be in it."""
        return self._known.get(dept_id, False)

    def parent(self, dept_id: int) -> int:
        """The parent that a department's record names."""
        return self._parent(self.departments[dept_id] or {})

    def present(self, uid: str) -> Present | None:
        """The person with the departments below the root; None when there are none (any more)."""
        record = self.users[uid]
        if record is None:
            return None
        listed = self._listed_places(uid, record)
        inside = {dept_id for dept_id in listed if self._has_place(dept_id)}
        dept_ids, _ = departments_of({"dept_id_list": listed}, within=inside)
        return Present(record, dept_ids) if dept_ids else None

    def unreadable_place(self, uid: str) -> str | None:
        """Why a person cannot be placed: a department that cannot be read; None if all can."""
        record = self.users[uid]
        for dept_id in self._listed_places(uid, record) if record is not None else ():
            if self.place(dept_id) is Place.UNREADABLE:
                return f"Department {dept_id} of user {uid!r} cannot be read"
        return None

    def held_place(self, uid: str) -> int | None:
        """A department that is held back and WPS does not have, of a person who is in no other."""
        record = self.users[uid]
        if record is None or self.present(uid) is not None:
            return None
        places = self._listed_places(uid, record)
        return next((each for each in places if self.place(each) is Place.HELD), None)

    def _has_place(self, dept_id: int) -> bool:
        place = self.place(dept_id)
        return place is Place.INSIDE or (place is Place.HELD and self.is_in_wps(dept_id))

    # Reading

    def _want(self, key: Key, *, causes: Iterable[int]) -> None:
        kind, object_id = key
        if kind == DEPARTMENTS and self._is_above(int(object_id)):
            return
        self.causes[key].update(causes)
        was_read = whole(object_id) in self.departments if kind == DEPARTMENTS else object_id in self.users
        if not was_read and key not in self.failed:
            self._waiting[key] = None

    def _want_department(self, dept_id: int, *, because_of: Key) -> None:
        self._want((DEPARTMENTS, str(dept_id)), causes=self.causes[because_of])

    def _want_user(self, uid: str, *, because_of: Key) -> None:
        self._want((USERS, uid), causes=self.causes[because_of])

    async def _read_waiting(self) -> None:
        keys, self._waiting = list(self._waiting), {}
        incomplete: dict[Key, IncompleteAnswerError] = {}
        refused: dict[Key, ObjectError] = {}
        answered = False
        async with aclosing(fan_out(keys, work=self._read_one, at_once=READERS)) as results:
            async for key, found in results:
                if isinstance(found, IncompleteAnswerError):
                    incomplete[key] = found
                    continue
                answered = True
                if isinstance(found, ObjectError):
                    refused[key] = found
                elif key[0] == DEPARTMENTS:
                    self._add_department(int(key[1]), found)
                else:
                    self._add_user(key[1], found)
        for key, error in incomplete.items():
            if not answered:
                raise error
            self.failed[key] = str(error)
        await self._judge(refused)

    async def _judge(self, refused: Mapping[Key, ObjectError]) -> None:
        """Decide about each refused object whether it is beyond the root or gone, or its events fail."""
        if not refused:
            return
        with self._ctx.transaction() as connection:
            self._ask_whether_known(connection, {int(each) for kind, each in refused if kind == DEPARTMENTS})
        for key, error in refused.items():
            kind, object_id = key
            is_stranger = (
                kind == DEPARTMENTS and key not in self._named and not self._is_known(int(object_id))
            )
            is_root = kind == DEPARTMENTS and int(object_id) == self._mapper.root_dept_id
            verdict = await self._refusals.verdict(
                error, is_leaving=key in self._leaving, is_stranger=is_stranger
            )
            if is_root or verdict is Verdict.FAILED:
                self.failed[key] = str(error)
            elif kind == DEPARTMENTS:
                self.departments[int(object_id)] = None
                if verdict is Verdict.OUTSIDE:
                    self._outside.add(int(object_id))
            else:
                self.users[object_id] = None

    async def _read_one(
        self, key: Key
    ) -> tuple[tuple[Key, Record | ObjectError | IncompleteAnswerError | None], tuple[Key, ...]]:
        kind, object_id = key
        try:
            if kind == DEPARTMENTS:
                return (key, await self._client.department(int(object_id))), ()
            return (key, await self._client.user(object_id)), ()
        except ObjectNotFoundError:
            return (key, None), ()
        except (ObjectError, IncompleteAnswerError) as error:
            return (key, error), ()

    def _add_department(self, dept_id: int, record: Record | None) -> None:
        if record is None and dept_id == self._mapper.root_dept_id:
            raise ConfigurationError(
                f"Department {dept_id} (root_dept_id) does not exist in DingTalk (any more): correct"
                " 'root_dept_id' in the extra of the DingTalk connection"
            )
        self.departments[dept_id] = record

    def _add_user(self, uid: str, record: Record | None) -> None:
        found = text(record.get("userid")) if record is not None else uid
        if found != uid:
            # DingTalk takes any case: this is somebody whose userid is written otherwise.
            self._want_user(found or "", because_of=(USERS, uid))
            record = None
        self.users[uid] = record

    async def _list_new_departments(self) -> None:
        """What came into the subtree with a department may have no events of its own."""
        if self._mapper.root_dept_id == WHOLE_COMPANY:
            return
        for dept_id in list(self.departments):
            if dept_id in self._listed or self._is_known(dept_id) or self.place(dept_id) is not Place.INSIDE:
                continue
            self._listed.add(dept_id)
            key = (DEPARTMENTS, str(dept_id))
            try:
                for child in await self._client.sub_departments(dept_id):
                    self._want_department(child["dept_id"], because_of=key)
                async with aclosing(self._client.user_pages(dept_id)) as pages:
                    async for page in pages:
                        for item in page:
                            uid = text(item.get("userid")) or ""
                            reason = unusable(uid)
                            if reason:
                                self.unusable[dept_id, reason] += 1
                            else:
                                self._want_user(uid, because_of=key)
            except ObjectError as error:
                self.failed[key] = str(error)

    async def _look_for_listings(self) -> None:
        """Ask the parents of new and moved departments whether they list them, as the full sync does."""
        dids = {self._mapper.did(dept_id): dept_id for dept_id in self.departments}
        with self._ctx.transaction() as connection:
            known = neighbours.known_names(connection, dids, third_company_id=self._company)
        children: dict[int, set[int]] = {}
        for did, dept_id in dids.items():
            if self.place(dept_id) is not Place.INSIDE or dept_id == self._mapper.root_dept_id:
                continue
            parent = self.parent(dept_id)
            if did in known and known[did][0] == self._mapper.did(parent):
                continue
            try:
                if parent not in children:
                    children[parent] = {
                        each["dept_id"] for each in await self._client.sub_departments(parent)
                    }
            except ObjectError:
                # Gone by now, which has an event of its own.
                children[parent] = set()
            if dept_id not in children[parent]:
                self._unlisted.add(dept_id)

    # What is drawn in

    def _follow(self, connection: Connection) -> None:
        """Want what the objects read so far draw in; the ways up first, for all else depends on them."""
        self._ask_known(connection)
        self._want_ways_up()
        if self._waiting:
            return
        gone_departments = [dept_id for dept_id in self.departments if self.place(dept_id) is Place.OUTSIDE]
        for dept_id in gone_departments:
            self._want_contents(connection, dept_id)
        self._want_reports(connection)
        self._want_namesakes(connection)
        self._want_same_accounts(connection)
        self._want_clashes(connection)

    def _ask_known(self, connection: Connection) -> None:
        """Find out which of the departments that were read or named WPS knows."""
        for uid, record in self.users.items():
            if (
                record is not None
                and not isinstance(record.get("dept_id_list"), list)
                and uid not in self._places
            ):
                dids = neighbours.known_places(connection, uid, third_company_id=self._company)
                self._places[uid] = [self._dept_id(did) for did in dids]
        named = set(self.departments)
        named.update(self._parent(record) for record in self.departments.values() if record is not None)
        for uid, record in self.users.items():
            if record is not None:
                named.update(self._listed_places(uid, record))
        self._ask_whether_known(connection, named)

    def _ask_whether_known(self, connection: Connection, dept_ids: set[int]) -> None:
        unknown = {dept_id for dept_id in dept_ids if not self._is_above(dept_id)} - set(self._known)
        if unknown:
            by_did = {self._mapper.did(dept_id): dept_id for dept_id in unknown}
            found = neighbours.known_dids(connection, by_did, third_company_id=self._company)
            self._known.update({dept_id: did in found for did, dept_id in by_did.items()})

    def _want_ways_up(self) -> None:
        for dept_id, record in list(self.departments.items()):
            if record is not None and dept_id != self._mapper.root_dept_id:
                self._want_unknown(self._parent(record), because_of=(DEPARTMENTS, str(dept_id)))
        for uid, record in self.users.items():
            if record is not None:
                for dept_id in self._listed_places(uid, record):
                    self._want_unknown(dept_id, because_of=(USERS, uid))

    def _want_unknown(self, dept_id: int, *, because_of: Key) -> None:
        if not self._is_known(dept_id):
            self._want_department(dept_id, because_of=because_of)

    def _want_contents(self, connection: Connection, dept_id: int) -> None:
        did, key = self._mapper.did(dept_id), (DEPARTMENTS, str(dept_id))
        for child in neighbours.children(connection, did, third_company_id=self._company):
            self._want_department(self._dept_id(child), because_of=key)
        for uid in neighbours.members(connection, did, third_company_id=self._company):
            self._want_user(uid, because_of=key)

    def _want_reports(self, connection: Connection) -> None:
        known = neighbours.known_uids(connection, self.users, third_company_id=self._company)
        is_present = {uid: self.present(uid) is not None for uid in self.users}
        gone = {uid for uid, present in is_present.items() if not present and uid in known}
        new = {uid for uid, present in is_present.items() if present and uid not in known}
        if gone or new:
            for uid, other in neighbours.reports(connection, gone, new, third_company_id=self._company):
                self._want_user(uid, because_of=(USERS, other))

    def _want_namesakes(self, connection: Connection) -> None:
        """Departments whose names may have to change because others got or lost theirs."""
        dids = {self._mapper.did(dept_id): dept_id for dept_id in self.departments}
        before = neighbours.known_names(connection, dids, third_company_id=self._company)
        names: dict[neighbours.Name, Key] = {}
        for did, dept_id in dids.items():
            key = (DEPARTMENTS, str(dept_id))
            record = self.departments[dept_id]
            is_inside = self.place(dept_id) is Place.INSIDE
            row = self._mapper.department(record) if record is not None and is_inside else None
            old = before.get(did)
            if old is not None and row is not None and (row.pid, row.name) == old:
                continue
            if row is not None and row.name is not None:
                for each in (row.name, suffixed(row.name, neighbours.name_suffix(did))):
                    names[row.pid, fold(each)] = key
            if old is not None:
                for each in (old[1], neighbours.own_name(old[1], did=did)):
                    names[old[0], fold(each)] = key
        if names:
            for did, name in neighbours.namesakes(connection, names.keys(), third_company_id=self._company):
                self._want_department(self._dept_id(did), because_of=names[name])

    def _want_same_accounts(self, connection: Connection) -> None:
        """People who have the account, or a like userid, of somebody who was read."""
        keys: dict[str, Key] = {}
        for uid, record in self.users.items():
            if record is not None and self.present(uid) is not None:
                row = self._mapper.person(record, dept_ids=(), order=None)
                for value in (row.uid_key, row.account_key):
                    if value:
                        keys[value] = (USERS, uid)
        if keys:
            for uid, value in neighbours.same_accounts(
                connection, keys.keys(), third_company_id=self._company
            ):
                self._want_user(uid, because_of=keys[value])

    def _want_clashes(self, connection: Connection) -> None:
        """Who has what somebody read is to get, and who gets what somebody read had."""
        rows = {
            uid: self._mapper.person(present.record, dept_ids=(), order=None)
            if (present := self.present(uid)) is not None
            else None
            for uid in self.users
        }
        dids = {self._mapper.did(dept_id): dept_id for dept_id in self.departments}
        company = self._company
        for uid, other in drawn_in.people(connection, rows, third_company_id=company):
            self._want_user(uid, because_of=(USERS, other))
        for uid, did in drawn_in.people_of(connection, dids, third_company_id=company):
            self._want_user(uid, because_of=(DEPARTMENTS, str(dids[did])))
        for did, other in drawn_in.departments(connection, dids, third_company_id=company):
            self._want_department(self._dept_id(did), because_of=(DEPARTMENTS, str(dids[other])))

    # Parts

    def _parent(self, record: Mapping[str, Any]) -> int:
        return parent_of(record) or self._mapper.root_dept_id

    def _listed_places(self, uid: str, record: Record) -> list[int]:
        """The person's departments, in the order that tells the main one; those WPS has if none are said."""
        listed = record.get("dept_id_list")
        if not isinstance(listed, list):
            return self._places.get(uid, [])
        return list(self._mapper.in_order(each for each in map(whole, listed) if each is not None))

    def _is_above(self, dept_id: int) -> bool:
        """True for the department that contains all others, where the sync starts further down."""
        return dept_id == WHOLE_COMPANY and self._mapper.root_dept_id != WHOLE_COMPANY

    def _is_known(self, dept_id: int) -> bool:
        return self._known.get(dept_id, False)

    def _dept_id(self, did: str) -> int:
        return self._mapper.root_dept_id if did == ROOT_DID else int(did)
