"""Both real sagas as subjects of the fault kit: a small company between the sandbox's DingTalk and WPS."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urljoin

import aiohttp
import psycopg
from psycopg.rows import dict_row

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.transport import AnswerLostError, NotSentError, Response
from nancalacc.clients.wps import WpsClient
from nancalacc.config import ConnectionInfo, DingTalkSettings, Settings, WpsSettings
from nancalacc.faultkit.boundaries import Trace, TracedDatabase
from nancalacc.faultkit.clock import Clock, install_clock
from nancalacc.faultkit.kit import FaultKit
from nancalacc.faultkit.run import Engine, Run
from nancalacc.faultkit.subject import FORWARD, Ending, Scenario, Setup, Subject
from nancalacc.saga.definition import SagaDefinition, transaction_id_of
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.comparison import compare
from nancalacc.sandbox.consumer import ConsumerRules, JobState
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sandbox.server import Sandbox, SandboxOptions, running_sandbox
from nancalacc.sandbox.snapshot import Thresholds
from nancalacc.store.database import Database
from nancalacc.sync.full import FULL_SYNC
from nancalacc.sync.inbox import Company, InboxEvent, store
from nancalacc.sync.incremental import INCREMENTAL_SYNC
from nancalacc.sync.services import RunInfo, SyncServices
from nancalacc.sync.undo import UNDO_SYNC

SETTINGS = Settings(
    lock_wait_seconds=0, busy_wait_seconds=1, event_pause_seconds=0, repeat_seconds=0, confirm_seconds=3600
)
UNDONE = "the changes"
"""The run of the full sync that an undo takes back."""
ASKING = {"approval": True, "limits": {"users_removed": "0 0% 0"}}
"""Of a WPS connection: a person is asked before anybody is removed."""
START = datetime(2026, 5, 1, tzinfo=UTC)
REFUSED = Scenario("back because WPS refuses", stands=True)
DINGTALK_AWAY, WPS_AWAY = Scenario("DingTalk is away", stands=True), Scenario("WPS is away", stands=True)
SNAPSHOT_TABLES = ("tb_las_department", "tb_las_user", "tb_las_department_user")
INCREMENT_TABLES = tuple(f"{table}_increment" for table in SNAPSHOT_TABLES)
CONFIG = "SELECT third_company_id, platform_ids, company_id, status FROM tb_company_cfg"
STAGED_TABLES = (
    "staged_departments",
    "staged_users",
    "staged_memberships",
    "staged_changes",
    "staged_increments",
)
OPTIONS = SandboxOptions(
    dingtalk=DingTalkRules(calls_per_second=0),
    consumer=ConsumerRules(
        full_delay=0,
        increment_delay=0,
        thresholds=Thresholds(users=10**6, departments=10**6, memberships=10**6),
    ),
)


class TracedTransport:
    """HTTP with a boundary before each call, and one behind its effect.

    What WPS is asked to do is done when the call is over, so that every run passes the same boundaries.
    """

    def __init__(self, session: aiohttp.ClientSession, trace: Trace) -> None:
        self._session = session
        self._trace = trace

    async def __call__(
        self, method: str, url: str, *, headers: Any, body: bytes | None = None, timeout: float
    ) -> Response:
        name = url.partition("?")[0].rpartition("/")[2]
        try:
            with self._trace.call(name):
                async with self._session.request(
                    method, url, headers=headers, data=body, timeout=aiohttp.ClientTimeout(timeout)
                ) as response:
                    answer = Response(response.status, {}, await response.read())
                if name == "sync":
                    await self._until_wps_has_done_it(url)
        except aiohttp.ClientConnectorError as error:
            raise NotSentError("not sent") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AnswerLostError("answer lost") from error
        return answer

    async def _until_wps_has_done_it(self, url: str) -> None:
        is_idle = False
        while not is_idle:
            async with self._session.get(urljoin(url, "/_sandbox/wps?counts")) as response:
                is_idle = (await response.json())["idle"]


async def no_pause(_: float) -> None:
    """Clients wait before they call again."""


@dataclass(frozen=True)
class Connections:
    """Where the sandbox and the database are, for any process."""

    url: str
    dingtalk: ConnectionInfo
    wps: ConnectionInfo
    settings: Settings = SETTINGS

    def services(self, trace: Trace) -> SyncServices:
        @asynccontextmanager
        async def dingtalk(conn_id: str) -> AsyncIterator[DingTalkClient]:
            async with aiohttp.ClientSession() as session:
                settings = DingTalkSettings.of(self.dingtalk)
                yield DingTalkClient(settings, transport=TracedTransport(session, trace), sleep=no_pause)

        @asynccontextmanager
        async def wps(conn_id: str) -> AsyncIterator[WpsClient]:
            async with aiohttp.ClientSession() as session:
                settings = WpsSettings.of(self.wps)
                yield WpsClient(settings, transport=TracedTransport(session, trace), sleep=no_pause)

        return SyncServices(
            settings=self.settings,
            run=RunInfo(start=START, run_id="faultkit"),
            dingtalk_settings=lambda _: DingTalkSettings.of(self.dingtalk),
            wps_settings=lambda _: WpsSettings.of(self.wps),
            dingtalk=dingtalk,
            wps=wps,
            sleep=Clock(self.url).sleep,
        )


def _full_sync(trace: Trace, *, connections: Connections, run_id: str) -> Subject:
    return Subject(FULL_SYNC, connections.services(trace), dag_id="full_sync", run_id=run_id)


def _incremental_sync(trace: Trace, *, connections: Connections, run_id: str) -> Subject:
    return Subject(INCREMENTAL_SYNC, connections.services(trace), dag_id="incremental_sync", run_id=run_id)


def _undo_sync(trace: Trace, *, connections: Connections, run_id: str) -> Subject:
    params = {"transaction_id": transaction_id_of(dag_id="full_sync", run_id=UNDONE)}
    return Subject(UNDO_SYNC, connections.services(trace), dag_id="undo_sync", run_id=run_id, params=params)


SETUPS: dict[str, Callable[..., Subject]] = {
    FULL_SYNC.name: _full_sync,
    INCREMENTAL_SYNC.name: _incremental_sync,
    UNDO_SYNC.name: _undo_sync,
}


def small_company() -> Organisation:
    """Two departments, three people, one of them in both."""
    organisation = Organisation(name="公司")
    organisation.add_department("研发部", dept_id=100)
    organisation.add_department("市场部", dept_id=200)
    for userid, places in {"u1": (100,), "u2": (100, 200), "u3": (200,)}.items():
        placements = tuple(Placement(place, 1) for place in places)
        organisation.add_user(User(userid=userid, name=userid, placements=placements))
    return organisation


def change(organisation: Organisation) -> None:
    """One of each: joined, left, moved, renamed; a department more."""
    organisation.add_department("新部门", parent_id=100, dept_id=300)
    organisation.add_user(User(userid="u4", name="u4", placements=(Placement(300, 1),)))
    organisation.move_user("u1", placements=[Placement(200, 2)])
    organisation.modify_user("u2", name="改名")
    organisation.remove_user("u3")


class SyncWorld:
    """DingTalk has changed since the last full sync; WPS has what that one brought, or what is new.

    An undo finds the changes published, and takes them back.
    """

    def __init__(self, connections: Connections, sandbox: Sandbox, definition: SagaDefinition) -> None:
        self.connections = connections
        self.definition = definition
        self._sandbox = sandbox
        self._before, self._after = small_company(), sandbox.organisation
        self._sync("the beginning")
        if definition is INCREMENTAL_SYNC:
            sandbox.organisation.observer = self._store
        change(sandbox.organisation)
        if definition is UNDO_SYNC:
            self._sync(UNDONE)
            self._before, self._after = self._after, self._before
        directory = sandbox.directory
        self._departments, self._users = dict(directory.departments), dict(directory.users)
        self._kept = self._snapshots()
        self._config = self._rows(CONFIG)

    @property
    def setup(self) -> Setup:
        return partial(SETUPS[self.definition.name], connections=self.connections, run_id="faultkit")

    def reset(self, scenario: Scenario) -> None:
        assert self._sandbox.consumer.wait_idle()
        self._sandbox.faults.clear()
        self._sandbox.consumer.reset()
        directory = self._sandbox.directory
        directory.replace_all(departments=dict(self._departments), users=dict(self._users))
        for _ in self._departments | self._users:
            directory.new_id()
        if scenario == REFUSED:
            self._sandbox.faults.add("errcode", path="full/sync", code="400", times=None)
        if scenario in {DINGTALK_AWAY, WPS_AWAY}:
            path = "topapi" if scenario == DINGTALK_AWAY else "/openapi"
            self._sandbox.faults.add("drop", path=path, times=None)

    def mend(self) -> None:
        self._sandbox.faults.clear()
        # A batch that failed comes back in halves: let the next one take all of it.
        with psycopg.connect(self.connections.url) as connection:
            connection.execute("UPDATE dingtalk_events SET batch_limit = NULL")

    def wrongs(self, ending: Ending) -> Sequence[str]:
        found = []
        is_completed = ending.saga is not None and ending.saga.status is SagaStatus.COMPLETED
        assert self._sandbox.consumer.wait_idle()
        for job in self._sandbox.consumer.jobs:
            if job.state is JobState.FAILED:
                found.append(f"WPS could not apply {job.task_id}: {job.message}")
        organisation = self._after if is_completed else self._before
        comparison = compare(organisation, self._sandbox.directory)
        if not comparison.equal:
            found.append(
                f"WPS is not as {'it had to become' if is_completed else 'before'}: {comparison.differences}"
            )
        found += self._lost()
        return [*found, *(self._undone() if is_completed else self._left(ending))]

    def _lost(self) -> list[str]:
        """What is missing of the sync that was done before."""
        now = self._snapshots()
        return [f"rows of {key} are gone" for key, rows in self._kept.items() if now.get(key) != rows]

    def _undone(self) -> Iterator[str]:
        """What a saga that completed has left open."""
        if self._rows("SELECT 1 FROM dingtalk_events WHERE status <> 'done'"):
            yield "an event is not done"
        if self._rows("SELECT 1 FROM task WHERE status NOT IN ('completed', 'cancelled')"):
            yield "a row of task is still open"

    def _left(self, ending: Ending) -> Iterator[str]:
        """What is still there of a saga that was undone."""
        tables = [*SNAPSHOT_TABLES, *INCREMENT_TABLES]
        for key in self._snapshots(tables).keys() - self._kept.keys():
            yield f"rows of {key} are left"
        transaction_id = ending.saga.transaction_id if ending.saga else ""
        for table in STAGED_TABLES:
            if self._rows(f"SELECT 1 FROM {table} WHERE transaction_id = '{transaction_id}'"):
                yield f"rows of {table} are left"
        if self._rows(CONFIG) != self._config:
            yield "tb_company_cfg is not as before"
        if self._rows("SELECT 1 FROM task WHERE status = 'in_progress'"):
            yield "a row of task is still in progress"
        if self._rows("SELECT 1 FROM dingtalk_events WHERE status <> 'pending'"):
            yield "an event is not pending again"

    def _snapshots(self, tables: Sequence[str] = SNAPSHOT_TABLES) -> dict[str, int]:
        found = {}
        for table in tables:
            task_id = "'increment'" if table in INCREMENT_TABLES else "task_id"
            for row in self._rows(f"SELECT {task_id} AS task_id, count(*) AS rows FROM {table} GROUP BY 1"):
                found[f"{table} {row['task_id']}"] = row["rows"]
        return found

    def _sync(self, run_id: str) -> None:
        """A full sync, which must complete, and its end in WPS."""
        trace = Trace()
        subject = _full_sync(trace, connections=self.connections, run_id=run_id)
        with TracedDatabase(self.connections.url, trace) as database:
            run = Run(subject, Engine(database), scenario=FORWARD, trace=trace)
            run.go()
            saga = run.ending().saga
        assert saga is not None
        assert saga.status is SagaStatus.COMPLETED, saga
        assert self._sandbox.consumer.wait_idle()

    def _store(self, event_type: str, data: Any) -> None:
        self._events = getattr(self, "_events", 0) + 1
        event = InboxEvent(
            event_id=f"event-{self._events}",
            event_type=event_type,
            object_ids=tuple(map(str, data.get("userId", data.get("deptId", ())))),
            born_at=START,
        )
        company = Company(self.connections.dingtalk.conn_id, self.connections.wps.conn_id)
        with Database(self.connections.url) as database, database.transaction() as connection:
            store(connection, [event], companies=[company])

    def _rows(self, query: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.connections.url, row_factory=dict_row) as connection:
            return connection.execute(query.encode()).fetchall()


@contextmanager
def sync_world(url: str, definition: SagaDefinition, *, asking: bool = False) -> Iterator[SyncWorld]:
    with running_sandbox(organisation=small_company(), database_url=url, options=OPTIONS) as sandbox:
        dingtalk = sandbox.dingtalk_connection
        dingtalk = replace(dingtalk, extra={**dingtalk.extra, "calls_per_second": 0})
        wps = sandbox.wps_connection
        if asking:
            wps = replace(wps, extra={**wps.extra, **ASKING})
        yield SyncWorld(Connections(url, dingtalk, wps), sandbox, definition)


@contextmanager
def sync_kit(url: str, definition: SagaDefinition, *, asking: bool = False) -> Iterator[FaultKit]:
    """The kit over one of the sagas; nobody waits, because the database's clock is moved instead.

    `asking`: a person has to approve the plan.
    """
    install_clock(url)
    with (
        sync_world(url, definition, asking=asking) as world,
        FaultKit(url, world.setup, world, preload=[__name__]) as kit,
    ):
        yield kit
