"""Reading a whole organisation from DingTalk into staging [dt 2.10].

The tree first, then the pages of every department, in bounded memory: rows go to staging
in batches, each in a short transaction of its own, with the proof of what is complete. What the
pages say is then held against itself and against known state, because a page that got lost must
never delete anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.errors import OrganisationChangedError
from nancalacc.saga.context import StepContext
from nancalacc.sync import evidence, staging
from nancalacc.sync.evidence import Proof
from nancalacc.sync.findings import Findings, Reason
from nancalacc.sync.mapping import (
    Mapper,
    PersonRow,
    Record,
    department_values,
    departments_of,
    flag,
    text,
    unusable,
    whole,
)
from nancalacc.sync.settling import People, Settling
from nancalacc.sync.staging import Batch, Fetch
from nancalacc.sync.tree import TreeReading

T = TypeVar("T")
BATCH_ROWS = 2000
DETAILS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class _Listed:
    """Somebody on a page of a department; `dept_ids`, by id, None where the page does not say them."""

    item: Record
    dept_ids: tuple[int, ...] | None
    outside: int
    proof: Proof

    @property
    def uid(self) -> str:
        """The userid, empty when nothing can be written under it."""
        uid = text(self.item.get("userid")) or ""
        return "" if unusable(uid) else uid


class Reading:
    """One reading of an organisation by one attempt of the fetching step; it goes on from a former one."""

    def __init__(
        self,
        ctx: StepContext,
        *,
        client: DingTalkClient,
        mapper: Mapper,
        fetch: Fetch,
        third_company_id: str,
        settings: str,
    ) -> None:
        self.findings = Findings()
        self.ignored: Counter[str] = Counter()
        self.pages = 0
        self.age_seconds = 0.0
        self._ctx = ctx
        self._client = client
        self._mapper = mapper
        self._fetch = fetch
        self._company = third_company_id
        self._settings = settings
        self._batch = Batch()
        self._dept_ids: set[int] = set()
        self._proven: set[int] = set()
        self._finished: list[Proof] = []
        self._people = People(client)
        self._users = 0
        self._waiting: list[_Listed] = []

    async def read(self) -> None:
        """Stage departments, people and memberships, free of contradictions."""
        try:
            await self._read_departments()
            await self._read_members()
            settling = Settling(
                self._ctx,
                client=self._client,
                people=self._people,
                mapper=self._mapper,
                fetch=self._fetch,
                third_company_id=self._company,
                dept_ids=self._dept_ids,
                findings=self.findings,
                ignored=self.ignored,
            )
            await settling.contradictions()
            await settling.counts()
            await settling.missing()
        except OrganisationChangedError:
            with self._ctx.transaction() as connection:
                evidence.forget_tree(connection, fetch=self._fetch)
            raise

    async def _read_departments(self) -> None:
        """Stage the tree, unless an earlier attempt has; what was read of other departments is dropped."""
        with self._ctx.transaction() as connection:
            former = evidence.tree(connection, fetch=self._fetch)
            self.findings, self.ignored = evidence.notes_of(connection, fetch=self._fetch)
            self._users = staging.count(connection, fetch=self._fetch).users
        self._proven, self.pages = set(former.proven), former.pages
        self.age_seconds = former.age_seconds
        if former.listed:
            self._dept_ids = set(former.listed)
            return
        tree = TreeReading(self._ctx, client=self._client, mapper=self._mapper, fetch=self._fetch)
        self._dept_ids = await tree.read(self._company, settings=self._settings)
        self._proven &= self._dept_ids
        self.findings.merge(tree.findings.as_data())

    async def _read_members(self) -> None:
        proofs: dict[int, Proof] = {}
        async with aclosing(self._client.members(sorted(self._dept_ids - self._proven))) as pages:
            async for page in pages:
                self.pages += 1
                proof = proofs.setdefault(page.dept_id, Proof(page.dept_id))
                proof.pages += 1
                proof.members += len(page.records)
                proof.went_back = page.went_back
                for item in page.records:
                    self._place(item, proof=proof)
                if page.is_last:
                    self._finished.append(proofs.pop(page.dept_id))
                if len(self._waiting) >= DETAILS_AT_ONCE:
                    await self._add_details()
                self._flush(BATCH_ROWS)
        await self._add_details()
        with self._ctx.transaction() as connection:
            evidence.require_complete(connection, fetch=self._fetch)

    def _place(self, item: Record, *, proof: Proof) -> None:
        """Stage what a page says: a membership, and the person at one page, whatever order it lists in."""
        dept_ids, outside = departments_of(item, within=self._dept_ids)
        listed = _Listed(item, None if dept_ids is None else tuple(sorted(dept_ids)), outside, proof)
        is_told = None not in (whole(item.get("dept_order")), flag(item.get("leader")))
        if self._mapper.user_details and listed.uid and not (is_told and self._is_elsewhere(listed)):
            self._waiting.append(listed)
        else:
            self._add(listed, {})

    async def _add_details(self) -> None:
        """Stage the people of whom the pages do not tell all, with what user/get does [dt 2.4].

        Afterwards everything that was listed is staged: the departments that were read to their
        last page are proven.
        """
        details = await self._people.read(dict.fromkeys(listed.uid for listed in self._waiting))
        for listed in self._waiting:
            if listed.uid in self._people.unreadable and not self._is_elsewhere(listed):
                self._find(Reason.DETAILS_NOT_READ, listed.uid, proof=listed.proof)
            is_gone = listed.uid not in details and listed.uid not in self._people.unreadable
            self._add(listed, details.get(listed.uid, {}), is_gone=is_gone)
        self._waiting.clear()
        self._flush()

    def _add(self, listed: _Listed, detail: Record, *, is_gone: bool = False) -> None:
        """Stage a membership, and the person if this is the page for it.

        Who is gone since the page was read has a membership only, which will show it.
        """
        item, dept_id, said = listed.item, listed.proof.dept_id, listed.dept_ids
        now, outside = departments_of(detail, within=self._dept_ids)
        if said is None and now is not None:
            said = tuple(sorted(now))
            listed = replace(listed, dept_ids=said, outside=outside)
        has_moved = now is not None and said is not None and set(now) != set(said)
        dept_ids = (dept_id,) if said is None else said if now is None or has_moved else now
        order = _either(whole, item.get("dept_order"), detail, "dept_order_list", "order", dept_id)
        membership = self._mapper.membership(
            item,
            dept_id=dept_id,
            dept_ids=dept_ids,
            order=order,
            leader=_either(flag, item.get("leader"), detail, "leader_in_dept", "leader", dept_id),
        )
        self._batch.memberships.append(membership)
        if is_gone or self._is_elsewhere(listed):
            return
        self._ignore("memberships", listed.outside, proof=listed.proof)
        person = self._mapper.person(
            {**item, **detail, "userid": item.get("userid")},
            dept_ids=dept_ids,
            # Of another one its own page tells, as of the membership.
            order=order if membership.main else None,
            departments=0 if said is None else -1 if has_moved or not said else None,
        )
        self._add_person(person, proof=listed.proof)

    def _is_elsewhere(self, listed: _Listed) -> bool:
        """Whether the person belongs to the page of another department: the smallest one's, the root last."""
        dept_ids = listed.dept_ids
        return dept_ids is not None and self._mapper.main_department(dept_ids) != listed.proof.dept_id

    # Parts

    def _add_person(self, row: PersonRow, *, proof: Proof | None = None) -> None:
        self._users += 1
        for reason, key in row.notes:
            self._find(reason, key, proof=proof)
        self._batch.users.append(row)

    def _find(self, reason: Reason, key: str, *, proof: Proof | None) -> None:
        self.findings.add(reason, key)
        if proof is not None:
            proof.findings.add(reason, key)

    def _ignore(self, kind: str, number: int, *, proof: Proof) -> None:
        self.ignored[kind] += number
        proof.ignored[kind] += number

    def _flush(self, at_least: int = 0) -> None:
        """Copy the waiting rows to staging if there are so many, and prove what is complete with them."""
        if len(self._batch) < at_least:
            return
        # A department is complete when nobody on its pages waits for details.
        waiting = {id(listed.proof) for listed in self._waiting}
        complete = [proof for proof in self._finished if id(proof) not in waiting]
        with self._ctx.transaction() as connection:
            staging.copy(connection, self._batch, fetch=self._fetch)
            evidence.prove(connection, complete, fetch=self._fetch)
        self._batch.clear()
        self._finished = [proof for proof in self._finished if id(proof) in waiting]
        self._ctx.report({"departments": len(self._dept_ids), "users": self._users, "pages": self.pages})

    def calls(self) -> dict[str, Any]:
        """The calls this attempt has made."""
        return {"calls": dict(self._client.calls), "throttled": self._client.throttled}


def _either(
    read: Callable[[object], T | None], value: object, detail: Record, key: str, name: str, dept_id: int
) -> T | None:
    """What a page says about a membership, otherwise what the person's own record does [dt 2.7]."""
    found = read(value)
    return read(department_values(detail, key, name).get(dept_id)) if found is None else found
