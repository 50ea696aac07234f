"""A plan in words: for a log, and for the person who decides about it."""

from nancalacc.sync.breaches import Breach
from nancalacc.sync.plan import SORTS, Plan
from nancalacc.sync.plan_text import question_body, short, summary_lines
from nancalacc.sync.staging import Fetch

NOTHING = dict.fromkeys(SORTS, 0)
FETCH = Fetch("t", epoch=1, attempt=1)
EVIL = "[x](https://evil.example) <img> | `a` *b*\n# c"


def plan(*examples: dict, **numbers: dict[str, int]) -> Plan:
    counts = {
        kind: {"known": 40, **NOTHING, **numbers.get(kind, {})}
        for kind in ("departments", "users", "memberships")
    }
    return Plan(FETCH, "c", "0123456789abcdef", counts, examples)


def example(kind: str, sort: str, **values: str) -> dict:
    return {"kind": kind, "sort": sort, "uid": None, "did": None, "name": None, **values}


def test_a_log_has_counts_and_the_first_ids_of_each_sort_and_no_names():
    found = plan(
        example("users", "removed", uid="u1", name="员工1"),
        example("memberships", "removed", uid="u1", did="200"),
        users={"removed": 7, "added": 1},
        memberships={"removed": 1},
    )
    assert list(summary_lines(found)) == [
        "plan 0123456789ab",
        "users: 1 added, 7 removed (known: 40)",
        "users removed: u1, …",
        "memberships: 1 removed (known: 40)",
        "memberships removed: u1 in 200",
    ]


def test_a_plan_of_nothing_is_one_line():
    assert list(summary_lines(plan())) == [f"plan {short(plan())}: nothing changes"]


def test_a_request_has_breaches_counts_names_and_a_warning_of_wps():
    breach = Breach("users", sort="removed", number=300, known=40, allowed=10)
    body = question_body(
        plan(example("users", "removed", uid="u1", name="员工1"), users={"removed": 300}),
        [breach],
        transaction_id="some-saga",
    )
    plain = body.replace("\\", "")
    assert "- 300 of 40 users would be removed, the limit is 10" in plain
    assert "| users | 40 | 0 | 0 | 0 | 0 | 300 |" in body
    assert "员工1 (u1)" in plain
    assert "WPS stops a job without a word" in plain
    assert "(nancalacc/console/?saga=some-saga)" in body


def test_of_many_breaches_a_request_names_the_first():
    breaches = [Breach("users", "removed", number, 40, 1) for number in range(2, 30)]
    body = question_body(plan(users={"removed": 29}), breaches, transaction_id="s")
    assert body.count("would be removed") == 10
    assert "- and 18 more" in body


def test_a_name_cannot_make_a_link_or_a_line_of_its_own():
    breach = Breach("users", sort="removed", number=3, known=40, allowed=1, within=f"{EVIL} (1)")
    body = question_body(
        plan(example("users", "removed", uid="u1", name=EVIL), users={"removed": 3}),
        [breach],
        transaction_id="s",
    )
    assert "](https" not in body
    assert "\n# c" not in body
    assert "<img>" not in body
    assert "`a`" not in body
