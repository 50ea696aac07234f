"""WPS read back on a real scheduler: `verify_wps` beside a saga that is done, and the DAG `reconcile`."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from e2e.company import COMPENSATIONS, Company
from nancalacc.saga.definition import transaction_id_of

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

PATIENT, RECONCILE = "full_sync__patient", "reconcile"


@pytest.fixture
def company(company: Company) -> Iterator[Company]:
    company.execute("TRUNCATE verifications CASCADE")
    rules = company.sandbox.consumer.rules
    yield company
    company.sandbox.consumer.set_rules(rules)
    company.execute("TRUNCATE dingtalk_events")


def verdicts(company: Company) -> list[str]:
    return [row["verdict"] for row in company.rows("SELECT verdict FROM verifications ORDER BY id")]


def test_a_sync_waits_for_wps_in_the_triggerer_and_is_verified(company: Company):
    api = company.stack.api
    api.wait_for_dag(PATIENT)
    rules = company.sandbox.consumer.rules
    company.sandbox.consumer.set_rules(replace(rules, paused=True))
    run_id = api.trigger(PATIENT, run_id=f"run-{uuid.uuid4().hex[:8]}")
    api.wait_task(PATIENT, run_id, "verify_wps", states={"deferred"})
    # The saga does not wait with it.
    api.wait_task(PATIENT, run_id, "saga_outcome", states={"skipped"})
    [saga] = company.rows("SELECT * FROM saga_transactions")
    assert (saga["status"], saga["transaction_id"]) == (
        "completed",
        transaction_id_of(dag_id=PATIENT, run_id=run_id),
    )
    assert company.lock_holder() is None
    company.sandbox.consumer.set_rules(rules)

    assert api.wait_run(PATIENT, run_id) == "success"
    assert api.task_states(PATIENT, run_id)["verify_wps"] == "success"
    [row] = company.rows("SELECT verdict, looks FROM verifications")
    assert row["verdict"] == "verified"
    assert row["looks"] >= 2
    events = company.rows("SELECT event_data FROM saga_events WHERE event_type = 'verification'")
    assert [event["event_data"]["verdict"] for event in events] == ["verified"]


def test_a_wps_that_cannot_be_read_leaves_a_good_run_good(company: Company):
    company.sandbox.faults.add("html", path="/v7/depts", status=404, times=None)
    run_id = company.run()
    assert company.state(run_id) == "success"
    assert company.saga(run_id)["status"] == "completed"
    tasks = company.tasks(run_id)
    assert tasks["verify_wps"] == "skipped"
    assert {tasks[task] for task in [*COMPENSATIONS, "saga_outcome"]} == {"skipped"}
    assert "cannot be read" in company.log(run_id, "verify_wps")
    company.sandbox.faults.clear()
    assert company.compare().equal

    # Drift shows in the DAG reconcile, which queues it if it is asked to.
    api = company.stack.api
    api.wait_for_dag(RECONCILE)
    company.sandbox.directory.users.pop("u3")
    company.execute(
        'UPDATE saga_steps SET action_data = action_data || \'{"accepted_at": "2026-01-01T00:00:00+00:00"}\''
        " WHERE step_name = 'notify_wps'"
    )
    for repair in (False, True):
        run_id = api.trigger(RECONCILE, conf={"repair": repair}, run_id=f"run-{uuid.uuid4().hex[:8]}")
        assert api.wait_run(RECONCILE, run_id) == "success"
    assert "users u3: missing" in api.log(RECONCILE, run_id, "compare__wps_default")
    assert verdicts(company) == ["unverifiable", "drifted", "drifted"]
    assert [row["queued"] for row in company.rows("SELECT queued FROM verifications ORDER BY id")] == [
        0,
        0,
        1,
    ]
    [event] = company.rows("SELECT event_type, object_ids FROM dingtalk_events")
    assert (event["event_type"], event["object_ids"]) == ("user_modify_org", ["u3"])
    deadline = time.monotonic() + 120
    while company.rows("SELECT status FROM dingtalk_events") != [{"status": "done"}]:
        assert time.monotonic() < deadline, "incremental_sync did not deal with it"
        time.sleep(0.2)
    assert company.compare().equal
