"""DingTalk answers less than there is: nothing is published, and nobody deleted."""

from dataclasses import replace

import pytest

from e2e.company import Company

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

ONE_PAGE = 100


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
