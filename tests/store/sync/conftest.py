"""A full sync without Airflow: the real engine, a real database, the sandbox for both sides."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.transport import AnswerLostError, NotSentError, Response
from nancalacc.clients.wps import WpsClient
from nancalacc.config import ConnectionInfo, DingTalkSettings, Settings, WpsSettings
from nancalacc.errors import ConfigurationError
from nancalacc.saga.coordinator import Coordinator
from nancalacc.saga.definition import transaction_id_of
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.consumer import ConsumerRules
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sandbox.server import Sandbox, SandboxOptions, running_sandbox
from nancalacc.sandbox.snapshot import Thresholds
from nancalacc.store.database import Database
from nancalacc.store.repository import SagaStore
from nancalacc.sync.full import FULL_SYNC
from nancalacc.sync.services import RunInfo, SyncServices

START = datetime(2024, 5, 1, 18, 30, 0, tzinfo=UTC)
"""02:30:00 on the 2nd of May in Shanghai."""


class SessionTransport:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def __call__(self, method, url, *, headers, body=None, timeout) -> Response:
        try:
            async with self.session.request(
                method, url, headers=headers, data=body, timeout=aiohttp.ClientTimeout(timeout)
            ) as response:
                return Response(response.status, {}, await response.read())
        except aiohttp.ClientConnectorError as error:
            raise NotSentError("not sent") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AnswerLostError("answer lost") from error


async def no_sleep(_: float) -> None:
    return None


@dataclass
class Company:
    """One company's pair of connections; the extra may be changed before a run."""

    dingtalk: ConnectionInfo
    wps: ConnectionInfo

    def change(self, side: str, **extra: Any) -> None:
        connection = getattr(self, side)
        setattr(self, side, replace(connection, extra={**connection.extra, **extra}))


class FullSync:
    """Runs full syncs step by step, as the tasks of a DAG run do."""

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        self.database = Database(url)
        self.store = SagaStore(self.database)
        self.coordinator = Coordinator(self.store, heartbeat_seconds=1, stale_seconds=6)
        self.sandbox = sandbox
        self.company = Company(sandbox.dingtalk_connection, sandbox.wps_connection)
        self.company.change("dingtalk", calls_per_second=0)
        self.settings = Settings(lock_wait_seconds=0, busy_wait_seconds=1)
        self.runs = 0

    def dingtalk(self, conn_id: str) -> AbstractAsyncContextManager[DingTalkClient]:
        return self.dingtalk_at(self.company.dingtalk)

    def wps(self, conn_id: str) -> AbstractAsyncContextManager[WpsClient]:
        return self.wps_at(self.company.wps)

    @asynccontextmanager
    async def dingtalk_at(self, connection: ConnectionInfo) -> AsyncIterator[DingTalkClient]:
        async with aiohttp.ClientSession() as session:
            yield DingTalkClient(
                DingTalkSettings.of(connection), transport=SessionTransport(session), sleep=no_sleep
            )

    @asynccontextmanager
    async def wps_at(self, connection: ConnectionInfo) -> AsyncIterator[WpsClient]:
        async with aiohttp.ClientSession() as session:
            yield WpsClient(WpsSettings.of(connection), transport=SessionTransport(session), sleep=no_sleep)

    def dingtalk_settings(self, conn_id: str) -> DingTalkSettings:
        if conn_id != self.company.dingtalk.conn_id:
            raise ConfigurationError(f"Connection {conn_id!r} is not defined")
        return DingTalkSettings.of(self.company.dingtalk)

    def wps_settings(self, conn_id: str) -> WpsSettings:
        if conn_id != self.company.wps.conn_id:
            raise ConfigurationError(f"Connection {conn_id!r} is not defined")
        return WpsSettings.of(self.company.wps)

    def services(self, run_id: str, start: datetime) -> SyncServices:
        return SyncServices(
            settings=self.settings,
            run=RunInfo(start=start, run_id=run_id),
            dingtalk_settings=self.dingtalk_settings,
            wps_settings=self.wps_settings,
            dingtalk=self.dingtalk,
            wps=self.wps,
            sleep=lambda _: None,
        )

    def start(self, run_id: str = "", *, start: datetime | None = None, **params: Any) -> "Run":
        """A new run; each starts an hour after the one before."""
        self.runs += 1
        moment = start or START + timedelta(hours=self.runs - 1)
        return Run(self, run_id or f"run_{self.runs}", params=params, start=moment)

    def complete(self, **params: Any) -> "Run":
        """Run a full sync to its end, which must be completed, and let WPS apply it."""
        run = self.start(**params)
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        self.sandbox.consumer.run_now()
        assert self.sandbox.consumer.wait_idle()
        return run

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self.database.transaction() as connection:
            return list(connection.execute(text(sql), values).all())

    def value(self, sql: str, **values: Any) -> Any:
        return self.rows(sql, **values)[0][0]

    def execute(self, sql: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(sql), values)


class Run:
    """One run of the DAG."""

    def __init__(self, sync: FullSync, run_id: str, *, params: Mapping[str, Any], start: datetime) -> None:
        self.sync = sync
        self.params = params
        self.services = sync.services(run_id, start)
        self.transaction_id = transaction_id_of(dag_id="full_sync", run_id=run_id)
        sync.coordinator.start(FULL_SYNC, dag_id="full_sync", run_id=run_id, params=params)

    def step(self, name: str) -> Mapping[str, Any]:
        return self.sync.coordinator.run_step(
            FULL_SYNC, self.transaction_id, name, services=self.services, params=self.params
        )

    def steps(self, *, to: str = "update_task_status") -> Mapping[str, Any]:
        data: Mapping[str, Any] = {}
        for step in FULL_SYNC:
            data = self.step(step.name)
            if step.name == to:
                break
        return data

    def fails(self, kind: type[Exception], *, match: str, at: str = "update_task_status") -> None:
        """Run the steps up to the one that must fail for good, and settle what follows."""
        with pytest.raises(kind, match=match) as caught:
            self.steps(to=at)
        step = next(each.name for each in self.records.values() if each.error_message)
        self.sync.coordinator.fail(self.transaction_id, step=step, error=str(caught.value))
        self.settle()

    def settle(self) -> SagaStatus:
        return self.sync.coordinator.conclude(FULL_SYNC, self.transaction_id, services=self.services).status

    @property
    def saga(self):
        return self.sync.coordinator.get(self.transaction_id)[0]

    @property
    def status(self) -> SagaStatus:
        return self.saga.status

    @property
    def records(self):
        return {record.name: record for record in self.sync.coordinator.get(self.transaction_id)[1]}

    @property
    def events(self) -> list[tuple[str, Any]]:
        return [
            (each.event_type, each.event_data) for each in self.sync.coordinator.events(self.transaction_id)
        ]


def company() -> Organisation:
    """研发部 (100) with 一组 (110), 市场部 (200); 30 people, u00 in two departments, boss in the root."""
    organisation = Organisation(name="公司")
    organisation.add_department("研发部", dept_id=100, order=10)
    organisation.add_department("一组", dept_id=110, parent_id=100, order=5_000_000_000)
    organisation.add_department("市场部", dept_id=200, order=20)
    for number in range(30):
        home = (100, 110, 200)[number % 3]
        placements = [Placement(home, number, number < 3)]
        if number == 0:
            placements.append(Placement(200, 6_000_000_000))
        organisation.add_user(
            User(
                userid=f"u{number:02d}",
                name=f"员工{number}",
                placements=tuple(placements),
                mobile=f"199000000{number:02d}",
                telephone="8001",
                email=f"u{number}@example.com",
                job_number=f"J{number}",
                title="工程师",
                manager_userid="boss",
                active=number != 5,
            )
        )
    organisation.add_user(User(userid="boss", name="总", placements=(Placement(1),), mobile="19911111111"))
    return organisation


@pytest.fixture
def organisation() -> Organisation:
    return company()


@pytest.fixture
def sandbox(database_url: str, organisation: Organisation) -> Iterator[Sandbox]:
    options = SandboxOptions(
        dingtalk=DingTalkRules(calls_per_second=0),
        consumer=ConsumerRules(
            full_delay=0, thresholds=Thresholds(users=10**6, departments=10**6, memberships=10**6)
        ),
    )
    with running_sandbox(organisation=organisation, database_url=database_url, options=options) as running:
        yield running


@pytest.fixture
def sync(database_url: str, sandbox: Sandbox) -> Iterator[FullSync]:
    full_sync = FullSync(database_url, sandbox)
    yield full_sync
    full_sync.database.close()
