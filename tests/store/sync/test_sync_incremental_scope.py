"""Batches of a company of which the app sees a part: what is refused, left that part, or is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from nancalacc.sandbox.dingtalk import AnswerError
from nancalacc.sandbox.organisation import Placement
from store.sync.batches import Batches

USER_GET, DEPARTMENT_GET = "/topapi/v2/user/get", "/topapi/v2/department/get"
USER_LIST = "/topapi/v2/user/list"

pytestmark = pytest.mark.slow


def see(sync, *dept_ids: int) -> None:
    sync.sandbox.dingtalk.rules = replace(sync.sandbox.dingtalk.rules, authed_dept=dept_ids)


@pytest.fixture
def batches(sync) -> Batches:
    """A company of which the app sees 100 and what is below it, and which is synced from there."""
    see(sync, 100)
    sync.company.change("dingtalk", root_dept_id=100)
    sync.complete()
    found = Batches(sync)
    found.observe()
    return found


@contextmanager
def refusing(sync, path: str, key: Any, code: str) -> Iterator[None]:
    """DingTalk answers with this code for one object."""
    apis = sync.sandbox.dingtalk._apis
    answer = apis[path]

    def refuse(values):
        if key in values.values():
            raise AnswerError(code, "refused")
        return answer(values)

    apis[path] = refuse
    yield
    apis[path] = answer


def states(batches: Batches) -> set[tuple[str, str | None]]:
    return {(event.status, event.error) for event in batches.events()}


def require_nothing_left_for_a_full_sync(sync) -> None:
    again = sync.complete(dry_run=True, allow_mass_delete=True)
    for kind, counts in again.records["update_task_status"].action_data["difference"].items():
        assert (kind, counts["added"], counts["changed"], counts["removed"]) == (kind, 0, 0, 0)


def test_who_is_also_in_a_department_that_the_app_does_not_see_is_synced(batches):
    batches.sync.sandbox.organisation.modify_user("u00", title="经理")
    batches.run()
    assert states(batches) == {("done", None)}
    assert batches.sync.value("SELECT title FROM known_users WHERE uid = 'u00'") == "经理"
    require_nothing_left_for_a_full_sync(batches.sync)


MOVES = {
    "a person": (lambda o: o.move_user("u03", placements=[Placement(200, 3)]), 19),
    "a department with its people": (lambda o: o.modify_department(110, parent_id=200), 10),
}


@pytest.mark.parametrize("move, left", MOVES.values(), ids=MOVES.keys())
def test_what_moves_out_of_sight_leaves_wps(batches, move, left):
    move(batches.sync.sandbox.organisation)
    batches.drain()
    assert states(batches) == {("done", None)}
    assert batches.sync.value("SELECT count(*) FROM known_users") == left
    require_nothing_left_for_a_full_sync(batches.sync)


def test_what_is_out_of_sight_because_the_scope_was_narrowed_stays(batches):
    see(batches.sync, 110)
    batches.event("user_modify_org", "u03")
    batches.event("org_dept_modify", 100)
    batches.run()
    assert {status for status, _ in states(batches)} == {"pending"}
    assert batches.sync.value("SELECT count(*) FROM known_users") == 20


def test_a_refusal_that_contradicts_a_scope_of_everything_removes_nobody(batches):
    see(batches.sync, 1)
    batches.event("user_modify_org", "u03")
    with refusing(batches.sync, USER_GET, "u03", "50002"):
        batches.run()
    [(status, error)] = states(batches)
    assert status == "pending"
    assert "50002" in error
    assert batches.sync.value("SELECT count(*) FROM known_users WHERE uid = 'u03'") == 1


def test_what_an_event_says_has_left_is_gone_however_dingtalk_refuses_it(batches):
    see(batches.sync, 1)
    organisation = batches.sync.sandbox.organisation
    organisation.add_department("空", dept_id=120, parent_id=100)
    organisation.add_department("空空", dept_id=130, parent_id=100)
    batches.drain()
    with (
        refusing(batches.sync, USER_GET, "u01", "33012"),
        refusing(batches.sync, USER_GET, "u03", "60120"),
        refusing(batches.sync, USER_GET, "u04", "50002"),
        refusing(batches.sync, DEPARTMENT_GET, 120, "40009"),
        refusing(batches.sync, DEPARTMENT_GET, 130, "50004"),
    ):
        for uid in ("u01", "u03", "u04"):
            organisation.remove_user(uid)
        for dept_id in (120, 130):
            organisation.remove_department(dept_id)
        batches.drain()
    assert states(batches) == {("done", None)}
    assert batches.sync.value("SELECT count(*) FROM known_users") == 17
    assert batches.sync.value("SELECT count(*) FROM known_departments") == 2


def test_a_disabled_person_whom_no_event_says_to_have_left_stays(batches):
    batches.event("user_modify_org", "u03")
    with refusing(batches.sync, USER_GET, "u03", "60120"):
        batches.run()
    assert {status for status, _ in states(batches)} == {"pending"}
    assert batches.sync.value("SELECT count(*) FROM known_users WHERE uid = 'u03'") == 1


def test_a_record_without_a_userid_in_a_new_department_is_reported_and_stops_nothing(batches):
    apis = batches.sync.sandbox.dingtalk._apis
    answer = apis[USER_LIST]
    apis[USER_LIST] = lambda values: (
        answer(values) | ({"list": [{"name": "无"}]} if values["dept_id"] == 300 else {})
    )
    batches.sync.sandbox.organisation.add_department("新", dept_id=300, parent_id=100)
    run = batches.run()
    assert states(batches) == {("done", None)}
    assert batches.sync.value("SELECT name FROM known_departments WHERE did = '300'") == "新"
    [rejected] = [data for kind, data in run.events if kind == "record_rejected"]
    assert rejected.items() >= {"id": "?", "reason": "no_userid", "number": 1, "department": "300"}.items()
