"""How long an event takes to reach WPS on a running Airflow, and how fast many do [design 9].

The sandbox runs in a process of its own, as DingTalk and WPS do.
"""

import json
import random
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from bench.targets import at_least, at_most
from bench.tasks import sandbox_client, sandbox_process
from e2e.installation import DAG, FULL, until
from nancalacc.config import ConnectionInfo
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.stack import AirflowStack, StackSettings, connection_json
from nancalacc.store.migrate import upgrade
from nancalacc.sync.incremental import INCREMENTAL_SYNC

pytestmark = [pytest.mark.bench, pytest.mark.slow, pytest.mark.airflow]

EMPTY_DAG = "empty_incremental_sync"
DAGS = Path(__file__).parents[1] / "e2e" / "dags"
PEOPLE, DEPARTMENTS = 5_000, 100
EVENTS, ROUNDS = 50, 5
TARGET_SECONDS = 10.0
CALLS_PER_SECOND, TARGET_SHARE = 20, 0.9
TARGET_PER_SECOND = 40.0
LONGEST_DRAIN_SECONDS = 1_200.0


class Running:
    """Airflow, the company's database, and DingTalk and WPS in a process of their own."""

    def __init__(self, stack: AirflowStack, database_url: str, sandbox_url: str) -> None:
        self.stack = stack
        self.database = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
        self.sandbox = sandbox_client(sandbox_url)
        self.sandbox_url = sandbox_url

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        return self.database.execute(query, values or None).fetchall()

    def put(self, uids: Sequence[str]) -> float:
        """Put an event for each person into the inbox; returns when."""
        with self.database.transaction(), self.database.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO dingtalk_events"
                " (dingtalk_conn_id, wps_conn_id, event_id, event_type, object_ids) VALUES"
                " ('dingtalk_default', 'wps_default', %s, 'user_modify_org', jsonb_build_array(%s::text))",
                [(uuid.uuid4().hex, uid) for uid in uids],
            )
        return time.time()

    def modify(self, uid: str) -> None:
        body = {"title": uuid.uuid4().hex[:8]}
        self.sandbox.patch(f"/dingtalk/users/{uid}", json=body).raise_for_status()

    def calls_of_wps(self) -> int:
        counts = self.sandbox.get("/calls").raise_for_status().json()["calls"]
        return sum(number for path, number in counts.items() if path.endswith("/increment/sync"))

    def is_done(self) -> bool:
        open_ = (
            "SELECT FROM dingtalk_events WHERE status <> 'done' UNION ALL SELECT FROM saga_transactions"
            " WHERE status NOT IN ('completed', 'compensated', 'cancelled')"
        )
        return not self.rows(open_)

    def limit(self, calls_per_second: int) -> None:
        """Let DingTalk permit so many calls a second from now on, and the connection keep to it."""
        fields = json.loads(connections(self.sandbox_url)["dingtalk_default"])
        extra = fields["extra"] | {"calls_per_second": calls_per_second}
        body = {"connection_id": "dingtalk_default", "conn_type": "http", "extra": json.dumps(extra)}
        query = {"update_mask": ["extra"]}
        self.stack.api.call("PATCH", "/connections/dingtalk_default", body=body, query=query)
        rules = {"dingtalk": {"calls_per_second": calls_per_second}}
        self.sandbox.patch("/settings", json=rules).raise_for_status()

    def uids(self) -> list[str]:
        return [row["uid"] for row in self.rows("SELECT uid FROM known_users ORDER BY uid")]


def connections(sandbox_url: str) -> dict[str, str]:
    dingtalk = ConnectionInfo(
        "dingtalk_default",
        host=sandbox_url,
        login="sandbox-app",
        password="sandbox-app-secret",
        extra={"api_host": sandbox_url, "calls_per_second": 0},
    )
    wps = ConnectionInfo(
        "wps_default",
        host=sandbox_url,
        login="sandbox-client",
        password="sandbox-client-secret",
        extra={
            "third_company_id": "sandbox",
            "platform_id": "dingtalk",
            "company_id": "sandbox-wps",
            "phone_salt_secret": "sandbox-salt",
        },
    )
    return {each.conn_id: connection_json(each) for each in (dingtalk, wps)}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("events")
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(durable=True))
        url = postgres.create_database("events")
        upgrade(url)
        sandbox_url = stack.enter_context(
            sandbox_process(home, people=PEOPLE, departments=DEPARTMENTS, database_url=url)
        )
        settings = StackSettings(
            home=home,
            database_url=postgres.create_database("airflow"),
            connections={"nancalacc_db": url, **connections(sandbox_url)},
            stored_connections=frozenset({"dingtalk_default"}),
            more_dags={"tests": DAGS},
            environment={
                "NANCALACC_FULL_SYNC_SCHEDULE": "none",
                "NANCALACC_RECOVERY_SCHEDULE": "none",
                "NANCALACC_MAINTENANCE_SCHEDULE": "none",
            },
        )
        airflow = stack.enter_context(AirflowStack(settings))
        for dag_id in (FULL, DAG, EMPTY_DAG):
            airflow.api.wait_for_dag(dag_id)
        full = airflow.api.trigger(FULL)
        assert airflow.api.wait_run(FULL, full, timeout=600) == "success"
        found = Running(airflow, url, sandbox_url)
        # Events of the half hour after a full sync are handled twice, which is not to be measured.
        found.database.execute(
            "UPDATE saga_steps SET action_data = action_data || jsonb_build_object('accepted_at',"
            " now() - interval '1 hour') WHERE step_name = 'notify_wps' AND action_data ? 'accepted_at'"
        )
        until(lambda: found.sandbox.get("/wps?counts").json()["idle"])
        yield found
        found.database.close()
        found.sandbox.close()


def empty_seconds(running: Running) -> float:
    """From the start of an empty run of the same shape to the end of its `notify_wps`."""
    api = running.stack.api
    run_id = api.trigger(EMPTY_DAG, run_id=f"bench-{uuid.uuid4().hex[:8]}")
    assert api.wait_run(EMPTY_DAG, run_id) == "success"
    begin = datetime.fromisoformat(api.run(EMPTY_DAG, run_id)["start_date"])
    end = datetime.fromisoformat(api.task_instances(EMPTY_DAG, run_id)["notify_wps"]["end_date"])
    return (end - begin).total_seconds()


def event_seconds(running: Running, uid: str) -> tuple[float, float]:
    """From an event's being in the inbox to the call of WPS; returns also when it was put there."""
    running.modify(uid)
    before = running.calls_of_wps()
    put = running.put([uid])
    until(lambda: running.calls_of_wps() > before)
    return time.time() - put, put


def parts(running: Running, put: float) -> dict[str, float]:
    """Seconds from the putting of the newest event to the end of each task of its run."""
    query = "SELECT run_id FROM saga_transactions WHERE definition = %s ORDER BY id DESC LIMIT 1"
    run_id = running.rows(query, DAG)[0]["run_id"]
    tasks = running.stack.api.task_instances(DAG, run_id)
    return {
        name: datetime.fromisoformat(tasks[name]["end_date"]).timestamp() - put
        for name in ("wait_for_events", *(step.name for step in INCREMENTAL_SYNC))
    }


def drain_seconds(running: Running, uids: Sequence[str]) -> float:
    """From the arrival of an event for each of these people to the end of the last batch."""
    until(running.is_done)
    put = running.put(uids)
    until(running.is_done, seconds=LONGEST_DRAIN_SECONDS)
    return time.time() - put


def test_single_events(running: Running) -> None:
    chance = random.Random(1)
    empty_seconds(running)
    empty = [empty_seconds(running) for _ in range(ROUNDS)]
    ours: list[float] = []
    ends: dict[str, list[float]] = {}
    for uid in running.uids()[:EVENTS]:
        taken, put = event_seconds(running, uid)
        ours.append(taken)
        until(running.is_done)
        for name, seconds in parts(running, put).items():
            ends.setdefault(name, []).append(seconds)
        # At any moment of what runs do between two batches.
        time.sleep(chance.uniform(0, 4))
    p50, p95 = statistics.median(ours), statistics.quantiles(ours, n=20)[-1]
    same = statistics.median(empty)
    print(
        f"\n{EVENTS} single events, inbox to WPS called: p50 {p50:.1f} s, p95 {p95:.1f} s"
        f" ({at_most(p95, TARGET_SECONDS, ' s')}); the same graph doing nothing, from its start to the"
        f" end of notify_wps: {same:.1f} s, p50 is {p50 / same:.2f} times that"
    )
    for name, seconds in ends.items():
        print(f"  {name:20} ended after {statistics.median(seconds):5.1f} s (median)")


def test_a_burst_without_a_limit(running: Running) -> None:
    uids = running.uids()
    seconds = drain_seconds(running, uids)
    rate = len(uids) / seconds
    print(
        f"\nburst of {len(uids)} events without a limit: {seconds:.0f} s, {rate:.0f} a second"
        f" ({at_least(rate, TARGET_PER_SECOND)})"
    )


def test_a_burst_within_the_permitted_rate(running: Running) -> None:
    running.limit(CALLS_PER_SECOND)
    uids = running.uids()
    seconds = drain_seconds(running, uids)
    rate = len(uids) / seconds
    share = rate / CALLS_PER_SECOND
    print(
        f"\nburst of {len(uids)} events within {CALLS_PER_SECOND} calls a second: {seconds:.0f} s,"
        f" {rate:.1f} a second, {share:.0%} of the permitted rate"
        f" ({at_least(100 * share, 100 * TARGET_SHARE, ' %')})"
    )
