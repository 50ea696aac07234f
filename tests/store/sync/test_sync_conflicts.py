"""Conflicts come and go, in full syncs and in batches: what is held back, and when it is released."""

from dataclasses import replace

import pytest

from nancalacc.config import AccountSource
from nancalacc.sandbox.organisation import Placement, User
from store.sync.batches import Batches

FETCH = "fetch_dingtalk_data"


def join(organisation, uid, **fields):
    organisation.add_user(User(userid=uid, name="新", placements=(Placement(200, 1),), **fields))


def conflicts(sync):
    return [tuple(row) for row in sync.rows("SELECT kind, key, other FROM conflicts ORDER BY kind, key")]


def person(sync, uid):
    return sync.sandbox.consumer.directory("sandbox").user(uid)


class TestFullSync:
    def test_a_number_and_an_address_of_two_are_held_back_and_released(self, sync, organisation):
        sync.complete()
        join(organisation, "a", mobile="19900000007", email="U7@example.com")
        run = sync.complete()
        assert conflicts(sync) == [("email", "a", "u07"), ("mobile", "a", "u07")]
        assert (person(sync, "a").phone, person(sync, "a").email) == ("", "")
        assert person(sync, "u07").phone == "19900000007"
        assert sync.sandbox.compare().differences == ()
        held = run.records[FETCH].action_data["conflicts"]
        assert held["present"] == {"email": 1, "mobile": 1}
        assert held["examples"][0] == {
            "kind": "email",
            "key": "a",
            "other": "u07",
            "reason": "has the e-mail address of u07: it is left empty in WPS",
        }
        assert any(
            "2 conflicts, 2 of them new" in str(data) for kind, data in run.events if kind == "warning"
        )

        organisation.modify_user("u07", mobile="19900000000", email="other@example.com")
        run = sync.complete()
        assert (person(sync, "a").phone, person(sync, "a").email) == ("19900000007", "U7@example.com")
        assert conflicts(sync) == [("mobile", "u07", "u00")]
        assert run.records["update_task_status"].action_data["conflicts"] == {"new": 1, "released": 2}

    def test_it_stays_as_it_is_while_nothing_changes(self, sync, organisation):
        join(organisation, "a", mobile="19900000007")
        sync.complete()
        since = sync.rows("SELECT * FROM conflicts")
        run = sync.complete()
        assert sync.rows("SELECT * FROM conflicts") == since
        assert run.records[FETCH].action_data["conflicts"]["new"] == 0
        assert run.records[FETCH].action_data["difference"]["users"]["changed"] == 0
        assert person(sync, "a").phone == "19900000007"

    def test_a_dry_run_tells_but_keeps_nothing(self, sync, organisation):
        join(organisation, "a", mobile="19900000007")
        run = sync.complete(dry_run=True)
        assert run.records[FETCH].action_data["conflicts"]["present"] == {"mobile": 1}
        assert conflicts(sync) == []

    def test_without_permission_what_is_held_back_stays_so(self, sync, sandbox, organisation):
        join(organisation, "zz", mobile="19900000007")
        sync.complete()
        organisation.remove_user("u07")
        sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, omitted=frozenset({"mobile"}))
        sync.complete()
        assert person(sync, "zz").phone == ""
        sandbox.dingtalk.rules = sandbox.options.dingtalk
        sync.complete()
        assert person(sync, "zz").phone == "19900000007"

    def test_a_number_is_forgotten_with_its_person(self, sync, organisation):
        sync.complete()
        [key] = sync.rows("SELECT phone_key FROM known_users WHERE uid = 'u07'")
        assert len(key[0]) == 32
        organisation.modify_user("u07", mobile="")
        organisation.remove_user("u08")
        sync.complete()
        assert sync.value("SELECT phone_key FROM known_users WHERE uid = 'u07'") == ""
        assert sync.rows("SELECT * FROM known_users WHERE uid = 'u08'") == []

    def test_neither_numbers_nor_their_keys_are_told(self, sync, organisation):
        join(organisation, "a", mobile="19900000007", email="u7@example.com")
        run = sync.complete()
        keys = [row[0] for row in sync.rows("SELECT phone_key FROM known_users WHERE phone_key <> ''")]
        told = str(run.records) + str(run.events) + str(sync.rows("SELECT * FROM conflicts"))
        assert not any(secret in told for secret in ("19900000007", "u7@example.com", *keys))


@pytest.fixture
def batches(sync) -> Batches:
    sync.complete()
    batches = Batches(sync)
    batches.observe()
    consumer = sync.sandbox.consumer
    strict = replace(consumer.rules.readings, unique_contacts=True)
    consumer.set_rules(replace(consumer.rules, readings=strict))
    return batches


def holds_after_a_full_sync(batches) -> None:
    """WPS is as DingTalk, no event has failed, and a full sync changes nothing."""
    sync = batches.sync
    assert batches.difference() == ()
    assert batches.count("done") == len(batches.events())
    before = conflicts(sync)
    again = sync.complete()
    for kind, counts in again.records["update_task_status"].action_data["difference"].items():
        assert (kind, counts["added"], counts["changed"], counts["removed"]) == (kind, 0, 0, 0)
    assert conflicts(sync) == before
    assert batches.difference() == ()


@pytest.mark.slow
class TestBatches:
    def test_a_newcomer_with_somebodys_number_gets_none(self, batches):
        join(batches.sync.sandbox.organisation, "a", mobile="19900000007", email="u7@example.com")
        run = batches.run()
        assert conflicts(batches.sync) == [("email", "a", "u07"), ("mobile", "a", "u07")]
        assert run.records["fetch_changes"].action_data["conflicts"]["new"] == 2
        assert person(batches.sync, "a").phone == ""
        holds_after_a_full_sync(batches)

    @pytest.mark.parametrize("end", ["leaves", "changes it"])
    def test_it_is_released_when_the_other(self, batches, end):
        organisation = batches.sync.sandbox.organisation
        for uid in ("b", "a"):
            join(organisation, uid, mobile="19900000007", email="u7@example.com")
        batches.run()
        if end == "leaves":
            organisation.remove_user("u07")
        else:
            organisation.modify_user("u07", mobile="19955555555", email="")
        run = batches.run()
        assert conflicts(batches.sync) == [("email", "b", "a"), ("mobile", "b", "a")]
        assert run.records["update_event_status"].action_data["conflicts"] == {"new": 0, "released": 2}
        assert person(batches.sync, "a").phone == "19900000007"
        holds_after_a_full_sync(batches)

    def test_two_who_exchange_their_numbers_have_each_others(self, batches):
        organisation = batches.sync.sandbox.organisation
        organisation.modify_user("u07", mobile="19900000008", email="u8@example.com")
        organisation.modify_user("u08", mobile="19900000007", email="u7@example.com")
        batches.run()
        assert conflicts(batches.sync) == []
        assert person(batches.sync, "u07").phone == "19900000008"
        holds_after_a_full_sync(batches)

    def test_a_holder_who_cannot_be_read_keeps_it(self, batches):
        sync = batches.sync
        sync.sandbox.faults.add("sub_code", path="user/get", body={"userid": "u07"}, code="60120", times=None)
        join(sync.sandbox.organisation, "a", mobile="19900000007")
        batches.start().steps()
        assert person(sync, "a").phone == ""
        assert person(sync, "u07").phone == "19900000007"

    def test_equal_userids_are_held_back_and_released(self, batches):
        organisation = batches.sync.sandbox.organisation
        join(organisation, "U07")
        batches.run()
        assert conflicts(batches.sync) == [("userid", "U07", "u07")]
        assert [event.status for event in batches.events()] == ["done"]
        organisation.remove_user("u07")
        batches.run()
        assert conflicts(batches.sync) == []
        assert person(batches.sync, "u07").uid == "U07"
        holds_after_a_full_sync(batches)

    def test_equal_names_are_listed_and_released(self, batches):
        organisation = batches.sync.sandbox.organisation
        organisation.add_department("市场部", dept_id=300)
        batches.run()
        assert conflicts(batches.sync) == [("name", "300", "200")]
        organisation.modify_department(200, name="销售部")
        batches.run()
        assert conflicts(batches.sync) == []
        holds_after_a_full_sync(batches)


@pytest.mark.slow
def test_equal_accounts_are_listed_and_released(sync):
    sync.company.change("wps", account_source=AccountSource.JOB_NUMBER.value)
    sync.complete()
    batches = Batches(sync)
    batches.observe()
    organisation = sync.sandbox.organisation
    join(organisation, "a", job_number="J7")
    join(organisation, "b", job_number="J7")
    batches.run()
    assert conflicts(sync) == [("account", "a", "u07"), ("account", "b", "u07")]
    organisation.modify_user("u07", job_number="J77")
    batches.run()
    assert conflicts(sync) == [("account", "b", "a")]
    # A login does not change by itself.
    assert person(sync, "a").account == "J7-a"
    before = conflicts(sync)
    sync.complete()
    assert conflicts(sync) == before


@pytest.mark.slow
class TestDepartmentsInBatches:
    """DingTalk's answers about departments contradict each other."""

    def say_parent(self, batches, parents, *, listed=False):
        organisation = batches.sync.sandbox.organisation
        for dept_id, parent_id in parents.items():
            if not listed:
                for children in organisation._children.values():
                    children.pop(dept_id, None)
            organisation.departments[dept_id] = replace(
                organisation.departments[dept_id], parent_id=parent_id
            )
            batches.event("org_dept_modify", dept_id)

    @pytest.mark.parametrize("parents", [{110: 999}, {100: 110}], ids=["unknown", "ring"])
    def test_a_known_one_that_leads_to_no_root_stays_with_its_people(self, batches, parents):
        sync = batches.sync
        users = set(sync.sandbox.consumer.directory("sandbox").users)
        self.say_parent(batches, parents)
        batches.event("org_dept_modify", 110)
        sync.sandbox.organisation.modify_user("u01", title="新")
        batches.drain()
        directory = sync.sandbox.consumer.directory("sandbox")
        assert (directory.department("100").pid, directory.department("110").pid) == ("1", "100")
        assert set(directory.users) == users
        assert directory.users["u01"].title == "新"
        held = [row[:2] for row in conflicts(sync)]
        assert held == [("parent", each) for each in (["110"] if 110 in parents else ["100", "110"])]
        assert batches.count("done") == len(batches.events())
        again = sync.complete()
        for counts in again.records[FETCH].action_data["difference"].values():
            assert (counts["added"], counts["changed"], counts["removed"]) == (0, 0, 0)
        assert [row[:2] for row in conflicts(sync)] == held

    def test_one_whose_new_parent_does_not_list_it_stays_where_it_is(self, batches):
        self.say_parent(batches, {110: 200}, listed=True)
        batches.run()
        assert conflicts(batches.sync) == [("parent", "110", "200")]
        assert batches.sync.sandbox.consumer.directory("sandbox").department("110").pid == "100"
        self.say_parent(batches, {110: 100}, listed=True)
        batches.run()
        holds_after_a_full_sync(batches)
        assert conflicts(batches.sync) == []

    def test_a_new_one_without_a_parent_waits_with_who_is_only_there(self, batches):
        sync, organisation = batches.sync, batches.sync.sandbox.organisation
        organisation.add_department("新", dept_id=300, parent_id=200)
        organisation.move_user("u01", placements=[Placement(300, 1)])
        self.say_parent(batches, {300: 999})
        batches.drain()
        assert conflicts(sync) == [("parent", "300", "999"), ("place", "u01", "300")]
        assert person(sync, "u01").main == "110"
        sync.complete()
        assert person(sync, "u01").main == "110"

        organisation._children[200][300] = None
        self.say_parent(batches, {300: 200}, listed=True)
        batches.drain()
        assert person(sync, "u01").main == "300"
        assert conflicts(sync) == []
        holds_after_a_full_sync(batches)
