"""`incremental_sync` on a real scheduler, its events from a real listener process."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from e2e.company import small_organisation
from nancalacc.sandbox.consumer import ConsumerRules
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.server import Sandbox, SandboxOptions, running_sandbox
from nancalacc.sandbox.stack import AirflowStack, Component, StackSettings, connection_json
from nancalacc.sandbox.stream import StreamRules

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(400)]

DAG, FULL = "incremental_sync", "full_sync"
IDLE_SECONDS = 8
OPTIONS = SandboxOptions(
    dingtalk=DingTalkRules(calls_per_second=0),
    consumer=ConsumerRules(full_delay=0),
    stream=StreamRules(redelivery=2, emit=True),
)


def until(condition: Callable[[], Any], *, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


@dataclass(frozen=True)
class Installation:
    """A running Airflow, DingTalk and WPS, the database, and a listener."""

    stack: AirflowStack
    sandbox: Sandbox
    database_url: str

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            return connection.execute(query, values or None).fetchall()

    def execute(self, query: str) -> None:
        with psycopg.connect(self.database_url) as connection:
            connection.execute(query)

    def count(self, status: str) -> int:
        return self.rows("SELECT count(*) AS n FROM dingtalk_events WHERE status = %s", status)[0]["n"]

    def is_equal(self) -> bool:
        return self.count("pending") + self.count("claimed") == 0 and self.sandbox.compare().equal

    def newest_run(self, *states: str) -> Any:
        return next((run for run in self.stack.api.runs(DAG) if run["state"] in states), None)

    def waiting_run(self) -> str | None:
        """The run whose sensor waits for events, by its id."""
        run = self.newest_run("running")
        if run is None or self.tasks(run["dag_run_id"]).get("wait_for_events") != "deferred":
            return None
        return str(run["dag_run_id"])

    def tasks(self, run_id: str) -> dict[str, str | None]:
        return self.stack.api.task_states(DAG, run_id)


@pytest.fixture(scope="module")
def installation(
    postgres: Postgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    database_url = postgres.create_database("nancalacc_events", template=template_database)
    home = tmp_path_factory.mktemp("events")
    with running_sandbox(
        organisation=small_organisation(), database_url=database_url, options=OPTIONS
    ) as sandbox:
        settings = StackSettings(
            home=home,
            database_url=postgres.create_database("airflow_events"),
            connections={
                "nancalacc_db": database_url,
                "dingtalk_default": connection_json(sandbox.dingtalk_connection),
                "wps_default": connection_json(sandbox.wps_connection),
            },
            # The triggerer is to find it without the environment.
            stored_connections=frozenset({"nancalacc_db"}),
            environment={
                "NANCALACC_FULL_SYNC_SCHEDULE": "none",
                "NANCALACC_RECOVERY_SCHEDULE": "none",
                "NANCALACC_MAINTENANCE_SCHEDULE": "none",
                "NANCALACC_RETRY_DELAY_SECONDS": "0.2",
                "NANCALACC_HEARTBEAT_SECONDS": "1",
                "NANCALACC_STALE_SECONDS": "6",
                "NANCALACC_IDLE_SECONDS": str(IDLE_SECONDS),
                "NANCALACC_EVENT_PAUSE_SECONDS": "1",
                "NANCALACC_EVENT_ATTEMPTS": "2",
            },
        )
        with AirflowStack(settings) as stack, (home / "listener.log").open("ab") as output:
            listener = subprocess.Popen(
                [sys.executable, "-m", "nancalacc", "listen"],
                env=dict(stack.environment) | {"AIRFLOW_CONN_NANCALACC_DB": database_url},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                until(lambda: sandbox.stream.connections == 1)
                stack.api.wait_for_dag(FULL)
                stack.api.wait_for_dag(DAG)
                yield Installation(stack, sandbox, database_url)
            finally:
                listener.terminate()
                listener.wait(20)


@pytest.fixture
def synced(installation: Installation) -> Installation:
    """The company has had its full sync, and no event is left of former tests."""
    api = installation.stack.api
    if not installation.rows("SELECT FROM known_users"):
        assert api.wait_run(FULL, api.trigger(FULL)) == "success"
    until(installation.is_equal)
    return installation


def person(uid: str, *places: int) -> User:
    return User(
        userid=uid, name=f"员工{uid}", placements=tuple(Placement(place) for place in places or (100,))
    )


def test_changes_reach_wps_by_themselves(synced: Installation):
    organisation = synced.sandbox.organisation
    organisation.add_department("新部门", dept_id=300, parent_id=110)
    organisation.add_user(person("u7", 300))
    organisation.move_user("u3", placements=[Placement(300, 1)])
    organisation.modify_user("u4", name="改名")
    organisation.remove_user("u6")

    until(synced.is_equal)
    statuses = "SELECT DISTINCT status FROM saga_transactions"
    until(lambda: synced.rows(statuses) == [{"status": "completed"}])
    assert synced.newest_run("failed") is None


def test_an_idle_run_is_skipped_and_leaves_no_saga(synced: Installation):
    # The run of the changes before may still be about to end.
    run_id = until(synced.waiting_run)
    assert synced.stack.api.wait_run(DAG, run_id, timeout=IDLE_SECONDS + 40) == "success"
    states = synced.tasks(run_id)
    assert states.pop("settle_saga") == "success"
    assert set(states.values()) == {"skipped"}
    assert synced.rows("SELECT FROM saga_transactions WHERE run_id = %s", run_id) == []


def test_a_failed_batch_gives_its_events_back_and_the_next_one_brings_them(synced: Installation):
    synced.execute(
        """
        CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'broken on purpose'; END $$;
        CREATE TRIGGER broken BEFORE INSERT ON staged_increments FOR EACH STATEMENT EXECUTE FUNCTION broken()
        """
    )
    synced.sandbox.organisation.modify_user("u2", title="组长")
    failed = until(lambda: synced.newest_run("failed"))["dag_run_id"]
    synced.execute("DROP TRIGGER broken ON staged_increments")

    assert "step save_users failed" in synced.stack.api.log(DAG, failed, "saga_outcome")
    [saga] = synced.rows("SELECT * FROM saga_transactions WHERE run_id = %s", failed)
    assert saga["status"] == "compensated"
    until(synced.is_equal)

    # The cleared run gets its turn within the idle wait.
    synced.stack.api.clear(DAG, failed)
    synced.sandbox.organisation.modify_user("u2", title="经理")
    assert synced.stack.api.wait_run(DAG, failed, timeout=IDLE_SECONDS + 60) in {"success", "failed"}
    until(synced.is_equal)


def test_what_wps_refuses_dies_with_its_reason_and_is_tried_again_on_request(synced: Installation):
    rules = synced.sandbox.consumer.rules
    synced.sandbox.consumer.set_rules(replace(rules, rejected=frozenset({"u5"})))
    synced.sandbox.organisation.modify_user("u5", name="不行")
    synced.sandbox.organisation.modify_user("u1", name="可以")
    [dead] = until(lambda: synced.rows("SELECT * FROM dingtalk_events WHERE status = 'dead'"))
    assert "rejected by the sandbox" in dead["error"]
    until(lambda: synced.sandbox.directory.users["u1"].nick_name == "可以")

    synced.sandbox.consumer.set_rules(rules)
    command = [sys.executable, "-m", "nancalacc", "events", "retry", str(dead["id"])]
    environment = dict(synced.stack.environment) | {"AIRFLOW_CONN_NANCALACC_DB": synced.database_url}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    until(synced.is_equal)


def test_nothing_is_lost_while_the_triggerer_restarts(synced: Installation):
    until(lambda: synced.newest_run("running"))
    synced.stack.kill(Component.TRIGGERER)
    synced.sandbox.organisation.add_user(person("u8"))
    synced.stack.start(Component.TRIGGERER)
    until(synced.is_equal, seconds=120)
