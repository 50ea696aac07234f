"""What a difference means, by what was published and how long ago WPS accepted it."""

import pytest

from nancalacc.sync.drift import Differences
from nancalacc.sync.verdicts import Publication, Verdict, judge

LATE = 1800
NOTHING = Differences()
MANY_EXTRA = Differences(extra={"users": 300})


def publication(age: float = 10, **changes: tuple[int, int]) -> Publication:
    """`changes`: added and removed, by kind."""
    difference = {kind: {"added": added, "removed": removed} for kind, (added, removed) in changes.items()}
    return Publication("saga", "20240502023000", age, difference)


@pytest.mark.parametrize(
    "found, published, verdict",
    [
        (NOTHING, publication(), Verdict.VERIFIED),
        (NOTHING, None, Verdict.VERIFIED),
        # Nothing of it is there yet, and there is time.
        (Differences(missing={"users": 5}), publication(users=(5, 0)), Verdict.PENDING),
        (Differences(extra={"departments": 2}), publication(departments=(0, 2)), Verdict.PENDING),
        (Differences(changed={"users": 1}), publication(users=(0, 0)), Verdict.PENDING),
        # There was time enough.
        (Differences(missing={"users": 5}), publication(LATE + 1, users=(5, 0)), Verdict.DRIFTED),
        # Some of it is there: WPS is done, and something is wrong.
        (Differences(missing={"users": 2}), publication(users=(5, 0)), Verdict.DRIFTED),
        (Differences(missing={"users": 2}), None, Verdict.DRIFTED),
        # Beyond WPS's thresholds, and all of it still there: stopped when there was time, or others came.
        (MANY_EXTRA, publication(users=(0, 300)), Verdict.PENDING),
        (MANY_EXTRA, publication(LATE, users=(0, 300)), Verdict.STOPPED),
        (MANY_EXTRA, publication(users=(7, 300)), Verdict.STOPPED),
        (
            Differences(missing={"users": 7}, extra={"users": 300}),
            publication(LATE, users=(7, 300)),
            Verdict.STOPPED,
        ),
        (Differences(extra={"departments": 21}), publication(LATE, departments=(0, 21)), Verdict.STOPPED),
        (Differences(extra={"memberships": 2}), publication(LATE, memberships=(0, 2)), Verdict.STOPPED),
        # At the edge WPS does it.
        (Differences(extra={"users": 200}), publication(LATE + 1, users=(0, 200)), Verdict.DRIFTED),
        (Differences(extra={"departments": 20}), publication(departments=(0, 20)), Verdict.PENDING),
        # Part of the removals came: no threshold stopped it.
        (Differences(extra={"users": 100}), publication(users=(0, 300)), Verdict.DRIFTED),
    ],
)
def test_a_verdict_follows_from_what_was_published_and_what_is_there(found, published, verdict):
    assert judge(found, published, in_motion=False, late_seconds=LATE)[0] == verdict


def test_nothing_is_concluded_while_another_sync_is_on_its_way():
    assert judge(MANY_EXTRA, publication(), in_motion=True, late_seconds=LATE)[0] is Verdict.PENDING
    assert judge(NOTHING, publication(), in_motion=True, late_seconds=LATE)[0] is Verdict.VERIFIED


def test_a_stopped_job_is_explained_with_the_counts_and_what_to_do():
    message = judge(MANY_EXTRA, publication(LATE, users=(0, 300)), in_motion=False, late_seconds=LATE)[1]
    assert "300 users" in message
    assert "200 users" in message
    assert "WPS console" in message


def test_a_run_that_has_waited_need_not_wait_for_reconcile():
    published = publication(900, users=(0, 300))
    assert judge(MANY_EXTRA, published, in_motion=False, late_seconds=LATE)[0] is Verdict.PENDING
    waited = judge(MANY_EXTRA, published, in_motion=False, late_seconds=LATE, patience=900)
    assert waited[0] is Verdict.STOPPED
