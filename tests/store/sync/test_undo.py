"""Undoing a sync: right after it, after other changes, of an undo, of a first sync."""

from datetime import timedelta
from typing import Any

import pytest

from nancalacc.errors import GuardError, NancalaccError, RefusedError
from nancalacc.saga.definition import transaction_id_of
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.directory import Directory
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.sync import former
from nancalacc.sync.retention import snapshots
from nancalacc.sync.staging import Fetch
from nancalacc.sync.undo import UNDO_SYNC
from nancalacc.sync.verdicts import Verdict
from store.sync.batches import Batches
from store.sync.conftest import START
from store.sync.test_verify import see

SHOWN = (
    "uid",
    "account",
    "nick_name",
    "main",
    "memberships",
    "email",
    "title",
    "employer",
    "leader",
    "phone",
)


class Undo:
    """One run of the DAG `undo_sync`."""

    def __init__(self, sync, transaction_id: str, **params: Any) -> None:
        sync.runs += 1
        self.sync = sync
        self.params = {"transaction_id": transaction_id, **params}
        self.services = sync.services(f"undo_{sync.runs}", START + timedelta(hours=sync.runs))
        self.transaction_id = transaction_id_of(dag_id="undo_sync", run_id=f"undo_{sync.runs}")
        sync.coordinator.start(UNDO_SYNC, dag_id="undo_sync", run_id=f"undo_{sync.runs}", params=self.params)

    def steps(self, *, to: str = "update_task_status") -> None:
        for step in UNDO_SYNC:
            self.sync.coordinator.run_step(
                UNDO_SYNC, self.transaction_id, step.name, services=self.services, params=self.params
            )
            if step.name == to:
                break

    def complete(self) -> "Undo":
        """Run it to its end, which must be completed, and let WPS apply it."""
        self.steps()
        assert self.settle() is SagaStatus.COMPLETED
        self.sync.sandbox.consumer.run_now()
        assert self.sync.sandbox.consumer.wait_idle()
        return self

    def fails(self, kind: type[NancalaccError], *, match: str) -> SagaStatus:
        with pytest.raises(kind, match=match) as caught:
            self.steps()
        step = next(each.name for each in self.records.values() if each.error_message)
        self.sync.coordinator.fail(self.transaction_id, step=step, error=str(caught.value))
        return self.settle()

    def settle(self) -> SagaStatus:
        return self.sync.coordinator.conclude(UNDO_SYNC, self.transaction_id, services=self.services).status

    @property
    def records(self):
        return {record.name: record for record in self.sync.coordinator.get(self.transaction_id)[1]}

    @property
    def outcome(self) -> dict:
        return self.records["fetch_dingtalk_data"].action_data["undo"]

    @property
    def left(self) -> set[tuple]:
        rows = self.sync.rows(
            "SELECT kind, key, reason FROM undo_left WHERE transaction_id = :id", id=self.transaction_id
        )
        return {tuple(row) for row in rows}


def content(directory: Directory) -> dict:
    """Everything that a sync writes, without the ids of WPS."""
    return {
        "departments": {d.did: (d.pid, d.name, d.order) for d in directory.departments.values()},
        "users": {u.uid: tuple(getattr(u, name) for name in SHOWN) for u in directory.users.values()},
    }


@pytest.fixture(autouse=True)
def many_may_go(sync):
    none = dict.fromkeys(
        ("users_removed", "departments_removed", "memberships_removed", "users_moved", "departments_moved"),
        "none",
    )
    sync.company.change("wps", reads_per_second=0, limits=none | {f"subtree_{key}": "none" for key in none})


def mistake(organisation) -> None:
    """Adds, changes, moves and removes departments and people."""
    for number in (1, 4, 7):
        organisation.remove_user(f"u{number:02d}")
    organisation.modify_user(
        "u02", name="错名", title="错职", email="wrong@example.com", mobile="18800000000"
    )
    organisation.move_user("u05", placements=[Placement(100, 7)])
    organisation.modify_department(200, name="错部门")
    organisation.modify_department(110, parent_id=200)
    organisation.add_department("错组", parent_id=100, dept_id=300)
    organisation.add_user(
        User(userid="wrong", name="错人", placements=(Placement(300, 1), Placement(200, 2)))
    )


class TestRightAfter:
    def test_wps_and_known_state_are_as_before(self, sync, sandbox, organisation):
        sync.complete()
        before, known = content(sandbox.directory), known_state(sync)
        mistake(organisation)
        wrong = sync.complete()
        assert content(sandbox.directory) != before
        undo = Undo(sync, wrong.transaction_id).complete()
        assert content(sandbox.directory) == before
        assert known_state(sync) == known
        assert undo.outcome["left_alone"] == {}
        assert undo.outcome["restored"] == {"departments": 3, "users": 6}
        assert see(sync).verdict is Verdict.VERIFIED

    def test_it_is_a_saga_of_its_own_with_plan_task_id_and_task_row(self, sync, organisation):
        sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        undo = Undo(sync, wrong.transaction_id).complete()
        saga = sync.coordinator.get(undo.transaction_id)[0]
        assert (saga.definition, saga.status) == ("undo_sync", SagaStatus.COMPLETED)
        assert saga.task_id > wrong.saga.task_id
        plan = sync.rows("SELECT * FROM sync_plans WHERE transaction_id = :id", id=undo.transaction_id)
        assert plan[0].counts["users"]["added"] == 1
        task = sync.rows("SELECT status FROM task WHERE title = :title", title=saga.task_id)
        assert [row.status for row in task] == ["completed"]
        assert sync.value("SELECT count(*) FROM company_locks WHERE holder IS NOT NULL") == 0

    def test_a_dry_run_plans_and_changes_nothing(self, sync, sandbox, organisation):
        sync.complete()
        mistake(organisation)
        wrong = sync.complete()
        after, jobs = content(sandbox.directory), len(sandbox.consumer.jobs)
        undo = Undo(sync, wrong.transaction_id, dry_run=True)
        undo.steps()
        assert undo.settle() is SagaStatus.COMPLETED
        assert (content(sandbox.directory), len(sandbox.consumer.jobs)) == (after, jobs)
        assert undo.records["fetch_dingtalk_data"].action_data["difference"]["users"]["added"] == 3

    def test_an_undo_that_fails_is_compensated_and_leaves_everything_as_it_was(
        self, sync, sandbox, organisation
    ):
        sync.complete()
        mistake(organisation)
        wrong = sync.complete()
        after, known = content(sandbox.directory), known_state(sync)
        sandbox.faults.add("errcode", path="full/sync", code="400", times=None)
        undo = Undo(sync, wrong.transaction_id)
        assert undo.fails(NancalaccError, match="refused") is SagaStatus.COMPENSATED
        assert (content(sandbox.directory), known_state(sync)) == (after, known)
        assert sync.value("SELECT count(DISTINCT task_id) FROM tb_las_user") == 2

    def test_the_limits_hold_for_an_undo_as_well(self, sync, organisation):
        sync.complete()
        for number in range(30):
            organisation.add_user(User(userid=f"x{number}", name="n", placements=(Placement(100),)))
        wrong = sync.complete()
        sync.company.change("wps", limits={})
        undo = Undo(sync, wrong.transaction_id)
        assert undo.fails(GuardError, match="30 of 61 users would be removed") is SagaStatus.COMPENSATED
        Undo(sync, wrong.transaction_id, allow_mass_delete=True).complete()
        assert sync.value("SELECT count(*) FROM known_users") == 31


class TestAfterOtherChanges:
    def test_what_a_later_sync_changed_is_left_alone_and_listed(self, sync, sandbox, organisation):
        sync.complete()
        before = content(sandbox.directory)
        mistake(organisation)
        wrong = sync.complete()
        organisation.modify_user("u02", name="后来改名")
        organisation.modify_department(200, name="后来改名")
        organisation.add_user(User(userid="later", name="后来", placements=(Placement(100, 1),)))
        sync.complete()
        undo = Undo(sync, wrong.transaction_id).complete()
        now = content(sandbox.directory)
        assert undo.left == {
            ("users", "u02", "changed_since"),
            ("departments", "200", "changed_since"),
        }
        assert now["departments"]["200"][1] == now["users"]["u02"][2] == "后来改名"
        assert "later" in now["users"]
        for uid in ("u01", "u04", "u05", "u07"):
            assert now["users"][uid] == before["users"][uid]
        assert now["departments"]["110"] == before["departments"]["110"]
        assert "wrong" not in now["users"]
        [warning] = [
            each.event_data
            for each in sync.coordinator.events(undo.transaction_id)
            if each.event_type == "warning" and "left_alone" in (each.event_data or {})
        ]
        assert warning["left_alone"] == {"changed_since": 2}

    @pytest.mark.slow
    def test_what_events_changed_since_is_left_alone(self, sync, sandbox, organisation):
        batches = Batches(sync)
        sync.complete()
        mistake(organisation)
        wrong = sync.complete()
        batches.observe()
        organisation.modify_user("u02", name="事件改名")
        organisation.add_user(User(userid="event", name="事件", placements=(Placement(300, 1),)))
        batches.drain()
        undo = Undo(sync, wrong.transaction_id).complete()
        now = content(sandbox.directory)
        assert now["users"]["u02"][2] == "事件改名"
        # Somebody who came later is in a department of the undone sync: it stays with them.
        assert "event" in now["users"]
        assert undo.left == {("users", "u02", "changed_since"), ("departments", "300", "needed")}
        assert see(sync).verdict is Verdict.VERIFIED

    @pytest.mark.slow
    def test_what_events_had_changed_before_is_part_of_the_former_state(self, sync, sandbox, organisation):
        batches = Batches(sync)
        sync.complete()
        batches.observe()
        organisation.modify_department(1, name="早先公司")
        organisation.modify_user("u02", name="早先改名")
        organisation.remove_user("u03")
        organisation.add_department("早先", parent_id=110, dept_id=400)
        organisation.add_user(
            User(userid="early", name="早", placements=(Placement(400, 1), Placement(100, 2)))
        )
        organisation.move_user("u08", placements=[Placement(400, 3)])
        batches.drain()
        before = content(sandbox.directory)
        organisation.observer = None
        mistake(organisation)
        organisation.modify_department(1, name="错公司")
        organisation.remove_user("early")
        organisation.move_user("u08", placements=[Placement(200, 1)])
        organisation.remove_department(400)
        wrong = sync.complete()
        undo = Undo(sync, wrong.transaction_id).complete()
        assert content(sandbox.directory) == before
        assert undo.left == set()

    def test_an_object_whose_place_is_gone_stays_as_it_is(self, sync, sandbox, organisation):
        sync.complete()
        organisation.add_department("上", parent_id=1, dept_id=500)
        organisation.add_department("下", parent_id=500, dept_id=510)
        organisation.add_user(User(userid="deep", name="深", placements=(Placement(510, 1),)))
        sync.complete()
        organisation.remove_user("deep")
        organisation.remove_department(510)
        wrong = sync.complete()
        organisation.remove_department(500)
        sync.complete()
        undo = Undo(sync, wrong.transaction_id)
        assert undo.fails(GuardError, match="nothing to undo") is SagaStatus.COMPENSATED
        assert undo.left == {
            ("departments", "510", "parent_gone"),
            ("users", "deep", "department_gone"),
        }

    def test_a_name_that_a_sibling_has_now_is_not_taken_from_it(self, sync, sandbox, organisation):
        sync.complete()
        organisation.modify_department(200, name="错部门")
        organisation.remove_user("u01")
        wrong = sync.complete()
        organisation.add_department("市场部", parent_id=1, dept_id=600)
        sync.complete()
        undo = Undo(sync, wrong.transaction_id).complete()
        assert undo.left == {("departments", "200", "name_taken")}
        assert content(sandbox.directory)["departments"]["600"][1] == "市场部"
        assert sandbox.directory.user("u01") is not None

    def test_an_address_that_somebody_else_has_now_is_not_taken_from_them(self, sync, sandbox, organisation):
        organisation.modify_user("u01", email="shared@example.com")
        sync.complete()
        organisation.modify_user("u01", email="other@example.com")
        organisation.modify_user("u04", name="错名")
        undone = sync.complete()
        organisation.modify_user("u02", email="Shared@example.com")
        sync.complete()

        undo = Undo(sync, undone.transaction_id).complete()

        assert undo.left == {("users", "u01", "email_taken")}
        assert sandbox.directory.user("u01").email == "other@example.com"
        assert sandbox.directory.user("u02").email == "Shared@example.com"
        assert sandbox.directory.user("u04").nick_name == "员工4"

    def test_departments_never_form_a_ring(self, sync, sandbox, organisation):
        organisation.add_department("甲", parent_id=1, dept_id=700)
        organisation.add_department("乙", parent_id=700, dept_id=710)
        sync.complete()
        organisation.modify_department(710, parent_id=1)
        wrong = sync.complete()
        organisation.modify_department(700, parent_id=710)
        organisation.modify_department(700, name="甲二")
        sync.complete()
        undo = Undo(sync, wrong.transaction_id)
        undo.fails(GuardError, match="nothing to undo")
        assert undo.left == {("departments", "710", "ring")}

    def test_a_number_given_since_is_a_change_since(self, sync, sandbox, organisation):
        sync.complete()
        for number in (2, 3, 4):
            organisation.modify_user(f"u0{number}", mobile=f"1880000000{number}", telephone="9001")
        wrong = sync.complete()
        organisation.modify_user("u02", mobile="18700000002")
        organisation.modify_user("u03", telephone="9002")
        sync.complete()
        undo = Undo(sync, wrong.transaction_id).complete()
        assert undo.left == {("users", "u02", "changed_since"), ("users", "u03", "changed_since")}
        numbers = [
            (user.phone, user.telephone) for user in map(sandbox.directory.user, ("u02", "u03", "u04"))
        ]
        assert numbers == [("18700000002", "9001"), ("18800000003", "9002"), ("19900000004", "8001")]

    def test_a_number_that_somebody_else_has_now_is_not_taken_from_them(self, sync, sandbox, organisation):
        sync.complete()
        organisation.modify_user("u01", mobile="18800000001")
        organisation.modify_user("u04", name="错名")
        undone = sync.complete()
        organisation.modify_user("u02", mobile="199 0000 0001")
        sync.complete()
        undo = Undo(sync, undone.transaction_id).complete()
        assert undo.left == {("users", "u01", "mobile_taken")}
        assert sandbox.directory.user("u01").phone == "18800000001"
        assert sandbox.directory.user("u04").nick_name == "员工4"

    def test_numbers_encrypted_with_a_former_salt_stay_as_wps_has_them(
        self, sync, sandbox, organisation, monkeypatch
    ):
        sync.complete()
        monkeypatch.setattr(sandbox.consumer, "_salt", "another")
        sync.company.change("wps", phone_salt_secret="another")
        organisation.modify_user("u02", name="错名")
        wrong = sync.complete()
        undo = Undo(sync, wrong.transaction_id).complete()
        assert (undo.outcome["restored"], undo.left) == ({"users": 1}, set())
        user = sandbox.directory.user("u02")
        assert (user.nick_name, user.phone, user.telephone) == ("员工2", "19900000002", "8001")


class TestOfAnUndo:
    def test_the_undone_sync_is_there_again(self, sync, sandbox, organisation):
        sync.complete()
        before = content(sandbox.directory)
        mistake(organisation)
        wrong = sync.complete()
        after = content(sandbox.directory)
        undo = Undo(sync, wrong.transaction_id).complete()
        again = Undo(sync, undo.transaction_id).complete()
        assert content(sandbox.directory) == after
        Undo(sync, again.transaction_id).complete()
        assert content(sandbox.directory) == before

    def test_a_second_undo_of_the_same_sync_has_nothing_to_do(self, sync, sandbox, organisation):
        sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        Undo(sync, wrong.transaction_id).complete()
        undo = Undo(sync, wrong.transaction_id)
        assert undo.fails(GuardError, match="nothing to undo") is SagaStatus.COMPENSATED

    def test_a_number_that_came_back_is_compared_by_its_own_key(self, sync, organisation):
        key = "SELECT phone_key FROM known_users WHERE uid = 'u01'"
        sync.complete()
        before = sync.value(key)
        organisation.modify_user("u01", mobile="19955555555")
        undone = sync.complete()
        after = sync.value(key)

        undo = Undo(sync, undone.transaction_id).complete()

        assert undo.outcome["restored"] == {"users": 1}
        assert sync.value(key) == before != after
        fields = "SELECT fields FROM plan_changes WHERE transaction_id = :id"
        assert sync.value(fields, id=undo.transaction_id) == ["phone"]
        again = sync.complete()
        assert sync.value(fields, id=again.transaction_id) == ["phone"]
        assert sync.value(key) == after

    def test_the_next_full_sync_brings_dingtalk_again(self, sync, sandbox, organisation):
        sync.complete()
        mistake(organisation)
        Undo(sync, sync.complete().transaction_id).complete()
        assert sandbox.compare().differences
        sync.complete()
        assert sandbox.compare().differences == ()


class TestOfAFirstSync:
    def test_it_needs_the_explicit_word(self, sync, sandbox):
        first = sync.complete()
        undo = Undo(sync, first.transaction_id)
        assert undo.fails(GuardError, match="allow_mass_delete = true") is SagaStatus.COMPENSATED
        assert len(sandbox.directory.users) == 31

    def test_then_everything_it_added_is_removed_and_an_undo_of_that_brings_it_back(self, sync, sandbox):
        first = sync.complete()
        after = content(sandbox.directory)
        undo = Undo(sync, first.transaction_id, allow_mass_delete=True).complete()
        assert sandbox.directory.users == {}
        assert set(sandbox.directory.departments) == {"0"}
        assert sync.value("SELECT count(*) FROM known_users") == 0
        Undo(sync, undo.transaction_id).complete()
        assert content(sandbox.directory) == after

    @pytest.mark.slow
    def test_what_came_after_it_stays(self, sync, sandbox, organisation):
        batches = Batches(sync)
        first = sync.complete()
        batches.observe()
        organisation.add_user(User(userid="later", name="后", placements=(Placement(110, 1),)))
        batches.drain()
        undo = Undo(sync, first.transaction_id, allow_mass_delete=True).complete()
        assert set(sandbox.directory.users) == {"later"}
        assert set(sandbox.directory.departments) == {"0", "1", "100", "110"}
        assert undo.left == {("departments", did, "needed") for did in ("1", "100", "110")}


class TestRefused:
    def test_without_a_snapshot_it_says_so(self, sync, organisation):
        sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        newest = sync.complete()
        for keep, run in ((2, wrong), (1, wrong), (1, newest)):
            with sync.database.transaction() as connection:
                while snapshots(connection, keep=keep):
                    pass
            undo = Undo(sync, run.transaction_id)
            assert undo.fails(RefusedError, match="NANCALACC_KEEP_SNAPSHOTS") is SagaStatus.CANCELLED

    @pytest.mark.parametrize(
        "transaction_id, match",
        [("", "must name the saga"), (None, "must name the saga"), ("nobody", "There is no saga nobody")],
    )
    def test_an_id_that_names_nothing_is_refused(self, sync, transaction_id, match):
        undo = Undo(sync, transaction_id)
        assert undo.fails(RefusedError, match=match) is SagaStatus.CANCELLED

    @pytest.mark.slow
    def test_only_completed_syncs_of_the_company_can_be_undone(self, sync, sandbox, organisation):
        batches = Batches(sync)
        done = sync.complete()
        dry = sync.start(dry_run=True)
        dry.steps()
        dry.settle()
        batches.observe()
        organisation.modify_user("u02", name="新")
        batch = batches.run()
        sandbox.faults.add("errcode", path="full/sync", code="400", times=None)
        failed = sync.start()
        failed.fails(NancalaccError, match="refused", at="notify_wps")
        sandbox.faults.clear()
        for run, match in (
            (dry, "dry run"),
            (batch, "incremental_sync"),
            (failed, "is compensated"),
        ):
            assert Undo(sync, run.transaction_id).fails(RefusedError, match=match) is SagaStatus.CANCELLED
        sync.company.change("wps", third_company_id="other", company_id="other-wps")
        assert Undo(sync, done.transaction_id).fails(RefusedError, match="of company sandbox")

    def test_a_snapshot_that_somebody_changed_is_not_restored(self, sync, organisation):
        sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        sync.execute("DELETE FROM tb_las_user WHERE uid = 'u09'")
        assert Undo(sync, wrong.transaction_id).fails(RefusedError, match="somebody else")

    def test_neither_is_an_earlier_one(self, sync, organisation):
        first = sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        sync.execute("DELETE FROM tb_las_user WHERE uid = 'u09' AND task_id = :id", id=first.saga.task_id)
        assert Undo(sync, wrong.transaction_id).fails(RefusedError, match=first.saga.task_id)

    def test_a_snapshot_that_maintenance_removes_while_it_is_read_is_not_restored_in_part(
        self, sync, organisation
    ):
        sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        with sync.database.transaction() as connection:
            undone = former.find(
                connection, wrong.transaction_id, third_company_id="sandbox", platform_id="dingtalk"
            )
            assert snapshots(connection, keep=1, limit=3) == 3
            fetch = Fetch(wrong.transaction_id, epoch=9, attempt=1)
            with pytest.raises(RefusedError, match="NANCALACC_KEEP_SNAPSHOTS"):
                former.stage(connection, undone, fetch=fetch, phone_salt="")

    def test_it_is_refused_while_a_full_sync_runs_and_the_other_way_round(self, sync, organisation):
        sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        running = sync.start()
        running.step("validate_task")
        assert Undo(sync, wrong.transaction_id).fails(RefusedError, match="A saga of full_sync")
        running.steps()
        running.settle()
        undo = Undo(sync, wrong.transaction_id)
        undo.steps(to="validate_task")
        sync.start().fails(RefusedError, match="A saga of undo_sync", at="validate_task")

    def test_an_undo_that_was_overtaken_by_a_sync_publishes_nothing(self, sync, sandbox, organisation):
        sync.complete()
        organisation.remove_user("u01")
        wrong = sync.complete()
        undo = Undo(sync, wrong.transaction_id)
        undo.steps(to="save_relations")
        sync.execute("UPDATE company_locks SET holder = NULL")
        newer = sync.complete()
        with pytest.raises(GuardError, match=newer.saga.task_id):
            undo.steps(to="notify_wps")
        assert sandbox.directory.user("u01") is None


def known_state(sync) -> list[Any]:
    """Known state without what is encrypted anew, and without whence it is."""
    return [
        sync.rows('SELECT did, pid, name, name_key, "order" FROM known_departments ORDER BY did'),
        sync.rows(
            "SELECT uid, uid_key, account, account_key, nick_name, def_did, def_did_order, email, title,"
            " leader, phone_key FROM known_users ORDER BY uid"
        ),
        sync.rows('SELECT uid, did, "order", main FROM known_memberships ORDER BY uid, did'),
    ]
