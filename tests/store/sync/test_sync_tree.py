"""Departments with two parents, an unknown one or themselves above them: held back, the rest syncs."""

from dataclasses import replace

import pytest

from nancalacc.errors import OrganisationChangedError
from nancalacc.sandbox.organisation import Placement, User

FETCH = "fetch_dingtalk_data"
DEPARTMENT_GET = "/topapi/v2/department/get"


def say_parent(organisation, dept_id, parent_id) -> None:
    """The department's own record names a parent that does not list it."""
    organisation.departments[dept_id] = replace(organisation.departments[dept_id], parent_id=parent_id)


def unlist(organisation, dept_id) -> None:
    for children in organisation._children.values():
        children.pop(dept_id, None)


def conflicts(sync):
    return [tuple(row) for row in sync.rows("SELECT kind, key, other FROM conflicts ORDER BY kind, key")]


def place(sync, did):
    return sync.sandbox.consumer.directory("sandbox").department(did)


def test_a_record_that_contradicts_the_listing_leaves_the_department_where_it_is_listed(sync, organisation):
    sync.complete()
    say_parent(organisation, 110, 200)
    run = sync.complete()
    assert place(sync, "110").pid == "100"
    assert conflicts(sync) == [("parent", "110", "200")]
    held = run.records[FETCH].action_data["conflicts"]
    assert (held["present"], held["new"]) == ({"parent": 1}, 1)
    say_parent(organisation, 110, 100)
    run = sync.complete()
    assert conflicts(sync) == []
    assert run.records["update_task_status"].action_data["conflicts"] == {"new": 0, "released": 1}


@pytest.mark.parametrize("stated, expected", [(100, "100"), (200, "200")])
def test_of_two_listings_the_one_counts_that_the_record_names(sync, organisation, stated, expected):
    organisation._children[200][110] = None
    say_parent(organisation, 110, stated)
    sync.complete()
    assert place(sync, "110").pid == expected
    assert conflicts(sync) == [("parent", "110", "200" if stated == 100 else "100")]


def test_a_ring_in_the_listing_is_cut(sync, organisation):
    organisation._children[110][100] = None
    sync.complete()
    assert (place(sync, "100").pid, place(sync, "110").pid) == ("1", "100")
    assert conflicts(sync) == [("parent", "100", "110")]


@pytest.mark.parametrize("parents", [{110: 999}, {100: 110}, {110: 110}], ids=["unknown", "ring", "itself"])
def test_a_known_department_that_leads_to_no_root_stays_with_its_people(sync, organisation, parents):
    sync.complete()
    before = dict(sync.sandbox.consumer.directory("sandbox").users)
    for dept_id, parent_id in parents.items():
        unlist(organisation, dept_id)
        say_parent(organisation, dept_id, parent_id)
    organisation.modify_user("u01", title="新")
    organisation.add_user(User(userid="neu", name="新", placements=(Placement(110, 5),)))
    sync.complete()
    assert (place(sync, "100").pid, place(sync, "110").pid) == ("1", "100")
    users = sync.sandbox.consumer.directory("sandbox").users
    assert set(users) == {*before, "neu"}
    assert users["u01"].title == "新"
    held = conflicts(sync)
    assert {row[:2] for row in held} == {
        ("parent", str(each)) for each in ({100, 110} if 100 in parents else parents)
    }
    again = sync.complete()
    for counts in again.records[FETCH].action_data["difference"].values():
        assert (counts["added"], counts["changed"], counts["removed"]) == (0, 0, 0)


def test_a_person_only_in_a_new_department_that_leads_to_no_root_stays_where_wps_has_them(sync, organisation):
    sync.complete()
    organisation.add_department("新", dept_id=300, parent_id=200)
    organisation.move_user("u01", placements=[Placement(300, 1)])
    unlist(organisation, 300)
    say_parent(organisation, 300, 999)
    sync.complete()
    assert place(sync, "300") is None
    assert sync.sandbox.consumer.directory("sandbox").users["u01"].main == "110"
    assert conflicts(sync) == [("place", "u01", "300")]


def test_a_department_that_is_listed_nowhere_although_its_parent_is_stops_the_sync(sync, organisation):
    sync.complete()
    unlist(organisation, 110)
    sync.start().fails(OrganisationChangedError, match="Department 110 .* was not in its listing")


@pytest.mark.slow
@pytest.mark.parametrize("nothing", [0, "0", -1])
def test_a_company_that_states_no_parent_by_a_number_is_the_top(sync, sandbox, organisation, nothing):
    answer = sandbox.dingtalk._apis[DEPARTMENT_GET]
    sandbox.dingtalk._apis[DEPARTMENT_GET] = lambda values: (
        answer(values) | ({"parent_id": nothing} if values["dept_id"] == 1 else {})
    )
    sync.company.change("dingtalk", root_dept_id=100)
    sync.complete()
    organisation.move_user("u03", placements=[Placement(200, 3)])
    organisation.modify_department(110, parent_id=200)
    sync.complete(allow_mass_delete=True)
    assert [did for (did,) in sync.rows("SELECT did FROM known_departments")] == ["1"]
    assert sync.value("SELECT count(*) FROM known_users") == 9
    assert conflicts(sync) == []
