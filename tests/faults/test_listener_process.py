"""A real listener process beside a gateway and a database that come and go."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from nancalacc.sandbox.organisation import Organisation
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.server import Sandbox, SandboxOptions, running_sandbox
from nancalacc.sandbox.stack import connection_json
from nancalacc.sandbox.stream import StreamRules
from nancalacc.store.migrate import upgrade

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DATA = {"timeStamp": "1685501863357", "userId": ["u1"]}
INCLUDE = Path(__file__).parents[2] / "include"
OPTIONS = SandboxOptions(stream=StreamRules(redelivery=1, close_after_disconnect=0.5))


class Inbox:
    """The rows of the inbox, read by somebody else."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def ids(self) -> list[str]:
        return [
            row[0] for row in self._connection.execute("SELECT event_id FROM dingtalk_events ORDER BY id")
        ]

    def count(self) -> int:
        return len(self.ids())

    def is_waited_for(self) -> bool:
        """Whether a session waits for the table."""
        query = "SELECT count(*) FROM pg_locks WHERE relation = 'dingtalk_events'::regclass AND NOT granted"
        row = self._connection.execute(query).fetchone()
        return row is not None and row[0] > 0


class ListenerProcess:
    """`python -m nancalacc listen`, with everything it says in a file."""

    def __init__(self, sandbox: Sandbox, *, database_url: str, home: Path, name: str = "listener") -> None:
        self.liveness = home / f"{name}.alive"
        self.log = home / f"{name}.log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(INCLUDE),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW_CONN_NANCALACC_DB": database_url,
            "AIRFLOW_CONN_DINGTALK_DEFAULT": connection_json(sandbox.dingtalk_connection),
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nancalacc", "listen", "--liveness", str(self.liveness)],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def check(self) -> int:
        command = [sys.executable, "-m", "nancalacc", "listen", "--check", str(self.liveness)]
        return subprocess.run(command, env=self.environment, check=False, capture_output=True).returncode

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def until(condition: Callable[[], object], *, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(organisation=Organisation(), options=OPTIONS) as running:
        yield running


@pytest.fixture
def inbox(database_url: str) -> Iterator[Inbox]:
    opened = Inbox(database_url)
    yield opened
    opened.close()


@contextmanager
def listening(sandbox: Sandbox, *, count: int = 1, **options) -> Iterator[list[ListenerProcess]]:
    running = [ListenerProcess(sandbox, name=f"listener-{number}", **options) for number in range(count)]
    try:
        until(lambda: sandbox.stream.connections == count)
        yield running
    except BaseException:
        for listener in running:
            print(listener.said)
        raise
    finally:
        for listener in running:
            listener.process.kill()
            listener.process.wait()


def test_stores_confirms_lives_and_stops(sandbox, inbox, database_url, tmp_path):
    with listening(sandbox, database_url=database_url, home=tmp_path) as (listener,):
        ids = [sandbox.stream.emit("user_add_org", DATA) for _ in range(50)]
        garbage = sandbox.stream.emit("user_add_org", "{ secret content")
        for frame in ("secret garbage", "[" * 50_000, b"\xff\xfe", '{"type": "EVENT"}'):
            sandbox.stream.send_raw(frame)
        sandbox.stream.ping()
        until(lambda: not sandbox.stream.outstanding)
        until(listener.liveness.exists)

        assert {*ids, garbage} <= set(inbox.ids())
        assert len(inbox.ids()) == 52
        assert sandbox.stream.violations == []
        assert listener.check() == 0
        assert f"Event {ids[0]} type=user_add_org outcome=stored" in listener.said
        assert (
            f"Event {garbage} type=user_add_org outcome=stored: Unreadable: it is not JSON" in listener.said
        )
        assert listener.end() == 0
        assert listener.check() == 1
        assert not listener.liveness.exists()
    for secret in (sandbox.options.app_secret, "secret content", "secret garbage", "ticket", "ws://", "u1"):
        assert secret not in listener.said
    assert "Traceback" not in listener.said


def settled(sandbox: Sandbox) -> set[str]:
    """The confirmed events, once the gateway has read every answer that is on its way."""
    before = -1
    while before != len(sandbox.stream.answers):
        before = len(sandbox.stream.answers)
        time.sleep(0.3)
    return set(sandbox.stream.consumed())


def test_killed_between_commit_and_answer_nothing_is_lost_and_nothing_is_doubled(
    sandbox, inbox, database_url, tmp_path
):
    """The process is stopped again and again until it happens to be in between."""
    sandbox.stream.rules = replace(OPTIONS.stream, redelivery=5)
    ids: list[str] = []
    with listening(sandbox, database_url=database_url, home=tmp_path) as (listener,):
        for _ in range(50):
            ids += [sandbox.stream.emit("user_add_org", DATA) for _ in range(300)]
            time.sleep(0.03)
            listener.process.send_signal(signal.SIGSTOP)
            confirmed = settled(sandbox)
            unconfirmed = set(inbox.ids()) - confirmed
            assert confirmed <= set(inbox.ids())
            if unconfirmed:
                break
            listener.process.send_signal(signal.SIGCONT)
        assert unconfirmed
        listener.end(signal.SIGKILL)
    with listening(sandbox, database_url=database_url, home=tmp_path) as (listener,):
        until(lambda: not sandbox.stream.outstanding)
        assert "outcome=repeated" in listener.said

    assert sorted(inbox.ids()) == sorted(ids)


def test_killed_between_receipt_and_commit_the_event_comes_again_and_is_stored_once(
    sandbox, inbox, database_url, tmp_path
):
    with listening(sandbox, database_url=database_url, home=tmp_path) as (listener,):
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE dingtalk_events IN SHARE MODE")
            event_id = sandbox.stream.emit("user_add_org", DATA)
            until(lambda: inbox.is_waited_for())
            listener.end(signal.SIGKILL)
        assert sandbox.stream.consumed() == []
    # What the dead listener sent before it died must not count.
    assert inbox.ids() in ([], [event_id])
    with listening(sandbox, database_url=database_url, home=tmp_path):
        until(lambda: not sandbox.stream.outstanding)
    assert inbox.ids() == [event_id]


def test_two_listeners_share_the_events_and_double_none(sandbox, inbox, database_url, tmp_path):
    sandbox.stream.rules = replace(OPTIONS.stream, duplicates=0.5, disorder=0.5)
    with listening(sandbox, count=2, database_url=database_url, home=tmp_path) as listeners:
        ids = [sandbox.stream.emit("org_dept_modify", {"deptId": [7]}) for _ in range(300)]
        until(lambda: not sandbox.stream.outstanding)
        assert all("outcome=stored" in listener.said for listener in listeners)
        listeners[0].end(signal.SIGKILL)
        ids += [sandbox.stream.emit("org_dept_modify", {"deptId": [7]}) for _ in range(20)]
        until(lambda: not sandbox.stream.outstanding)

    assert sorted(inbox.ids()) == sorted(ids)


def test_told_to_stop_in_a_burst_it_confirms_only_what_is_stored(sandbox, inbox, database_url, tmp_path):
    with listening(sandbox, database_url=database_url, home=tmp_path) as (listener,):
        ids = [sandbox.stream.emit("user_add_org", DATA) for _ in range(2000)]
        until(lambda: sandbox.stream.consumed())
        assert listener.end(signal.SIGINT) == 0
        assert set(sandbox.stream.consumed()) <= set(inbox.ids())
    with listening(sandbox, database_url=database_url, home=tmp_path):
        until(lambda: not sandbox.stream.outstanding)

    assert sorted(inbox.ids()) == sorted(ids)


def test_survives_a_restart_of_the_gateway(inbox, database_url, tmp_path):
    with ExitStack() as first_life:
        first = first_life.enter_context(running_sandbox(organisation=Organisation(), options=OPTIONS))
        with listening(first, database_url=database_url, home=tmp_path) as (listener,):
            one = first.stream.emit("user_add_org", DATA)
            until(lambda: first.stream.consumed())
            first_life.close()
            time.sleep(2)
            with running_sandbox(organisation=Organisation(), options=OPTIONS, port=first.port) as second:
                two = second.stream.emit("user_add_org", DATA)
                until(lambda: second.stream.consumed())
                assert inbox.ids() == [one, two]
                assert listener.end() == 0


def test_told_to_stop_while_the_inbox_is_locked_it_ends_without_confirming(
    sandbox, inbox, database_url, tmp_path
):
    with listening(sandbox, database_url=database_url, home=tmp_path) as (listener,):
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE dingtalk_events")
            event_id = sandbox.stream.emit("user_add_org", DATA)
            time.sleep(0.5)
            assert listener.end() == 0
        assert sandbox.stream.outstanding == [event_id]
        assert inbox.ids() == []


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that may be hurt."""
    with Postgres(durable=False) as server:
        yield server


def test_survives_restarts_of_the_database(sandbox, own_postgres, tmp_path):
    url = own_postgres.create_database("restarted")
    upgrade(url)
    with listening(sandbox, database_url=url, home=tmp_path) as (listener,):
        ids = [sandbox.stream.emit("user_add_org", DATA)]
        until(lambda: sandbox.stream.consumed())
        with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
            backends = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'nancalacc-listen'"
            ).fetchall()
        # One killed backend makes PostgreSQL end all others and recover.
        os.kill(backends[0][0], signal.SIGKILL)
        ids += [sandbox.stream.emit("user_add_org", DATA) for _ in range(20)]
        until(lambda: not sandbox.stream.outstanding)

        with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
            connection.execute("ALTER DATABASE restarted ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'restarted'"
            )
            ids += [sandbox.stream.emit("user_add_org", DATA) for _ in range(20)]
            until(lambda: any(answer.status == "LATER" for answer in sandbox.stream.answers))
            assert sandbox.stream.connections == 1
            connection.execute("ALTER DATABASE restarted ALLOW_CONNECTIONS true")
        until(lambda: not sandbox.stream.outstanding)
        with closing(Inbox(url)) as reader:
            assert sorted(reader.ids()) == sorted(ids)
        assert "outcome=later" in listener.said
        assert listener.end() == 0
    assert sandbox.stream.opened == 1


def test_without_a_schema_or_a_connection_it_says_so_and_ends(sandbox, postgres, tmp_path):
    url = postgres.create_database("no_schema")
    listener = ListenerProcess(sandbox, database_url=url, home=tmp_path)
    assert listener.process.wait(40) == 1
    assert "run `python -m nancalacc db upgrade`" in listener.said
    postgres.drop_database("no_schema")
