"""Batches of events: what DingTalk tells of, WPS has afterwards."""

from dataclasses import replace

import pytest

from nancalacc.sandbox.organisation import Placement, User
from store.sync.batches import Batches

USER_LIST = "/topapi/v2/user/list"


@pytest.fixture
def batches(sync) -> Batches:
    """A company that has just been synced as a whole."""
    sync.complete()
    return Batches(sync)


def test_a_changed_person_is_the_same_in_wps_after_a_batch(batches):
    batches.sync.sandbox.organisation.modify_user("u07", name="改名", title="经理")
    batches.event("user_modify_org", "u07")
    run = batches.run()
    print(run.records["confirm_increments"].action_data)
    assert batches.difference() == ()
    [event] = batches.events()
    assert (event.status, event.attempts, event.error) == ("done", 0, None)


def join(organisation, uid="neu", *places, **fields):
    placements = tuple(Placement(place, 7) for place in places or (110,))
    return organisation.add_user(User(userid=uid, name=f"新人{uid}", placements=placements, **fields))


def leave_department(organisation, dept_id):
    """Everybody moves to 200, then the department goes with everything below."""
    for child in organisation.children(dept_id):
        leave_department(organisation, child.dept_id)
    for uid in organisation.members(dept_id):
        organisation.move_user(uid, placements=[Placement(200, 3)])
    organisation.remove_department(dept_id)


CHANGES = {
    "a person joins": lambda o: join(o, mobile="19922222222", manager_userid="boss"),
    "a person joins the root": lambda o: join(o, "neu", 1),
    "a person joins two departments": lambda o: join(o, "neu", 200, 100),
    "a person changes": lambda o: o.modify_user("u07", name="改名", manager_userid=None, email=""),
    "a person is activated": lambda o: o.modify_user("u05", active=True),
    "a person leaves": lambda o: o.remove_user("u07"),
    "a manager leaves": lambda o: o.remove_user("boss"),
    "a department is added with a person": lambda o: (
        o.add_department("新", dept_id=300, parent_id=110),
        join(o, "neu", 300),
    ),
    "departments are added below each other": lambda o: (
        o.add_department("一", dept_id=900, parent_id=200),
        o.add_department("二", dept_id=800, parent_id=900),
        o.add_department("三", dept_id=700, parent_id=800, order=5),
    ),
    "a department is renamed": lambda o: o.modify_department(100, name="研究院", order=3),
    "a department moves": lambda o: o.modify_department(110, parent_id=200),
    "parent and child change places": lambda o: (
        o.modify_department(110, parent_id=1),
        o.modify_department(100, parent_id=110),
    ),
    "departments swap names": lambda o: (
        o.modify_department(100, name="暂"),
        o.modify_department(200, name="研发部"),
        o.modify_department(100, name="市场部"),
    ),
    "the company is renamed": lambda o: o.modify_department(1, name="新公司"),
    "a department is removed with everything below": lambda o: leave_department(o, 100),
    "a department takes the name of a removed one": lambda o: (
        leave_department(o, 100),
        o.add_department("研发部", dept_id=301),
    ),
    "a namesake comes and goes": lambda o: (
        o.add_department("市场部", dept_id=50),
        o.add_department("市场部", dept_id=301),
        o.modify_department(50, name="别的"),
    ),
    "a person joins and leaves at once": lambda o: (join(o), o.remove_user("neu")),
    "two lead each other": lambda o: (
        join(o, "n1", 100, manager_userid="n2"),
        join(o, "n2", 100, manager_userid="n1"),
        o.modify_user("u03", manager_userid="n1"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_batch_wps_is_as_dingtalk_and_a_full_sync_changes_nothing(batches, change):
    batches.observe()
    change(batches.sync.sandbox.organisation)
    run = batches.run()
    assert batches.difference() == ()
    assert batches.count("done") == len(batches.events())
    assert run.records["confirm_increments"].action_data["refused"] == {}

    again = batches.sync.complete(dry_run=True)
    for kind, counts in again.records["update_task_status"].action_data["difference"].items():
        assert (kind, counts["added"], counts["changed"], counts["removed"]) == (kind, 0, 0, 0)


def list_backwards(sandbox):
    """Pages name the departments in another order than the person's own record."""
    answer = sandbox.dingtalk._apis[USER_LIST]

    def backwards(values):
        page = answer(values)
        return page | {"list": [item | {"dept_id_list": item["dept_id_list"][::-1]} for item in page["list"]]}

    sandbox.dingtalk._apis[USER_LIST] = backwards


def say_no_departments(sandbox):
    sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, omitted=frozenset({"dept_id_list"}))


@pytest.mark.slow
@pytest.mark.parametrize("user_details", [True, False])
@pytest.mark.parametrize("answer_so", [list_backwards, say_no_departments])
def test_both_syncs_give_everybody_the_same_main_department(sync, answer_so, user_details):
    organisation = sync.sandbox.organisation
    organisation.move_user("u00", placements=[Placement(200, 8), Placement(100, 3)])
    sync.company.change("dingtalk", user_details=user_details)
    answer_so(sync.sandbox)
    sync.complete()
    told = user_details and answer_so is list_backwards
    assert sync.value("SELECT def_did FROM known_users WHERE uid = 'u00'") == ("200" if told else "100")
    batches = Batches(sync)
    batches.observe()
    organisation.modify_user("u00", title="经理")
    batches.drain()
    assert sync.value("SELECT title FROM known_users WHERE uid = 'u00'") == "经理"
    again = sync.complete(dry_run=True)
    for kind, counts in again.records["update_task_status"].action_data["difference"].items():
        assert (kind, counts["added"], counts["changed"], counts["removed"]) == (kind, 0, 0, 0)
