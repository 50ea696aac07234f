"""Drift repaired by increments: what WPS shows becomes known state, and the inbox gets the objects."""

from dataclasses import replace

import pytest

from nancalacc.sandbox.directory import DirectoryDepartment
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.sync.repair import Repair, repair
from nancalacc.sync.verdicts import Verdict
from nancalacc.sync.verify import finish
from store.sync.batches import Batches
from store.sync.test_verify import see


@pytest.fixture
def batches(sync) -> Batches:
    batches = Batches(sync)
    sync.company.change("wps", reads_per_second=0)
    sync.complete()
    # WPS had time enough to run the job: what differs now is drift, and nothing is handled twice.
    sync.settings = replace(sync.settings, repeat_seconds=0)
    return batches


def mend(sync) -> Repair:
    found = see(sync, end=False)
    assert found.verdict in {Verdict.DRIFTED, Verdict.STOPPED}
    with sync.database.transaction() as connection:
        done = repair(
            connection,
            found,
            wps=sync.wps_settings(sync.company.wps.conn_id),
            dingtalk=sync.dingtalk_settings(sync.company.dingtalk.conn_id),
        )
    finish(sync.database, found)
    return done


@pytest.mark.slow
def test_every_kind_of_drift_is_repaired(sync, sandbox, organisation, batches):
    organisation.add_department("小组", parent_id=110, dept_id=111)
    organisation.add_user(User(userid="old", name="前员工", placements=(Placement(111),)))
    sync.complete()
    organisation.remove_user("old")
    organisation.remove_department(111)
    sync.complete()
    directory = sandbox.directory
    # Missing, changed, in other places, and back although removed.
    directory.users.pop("u07")
    directory.put_user(replace(directory.user("u08"), account="u08-", nick_name="别名"))
    directory.put_user(replace(directory.user("u00"), memberships={"110": 0}, main="110"))
    directory.put_user(replace(directory.user("u03"), memberships={"200": 0}, main="200"))
    directory.put_department(replace(directory.department("200"), name="别的部门"))
    directory.put_department(DirectoryDepartment("901", "111", "小组", "110"))
    directory.put_user(
        replace(directory.user("u01"), id="902", uid="old", account="old", memberships={"111": 0}, main="111")
    )
    assert sandbox.compare().differences
    done = mend(sync)
    assert (done.refused, done.left) == ("", 0)
    assert done.queued == batches.count("pending") == 7
    batches.drain()
    assert batches.difference() == ()
    assert see(sync).verdict is Verdict.VERIFIED


@pytest.mark.slow
def test_a_missing_department_comes_back_with_its_people(sync, sandbox, batches):
    directory = sandbox.directory
    directory.departments.pop("110")
    for key, user in list(directory.users.items()):
        if "110" in user.memberships:
            directory.users[key] = replace(user, memberships={"0": 0}, main="0")
    assert mend(sync).refused == ""
    batches.drain()
    assert batches.difference() == ()


@pytest.mark.slow
def test_what_another_source_put_into_wps_is_left_alone(sync, sandbox, batches):
    directory = sandbox.directory
    directory.put_user(replace(directory.user("u01"), id="900", uid="theirs", account="theirs"))
    directory.put_department(DirectoryDepartment("901", "their-dept", "他们", "0"))
    directory.users.pop("u07")
    done = mend(sync)
    assert (done.queued, done.left) == (1, 2)
    batches.drain()
    assert directory.user("theirs") is not None
    assert directory.department("their-dept") is not None
    assert directory.user("u07") is not None
    row = sync.rows("SELECT queued, counts FROM verifications ORDER BY id DESC LIMIT 1")[0]
    assert (row.queued, row.counts["left"]) == (1, 2)


def test_a_repair_never_removes_more_than_a_full_sync_may(sync, sandbox, organisation, batches):
    for number in range(25):
        organisation.add_user(User(userid=f"x{number}", name="n", placements=(Placement(100),)))
    sync.complete()
    people = dict(sandbox.directory.users)
    for number in range(25):
        organisation.remove_user(f"x{number}")
    sync.complete(allow_mass_delete=True)
    sandbox.directory.users.update(people)
    before = sync.rows("SELECT * FROM known_users ORDER BY uid")
    done = mend(sync)
    assert "25 users are only in WPS, the limit is 20" in done.refused
    assert "allow_mass_delete" in done.refused
    assert batches.count("pending") == 0
    assert sync.rows("SELECT * FROM known_users ORDER BY uid") == before


def test_nothing_is_repaired_while_a_sync_has_the_company(sync, sandbox, batches):
    sandbox.directory.users.pop("u07")
    other = sync.start()
    other.step("validate_task")
    done = mend(sync)
    assert "run_2" in done.refused
    assert batches.count("pending") == 0
    other.steps()
    other.settle()


def test_a_sync_that_ended_after_wps_was_read_makes_a_repair_refuse(sync, sandbox, batches):
    sandbox.directory.users.pop("u07")
    found = see(sync, end=False)
    sync.complete()
    with sync.database.transaction() as connection:
        done = repair(
            connection,
            found,
            wps=sync.wps_settings(sync.company.wps.conn_id),
            dingtalk=sync.dingtalk_settings(sync.company.dingtalk.conn_id),
        )
    assert "reconcile again" in done.refused
    assert sync.value("SELECT count(*) FROM known_users WHERE uid = 'u07'") == 1


@pytest.mark.slow
def test_the_root_department_is_queued_under_its_own_id(sync, sandbox):
    sync.company.change("dingtalk", root_dept_id=100)
    sync.company.change("wps", reads_per_second=0)
    sync.complete()
    sync.settings = replace(sync.settings, repeat_seconds=0)
    directory = sandbox.directory
    directory.put_department(replace(directory.department("1"), name="别的"))
    assert mend(sync).queued == 1
    [event] = sync.rows("SELECT event_type, object_ids FROM dingtalk_events")
    assert tuple(event) == ("org_dept_modify", ["100"])
    batches = Batches(sync)
    batches.drain()
    assert sandbox.compare(root_dept_id=100).differences == ()
