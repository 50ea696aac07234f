"""`incremental_sync` on a real scheduler, its events from a real listener process."""

import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.company import small_organisation
from e2e.installation import CONFIRM, DAG, LONG_ENOUGH, Installation, installed, until
from nancalacc.sandbox.callback import CallbackRules
from nancalacc.sandbox.consumer import ConsumerRules
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.increments import Readings
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.server import SandboxOptions
from nancalacc.sandbox.stack import Component
from nancalacc.sandbox.stream import StreamRules
from nancalacc.sync.inbox import DEPARTMENT_TYPES, USER_TYPES
from random_organisations import RandomOrganisation

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(600)]

RECOVERY = "saga_recovery"
IDLE_SECONDS = 6
LONGEST_TURN = timedelta(seconds=5 * IDLE_SECONDS + 20)
"""Hours less than what a run would wait behind one that waits for events without end."""
RANDOM_CHANGES, RANDOM_PARTS = 100, 2
OPTIONS = SandboxOptions(
    dingtalk=DingTalkRules(calls_per_second=0),
    consumer=ConsumerRules(full_delay=0),
    stream=StreamRules(redelivery=2, emit=True),
    callback=CallbackRules(redelivery=2),
)


def person(uid: str, *places: int, active: bool = True) -> User:
    placements = tuple(Placement(place) for place in places or (100,))
    return User(userid=uid, name=f"员工{uid}", placements=placements, active=active)


def organisation() -> Organisation:
    """The small one, and somebody who has been invited and has not joined yet."""
    found = small_organisation()
    found.add_user(person("u0", active=False))
    return found


@pytest.fixture(scope="module")
def installation(
    postgres: Postgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    with installed(
        postgres,
        template=template_database,
        name="events",
        home=tmp_path_factory.mktemp("events"),
        organisation=organisation(),
        options=OPTIONS,
        environment={
            "NANCALACC_RETRY_DELAY_SECONDS": "0.2",
            "NANCALACC_HEARTBEAT_SECONDS": "1",
            "NANCALACC_STALE_SECONDS": "6",
            "NANCALACC_IDLE_SECONDS": str(IDLE_SECONDS),
            "NANCALACC_EVENT_PAUSE_SECONDS": "1",
            "NANCALACC_EVENT_ATTEMPTS": "2",
        },
    ) as found:
        yield found


@pytest.fixture
def synced(installation: Installation) -> Installation:
    """The company has had its full sync, and no event is left of former tests."""
    installation.sync_all()
    until(installation.is_equal)
    return installation


def test_changes_reach_wps_by_themselves(synced: Installation):
    organisation = synced.sandbox.organisation
    organisation.add_department("新部门", dept_id=300, parent_id=110)
    organisation.modify_department(110, name="改组", parent_id=1)
    organisation.add_user(person("u7", 300))
    organisation.modify_user("u0", active=True)
    organisation.modify_user("u4", name="改名")
    for uid in ("u3", "u5"):
        organisation.move_user(uid, placements=[Placement(300, 1)])
    organisation.remove_user("u6")
    organisation.remove_department(200)

    until(synced.is_equal)
    handled = synced.rows("SELECT DISTINCT event_type FROM dingtalk_events WHERE status = 'done'")
    assert {row["event_type"] for row in handled} == USER_TYPES | DEPARTMENT_TYPES
    statuses = "SELECT DISTINCT status FROM saga_transactions"
    until(lambda: synced.rows(statuses) == [{"status": "completed"}])
    assert synced.newest_run("failed") is None


def test_an_idle_run_is_skipped_and_leaves_no_saga(synced: Installation):
    # The run of the changes before may still be about to end.
    run_id = until(synced.waiting_run)
    assert synced.stack.api.wait_run(DAG, run_id, timeout=LONG_ENOUGH) == "success"
    states = synced.tasks(run_id)
    assert states.pop("settle_saga") == "success"
    assert set(states.values()) == {"skipped"}
    assert synced.rows("SELECT FROM saga_transactions WHERE run_id = %s", run_id) == []


@contextmanager
def broken(installation: Installation, table: str, *, when: str) -> Iterator[None]:
    """Inserts into a table fail for good, those of whose number `n` this is true.

    A sequence counts on whatever is rolled back.
    """
    installation.execute(
        f"""
        CREATE SEQUENCE inserts;
        CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
        $$ DECLARE n bigint := nextval('inserts'); BEGIN
            IF {when} THEN RAISE EXCEPTION 'broken on purpose'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER broken BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION broken()
        """
    )
    try:
        yield
    finally:
        installation.execute("DROP FUNCTION broken CASCADE; DROP SEQUENCE inserts")


@pytest.fixture
def broken_once(synced: Installation) -> Iterator[None]:
    """The first plan of rows fails for good."""
    with broken(synced, "staged_increments", when="n = 1"):
        yield


def test_a_failed_batch_gives_its_events_back_and_the_next_one_brings_them(
    synced: Installation, broken_once: None
):
    before = synced.failures()
    synced.sandbox.organisation.modify_user("u2", title="组长")
    failed = until(lambda: synced.new_failure(before))

    assert "step save_users failed" in synced.stack.api.log(DAG, failed, "saga_outcome")
    assert synced.saga(failed)["status"] == "compensated"
    until(synced.is_equal)
    assert synced.count("dead") == 0

    # The cleared run gets its turn, and takes what there is then.
    synced.stack.api.clear(DAG, failed)
    synced.sandbox.organisation.modify_user("u2", title="经理")
    until(lambda: synced.tasks(failed)["wait_for_events"] in {"success", "skipped"})
    until(synced.is_equal)


def test_cleared_and_manual_runs_get_their_turn(synced: Installation):
    """They are queued behind a run that waits for events, and would be for ever if that did not end."""
    api = synced.stack.api
    synced.sandbox.organisation.modify_user("u2", title="主管")
    until(synced.is_equal)
    until(synced.waiting_run)
    query = "SELECT run_id FROM saga_transactions WHERE definition = %s AND status = 'completed'"
    completed = synced.rows(query, DAG)[-1]["run_id"]
    asked = datetime.now(tz=UTC)
    api.clear(DAG, completed)
    manual = api.trigger(DAG)
    for run_id in (completed, manual):
        assert api.wait_run(DAG, run_id, timeout=LONG_ENOUGH) == "success"
        started = datetime.fromisoformat(api.run(DAG, run_id)["start_date"])
        assert asked < started < asked + LONGEST_TURN
    until(synced.is_equal)


def test_what_wps_refuses_dies_with_its_reason_and_is_tried_again_on_request(synced: Installation):
    with synced.wps(rejected=frozenset({"u5"})):
        synced.sandbox.organisation.modify_user("u5", name="不行")
        synced.sandbox.organisation.modify_user("u1", name="可以")
        [dead] = until(lambda: synced.rows("SELECT * FROM dingtalk_events WHERE status = 'dead'"))
        assert "rejected by the sandbox" in dead["error"]
        until(lambda: synced.sandbox.directory.users["u1"].nick_name == "可以")

    command = [sys.executable, "-m", "nancalacc", "events", "retry", str(dead["id"])]
    environment = dict(synced.stack.environment) | {"AIRFLOW_CONN_NANCALACC_DB": synced.database_url}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG_ENOUGH)
    assert said.returncode == 0, said.stderr
    until(synced.is_equal)


def test_while_wps_is_at_work_the_step_waits_without_a_worker_and_outlives_a_triggerer(
    synced: Installation,
):
    with synced.wps(paused=True):
        synced.sandbox.organisation.modify_user("u4", title="等待")
        run_id = until(synced.confirming_run)
        assert synced.step(run_id)["status"] == "in_progress"
        synced.stack.kill(Component.TRIGGERER)
        heard = synced.step(run_id)["heartbeat_at"]
        synced.stack.start(Component.TRIGGERER)
        until(lambda: synced.step(run_id)["heartbeat_at"] > heard)
        assert synced.tasks(run_id)[CONFIRM] == "deferred"
    assert synced.stack.api.wait_run(DAG, run_id, timeout=LONG_ENOUGH) == "success"
    assert (synced.step(run_id)["attempt"], synced.step(run_id)["retry_count"]) == (1, 0)
    assert synced.events(run_id, "step_retried") == []
    until(synced.is_equal)


def test_a_waiting_step_that_is_cleared_and_then_marked_as_failed_is_finished_by_the_outcome(
    synced: Installation,
):
    api = synced.stack.api
    with synced.wps(paused=True):
        synced.sandbox.organisation.modify_user("u4", title="标记")
        run_id = until(synced.confirming_run)
        api.clear(DAG, run_id, task_ids=[CONFIRM], downstream=True)
        assert until(lambda: synced.confirming_run(attempt=2)) == run_id
        api.set_task_state(DAG, run_id, CONFIRM, state="failed")
        until(lambda: synced.step(run_id)["attempt"] == 3)
    assert api.wait_run(DAG, run_id, timeout=LONG_ENOUGH) == "failed"
    assert "went forward and is completed" in api.log(DAG, run_id, "saga_outcome")
    assert synced.saga(run_id)["status"] == "completed"
    assert synced.events(run_id, "step_retried") == [CONFIRM, CONFIRM]
    until(synced.is_equal)


def test_a_run_that_is_marked_as_failed_while_a_step_waits_is_finished_by_recovery(synced: Installation):
    api = synced.stack.api
    with synced.wps(paused=True):
        synced.sandbox.organisation.modify_user("u4", title="恢复")
        run_id = until(synced.confirming_run)
        api.set_run_state(DAG, run_id, state="failed")
    assert synced.saga(run_id)["status"] in {"in_progress", "failed"}

    def is_recovered() -> bool:
        recovery = api.trigger(RECOVERY)
        assert api.wait_run(RECOVERY, recovery, timeout=LONG_ENOUGH) == "success"
        return bool(synced.saga(run_id)["status"] == "completed")

    until(is_recovered)
    until(synced.is_equal)


def test_while_dingtalk_is_away_for_a_moment_the_batch_waits_and_then_goes_on(synced: Installation):
    retried = "SELECT count(*) AS n FROM saga_steps WHERE step_name = 'fetch_changes' AND attempt > 1"
    before = synced.rows(retried)
    synced.sandbox.faults.add("http", path="topapi", times=None, status=500)
    synced.sandbox.organisation.modify_user("u3", title="断线")
    until(lambda: synced.rows(retried) != before)
    synced.sandbox.faults.clear()
    until(synced.is_equal)
    assert synced.count("dead") == 0


def test_nothing_is_lost_while_the_triggerer_restarts(synced: Installation):
    until(lambda: synced.newest_run("running"))
    synced.stack.kill(Component.TRIGGERER)
    synced.sandbox.organisation.add_user(person("u8"))
    synced.stack.start(Component.TRIGGERER)
    until(synced.is_equal)


def test_nothing_is_lost_while_the_dag_is_paused_and_the_scheduler_is_killed(synced: Installation):
    api = synced.stack.api
    with synced.wps(paused=True):
        synced.sandbox.organisation.modify_user("u3", title="半路")
        run_id = until(synced.confirming_run)
        api.pause(DAG)
        synced.stack.kill(Component.SCHEDULER)
        synced.sandbox.organisation.add_user(person("u9"))
        until(lambda: synced.count("pending") == 1)
    synced.stack.start(Component.SCHEDULER)
    assert synced.count("pending") == 1
    api.pause(DAG, paused=False)
    assert api.wait_run(DAG, run_id, timeout=LONG_ENOUGH) == "success"
    until(synced.is_equal)


@pytest.fixture
def called_back(synced: Installation) -> Iterator[Installation]:
    """DingTalk tells of changes by HTTP callbacks, and no more by the stream."""
    stream, callback = synced.sandbox.stream.rules, synced.sandbox.callback.rules
    url = f"{synced.stack.base_url}/nancalacc/dingtalk/callback"
    synced.sandbox.stream.rules = replace(stream, emit=False)
    synced.sandbox.callback.rules = replace(callback, url=url, emit=True)
    yield synced
    synced.sandbox.stream.rules, synced.sandbox.callback.rules = stream, callback


def test_a_callback_needs_no_login_of_airflow_and_its_event_reaches_wps(called_back: Installation):
    count = "SELECT count(*) AS n FROM dingtalk_events"
    [before] = called_back.rows(count)
    callback = called_back.sandbox.callback
    called_back.sandbox.organisation.modify_user("u4", title="回调")
    until(lambda: any(reaction.accepted for reaction in callback.reactions))
    assert called_back.rows(count) == [{"n": before["n"] + 1}]
    until(called_back.is_equal)


@pytest.fixture
def talkative(synced: Installation) -> Iterator[Installation]:
    """DingTalk's events come in any order, some twice; the inbox refuses a third of what is to be stored."""
    stream, organisation = synced.sandbox.stream, synced.sandbox.organisation
    usual, tell, chance = stream.rules, organisation.observer, random.Random(4)
    assert tell is not None

    def tell_twice(event_type: str, data: Mapping[str, Any]) -> None:
        """Of one change in four under another id, too."""
        for _ in range(chance.choice((1, 1, 1, 2))):
            tell(event_type, data)

    stream.rules, organisation.observer = replace(usual, duplicates=0.2, disorder=2), tell_twice
    with broken(synced, "dingtalk_events", when="n % 3 = 1"):
        yield synced
    stream.rules, organisation.observer = usual, tell


def test_random_changes_that_are_told_of_again_and_again_end_equal(talkative: Installation):
    """Through listener and scheduler, to a WPS that is strict and late."""
    stream = talkative.sandbox.stream
    former = len(stream.answers)
    changing = RandomOrganisation(talkative.sandbox.organisation, seed=4, kept=frozenset({100}))
    with talkative.wps(increment_delay=1, readings=Readings(unique_contacts=True)):
        for _ in range(RANDOM_PARTS):
            for _ in range(RANDOM_CHANGES // RANDOM_PARTS):
                changing.change()
            # The next changes come while a batch is under way.
            until(lambda: talkative.count("claimed"))
        until(talkative.is_equal)
    assert talkative.count("dead") == 0
    answers = stream.answers[former:]
    assert not all(answer.consumed for answer in answers), "nothing had to be delivered again"
    consumed = [answer.event_id for answer in answers if answer.consumed]
    assert len(consumed) > len(set(consumed)), "nothing came once more"
