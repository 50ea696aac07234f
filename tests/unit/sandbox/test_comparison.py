from dataclasses import replace

import pytest

from nancalacc.sandbox.comparison import compare
from nancalacc.sandbox.directory import Directory, DirectoryDepartment, DirectoryUser
from nancalacc.sandbox.organisation import Placement, User, demo_organisation


def perfect_copy(organisation, root_dept_id=1):
    """The directory a faultless sync leads to, names altered where they must be."""

    def did(dept_id):
        return "1" if dept_id == root_dept_id else str(dept_id)

    scope = organisation.subtree(root_dept_id)
    directory = Directory(company_name="公司")
    for dept_id in scope:
        found = organisation.departments[dept_id]
        twins = [] if found.parent_id is None else organisation.children(found.parent_id)
        suffix = f"-{dept_id}" if sum(twin.name == found.name for twin in twins) > 1 else ""
        directory.put_department(
            DirectoryDepartment(
                directory.new_id(),
                did(dept_id),
                found.name[:255] + suffix,
                "0" if dept_id == root_dept_id else did(found.parent_id),
                min(found.order, 2**31 - 1),
            )
        )
    for user in organisation.users.values():
        places = {did(p.dept_id): min(p.order, 2**31 - 1) for p in user.placements if p.dept_id in scope}
        if places:
            directory.put_user(
                DirectoryUser(
                    id=directory.new_id(),
                    uid=user.userid,
                    account=user.userid,
                    nick_name=user.name[:255],
                    main=next((place for place in places if place != "1"), "1"),
                    memberships=places,
                    email=user.email or "",
                    title=user.title or "",
                    work_place=user.work_place or "",
                    leader=user.manager_userid or "",
                    employer=user.job_number or "",
                    employment_status="active" if user.active else "notactive",
                    phone=user.mobile or "",
                    telephone=user.telephone or "",
                )
            )
    return directory


def test_a_faultless_copy_of_the_demo_organisation_is_equal():
    organisation = demo_organisation()

    found = compare(organisation, perfect_copy(organisation))

    assert found.differences == ()
    assert found.equal
    assert found.counts["users"] == found.counts["users_expected"] == 1250


def test_only_the_subtree_of_the_root_counts(organisation):
    directory = perfect_copy(organisation, root_dept_id=100)

    found = compare(organisation, directory, root_dept_id=100)

    assert found.equal
    assert found.counts["users_expected"] == 6
    assert not compare(organisation, directory).equal


@pytest.mark.parametrize(
    "change, told",
    [
        ({"nick_name": "anders"}, "user u1: nick_name is 'anders', expected '员工1'"),
        ({"account": "else"}, "user u1: account is 'else', expected 'u1'"),
        ({"email": ""}, "user u1: email is '', expected 'u1@example.com'"),
        ({"leader": ""}, "user u1: leader is '', expected 'u0'"),
        ({"employment_status": "disabled"}, "user u1: employment_status is 'disabled', expected 'active'"),
        ({"phone": "13700000000"}, "user u1: phone differs"),
        ({"phone": ""}, "user u1: phone differs"),
        ({"telephone": "1"}, "user u1: telephone differs"),
        ({"memberships": {"100": 2}}, "user u1: memberships are {'100': 2}, expected {'100': 1}"),
        ({"main": "1"}, "user u1: main department is 1, expected 100"),
    ],
)
def test_every_difference_of_a_user_is_told_without_phone_numbers(organisation, change, told):
    directory = perfect_copy(organisation)
    directory.put_user(replace(directory.user("u1"), **change))

    found = compare(organisation, directory)

    assert found.differences == (told,)
    assert not found.equal


@pytest.mark.parametrize(
    "change, told",
    [
        ({"name": "x"}, "department 110: name is 'x', expected '一组'"),
        ({"pid": "200"}, "department 110: parent is 200, expected 100"),
        ({"order": 1}, "department 110: order is 1, expected 2147483647"),
    ],
)
def test_every_difference_of_a_department_is_told(organisation, change, told):
    directory = perfect_copy(organisation)
    directory.put_department(replace(directory.department("110"), **change))

    assert compare(organisation, directory).differences == (told,)


def test_missing_and_surplus_objects_are_told(organisation):
    directory = perfect_copy(organisation)
    organisation.add_user(User("new", "x", (Placement(1),)))
    organisation.remove_user("u5")
    organisation.add_department("neu", dept_id=300)
    organisation.remove_department(110)

    assert compare(organisation, directory).differences == (
        "department 110: only in WPS",
        "department 300: missing in WPS",
        "user u5: only in WPS",
        "user new: missing in WPS",
    )


def test_fields_without_permission_are_not_compared(organisation):
    directory = perfect_copy(organisation)
    directory.put_user(replace(directory.user("u1"), phone="", leader=""))

    assert not compare(organisation, directory).equal
    assert compare(organisation, directory, omitted={"mobile", "manager_userid"}).equal


def test_a_leader_outside_the_subtree_is_nobody(organisation):
    organisation.modify_user("u1", manager_userid="boss")
    directory = perfect_copy(organisation, root_dept_id=100)
    directory.put_user(replace(directory.user("u1"), leader=""))

    assert compare(organisation, directory, root_dept_id=100).equal
