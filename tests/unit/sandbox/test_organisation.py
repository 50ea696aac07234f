from collections import Counter

import pytest

from nancalacc.errors import ObjectError, ObjectNotFoundError
from nancalacc.sandbox.organisation import (
    DIRECT_MEMBERS,
    ROOT_DEPT_ID,
    Placement,
    User,
    demo_organisation,
    organisation_of_size,
)


def depth(organisation, dept_id):
    steps = 0
    while (parent := organisation.departments[dept_id].parent_id) is not None:
        dept_id, steps = parent, steps + 1
    return steps


def test_the_demo_organisation_has_every_shape_a_sync_must_cope_with():
    organisation = demo_organisation()
    users = list(organisation.users.values())
    sizes = {
        found.name: len(organisation.members(found.dept_id)) for found in organisation.departments.values()
    }
    names = Counter((found.parent_id, found.name) for found in organisation.departments.values())

    assert len(users) == 1250
    assert max(depth(organisation, dept_id) for dept_id in organisation.departments) == 7
    assert {name: sizes[name] for name in DIRECT_MEMBERS} == DIRECT_MEMBERS
    assert organisation.members(ROOT_DEPT_ID)
    assert max(names.values()) == 2
    assert max(len(name) for _, name in names) > 255
    assert any(name != name.strip() for _, name in names)
    assert any(found.order > 2**31 for found in organisation.departments.values())
    assert any(place.order > 2**31 for user in users for place in user.placements)
    assert any(len(user.placements) > 1 for user in users)
    assert any(user.placements[0].dept_id == ROOT_DEPT_ID and len(user.placements) > 1 for user in users)
    assert {user.active for user in users} == {True, False}
    assert any(user.mobile is None for user in users)
    assert any(user.job_number is None for user in users)
    assert all(user.manager_userid in organisation.users for user in users if user.manager_userid)
    assert any(user.userid != user.userid.lower() for user in users)
    assert len({user.userid.lower() for user in users}) == len(users)


def test_the_same_seed_gives_the_same_organisation():
    assert demo_organisation(7).users == demo_organisation(7).users
    assert demo_organisation(7).users != demo_organisation(8).users


def test_a_generated_organisation_has_the_asked_size():
    organisation = organisation_of_size(500, departments=40)

    assert len(organisation.users) == 500
    assert len(organisation.departments) == 41
    assert organisation.subtree(ROOT_DEPT_ID) == set(organisation.departments)


def test_moving_a_user_changes_the_members_of_both_departments(organisation):
    organisation.move_user("u1", placements=[Placement(200), Placement(1)])

    assert "u1" not in organisation.members(100)
    assert "u1" in organisation.members(200)
    assert "u1" in organisation.members(1)


def test_a_moved_department_takes_what_is_below_along(organisation):
    organisation.modify_department(100, parent_id=200, name="研发")

    assert organisation.subtree(200) == {200, 100, 110}
    assert [found.name for found in organisation.children(200)] == ["研发"]


@pytest.mark.parametrize(
    "change, error",
    [
        (lambda o: o.modify_department(100, parent_id=110), ObjectError),
        (lambda o: o.modify_department(1, parent_id=100), ObjectError),
        (lambda o: o.modify_department(100, parent_id=999), ObjectNotFoundError),
        (lambda o: o.remove_department(100), ObjectError),
        (lambda o: o.remove_department(1), ObjectError),
        (lambda o: o.remove_department(999), ObjectNotFoundError),
        (lambda o: o.add_department("x", dept_id=100), ObjectError),
        (lambda o: o.add_department("x", parent_id=999), ObjectNotFoundError),
        (lambda o: o.add_user(User("u1", "x", (Placement(1),))), ObjectError),
        (lambda o: o.add_user(User("new", "x", ())), ObjectError),
        (lambda o: o.add_user(User("new", "x", (Placement(1), Placement(1)))), ObjectError),
        (lambda o: o.move_user("u1", placements=[Placement(999)]), ObjectNotFoundError),
        (lambda o: o.modify_user("u1", userid="u9"), ObjectError),
        (lambda o: o.remove_user("nobody"), ObjectNotFoundError),
    ],
)
def test_refuses_what_dingtalk_would_refuse_and_changes_nothing(organisation, change, error):
    before = dict(organisation.departments), dict(organisation.users)

    with pytest.raises(error):
        change(organisation)

    assert (organisation.departments, organisation.users) == before


def test_phone_numbers_are_not_in_the_repr(organisation):
    assert "1990000000" not in repr(organisation.user("u1"))
