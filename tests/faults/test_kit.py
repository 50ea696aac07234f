"""The fault kit itself: it covers what a definition has, and notices what is wrong."""

from collections import Counter

import pytest

from faults.booking_saga import booking_kit, forget, pay_without_intent
from faults.toy_subject import ASKED, REJECTED, toy_kit
from nancalacc.faultkit.boundaries import Kind
from nancalacc.faultkit.kit import Way
from nancalacc.faultkit.report import Report
from nancalacc.faultkit.subject import FORWARD, back_from


@pytest.mark.slow
def test_a_saga_that_is_written_well_ends_right_wherever_it_is_killed(database_url):
    with booking_kit(database_url) as kit:
        report = kit.kill_everywhere(FORWARD, back_from("pay"), alternately=True)
    assert report.wrong == ()
    assert "wrong end states: 0" in str(report)


def test_a_compensation_that_forgets_is_noticed_without_any_kill(database_url):
    with (
        booking_kit(database_url, cancel=forget) as kit,
        pytest.raises(AssertionError, match=r"bookings and payments are \(1, 0\), expected \(0, 0\)"),
    ):
        kit.boundaries(back_from("pay"))


def test_a_call_without_an_intent_is_noticed_behind_the_call(database_url):
    with booking_kit(database_url, payment=pay_without_intent) as kit:
        [call] = [each for each in kit.boundaries() if each.kind is Kind.CALL and each.behind]
        report = Report((kit.case(FORWARD, call, way=Way.RECOVERY),))
    assert report.wrong
    assert "WRONG forward, pay: behind call pay 1, then kill, recovery: bookings and payments" in str(report)


def test_the_boundaries_follow_from_the_definition(database_url):
    with booking_kit(database_url) as kit:
        forward, back = kit.boundaries(), kit.boundaries(back_from("pay"))
    assert Counter((each.kind, each.name) for each in forward if each.kind is not Kind.COMMIT) == {
        (Kind.ACTION, "book"): 2,
        (Kind.ACTION, "pay"): 2,
        (Kind.CALL, "pay"): 2,
    }
    assert {each.name for each in back if each.kind is Kind.COMPENSATION} == {"book"}
    jobs = [each.job for each in forward if each.kind is Kind.COMMIT]
    assert list(dict.fromkeys(jobs)) == ["start", "book", "pay", "settle", "outcome"]
    assert all(jobs.count(job) % 2 == 0 for job in jobs)


@pytest.mark.parametrize(
    "scenario, decisions", [(FORWARD, 0), (ASKED, 2), (REJECTED, 1)], ids=lambda value: str(value)
)
def test_the_boundaries_of_a_checkpoint_follow_from_it_and_from_what_is_answered(
    toy_url, scenario, decisions
):
    with toy_kit(toy_url) as kit:
        found = kit.boundaries(scenario)
    kinds = Counter(each.kind for each in found if each.job == "review")
    assert (kinds[Kind.CHECK], kinds[Kind.DECISION]) == (2, decisions)
    assert kinds[Kind.COMMIT] % 2 == 0
    jobs = list(dict.fromkeys(each.job for each in found))
    assert jobs.index("review") == jobs.index("fetch") + 1
    assert ("left" in jobs) is scenario.is_forward
