"""Processes killed at every boundary of every definition: the system ends right, without a person."""

import pytest

from faults.sync_subject import REFUSED, sync_kit
from faults.toy_subject import ASKED, REJECTED, toy_kit
from nancalacc.faultkit.subject import FORWARD, Scenario, back_from, rejected_at
from nancalacc.sync.company import FETCH, PLAN, SAVE_COMPANY, VALIDATE
from nancalacc.sync.full import FULL_SYNC
from nancalacc.sync.incremental import INCREMENTAL_SYNC
from nancalacc.sync.undo import UNDO_SYNC

pytestmark = pytest.mark.timeout(600)

APPROVED = Scenario("forward, when approved")
UNDO_OWN = (VALIDATE, FETCH, PLAN, f"compensation of {FETCH}", f"compensation of {VALIDATE}")
"""Jobs in which an undo does something else than a full sync does."""


def test_the_toy_saga_ends_right_from_some_boundaries(toy_url):
    with toy_kit(toy_url) as kit:
        report = kit.kill_everywhere(FORWARD, back_from("publish"), alternately=True, every=9)
        report += kit.suspend_everywhere(every=25)
    assert not report.wrong


@pytest.mark.slow
def test_the_toy_saga_ends_right(toy_url, record_property):
    with toy_kit(toy_url) as kit:
        report = kit.kill_everywhere(FORWARD, back_from("publish"))
        for scenario in (ASKED, REJECTED):
            report += kit.kill_everywhere(scenario, alternately=True, jobs=["review"])
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.slow
@pytest.mark.parametrize("job", ["right", "publish"])
def test_a_recovery_that_is_killed_is_finished_by_another_one(toy_url, job, record_property):
    with toy_kit(toy_url) as kit:
        last = [boundary for boundary in kit.boundaries() if boundary.job == job][-1]
        report = kit.kill_recovery_everywhere(last)
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "definition, scenarios",
    [
        (FULL_SYNC, (FORWARD, back_from("notify_wps"), REFUSED)),
        (INCREMENTAL_SYNC, (FORWARD, back_from("notify_wps"))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_sync_ends_right(database_url, definition, scenarios, record_property):
    with sync_kit(database_url, definition) as kit:
        report = kit.kill_everywhere(*scenarios, alternately=True)
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.slow
def test_a_plan_that_a_person_decides_about_is_asked_about_again_or_published(database_url, record_property):
    with sync_kit(database_url, FULL_SYNC, asking=True) as kit:
        report = kit.kill_everywhere(APPROVED, alternately=True, jobs=[PLAN])
        report += kit.kill_everywhere(rejected_at(PLAN), alternately=True, jobs=[PLAN])
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.slow
def test_an_undo_ends_right(database_url, record_property):
    with sync_kit(database_url, UNDO_SYNC) as kit:
        report = kit.kill_everywhere(FORWARD, back_from(SAVE_COMPANY), alternately=True, jobs=UNDO_OWN)
        report += kit.kill_everywhere(FORWARD, alternately=True, every=15)
    record_property("figures", str(report))
    assert not report.wrong
