"""Limits: what they allow, how they are written, and who may write them."""

import pytest

from nancalacc.config import ConnectionInfo, WpsSettings
from nancalacc.errors import ConfigurationError
from nancalacc.limits import DEFAULTS, Limit, Limits
from nancalacc.sync.breaches import beyond_wps, breaches, listed
from nancalacc.sync.plan import SORTS, Plan, Subtree
from nancalacc.sync.staging import Fetch

EXTRA = {"third_company_id": "c", "platform_id": "p", "company_id": "w", "phone_salt_secret": "s"}
NAMES = [name for name in DEFAULTS if not name.startswith("subtree_")]


def counts(**numbers: int) -> dict[str, dict[str, int]]:
    """Of each kind 100 are known; `users_removed=3` and the like say what changes."""
    found = {
        kind: {"known": 100, **dict.fromkeys(SORTS, 0)} for kind in ("departments", "users", "memberships")
    }
    for name, number in numbers.items():
        kind, _, sort = name.rpartition("_")
        found[kind][sort] = number
    return found


def plan(**numbers: int) -> Plan:
    return Plan(Fetch("t", epoch=1, attempt=1), "c", "h", counts(**numbers), ())


def settings(**extra: object) -> WpsSettings:
    connection = ConnectionInfo(
        conn_id="wps", host="https://example.com", login="i", password="s", extra=EXTRA | extra
    )
    return WpsSettings.of(connection)


@pytest.mark.parametrize(
    "limit, of, allowed",
    [
        (Limit(200, 5, 10), 50, 10),
        (Limit(200, 5, 10), 199, 10),
        (Limit(200, 5, 10), 220, 11),
        (Limit(200, 5, 10), 1000, 50),
        (Limit(200, 5, 10), 50_000, 200),
        (Limit(200, 5, 20), 3, 20),
        (Limit(3, 100, 10), 50, 3),
        (Limit(0, 0, 0), 50, 0),
    ],
)
def test_a_limit_is_a_number_and_a_percentage_with_a_few_always_allowed(limit, of, allowed):
    assert limit.allowed(of) == allowed


@pytest.mark.parametrize("people, allowed", [(10, 20), (50, 20), (1000, 50), (10_000, 500), (50_000, 500)])
def test_by_default_twenty_people_or_a_twentieth_may_go_at_once(people, allowed):
    assert DEFAULTS["users_removed"].allowed(people) == allowed


@pytest.mark.parametrize("name", NAMES)
def test_by_default_a_small_department_may_be_dissolved_or_moved_whole(name):
    assert DEFAULTS[f"subtree_{name}"].allowed(20) >= 20


@pytest.mark.parametrize("name", ["users_removed", "departments_removed"])
def test_no_default_stops_less_than_what_the_whole_allows_in_a_company_of_a_thousand(name):
    assert DEFAULTS[f"subtree_{name}"].allowed(0) >= min(50, DEFAULTS[name].allowed(400))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number, is_breach", [(4, False), (5, False), (6, True)])
def test_each_limit_holds_for_the_whole_up_to_its_edge(name, number, is_breach):
    limits = Limits().changed(dict.fromkeys(DEFAULTS, "none") | {name: "5 100% 0"}, where="test")
    found = breaches(plan(**{name: number}), (), limits=limits)
    assert [each.number for each in found] == ([6] if is_breach else [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number, is_breach", [(29, False), (30, False), (31, True)])
def test_each_limit_holds_for_a_subtree_up_to_its_edge(name, number, is_breach):
    texts = dict.fromkeys(DEFAULTS, "none") | {f"subtree_{name}": "1000 30% 0"}
    subtree = Subtree("200", "市场部", counts(**{name: number}))
    found = breaches(plan(), (subtree,), limits=Limits().changed(texts, where="test"))
    assert [(each.number, each.within) for each in found] == ([(31, "市场部 (200)")] if is_breach else [])


@pytest.mark.parametrize("did", ["", "1"])
def test_the_root_and_what_hangs_nowhere_are_no_subtrees(did):
    texts = dict.fromkeys(DEFAULTS, "none") | {"subtree_users_removed": "0 0% 0"}
    subtree = Subtree(did, None, counts(users_removed=1))
    assert breaches(plan(), (subtree,), limits=Limits().changed(texts, where="test")) == ()


def test_of_many_breaches_the_first_are_named_and_the_others_counted():
    texts = dict.fromkeys(DEFAULTS, "0 0% 0")
    found = breaches(plan(**dict.fromkeys(NAMES, 2)), (), limits=Limits().changed(texts, where="test"))
    assert listed(found[:1]) == "2 of 100 users would be removed, the limit is 0"
    assert listed(found).endswith("and 1 more")


def test_what_wps_itself_would_stop_is_told_by_its_own_thresholds():
    assert beyond_wps(counts(users_removed=200, departments_removed=20, memberships_removed=1)) == {}
    found = beyond_wps(counts(users_removed=201, departments_removed=20, memberships_removed=2))
    assert found == {"users": 201, "memberships": 2}


def test_the_environment_sets_limits_of_all_and_a_connection_those_of_its_company(monkeypatch):
    monkeypatch.setenv("NANCALACC_LIMIT_USERS_REMOVED", "7 1% 2")
    monkeypatch.setenv("NANCALACC_LIMIT_USERS_MOVED", "none")
    monkeypatch.setenv("NANCALACC_LIMIT_USERS_DISABLED", "")
    limits = settings(limits={"users_removed": "9 2.5% 3"}).limits.by_name
    assert limits["users_removed"] == Limit(9, 2.5, 3)
    assert limits["users_moved"].allowed(10**6) == 10**9
    assert limits["users_disabled"] == DEFAULTS["users_disabled"]


@pytest.mark.parametrize(
    "extra, word",
    [
        ({"limits": {"users": "1 1% 1"}}, "no limit 'users'"),
        ({"limits": {"users_removed": "5 %"}}, "'users_removed' must be"),
        ({"limits": {"users_removed": -1}}, "'users_removed' must be"),
        ({"limits": ["users_removed"]}, "'limits' must be an object"),
        ({"approval": "perhaps"}, "'approval' must be true or false"),
        ({"approval_seconds": 0}, "'approval_seconds' must be"),
    ],
)
def test_a_wrong_limit_or_approval_names_what_is_wrong(extra, word):
    with pytest.raises(ConfigurationError, match=word):
        settings(**extra)


def test_a_variable_that_is_no_limit_is_refused(monkeypatch):
    monkeypatch.setenv("NANCALACC_LIMIT_PEOPLE_REMOVED", "1 1% 1")
    with pytest.raises(ConfigurationError, match=r"NANCALACC_LIMIT_\*: there is no limit 'people_removed'"):
        settings()


def test_approval_is_off_unless_the_environment_or_the_connection_switches_it_on(monkeypatch):
    assert not settings().approval
    assert settings(approval=True).approval
    monkeypatch.setenv("NANCALACC_APPROVAL", "true")
    assert settings().approval
    assert not settings(approval=False).approval
    monkeypatch.setenv("NANCALACC_APPROVAL", "yes")
    with pytest.raises(ConfigurationError, match="NANCALACC_APPROVAL must be true or false"):
        settings()
