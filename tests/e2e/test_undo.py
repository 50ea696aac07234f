"""An undo asked for in the console, on a real scheduler: WPS is as before, by a saga of its own."""

import uuid
from dataclasses import replace

import pytest

from e2e.company import Company
from nancalacc.saga.definition import transaction_id_of

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

UNDO = "undo_sync"


def test_a_sync_that_was_a_mistake_is_taken_back(company: Company):
    api = company.stack.api
    api.wait_for_dag(UNDO)
    company.relax_thresholds()
    assert company.state(company.run()) == "success"
    company.compare()
    before = {user.uid: replace(user, id="", phone="") for user in company.sandbox.directory.users.values()}
    organisation = company.sandbox.organisation
    organisation.remove_user("u6")
    organisation.modify_user("u5", name="错名")
    wrong = company.run()
    assert company.compare().equal

    mistake = f"/nancalacc/sagas/{transaction_id_of(dag_id='full_sync', run_id=wrong)}"
    asked = {"reason": "It was a mistake", "request_id": str(uuid.uuid4())}
    answers = [api.request("POST", f"{mistake}/undo", body=asked) for _ in range(2)]
    assert [answer["changed"] for answer in answers] == [True, False]
    run_id = f"console__{asked['request_id']}"
    assert run_id in answers[0]["message"]
    assert api.wait_run(UNDO, run_id) == "success"
    assert company.sandbox.consumer.wait_idle(30)
    now = {user.uid: replace(user, id="", phone="") for user in company.sandbox.directory.users.values()}
    assert now == before
    saga = company.rows("SELECT * FROM saga_transactions WHERE definition = %s", UNDO)[0]
    assert (saga["status"], saga["dag_id"]) == ("completed", UNDO)
    assert company.lock_holder() is None
    events = api.request("GET", f"{mistake}/events")["items"]
    [asked_for] = [each["event_data"] for each in events if each["event_type"] == "action_requested"]
    assert (asked_for["action"], asked_for["user"]) == ("undo", "admin")
