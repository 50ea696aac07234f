"""Reading the tree of departments: what DingTalk lists, and known departments that it lists nowhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import replace
from enum import StrEnum

from nancalacc.clients.dingtalk import STATED_PARENT, DingTalkClient
from nancalacc.errors import IncompleteAnswerError, ObjectError, ObjectNotFoundError, OrganisationChangedError
from nancalacc.saga.context import StepContext
from nancalacc.sync import conflicts, evidence, known, neighbours, staging
from nancalacc.sync.conflicts import Conflict, Kind
from nancalacc.sync.evidence import Listed
from nancalacc.sync.findings import Findings
from nancalacc.sync.mapping import ROOT_DID, DepartmentRow, Mapper, Record, parent_of, whole
from nancalacc.sync.scope import WHOLE_COMPANY
from nancalacc.sync.staging import Batch, Fetch

AT_A_TIME = 1000


class Way(StrEnum):
    """Where the parents of a department lead."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    """It is gone, or lies beyond the root of the sync or the app's scope."""
    DETACHED = "detached"
    """It is there, but a parent does not exist, or the parents form a ring."""


class WaysUp:
    """Follows the parents of departments, each read once."""

    def __init__(self, client: DingTalkClient, *, dept_ids: Collection[int]) -> None:
        self._client = client
        self._dept_ids = dept_ids
        self.records: dict[int, Record | None] = {}
        self.broken: set[int] = set()
        """The detached departments whose own parent is the fault."""

    async def up(self, dept_id: int) -> Way:
        """Where this department's parents lead."""
        path: list[int] = []
        place: int | None = dept_id
        while place is not None and place not in self._dept_ids:
            if place == WHOLE_COMPANY:
                return Way.OUTSIDE
            if place in path:
                self.broken.update(path[path.index(place) :])
                return Way.DETACHED
            record = await self._read(place)
            if record is None:
                if not path:
                    return Way.OUTSIDE
                self.broken.add(path[-1])
                return Way.DETACHED
            path.append(place)
            place = parent_of(record)
        return Way.OUTSIDE if place is None else Way.INSIDE

    async def _read(self, dept_id: int) -> Record | None:
        if dept_id not in self.records:
            try:
                self.records[dept_id] = await self._client.department(dept_id)
            except ObjectNotFoundError:
                self.records[dept_id] = None
            except ObjectError:
                # Outside the app's scope, which holds everything below the root.
                self.records[dept_id] = {"dept_id": dept_id, "parent_id": None}
        return self.records[dept_id]


class TreeReading:
    """One reading of all departments."""

    def __init__(self, ctx: StepContext, *, client: DingTalkClient, mapper: Mapper, fetch: Fetch) -> None:
        self.findings = Findings()
        self._ctx = ctx
        self._client = client
        self._mapper = mapper
        self._fetch = fetch
        self._rows: dict[int, DepartmentRow] = {}
        self._listed: dict[int, Listed] = {}
        self._stated: dict[int, int] = {}
        self._again: defaultdict[int, set[int]] = defaultdict(set)
        self._conflicts: list[Conflict] = []

    async def read(self, third_company_id: str, *, settings: str) -> set[int]:
        """Stage the tree, record it as read, and return the ids of its departments.

        Raises OrganisationChangedError when it changes meanwhile in a way that leaves parts out.
        """
        records = self._client.departments(
            self._mapper.root_dept_id, listed_again=lambda dept_id, parent: self._again[dept_id].add(parent)
        )
        async with aclosing(records):
            async for record in records:
                self._add(record)
        self._settle_parents()
        with self._ctx.transaction() as connection:
            staging.copy(connection, Batch(departments=list(self._rows.values())), fetch=self._fetch)
        await self._hold_detached(third_company_id)
        with self._ctx.transaction() as connection:
            conflicts.add(connection, self._conflicts, fetch=self._fetch)
            evidence.keep_tree(connection, self._listed.values(), settings=settings, fetch=self._fetch)
        return set(self._listed)

    def _add(self, record: Record) -> DepartmentRow:
        dept_id = whole(record.get("dept_id"))
        if dept_id is None:
            raise IncompleteAnswerError("DingTalk sent a department without dept_id: nothing is saved")
        row = self._mapper.department(record)
        notes = Findings()
        for reason, key in row.notes:
            notes.add(reason, key)
            self.findings.add(reason, key)
        parent_id = parent_of(record)
        self._listed[dept_id] = Listed(
            dept_id,
            row.did,
            None if dept_id == self._mapper.root_dept_id else parent_id,
            evidence.reported_members(record),
            notes.as_data() if notes.counts else {},
        )
        self._rows[dept_id] = row
        stated = whole(record.get(STATED_PARENT))
        if stated and stated != parent_id:
            self._stated[dept_id] = stated
        return row

    # Departments with two parents

    def _settle_parents(self) -> None:
        """One parent for each: of those that list it the one its own record names, if no ring comes of it."""
        for dept_id in sorted({*self._again, *self._stated} & set(self._rows)):
            parent = self._listed[dept_id].parent_id
            others = self._again[dept_id] - {parent}
            stated = self._stated.get(dept_id)
            if parent is not None and stated in others and not self._is_below(stated, dept_id):
                others = (others - {stated}) | {parent}
                parent = stated
                self._put_below(dept_id, stated)
            elif stated is not None:
                others.add(stated)
            other = min(others)
            self._conflicts.append(
                Conflict(
                    Kind.PARENT,
                    self._mapper.did(dept_id),
                    self._mapper.did(other),
                    f"is below department {parent} and below {other} for DingTalk: it stays below {parent}"
                    if parent is not None
                    else f"is the root, and below {other} for DingTalk",
                )
            )

    def _put_below(self, dept_id: int, parent: int) -> None:
        self._rows[dept_id] = replace(self._rows[dept_id], pid=self._mapper.did(parent))
        self._listed[dept_id] = replace(self._listed[dept_id], parent_id=parent)

    def _is_below(self, dept_id: int, above: int) -> bool:
        place: int | None = dept_id
        while place is not None:
            if place == above:
                return True
            place = self._listed[place].parent_id if place in self._listed else None
        return False

    # Departments that WPS has and nothing lists

    async def _hold_detached(self, third_company_id: str) -> None:
        """Keep in WPS what is still in DingTalk but leads to no root; raise if something was lost."""
        ways = WaysUp(self._client, dept_ids=set(self._listed))
        held: dict[int, Record] = {}
        after = ""
        while True:
            with self._ctx.transaction() as connection:
                staging.prefer_hash_joins(connection)
                missing = known.missing(
                    connection,
                    "departments",
                    fetch=self._fetch,
                    third_company_id=third_company_id,
                    limit=AT_A_TIME,
                    after=after,
                )
            if not missing:
                break
            after = missing[-1]
            for dept_id in filter(None, map(whole, missing)):
                way = await ways.up(dept_id)
                record = ways.records.get(dept_id)
                if way is Way.INSIDE:
                    raise OrganisationChangedError(
                        f"Department {dept_id} is in WPS and still in DingTalk, but was not in its listing:"
                        " something was lost or moved. Nothing is saved, everything has to be read again"
                    )
                if way is Way.DETACHED and record is not None:
                    held[dept_id] = record
        if held:
            self._stage_detached(held, broken=ways.broken, third_company_id=third_company_id)

    def _stage_detached(self, held: dict[int, Record], *, broken: set[int], third_company_id: str) -> None:
        dids = [self._mapper.did(dept_id) for dept_id in held]
        with self._ctx.transaction() as connection:
            places = neighbours.known_names(connection, dids, third_company_id=third_company_id)
        for dept_id, record in held.items():
            row = self._add(record)
            if dept_id not in broken:
                continue
            known_pid = places[row.did][0]
            pid = known_pid if self._mapper.dept_id(known_pid) in {*self._listed, *held} else ROOT_DID
            self._put_below(dept_id, self._mapper.dept_id(pid))
            self._conflicts.append(
                Conflict(
                    Kind.PARENT,
                    row.did,
                    str(record.get("parent_id")),
                    f"has the parent {record.get('parent_id')} in DingTalk, which leads to no root: it stays"
                    f" below {pid}",
                )
            )
        with self._ctx.transaction() as connection:
            batch = Batch(departments=[self._rows[dept_id] for dept_id in held])
            staging.copy(connection, batch, fetch=self._fetch)
