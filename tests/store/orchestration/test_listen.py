"""The listener inside one process: which companies an event is for, and when it says later."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, text

from nancalacc.clients.stream import StreamTimes
from nancalacc.config import ConnectionInfo, DingTalkSettings
from nancalacc.errors import ConfigurationError, DatabaseError
from nancalacc.orchestration import listen as listen_module
from nancalacc.orchestration.intake import LARGEST_GROUP, Intake
from nancalacc.orchestration.listen import Listener
from nancalacc.sandbox.organisation import Organisation
from nancalacc.sandbox.server import Sandbox, SandboxOptions
from nancalacc.sandbox.stream import StreamRules
from nancalacc.store import listeners
from nancalacc.store.database import Database
from nancalacc.store.tables import dingtalk_events
from nancalacc.sync.inbox import Company, InboxEvent

QUICK = StreamTimes(first_pause=0.05, longest_pause=0.2)
DATA = {"userId": ["u1"]}
A, B, C = (Company(f"dingtalk_{name}", f"wps_{name}") for name in "abc")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - conditions of another thread set no event
            await asyncio.sleep(0.01)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    options = SandboxOptions(stream=StreamRules(redelivery=0.3))
    async with Sandbox(organisation=Organisation(), options=options) as running:
        yield running


def rows(database: Database) -> list:
    with database.transaction() as connection:
        return list(connection.execute(select(dingtalk_events).order_by(dingtalk_events.c.id)))


@asynccontextmanager
async def listening(
    database: Database,
    connections: dict[str, ConnectionInfo],
    *,
    companies: tuple[Company, ...] = (A,),
    liveness: Path | None = None,
) -> AsyncIterator[None]:
    def resolve(conn_id: str) -> DingTalkSettings:
        if conn_id not in connections:
            raise ConfigurationError(f"Connection {conn_id!r} is not defined")
        return DingTalkSettings.of(connections[conn_id])

    stopping = asyncio.Event()
    listener = Listener(companies, database=database, resolve=resolve, liveness=liveness, times=QUICK)
    task = asyncio.create_task(listener.run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait_for(task, 15)


async def test_one_connection_of_an_app_gets_events_for_all_its_companies(sandbox, database):
    connection = sandbox.dingtalk_connection
    connections = {"dingtalk_a": connection, "dingtalk_b": connection}
    companies = (A, B, Company("dingtalk_a", "wps_second"))
    async with listening(database, connections, companies=companies):
        await until(lambda: sandbox.stream.connections == 2)
        ids = [sandbox.stream.emit("user_add_org", DATA) for _ in range(10)]
        await until(lambda: not sandbox.stream.outstanding)

    assert sorted((row.dingtalk_conn_id, row.wps_conn_id, row.event_id) for row in rows(database)) == sorted(
        (company.dingtalk_conn_id, company.wps_conn_id, event_id) for company in companies for event_id in ids
    )


async def test_events_of_another_app_are_its_own(sandbox, database):
    other = SandboxOptions(app_key="other-app", stream=StreamRules(redelivery=0.3))
    async with Sandbox(organisation=Organisation(), options=other) as neighbour:
        connections = {"dingtalk_a": sandbox.dingtalk_connection, "dingtalk_b": neighbour.dingtalk_connection}
        async with listening(database, connections, companies=(A, B)):
            first, second = (found.stream.emit("user_add_org", DATA) for found in (sandbox, neighbour))
            await until(lambda: not sandbox.stream.outstanding and not neighbour.stream.outstanding)

    assert {(row.dingtalk_conn_id, row.event_id) for row in rows(database)} == {
        ("dingtalk_a", first),
        ("dingtalk_b", second),
    }


async def test_a_company_with_a_wrong_connection_does_not_stop_the_others(
    sandbox, database, tmp_path, caplog
):
    wrong = replace(sandbox.dingtalk_connection, password="wrong-secret")
    connections = {"dingtalk_a": wrong, "dingtalk_b": sandbox.dingtalk_connection}
    liveness = tmp_path / "alive"
    with caplog.at_level(logging.INFO):
        async with listening(database, connections, companies=(A, B, C), liveness=liveness):
            sandbox.stream.emit("user_add_org", DATA)
            await until(lambda: not sandbox.stream.outstanding)
            assert not liveness.exists()
            # A person repairs both: no restart is needed.
            connections |= {"dingtalk_a": sandbox.dingtalk_connection, "dingtalk_c": wrong}
            await until(lambda: sandbox.stream.connections == 2)

    assert "Connection 'dingtalk_c' is not defined" in caplog.text
    assert "wrong app key or app secret" in caplog.text
    assert "wrong-secret" not in caplog.text


async def test_what_cannot_be_stored_is_later_and_then_stored_once(sandbox, database, tmp_path, caplog):
    liveness = tmp_path / "alive"
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE dingtalk_events RENAME TO away"))
    async with listening(database, {"dingtalk_a": sandbox.dingtalk_connection}, liveness=liveness):
        event_id = sandbox.stream.emit("user_add_org", DATA)
        await until(lambda: len(sandbox.stream.answers) >= 2)
        assert {(answer.code, answer.status) for answer in sandbox.stream.answers} == {(500, "LATER")}
        assert not liveness.exists()
        with database.transaction() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO dingtalk_events"))
        await until(lambda: not sandbox.stream.outstanding)
        await until(liveness.exists)

    assert [row.event_id for row in rows(database)] == [event_id]
    assert f"Event {event_id} type=user_add_org outcome=later" in caplog.text
    assert not liveness.exists()


def signs(database: Database) -> dict[str, bool]:
    with database.transaction() as connection:
        return {sign.dingtalk_conn_id: sign.is_connected for sign in listeners.present(connection)}


async def test_a_listener_leaves_signs_of_life_that_say_which_of_its_streams_are_connected(
    sandbox, database, monkeypatch
):
    monkeypatch.setattr(listen_module, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(listeners, "SIGN_SECONDS", 0.2)
    with database.transaction() as connection:
        listeners.seen(connection, listener="yesterday's", connected={"dingtalk_a": True})
        connection.execute(text("UPDATE listeners SET seen_at = seen_at - interval '2 days'"))
    connections = {"dingtalk_a": sandbox.dingtalk_connection}
    async with listening(database, connections, companies=(A, B)):
        await until(lambda: signs(database) == {"dingtalk_a": True, "dingtalk_b": False})
        connections["dingtalk_b"] = sandbox.dingtalk_connection
        await until(lambda: signs(database) == {"dingtalk_a": True, "dingtalk_b": True})
        with database.transaction() as connection:
            connection.execute(text("UPDATE listeners SET seen_at = seen_at - interval '1 hour'"))
        await until(lambda: signs(database) == {"dingtalk_a": True, "dingtalk_b": True})
    assert signs(database) == {"dingtalk_a": False, "dingtalk_b": False}, "it has ended"
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM listeners")).scalar_one() == 2


async def test_a_sign_that_cannot_be_written_disturbs_nobody(sandbox, database, caplog):
    with database.transaction() as connection:
        connection.execute(text("DROP TABLE listeners"))
    async with listening(database, {"dingtalk_a": sandbox.dingtalk_connection}):
        sandbox.stream.emit("user_add_org", DATA)
        await until(lambda: rows(database))
    assert "The sign of life is not written" in caplog.text


async def test_secrets_backends_that_fail_are_asked_again(sandbox, database, caplog):
    class Connections(dict):
        asked = 0

        def __getitem__(self, key):
            self.asked += 1
            if self.asked < 4:
                raise RuntimeError("postgresql://user:password@host")
            return super().__getitem__(key)

    connections = Connections({"dingtalk_a": sandbox.dingtalk_connection})
    async with listening(database, connections):
        await until(lambda: sandbox.stream.connections)

    assert "Connection 'dingtalk_a' cannot be read now: RuntimeError" in caplog.text
    assert "password" not in caplog.text


def event(number: int) -> InboxEvent:
    return InboxEvent(event_id=f"e{number}", event_type="user_add_org", object_ids=("u1",))


@asynccontextmanager
async def intake(database: Database) -> AsyncIterator[Intake]:
    made = Intake(database)
    writer = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def test_events_that_arrive_together_share_transactions(database):
    async with intake(database) as writer:
        new = await asyncio.gather(
            *(writer.put(event(number % 500), companies=[A]) for number in range(1000))
        )
    with database.transaction() as connection:
        transactions = connection.execute(
            text("SELECT count(DISTINCT xmin::text) FROM dingtalk_events")
        ).scalar_one()

    assert new == [True] * 500 + [False] * 500
    assert len(rows(database)) == 500
    assert transactions <= 500 / LARGEST_GROUP + 1


async def test_a_failure_reaches_everybody_who_waits_and_the_next_ones_are_stored(database_url):
    database = Database("postgresql://nobody@127.0.0.1:9/none")
    async with intake(database) as writer:
        waiting = [asyncio.create_task(writer.put(event(number), companies=[A])) for number in range(5)]
        abandoned = waiting.pop()
        await asyncio.sleep(0)
        abandoned.cancel()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [DatabaseError] * 4
    with Database(database_url) as works:
        async with intake(works) as writer:
            assert await writer.put(event(1), companies=[A]) is True
    database.close()
