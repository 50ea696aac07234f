"""DingTalk answers less than there is: nothing is published, and nobody deleted."""

import time
from dataclasses import replace
from typing import Any

import pytest

from e2e.company import Company
from nancalacc.sandbox.organisation import Placement

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

ONE_PAGE = 100
CLIENT_TRIES = 5


def test_an_incomplete_source_deletes_nobody(company: Company):
    organisation, dingtalk = company.sandbox.organisation, company.sandbox.dingtalk
    template = organisation.user("u2")
    for number in range(ONE_PAGE):
        organisation.add_user(replace(template, userid=f"x{number}"))
    company.relax_thresholds()
    assert company.state(company.run()) == "success"
    assert company.compare().equal
    people = set(company.sandbox.directory.users)
    jobs = len(company.sandbox.consumer.jobs)

    def fails(word: str, **conf: bool) -> None:
        run_id = company.run(**conf)
        assert company.state(run_id) == "failed", word
        assert company.saga(run_id)["status"] == "compensated", word
        assert word in company.log(run_id, "saga_outcome")

    company.sandbox.faults.add("sub_code", path="user/list", code="60011", times=None)
    fails("60011")
    company.sandbox.faults.clear()
    company.sandbox.faults.add("lose_page", path="user/list", times=None)
    # The switch lets the guard pass, so that what counts is that they are still there.
    fails("still in DingTalk", allow_mass_delete=True)
    company.sandbox.faults.clear()
    dingtalk.rules = replace(dingtalk.rules, authed_dept=(100,))
    fails("authed_dept")

    assert len(company.sandbox.consumer.jobs) == jobs
    assert set(company.sandbox.directory.users) == people


def test_a_retried_fetch_goes_on_and_a_department_that_vanished_is_explained(company: Company):
    """Airflow's own retries: after one failure the tree is read again, after another one nothing is."""
    faults = company.sandbox.faults
    faults.add("vanish", path="user/list", body={"dept_id": 200}, times=1)
    # Once for validate_task; then every try of one attempt fails at the very end of the reading.
    faults.add("http", path="auth/scopes", after=1, times=CLIENT_TRIES, status=500)
    company.sandbox.calls.clear()
    run_id = company.run()
    assert company.state(run_id) == "success"
    assert company.compare().equal
    calls = {path.rpartition("/v2/")[2]: number for path, number in company.sandbox.calls.counts().items()}
    assert calls["department/listsub"] == 2 * len(company.sandbox.organisation.departments)
    assert calls["user/get"] == len(company.sandbox.organisation.users)
    fetch = company.steps(run_id)["fetch_dingtalk_data"]
    assert fetch["attempt"] == 3
    assert fetch["action_data"]["evidence"]["resumed_from_attempt"] == 2
    assert "Department 200 was removed" in str(
        company.rows("SELECT event_data FROM saga_events WHERE event_type = 'step_failed'")
    )


LISTSUB, LIST = "department/listsub", "user/list"
PASSING = [
    ("repeat_cursor", (LIST,), "the pages would never end"),
    # An empty root, and an empty list of departments.
    ("empty", (LISTSUB, LIST), "still in DingTalk"),
    ("empty", (LISTSUB,), "still in DingTalk"),
]
"""What goes wrong with every call of which paths until an attempt has failed, and what that says."""


def test_what_goes_wrong_while_dingtalk_is_read_deletes_nobody(company: Company):
    sandbox = company.sandbox
    faults, organisation, dingtalk = sandbox.faults, sandbox.organisation, sandbox.dingtalk
    assert company.state(company.run()) == "success"
    unchanged = {"departments": {}, "users": {}, "memberships": {}}

    for kind, paths, word in PASSING:
        for path in paths:
            faults.add(kind, path=path, times=None)
        run_id = company.trigger()
        assert word in failure(company, run_id), (kind, paths)
        faults.clear()
        assert company.wait(run_id) == "success", (kind, paths)
        assert planned(company, run_id) == unchanged, (kind, paths)

    # From a department whose page is still to come to one whose page has been read.
    faults.add("delay", path=LIST, body={"dept_id": 200}, seconds=3)
    sandbox.calls.clear()
    run_id = company.trigger()
    company.wait_until_called(LIST, times=len(organisation.departments))
    organisation.move_user("u5", placements=[Placement(110, 1)])
    assert company.wait(run_id) == "success"
    fetch = company.steps(run_id)["fetch_dingtalk_data"]["action_data"]
    assert fetch["adjusted"]["reasons"]["moved_while_reading"] == 1
    assert planned(company, run_id) == unchanged | {
        "users": {"changed": 1, "moved": 1},
        "memberships": {"added": 1, "removed": 1},
    }

    dingtalk.rules = replace(dingtalk.rules, omitted=frozenset({"mobile", "email", "manager_userid"}))
    run_id = company.run()
    assert company.state(run_id) == "success"
    assert planned(company, run_id) == unchanged
    assert "Nobody's email, phone could be read: WPS keeps the values it has" in company.log(
        run_id, "fetch_dingtalk_data"
    )
    comparison = company.compare()
    assert comparison.equal, comparison.differences


def failure(company: Company, run_id: str) -> str:
    """What the first attempt that fails says, as soon as one has."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        events = company.rows(
            "SELECT event_data FROM saga_events JOIN saga_transactions USING (transaction_id)"
            " WHERE run_id = %s AND event_type = 'step_failed' ORDER BY saga_events.id",
            run_id,
        )
        if events:
            return str(events[0]["event_data"])
        time.sleep(0.1)
    raise AssertionError("no attempt has failed")


def planned(company: Company, run_id: str) -> dict[str, Any]:
    """What a run was to change, by kind of object, without zeros."""
    [plan] = company.rows(
        "SELECT counts FROM sync_plans JOIN saga_transactions USING (transaction_id) WHERE run_id = %s",
        run_id,
    )
    return {
        kind: {sort: number for sort, number in counts.items() if number and sort != "known"}
        for kind, counts in plan["counts"].items()
    }
