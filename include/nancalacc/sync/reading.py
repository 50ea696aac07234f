"""Reading a whole organisation from DingTalk into staging [dt 2.10].

The tree first, then the pages of every department, in bounded memory: rows go to staging
in batches, each in a short transaction of its own. What the pages say is then held against
itself and against known state, because a page that got lost must never delete anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.fan_out import fan_out
from nancalacc.errors import IncompleteAnswerError, ObjectError, ObjectNotFoundError
from nancalacc.saga.context import StepContext
from nancalacc.sync import known, staging
from nancalacc.sync.findings import Findings, Reason
from nancalacc.sync.mapping import (
    ROOT_DID,
    Mapper,
    Note,
    PersonRow,
    Record,
    departments_of,
    flag,
    text,
    whole,
)
from nancalacc.sync.staging import Batch, Fetch

BATCH_ROWS = 2000
DETAILS_AT_ONCE = 500
READERS = 16
MOST_CONTRADICTIONS = 200
MOST_VERIFIED = 1000
DEEPEST = 100


class Reading:
    """One reading of an organisation by one attempt of the fetching step."""

    def __init__(
        self, ctx: StepContext, *, client: DingTalkClient, mapper: Mapper, fetch: Fetch, user_details: bool
    ) -> None:
        self.findings = Findings()
        self.ignored: Counter[str] = Counter()
        self.pages = 0
        self._ctx = ctx
        self._client = client
        self._mapper = mapper
        self._fetch = fetch
        self._user_details = user_details
        self._batch = Batch()
        self._dept_ids: set[int] = set()
        self._unreadable: set[str] = set()
        self._users = 0
        self._homes: list[tuple[Record, Sequence[int]]] = []

    async def read(self) -> None:
        """Stage departments, people and memberships, free of contradictions."""
        await self._read_departments()
        await self._read_members()
        await self._settle_contradictions()

    async def _read_departments(self) -> None:
        async with aclosing(self._client.departments(self._mapper.root_dept_id)) as records:
            async for record in records:
                dept_id = whole(record.get("dept_id"))
                if dept_id is None:
                    raise IncompleteAnswerError(
                        "DingTalk sent a department without dept_id: nothing is saved"
                    )
                self._dept_ids.add(dept_id)
                row = self._mapper.department(record)
                self._note(row.notes)
                self._batch.departments.append(row)
                self._flush(BATCH_ROWS)
        self._flush()

    async def _read_members(self) -> None:
        async with aclosing(self._client.members(sorted(self._dept_ids))) as pages:
            async for dept_id, items in pages:
                self.pages += 1
                for item in items:
                    self._place(item, dept_id=dept_id)
                if len(self._homes) >= DETAILS_AT_ONCE:
                    await self._add_details()
                self._flush(BATCH_ROWS)
        await self._add_details()
        self._flush()

    def _place(self, item: Record, *, dept_id: int) -> None:
        """Stage what a page of `dept_id` says: a membership, and the person at the main department."""
        dept_ids, outside = departments_of(item, within=self._dept_ids)
        if dept_ids is None:
            dept_ids = (dept_id,)
        order = whole(item.get("dept_order"))
        membership = self._mapper.membership(
            item, dept_id=dept_id, dept_ids=dept_ids, order=order, leader=flag(item.get("leader"))
        )
        self._batch.memberships.append(membership)
        if not membership.main:
            return
        self.ignored["memberships"] += outside
        if self._user_details and not membership.rejected:
            self._homes.append((item, dept_ids))
        else:
            self._add_person(self._mapper.person(item, dept_ids=dept_ids, order=order))

    async def _add_details(self) -> None:
        """Stage the people whose main department was listed, with what only user/get tells [dt 2.4]."""
        homes, self._homes = self._homes, []
        details = await self._read_users(text(item.get("userid")) or "" for item, _ in homes)
        for item, dept_ids in homes:
            uid = text(item.get("userid")) or ""
            if uid in self._unreadable:
                self.findings.add(Reason.DETAILS_NOT_READ, uid)
            elif uid not in details:
                # Gone since the page was read; the memberships without a person will show it.
                continue
            detail = details.get(uid, {})
            now, _ = departments_of(detail, within=self._dept_ids)
            moved = now is not None and not self._same_places(now, dept_ids)
            self._add_person(
                self._mapper.person(
                    {**item, **detail, "userid": uid},
                    dept_ids=dept_ids,
                    order=whole(item.get("dept_order")),
                    departments=-1 if moved else None,
                )
            )
            self._flush(BATCH_ROWS)

    def _same_places(self, one: Sequence[int], other: Sequence[int]) -> bool:
        main = self._mapper.main_department
        return set(one) == set(other) and main(one) == main(other)

    async def _read_users(self, uids: Iterable[str]) -> dict[str, Record]:
        """Present records by userid; who is gone, disabled or outside the app's scope is not among them."""
        found: dict[str, Record] = {}
        async with aclosing(fan_out(uids, work=self._read_user, at_once=READERS)) as results:
            async for uid, record in results:
                if record is not None:
                    found[uid] = record
        return found

    async def _read_user(self, uid: str) -> tuple[tuple[str, Record | None], tuple[str, ...]]:
        try:
            return (uid, await self._client.user(uid)), ()
        except ObjectNotFoundError:
            return (uid, None), ()
        except ObjectError:
            self._unreadable.add(uid)
            return (uid, None), ()

    async def _settle_contradictions(self) -> None:
        """Read people again about whom the pages disagree: they moved or left meanwhile."""
        with self._ctx.transaction() as connection:
            staging.prefer_hash_joins(connection)
            uids = staging.contradictions(connection, fetch=self._fetch, limit=MOST_CONTRADICTIONS + 1)
        if len(uids) > MOST_CONTRADICTIONS:
            raise IncompleteAnswerError(
                f"The pages of DingTalk contradict each other about more than {MOST_CONTRADICTIONS} people:"
                " nothing is saved, the organisation has to be read again"
            )
        records = await self._read_users(uids)
        for uid in uids:
            if uid not in records:
                self.findings.add(Reason.LEFT_WHILE_READING, uid)
                continue
            record = {**records[uid], "userid": uid}
            dept_ids, outside = departments_of(record, within=self._dept_ids)
            if dept_ids is None:
                dept_ids = self._listed_departments(uid)
            if not dept_ids:
                self.ignored["users"] += 1
                continue
            self.ignored["memberships"] += outside
            self.findings.add(Reason.MOVED_WHILE_READING, uid)
            rows = list(self._mapper.memberships(record, dept_ids=dept_ids))
            order = next((row.order for row in rows if row.main), None)
            self._batch.memberships.extend(rows)
            self._add_person(self._mapper.person(record, dept_ids=dept_ids, order=order))
        if uids:
            with self._ctx.transaction() as connection:
                staging.delete_people(connection, uids, fetch=self._fetch)
                staging.copy(connection, self._batch, fetch=self._fetch)
            self._batch.clear()

    def _listed_departments(self, uid: str) -> tuple[int, ...]:
        """The departments whose pages listed this person, whose record names none."""
        with self._ctx.transaction() as connection:
            dids = staging.listed_departments(connection, uid, fetch=self._fetch)
        root = self._mapper.root_dept_id
        return tuple(sorted(root if did == ROOT_DID else int(did) for did in dids))

    # Held against known state

    async def verify_missing(self, third_company_id: str) -> None:
        """Ask DingTalk about everything known that was not read: what is still there was lost.

        At most 1000 of each kind are asked about. Raises IncompleteAnswerError for a lost one.
        """
        for kind in ("departments", "users"):
            with self._ctx.transaction() as connection:
                staging.prefer_hash_joins(connection)
                missing = known.missing(
                    connection,
                    kind,
                    fetch=self._fetch,
                    third_company_id=third_company_id,
                    limit=MOST_VERIFIED,
                )
            if kind == "departments":
                for did in missing:
                    await self._verify_department(did)
            else:
                for uid, record in (await self._read_users(missing)).items():
                    await self._verify_user(uid, record)

    async def _verify_department(self, did: str) -> None:
        dept_id = whole(did)
        if dept_id is not None and await self._is_inside(dept_id):
            raise IncompleteAnswerError(
                f"Department {did} is in WPS and still in DingTalk, but was not in its listing: something was"
                " lost, nothing is saved. The organisation has to be read again"
            )

    async def _verify_user(self, uid: str, record: Record) -> None:
        if text(record.get("userid")) != uid:
            # DingTalk takes any case: it found somebody whose userid is written otherwise.
            return
        listed = record.get("dept_id_list")
        places = [whole(dept_id) for dept_id in listed] if isinstance(listed, list) else None
        if places is None:
            inside = True
        else:
            inside = any([await self._is_inside(dept_id) for dept_id in places if dept_id is not None])
        if inside:
            raise IncompleteAnswerError(
                f"User {uid!r} is in WPS and still in DingTalk, but was not in the pages of its departments:"
                " something was lost, nothing is saved. The organisation has to be read again"
            )

    async def _is_inside(self, dept_id: int) -> bool:
        """True when the department exists and lies below the root of the sync."""
        place: int | None = dept_id
        for _ in range(DEEPEST):
            if place is None or place in self._dept_ids:
                break
            try:
                place = whole((await self._client.department(place)).get("parent_id"))
            except ObjectError:
                # Gone, or outside the app's scope, which holds everything below the root.
                return False
        return place is not None

    # Parts

    def _add_person(self, row: PersonRow) -> None:
        self._users += 1
        self._note(row.notes)
        self._batch.users.append(row)

    def _note(self, notes: Collection[Note]) -> None:
        for reason, key in notes:
            self.findings.add(reason, key)

    def _flush(self, at_least: int = 1) -> None:
        """Copy the waiting rows to staging if there are so many."""
        if len(self._batch) < at_least:
            return
        with self._ctx.transaction() as connection:
            staging.copy(connection, self._batch, fetch=self._fetch)
        self._batch.clear()
        self._ctx.report({"departments": len(self._dept_ids), "users": self._users, "pages": self.pages})

    def evidence(self) -> dict[str, Any]:
        """How complete the reading was: pages and calls."""
        return {
            "pages": self.pages,
            "calls": dict(self._client.calls),
            "throttled": self._client.throttled,
        }
