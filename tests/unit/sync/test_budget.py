"""The call plan: what the last sync's counts mean at the permitted rate."""

from dataclasses import replace
from datetime import timedelta

import pytest

from nancalacc.config import DingTalkSettings
from nancalacc.errors import RefusedError
from nancalacc.sync.budget import compared, is_much_longer, plan_calls, require_time

SETTINGS = DingTalkSettings("dingtalk_test", "http://x", "http://x", "key", "secret")
HOURS = timedelta(hours=3)


def fetched(departments: int, users: int, pages: int, *, seconds: float = 0, calls: int = 0) -> dict:
    return {
        "departments": departments,
        "users": users,
        "rejected": {"users": 0},
        "collect_cost_ms": seconds * 1000,
        "evidence": {"pages": pages, "calls": {"any": calls}},
    }


def test_calls_are_counted_for_each_api():
    plan = plan_calls(fetched(66, 1250, 70), settings=SETTINGS, limit=HOURS, basis="saga")
    assert plan.calls == {
        "topapi/v2/department/get": 66,
        "topapi/v2/department/listsub": 66,
        "topapi/v2/user/list": 70,
        "topapi/v2/user/get": 1250,
    }
    # Departments are asked twice at the same time; everything else is in turn.
    assert plan.least_seconds == pytest.approx((66 + 70 + 1250) / 15)
    assert "1452 calls" in str(plan)


def test_people_are_not_read_singly_when_the_connection_says_so():
    settings = replace(SETTINGS, user_details=False)
    plan = plan_calls(fetched(66, 1250, 70), settings=settings, limit=HOURS)
    assert plan.total == 202


def test_what_the_last_sync_really_took_counts_when_it_was_longer():
    last = fetched(66, 1250, 70, seconds=300, calls=1452)
    assert plan_calls(last, settings=SETTINGS, limit=HOURS).expected_seconds == pytest.approx(300)
    without = plan_calls(last, settings=replace(SETTINGS, user_details=False), limit=HOURS)
    assert without.expected_seconds == pytest.approx(300 * 202 / 1452)


def test_a_first_sync_has_no_plan_and_is_not_refused():
    plan = plan_calls(None, settings=SETTINGS, limit=HOURS)
    assert (plan.total, plan.expected_seconds) == (0, None)
    require_time(plan, settings=SETTINGS)
    assert "no earlier sync" in str(plan)


@pytest.mark.parametrize("users, refused", [(161_000, False), (161_999, False), (162_001, True)])
def test_a_sync_is_refused_exactly_when_its_calls_do_not_fit(users: int, refused: bool):
    plan = plan_calls(fetched(0, users, 0), settings=SETTINGS, limit=HOURS)
    if not refused:
        require_time(plan, settings=SETTINGS)
        return
    with pytest.raises(RefusedError) as caught:
        require_time(plan, settings=SETTINGS)
    for word in ("dingtalk_test", "'calls_per_second' to 16", "'user_details'", "'root_dept_id'", "10800 s"):
        assert word in str(caught.value)


def test_the_limit_of_an_address_bounds_a_connection_without_one():
    unlimited = replace(SETTINGS, calls_per_second=0)
    small = plan_calls(fetched(0, 9_000, 0), settings=unlimited, limit=HOURS)
    assert (small.least_seconds, small.may_be_blocked) == (0, False)
    large = plan_calls(fetched(0, 110_000, 0), settings=unlimited, limit=HOURS)
    assert large.least_seconds == pytest.approx(200)
    assert large.may_be_blocked
    assert not plan_calls(fetched(0, 110_000, 0), settings=SETTINGS, limit=HOURS).may_be_blocked


def test_what_happened_is_put_beside_the_plan():
    plan = plan_calls(fetched(0, 900, 0), settings=SETTINGS, limit=HOURS).as_data()
    close = compared(plan, calls={"a": 890, "b": 20}, seconds=61)
    assert close["happened"] == {"calls": {"a": 890, "b": 20}, "total": 910, "seconds": 61}
    assert close["planned"]["total"] == 900
    assert not is_much_longer(close)
    assert is_much_longer(compared(plan, calls={}, seconds=130))
    assert not is_much_longer(compared(None, calls={}, seconds=130))
