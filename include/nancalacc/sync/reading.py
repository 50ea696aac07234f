"""Reading a whole organisation from DingTalk into staging [dt 2.10].

The tree first, then the pages of every department, in bounded memory: rows go to staging
in batches, each in a short transaction of its own, with the proof of what is complete. What the
pages say is then held against itself and against known state, because a page that got lost must
never delete anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.errors import OrganisationChangedError
from nancalacc.saga.context import StepContext
from nancalacc.sync import evidence, staging
from nancalacc.sync.evidence import Proof
from nancalacc.sync.findings import Findings, Reason
from nancalacc.sync.mapping import Mapper, PersonRow, Record, departments_of, flag, text, whole
from nancalacc.sync.settling import People, Settling
from nancalacc.sync.staging import Batch, Fetch
from nancalacc.sync.tree import TreeReading

BATCH_ROWS = 2000
DETAILS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class _Home:
    """A person at the main department, whose details are still to be read."""

    item: Record
    dept_ids: tuple[int, ...]
    proof: Proof


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
        user_details: bool,
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
        self._user_details = user_details
        self._batch = Batch()
        self._dept_ids: set[int] = set()
        self._proven: set[int] = set()
        self._finished: list[Proof] = []
        self._people = People(client)
        self._users = 0
        self._homes: list[_Home] = []

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
                if len(self._homes) >= DETAILS_AT_ONCE:
                    await self._add_details()
                self._flush(BATCH_ROWS)
        await self._add_details()
        with self._ctx.transaction() as connection:
            evidence.require_complete(connection, fetch=self._fetch)

    def _place(self, item: Record, *, proof: Proof) -> None:
        """Stage what a page says: a membership, and the person at the main department."""
        dept_ids, outside = departments_of(item, within=self._dept_ids)
        if dept_ids is None:
            dept_ids = (proof.dept_id,)
        order = whole(item.get("dept_order"))
        membership = self._mapper.membership(
            item, dept_id=proof.dept_id, dept_ids=dept_ids, order=order, leader=flag(item.get("leader"))
        )
        self._batch.memberships.append(membership)
        if not membership.main:
            return
        self._ignore("memberships", outside, proof=proof)
        if self._user_details and not membership.rejected:
            self._homes.append(_Home(item, dept_ids, proof))
        else:
            self._add_person(self._mapper.person(item, dept_ids=dept_ids, order=order), proof=proof)

    async def _add_details(self) -> None:
        """Stage the people whose main department was listed, with what only user/get tells [dt 2.4].

        Afterwards everything that was listed is staged: the departments that were read to their
        last page are proven.
        """
        details = await self._people.read(text(home.item.get("userid")) or "" for home in self._homes)
        for home in self._homes:
            uid = text(home.item.get("userid")) or ""
            if uid in self._people.unreadable:
                self._find(Reason.DETAILS_NOT_READ, uid, proof=home.proof)
            elif uid not in details:
                # Gone since the page was read; the memberships without a person will show it.
                continue
            detail = details.get(uid, {})
            now, _ = departments_of(detail, within=self._dept_ids)
            moved = now is not None and not self._same_places(now, home.dept_ids)
            self._add_person(
                self._mapper.person(
                    {**home.item, **detail, "userid": uid},
                    dept_ids=home.dept_ids,
                    order=whole(home.item.get("dept_order")),
                    departments=-1 if moved else None,
                ),
                proof=home.proof,
            )
        self._homes.clear()
        self._flush()

    def _same_places(self, one: Sequence[int], other: Sequence[int]) -> bool:
        main = self._mapper.main_department
        return set(one) == set(other) and main(one) == main(other)

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
        # A department is complete when nobody whose home it is waits for details.
        waiting = {id(home.proof) for home in self._homes}
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
