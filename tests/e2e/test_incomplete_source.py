"""DingTalk answers less than there is: nothing is published, and nobody deleted."""

from dataclasses import replace

import pytest

from e2e.company import Company

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

ONE_PAGE = 100
CLIENT_TRIES = 5


def test_an_incomplete_source_deletes_nobody(company: Company):
    """Cursors that do not move, empty roots and the like are tested without Airflow (tests/store/sync)."""
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
