"""Settling what the pages of DingTalk disagree about, with themselves and with known state.

Who moves while an organisation is read may be on two pages or on none. A few people are read again,
each by one call, and staged as they are now; more means that something was lost, and nothing is saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.fan_out import fan_out
from nancalacc.errors import (
    IncompleteAnswerError,
    ObjectError,
    ObjectNotFoundError,
    OrganisationChangedError,
)
from nancalacc.saga.context import StepContext
from nancalacc.sync import conflicts, evidence, known, neighbours, places, staging
from nancalacc.sync.conflicts import Conflict, Kind
from nancalacc.sync.findings import Findings, Reason
from nancalacc.sync.mapping import Mapper, Record, departments_of, text, whole
from nancalacc.sync.staging import Batch, Fetch
from nancalacc.sync.tree import Way, WaysUp

READERS = 16
MOST_CONTRADICTIONS = 200
MOST_LISTED_AGAIN = 50
AT_A_TIME = 1000


class People:
    """Reads single people; `unreadable` are those whom DingTalk would not show."""

    def __init__(self, client: DingTalkClient) -> None:
        self.unreadable: set[str] = set()
        self._client = client

    async def read(self, uids: Iterable[str]) -> dict[str, Record]:
        """Present records by userid; who is gone, disabled or outside the app's scope is not among them."""
        found: dict[str, Record] = {}
        async with aclosing(fan_out(uids, work=self._read_one, at_once=READERS)) as results:
            async for uid, record in results:
                if record is not None:
                    found[uid] = record
        return found

    async def _read_one(self, uid: str) -> tuple[tuple[str, Record | None], tuple[str, ...]]:
        try:
            return (uid, await self._client.user(uid)), ()
        except ObjectNotFoundError:
            return (uid, None), ()
        except ObjectError:
            self.unreadable.add(uid)
            return (uid, None), ()


class Settling:
    """What follows the reading of all pages; `findings` and `ignored` get what was found."""

    def __init__(
        self,
        ctx: StepContext,
        *,
        client: DingTalkClient,
        people: People,
        mapper: Mapper,
        fetch: Fetch,
        third_company_id: str,
        dept_ids: Collection[int],
        findings: Findings,
        ignored: Counter[str],
    ) -> None:
        self._ctx = ctx
        self._client = client
        self._people = people
        self._mapper = mapper
        self._fetch = fetch
        self._company = third_company_id
        self._dept_ids = set(dept_ids)
        self._findings = findings
        self._ignored = ignored
        self._ways = WaysUp(client, dept_ids=self._dept_ids)

    async def contradictions(self) -> None:
        """Read people again about whom the pages disagree: they moved or left meanwhile."""
        with self._ctx.transaction() as connection:
            staging.prefer_hash_joins(connection)
            places.settle(connection, fetch=self._fetch, third_company_id=self._company)
            uids = staging.contradictions(connection, fetch=self._fetch, limit=MOST_CONTRADICTIONS + 1)
        if len(uids) > MOST_CONTRADICTIONS:
            self._disbelieve()
            raise IncompleteAnswerError(
                f"The pages of DingTalk contradict each other about more than {MOST_CONTRADICTIONS} people:"
                " nothing is saved, the organisation has to be read again"
            )
        await self._settle(uids)

    async def counts(self) -> None:
        """List departments again of which DingTalk reports more members than it listed.

        What has changed in them is settled. Whether it is enough then only a warning tells: nobody
        says what is counted.
        """
        with self._ctx.transaction() as connection:
            departments = evidence.short(connection, fetch=self._fetch)
        if not departments or len(departments) > MOST_LISTED_AGAIN:
            # So many are no lost pages: DingTalk counts people whom the app does not see.
            return
        changed: set[str] = set()
        for dept_id in departments:
            reported, uids = await self._present_members(dept_id)
            with self._ctx.transaction() as connection:
                changed |= uids ^ staging.listed_people(
                    connection, self._mapper.did(dept_id), fetch=self._fetch
                )
                evidence.recount(connection, dept_id, reported=reported, members=len(uids), fetch=self._fetch)
        if len(changed) > MOST_CONTRADICTIONS:
            self._disbelieve()
            raise IncompleteAnswerError(
                f"More than {MOST_CONTRADICTIONS} people are listed otherwise when DingTalk is asked again:"
                " nothing is saved, the organisation has to be read again"
            )
        await self._settle(sorted(changed))

    async def missing(self) -> None:
        """Ask DingTalk about everybody known who was not read: who is still there was lost, or moved.

        Who moved from a department that was still to be read to one that had been is listed there
        now: such a department is listed once more, and what has changed in it is settled. Raises
        IncompleteAnswerError for somebody lost, OrganisationChangedError when a department is new.
        """
        after = ""
        while True:
            with self._ctx.transaction() as connection:
                staging.prefer_hash_joins(connection)
                uids = known.missing(
                    connection,
                    "users",
                    fetch=self._fetch,
                    third_company_id=self._company,
                    limit=AT_A_TIME,
                    after=after,
                )
            if not uids:
                return
            after = uids[-1]
            unlisted: dict[str, tuple[int, ...]] = {}
            for uid, record in (await self._people.read(uids)).items():
                # DingTalk takes any case: it may find somebody whose userid is written otherwise.
                if text(record.get("userid")) == uid and (inside := await self._inside(uid, record)):
                    unlisted[uid] = inside
            if unlisted:
                await self._list_again(unlisted)

    async def _inside(self, uid: str, record: Record) -> tuple[int, ...]:
        """The departments whose pages should have listed this person."""
        listed = record.get("dept_id_list")
        if not isinstance(listed, list):
            raise self._lost(uid)
        named = [dept_id for dept_id in map(whole, listed) if dept_id is not None]
        inside = tuple(dept_id for dept_id in named if dept_id in self._dept_ids)
        if inside:
            return inside
        ways = {dept_id: await self._ways.up(dept_id) for dept_id in named}
        new = [dept_id for dept_id, way in ways.items() if way is Way.INSIDE]
        if new:
            raise OrganisationChangedError(
                f"User {uid!r} is in department {new[0]}, which was not there when the departments were"
                " read: nothing is saved, they have to be read again"
            )
        detached = [dept_id for dept_id, way in ways.items() if way is Way.DETACHED]
        if detached:
            self._hold_back(uid, record, detached[0])
        return ()

    def _hold_back(self, uid: str, record: Record, dept_id: int) -> None:
        """Leave a person where WPS has them, whose departments lead to no root."""
        with self._ctx.transaction() as connection:
            dids = neighbours.known_places(connection, uid, third_company_id=self._company)
            homes = [each for each in map(self._mapper.dept_id, dids) if each in self._dept_ids]
            batch = self._rows({**record, "userid": uid}, homes or [self._mapper.root_dept_id])
            staging.copy(connection, batch, fetch=self._fetch)
            found = Conflict(Kind.PLACE, uid, self._mapper.did(dept_id), conflicts.NO_WAY)
            conflicts.add(connection, [found], fetch=self._fetch)

    async def _list_again(self, unlisted: Mapping[str, Sequence[int]]) -> None:
        """Settle what has changed in the departments of these people since their pages were read."""
        departments = sorted({dept_id for homes in unlisted.values() for dept_id in homes})
        if len(unlisted) > MOST_CONTRADICTIONS or len(departments) > MOST_LISTED_AGAIN:
            raise self._lost(min(unlisted))
        changed = set(unlisted)
        for dept_id in departments:
            _, uids = await self._present_members(dept_id)
            for uid, homes in unlisted.items():
                if dept_id in homes and uid not in uids:
                    raise self._lost(uid)
            with self._ctx.transaction() as connection:
                staged = staging.listed_people(connection, self._mapper.did(dept_id), fetch=self._fetch)
            changed |= uids ^ staged
        if len(changed) > MOST_CONTRADICTIONS:
            raise self._lost(min(unlisted))
        await self._settle(sorted(changed))

    async def _present_members(self, dept_id: int) -> tuple[int | None, set[str]]:
        """How many members a department has by its own record, and whom it lists, at present."""
        uids: set[str] = set()
        try:
            reported = evidence.reported_members(await self._client.department(dept_id))
            async with aclosing(self._client.user_pages(dept_id)) as pages:
                async for page in pages:
                    uids |= {text(item.get("userid")) or "" for item in page}
        except ObjectNotFoundError:
            raise OrganisationChangedError(
                f"Department {dept_id} was removed from DingTalk after the departments were read: nothing"
                " is saved, they have to be read again"
            ) from None
        return reported, uids - {""}

    async def _settle(self, uids: Collection[str]) -> None:
        """Stage these people as they are now, in place of what the pages said about them."""
        records = await self._people.read(uids)
        batch = Batch()
        for uid in uids:
            if uid not in records:
                self._findings.add(Reason.LEFT_WHILE_READING, uid)
                continue
            record = {**records[uid], "userid": uid}
            dept_ids, outside = departments_of(record, within=self._dept_ids)
            dept_ids = self._listed_departments(uid) if dept_ids is None else self._mapper.in_order(dept_ids)
            if not dept_ids:
                self._ignored["users"] += 1
                continue
            self._ignored["memberships"] += outside
            self._findings.add(Reason.MOVED_WHILE_READING, uid)
            rows = self._rows(record, dept_ids)
            batch.users += rows.users
            batch.memberships += rows.memberships
        if uids:
            with self._ctx.transaction() as connection:
                staging.delete_people(connection, uids, fetch=self._fetch)
                staging.copy(connection, batch, fetch=self._fetch)

    def _rows(self, record: Record, dept_ids: Sequence[int]) -> Batch:
        memberships = list(self._mapper.memberships(record, dept_ids=dept_ids))
        order = next((row.order for row in memberships if row.main), None)
        person = self._mapper.person(record, dept_ids=dept_ids, order=order)
        for reason, key in person.notes:
            self._findings.add(reason, key)
        return Batch(users=[person], memberships=memberships)

    def _listed_departments(self, uid: str) -> tuple[int, ...]:
        """The departments whose pages listed this person, whose record names none."""
        with self._ctx.transaction() as connection:
            dids = staging.listed_departments(connection, uid, fetch=self._fetch)
        return tuple(sorted(map(self._mapper.dept_id, dids)))

    def _lost(self, uid: str) -> IncompleteAnswerError:
        self._disbelieve()
        return IncompleteAnswerError(
            f"User {uid!r} is in WPS and still in DingTalk, but was not in the pages of its departments:"
            " something was lost, nothing is saved. The organisation has to be read again"
        )

    def _disbelieve(self) -> None:
        """What looked complete is not: a retry does not go on from it."""
        with self._ctx.transaction() as connection:
            evidence.forget(connection, fetch=self._fetch)
