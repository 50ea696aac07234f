"""The whole saga: what WPS and the tables hold afterwards, on every way it can go."""

from datetime import datetime

import pytest

from nancalacc.errors import (
    BusyError,
    CallRefusedError,
    ConfigurationError,
    GuardError,
    IncompleteAnswerError,
    NancalaccError,
    RefusedError,
    TransientError,
    UnknownOutcomeError,
)
from nancalacc.saga.state import PivotState, SagaStatus
from nancalacc.sandbox.organisation import Placement, User, demo_organisation

SHARED = ("tb_company_cfg", "tb_las_department", "tb_las_user", "tb_las_department_user", "task")
STAGED = ("staged_departments", "staged_users", "staged_memberships")
PLANS = ("sync_plans", "plan_changes", "plan_subtrees")
FIRST_TASK_ID = "20240502023000"


def nothing_left(sync, tables=(*SHARED[1:4], *STAGED)):
    assert {table: sync.value(f"SELECT count(*) FROM {table}") for table in tables} == dict.fromkeys(
        tables, 0
    )


class TestHappyPath:
    def test_wps_ends_up_with_the_organisation(self, sync, sandbox):
        run = sync.complete()
        comparison = sandbox.compare()
        assert comparison.differences == ()
        assert comparison.counts["users"] == 31
        assert run.saga.progress == 100

    def test_the_demo_organisation_with_all_its_oddities_arrives(self, sync, sandbox):
        sandbox.reset(organisation=demo_organisation())
        sync.complete()
        assert sandbox.compare().differences == ()

    def test_the_task_row_tells_the_story_in_local_time(self, sync):
        run = sync.complete()
        row = sync.rows("SELECT * FROM task")[0]
        assert (row.title, row.status, row.progress) == (FIRST_TASK_ID, "completed", 100)
        assert row.actual_time == 1
        assert "run_1" in row.description
        offset = row.completed_at - sync.value("SELECT timezone('utc', now())")
        assert round(offset.total_seconds() / 3600) == 8
        assert run.saga.task_id == FIRST_TASK_ID

    def test_rows_are_selected_and_stamped_in_local_time(self, sync):
        sync.complete()
        for table in SHARED[1:4]:
            rows = sync.rows(
                f"SELECT DISTINCT task_id, third_company_id, platform_id, check_type,"
                f" round(extract(epoch FROM ctime - timezone('utc', now())) / 3600) AS hours FROM {table}"
            )
            assert [tuple(row) for row in rows] == [(FIRST_TASK_ID, "sandbox", "dingtalk", 1, 8)]

    def test_the_root_row_is_the_only_one_of_its_kind(self, sync):
        sync.complete()
        rows = sync.rows("SELECT did, pid, name, \"order\", source FROM tb_las_department WHERE pid = '-1'")
        assert [tuple(row) for row in rows] == [("0", "-1", "演示集团", 0, "sync")]

    def test_action_data_holds_counts_and_evidence(self, sync):
        run = sync.complete()
        data = run.records["fetch_dingtalk_data"].action_data
        assert (data["departments"], data["users"], data["memberships"]) == (4, 31, 32)
        assert data["collect_cost_ms"] >= 1
        assert data["evidence"]["authed_dept"] == [1]
        assert data["evidence"]["calls"]["topapi/v2/user/get"] == 31
        assert data["difference"]["users"] == {"known": 0, "added": 31, "changed": 0, "removed": 0}
        assert run.records["save_users"].action_data == {"rows": 31, "fetch": {"epoch": 1, "attempt": 1}}
        assert run.records["update_task_status"].action_data["rows"]["users"] == 31

    def test_below_another_root_only_its_subtree_is_synced(self, sync, sandbox):
        sync.company.change("dingtalk", root_dept_id=100)
        run = sync.complete()
        assert sandbox.compare(root_dept_id=100).differences == ()
        assert run.records["fetch_dingtalk_data"].action_data["ignored"]["memberships"] == 1

    def test_a_second_sync_follows_every_change(self, sync, sandbox, organisation):
        sync.complete()
        organisation.remove_user("u10")
        organisation.modify_user("u11", name="新名", mobile="18800000000", active=False)
        organisation.move_user("u12", placements=[Placement(200, 3), Placement(1, 1)])
        organisation.add_department("新部门", parent_id=110, dept_id=300)
        organisation.add_user(User(userid="new", name="新人", placements=(Placement(300, 1),)))
        run = sync.complete()
        assert sandbox.compare().differences == ()
        difference = run.records["update_task_status"].action_data["difference"]
        assert difference["users"] == {"known": 31, "added": 1, "changed": 2, "removed": 1}
        assert difference["departments"] == {"known": 4, "added": 1, "changed": 0, "removed": 0}

    def test_an_unchanged_organisation_makes_no_difference(self, sync):
        sync.complete()
        run = sync.complete()
        for counts in run.records["fetch_dingtalk_data"].action_data["difference"].values():
            assert (counts["added"], counts["changed"], counts["removed"]) == (0, 0, 0)

    def test_two_companies_with_one_start_get_different_task_ids(self, sync):
        sync.complete()
        sync.company.change("wps", third_company_id="other", company_id="other-wps")
        run = sync.start(start=datetime.fromisoformat("2024-05-01T18:30:00+00:00"))
        run.step("validate_task")
        assert run.saga.task_id == "20240502023001"


class TestRejects:
    def test_a_record_that_cannot_be_written_is_explained_and_stops_nothing(self, sync, organisation):
        organisation.add_user(User(userid="U07", name="n", placements=(Placement(200), Placement(100))))
        run = sync.complete()
        rejected = run.records["fetch_dingtalk_data"].action_data["rejected"]
        assert (rejected["users"], rejected["memberships"]) == (1, 1)
        assert rejected["reasons"] == {"userid_not_distinct": 1}
        events = [data for kind, data in run.events if kind == "record_rejected"]
        assert [(each["id"], each["reason"][:19]) for each in events] == [("u07", "userid_not_distinct")]
        assert sync.value("SELECT count(*) FROM tb_las_user") == 31

    def test_a_long_list_of_rejects_ends_with_a_summary(self, sync, organisation):
        for number in range(120):
            for userid in (f"more{number}", f"MORE{number}"):
                organisation.add_user(User(userid=userid, name="n", placements=(Placement(200),)))
        run = sync.complete()
        events = [data for kind, data in run.events if kind == "record_rejected"]
        assert len(events) == 101
        assert events[-1]["more"] == 20
        assert len(run.records["fetch_dingtalk_data"].action_data["rejected"]["examples"]) == 20


class TestParameters:
    @pytest.mark.parametrize(
        "params, match",
        [
            ({"dryrun": True}, "'dryrun'"),
            ({"task_name": "20240230000000"}, "'task_name'"),
            ({"dry_run": "no"}, "'dry_run'"),
        ],
    )
    def test_wrong_ones_are_refused_before_anything_is_called(self, sync, sandbox, params, match):
        run = sync.start(**params)
        run.fails(RefusedError, match=match)
        assert run.status is SagaStatus.CANCELLED
        assert sandbox.calls.counts() == {}
        nothing_left(sync, (*SHARED, *STAGED, "company_locks"))

    @pytest.mark.parametrize("param", ["dingtalk_conn_id", "wps_conn_id"])
    def test_a_missing_connection_is_named_before_anything_is_called(self, sync, sandbox, param):
        run = sync.start(**{param: "nowhere"})
        run.fails(ConfigurationError, match="'nowhere'")
        assert sandbox.calls.counts() == {}
        nothing_left(sync, (*SHARED, *STAGED))

    def test_a_task_name_is_the_task_id(self, sync):
        assert sync.complete(task_name="20250101000000").saga.task_id == "20250101000000"

    def test_a_used_task_name_is_refused(self, sync):
        sync.complete(task_name="20250101000000")
        run = sync.start(task_name="20250101000000")
        run.fails(RefusedError, match="already used")
        assert run.status is SagaStatus.CANCELLED
        assert sync.value("SELECT status FROM task") == "completed"

    @pytest.mark.parametrize("company", ["sandbox", "other"])
    def test_a_task_name_under_which_others_have_rows_is_refused(self, sync, company):
        sync.execute(
            "INSERT INTO tb_las_department (did, pid, name, task_id, third_company_id, platform_id)"
            " VALUES ('0', '-1', 'n', '20250101000000', :company, 'theirs')",
            company=company,
        )
        run = sync.start(task_name="20250101000000")
        run.fails(RefusedError, match="already used")
        assert run.status is SagaStatus.CANCELLED
        assert sync.rows("SELECT pid FROM tb_las_department") == [("-1",)]

    def test_a_task_id_under_which_others_have_rows_is_passed_over(self, sync):
        sync.execute(
            "INSERT INTO tb_las_user (uid, account, nick_name, task_id, third_company_id, platform_id)"
            " VALUES ('u', 'a', 'n', :id, 'other', 'theirs')",
            id=FIRST_TASK_ID,
        )
        assert sync.complete().saga.task_id == str(int(FIRST_TASK_ID) + 1)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_a_task_name_far_ahead_is_refused(self, sync, dry_run):
        run = sync.start(task_name="99991231235959", dry_run=dry_run)
        run.fails(RefusedError, match=r"'task_name' '99991231235959'.*more than a day ahead")
        assert run.status is SagaStatus.CANCELLED
        sync.complete()

    @pytest.mark.parametrize("newest", ["99991231235959", "zz"])
    def test_a_newest_task_id_that_none_can_follow_is_named_with_what_to_do(self, sync, newest):
        sync.execute(
            "INSERT INTO tb_las_department (did, pid, name, task_id, third_company_id, platform_id)"
            " VALUES ('0', '-1', 'n', :id, 'sandbox', 'dingtalk')",
            id=newest,
        )
        sync.start().fails(RefusedError, match=rf"follow '{newest}'.*Delete its root row")

    def test_a_task_name_older_than_the_newest_sync_is_refused(self, sync):
        sync.complete()
        sync.start(task_name="20200101000000").fails(RefusedError, match="older than the newest")

    def test_dry_run_changes_nothing_and_tells_the_difference(self, sync, organisation):
        sync.complete()
        before = {table: sync.rows(f"SELECT * FROM {table} ORDER BY id") for table in SHARED}
        known = sync.rows("SELECT * FROM known_users ORDER BY uid")
        organisation.remove_user("u10")
        run = sync.complete(dry_run=True)
        assert {table: sync.rows(f"SELECT * FROM {table} ORDER BY id") for table in SHARED} == before
        assert sync.rows("SELECT * FROM known_users ORDER BY uid") == known
        assert run.records["update_task_status"].action_data["difference"]["users"]["removed"] == 1
        assert run.records["notify_wps"].pivot_state is None

    def test_a_dry_run_does_not_count_as_a_newer_sync(self, sync):
        sync.complete(dry_run=True)
        sync.complete(task_name="20200101000000")

    def test_a_dry_run_uses_up_no_task_name(self, sync):
        first = sync.complete(dry_run=True, task_name="20200101000000")
        assert sync.complete(task_name="20200101000000").saga.task_id == first.saga.task_id


class TestLock:
    def test_a_second_sync_of_the_company_is_refused_with_the_name_of_the_first(self, sync):
        first = sync.start("first_run")
        first.step("validate_task")
        second = sync.start()
        second.fails(RefusedError, match="first_run")
        assert second.status is SagaStatus.CANCELLED
        first.steps()
        assert first.settle() is SagaStatus.COMPLETED

    def test_a_batch_is_waited_for_in_line(self, sync):
        run, batch = sync.start(), sync.start("batch")
        sync.execute(
            "UPDATE saga_transactions SET definition = 'incremental_sync', status = 'in_progress'"
            " WHERE transaction_id = :id",
            id=batch.transaction_id,
        )
        sync.execute(
            "INSERT INTO company_locks (third_company_id, holder) VALUES ('sandbox', :id)",
            id=batch.transaction_id,
        )
        seen = []

        def batch_ends(_: float) -> None:
            seen.append(sync.value("SELECT waiting FROM company_locks"))
            sync.execute("UPDATE company_locks SET holder = NULL")

        sync.settings = type(sync.settings)(lock_wait_seconds=60)
        run.services = type(run.services)(
            **{
                **{name: getattr(run.services, name) for name in run.services.__dataclass_fields__},
                "settings": sync.settings,
                "sleep": batch_ends,
            }
        )
        run.step("validate_task")
        assert seen == [run.transaction_id]
        assert tuple(sync.rows("SELECT holder, waiting FROM company_locks")[0]) == (run.transaction_id, None)

    def test_waiting_for_a_batch_is_bounded(self, sync):
        run, batch = sync.start(), sync.start("batch_run")
        sync.execute(
            "UPDATE saga_transactions SET definition = 'incremental_sync', status = 'in_progress'"
            " WHERE transaction_id = :id",
            id=batch.transaction_id,
        )
        sync.execute(
            "INSERT INTO company_locks (third_company_id, holder) VALUES ('sandbox', :id)",
            id=batch.transaction_id,
        )
        run.fails(RefusedError, match="batch_run")
        assert sync.value("SELECT waiting FROM company_locks") is None


class TestScope:
    def narrow(self, sandbox, *authed):
        sandbox.dingtalk.rules = type(sandbox.dingtalk.rules)(calls_per_second=0, authed_dept=authed)

    def test_a_narrowed_scope_stops_the_sync(self, sync, sandbox):
        sync.complete()
        self.narrow(sandbox, 100)
        run = sync.start()
        run.fails(GuardError, match=r"root_dept_id.*authed_dept \[100\]", at="validate_task")
        assert run.status is SagaStatus.COMPENSATED

    def test_a_root_inside_the_scope_may_be_synced(self, sync, sandbox):
        self.narrow(sandbox, 100)
        sync.company.change("dingtalk", root_dept_id=110)
        sync.complete()
        assert sandbox.compare(root_dept_id=110).differences == ()

    def test_a_root_that_does_not_exist_is_named(self, sync, sandbox):
        self.narrow(sandbox, 100)
        sync.company.change("dingtalk", root_dept_id=999)
        with pytest.raises((ConfigurationError, GuardError), match="root_dept_id"):
            sync.start().step("validate_task")


class TestGoingBack:
    def broken(self, sync, table):
        sync.execute(f"ALTER TABLE {table} ADD CONSTRAINT broken CHECK (task_id < '2') NOT VALID")

    @pytest.mark.parametrize("table", ["tb_las_department", "tb_las_user", "tb_las_department_user"])
    def test_when_a_save_fails_nothing_of_the_task_id_is_left(self, sync, table):
        self.broken(sync, table)
        run = sync.start()
        run.fails(NancalaccError, match="broken")
        assert run.status is SagaStatus.COMPENSATED
        nothing_left(sync, (*SHARED[:4], *STAGED))
        assert sync.value("SELECT status FROM task") == "cancelled"
        assert sync.value("SELECT holder FROM company_locks") is None

    def test_the_company_row_is_as_it_was_before(self, sync):
        sync.execute(
            "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id, status)"
            " VALUES ('sandbox', 'old', 'old-company', 0)"
        )
        self.broken(sync, "tb_las_user")
        sync.start().fails(NancalaccError, match="broken")
        row = sync.rows("SELECT platform_ids, company_id, status FROM tb_company_cfg")[0]
        assert tuple(row) == ("old", "old-company", 0)

    @pytest.mark.parametrize(
        "listed, after",
        [("dingtalk", "dingtalk"), ("a, dingtalk", "a, dingtalk"), ("a,b", "a,b,dingtalk")],
    )
    def test_the_company_row_keeps_the_other_sources_it_names(self, sync, sandbox, listed, after):
        sync.execute(
            "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id, mtime)"
            " VALUES ('sandbox', :listed, 'sandbox-wps', '2001-01-01')",
            listed=listed,
        )
        sync.complete()
        row = sync.rows("SELECT platform_ids, mtime FROM tb_company_cfg")[0]
        assert row.platform_ids == after
        assert (row.mtime.year == 2001) is (listed == after)
        assert sandbox.compare().differences == ()

    def test_a_company_row_without_room_for_our_source_is_named(self, sync):
        sync.execute(
            "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id)"
            " VALUES ('sandbox', :listed, 'sandbox-wps')",
            listed="a" * 95,
        )
        run = sync.start()
        run.fails(ConfigurationError, match="no room for 'dingtalk'")
        assert run.status is SagaStatus.COMPENSATED

    def test_a_company_row_that_was_right_is_untouched_by_a_sync_that_is_undone(self, sync):
        sync.execute(
            "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id, mtime)"
            " VALUES ('sandbox', 'dingtalk', 'sandbox-wps', '2001-01-01')"
        )
        before = sync.rows("SELECT * FROM tb_company_cfg")
        self.broken(sync, "tb_las_user")
        sync.start().fails(NancalaccError, match="broken")
        assert sync.rows("SELECT * FROM tb_company_cfg") == before

    def test_the_company_row_is_left_alone_when_somebody_changed_it_since(self, sync):
        self.broken(sync, "tb_las_user")
        run = sync.start()
        run.steps(to="save_departments")
        sync.execute("UPDATE tb_company_cfg SET platform_ids = 'theirs'")
        run.fails(NancalaccError, match="broken")
        assert sync.value("SELECT platform_ids FROM tb_company_cfg") == "theirs"

    def test_a_company_id_of_another_tenant_is_named(self, sync):
        sync.execute(
            "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id)"
            " VALUES ('other', 'p', 'sandbox-wps')"
        )
        run = sync.start()
        run.fails(ConfigurationError, match="'other'")
        assert run.status is SagaStatus.COMPENSATED

    def test_a_cleared_run_succeeds_with_its_task_id(self, sync, sandbox):
        self.broken(sync, "tb_las_user")
        run = sync.start()
        run.fails(NancalaccError, match="broken")
        sync.execute("ALTER TABLE tb_las_user DROP CONSTRAINT broken")
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert run.saga.task_id == FIRST_TASK_ID
        assert sync.rows("SELECT status, progress FROM task") == [("completed", 100)]

    def test_a_cleared_run_of_yesterday_is_newer_than_what_was_published_since(self, sync, sandbox):
        self.broken(sync, "tb_las_user")
        run = sync.start()
        run.fails(NancalaccError, match="broken")
        sync.execute("ALTER TABLE tb_las_user DROP CONSTRAINT broken")
        newer = sync.complete()
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert run.saga.task_id > newer.saga.task_id
        assert sync.rows("SELECT status FROM task ORDER BY title") == [
            ("cancelled",),
            ("completed",),
            ("completed",),
        ]

    def test_a_cleared_completed_run_gets_a_new_task_id(self, sync, sandbox, organisation):
        run = sync.complete()
        organisation.remove_user("u10")
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert run.saga.task_id == "20240502023001"
        sandbox.consumer.run_now()
        assert sandbox.consumer.wait_idle()
        assert sandbox.compare().differences == ()

    def test_a_cleared_completed_run_with_a_task_name_publishes_it_again(self, sync, organisation):
        run = sync.complete(task_name="20250101000000")
        organisation.remove_user("u10")
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert run.saga.task_id == "20250101000000"
        assert sync.value("SELECT count(*) FROM tb_las_user") == 30


class TestNotify:
    def fault(self, sandbox, kind, **details):
        sandbox.faults.add(kind, path="full/sync", **details)

    def test_a_definite_refusal_goes_back(self, sync, sandbox):
        self.fault(sandbox, "errcode", code="400", text="bad parameter", times=None)
        run = sync.start()
        run.fails(CallRefusedError, match="400")
        assert run.status is SagaStatus.COMPENSATED
        nothing_left(sync, (*SHARED[:4], *STAGED))

    def test_a_busy_wps_is_asked_again(self, sync, sandbox):
        self.fault(sandbox, "busy", times=1)
        run = sync.complete()
        assert run.records["notify_wps"].action_data["calls"] == 2

    def test_giving_up_on_a_busy_wps_undoes_nothing(self, sync, sandbox):
        self.fault(sandbox, "busy", times=None)
        run = sync.start()
        with pytest.raises(BusyError):
            run.steps()
        assert run.records["notify_wps"].pivot_state is PivotState.INTENDED
        sandbox.faults.clear()
        assert run.settle() is SagaStatus.COMPLETED

    def test_a_lost_answer_is_no_reason_to_go_back(self, sync, sandbox):
        self.fault(sandbox, "drop", times=None, after_effect=True)
        run = sync.start()
        with pytest.raises(UnknownOutcomeError):
            run.steps()
        self.fault(sandbox, "errcode", code="400", times=None)
        assert run.records["notify_wps"].pivot_state is PivotState.INTENDED
        sandbox.faults.clear()
        assert run.settle() is SagaStatus.COMPLETED
        assert sandbox.compare().differences == ()

    @pytest.mark.parametrize("kind, details", [("drop", {"after_effect": True}), ("busy", {})])
    def test_a_refusal_after_a_call_that_wps_may_have_taken_up_is_no_reason_either(
        self, sync, sandbox, kind, details
    ):
        self.fault(sandbox, kind, times=1, **details)
        self.fault(sandbox, "errcode", code="400", times=None)
        run = sync.start()
        with pytest.raises(CallRefusedError, match=r"400.*nothing is undone. Remove the cause"):
            run.steps()
        assert run.records["notify_wps"].pivot_state is PivotState.INTENDED
        with pytest.raises(CallRefusedError, match=r"400.*nothing is undone. Remove the cause"):
            run.settle()
        sandbox.faults.clear()
        assert run.settle() is SagaStatus.COMPLETED

    def test_a_wps_that_cannot_be_reached_has_published_nothing(self, sync):
        sync.company.wps = type(sync.company.wps)(
            **{
                **{name: getattr(sync.company.wps, name) for name in sync.company.wps.__dataclass_fields__},
                "host": "http://127.0.0.1:9",
            }
        )
        run = sync.start()
        with pytest.raises(TransientError):
            run.steps()
        assert run.records["notify_wps"].pivot_state is PivotState.REFUSED

    def test_nothing_is_published_when_a_row_is_missing(self, sync):
        run = sync.start()
        run.steps(to="save_relations")
        sync.execute("DELETE FROM tb_las_user WHERE uid = 'u07'")
        run.fails(GuardError, match="'users': 30")
        assert run.status is SagaStatus.COMPENSATED

    def test_nothing_is_published_over_a_newer_sync(self, sync):
        run = sync.start()
        run.steps(to="save_relations")
        sync.execute(
            "INSERT INTO tb_las_department (did, pid, name, task_id, third_company_id, platform_id)"
            " VALUES ('0', '-1', 'n', '20990101000000', 'sandbox', 'dingtalk')"
        )
        run.fails(GuardError, match="20990101000000")

    def test_a_save_that_misses_rows_in_staging_is_refused(self, sync):
        run = sync.start()
        run.steps(to="save_company_config")
        sync.execute("DELETE FROM staged_memberships WHERE uid = 'u07'")
        run.fails(GuardError, match="31 memberships")
        assert run.status is SagaStatus.COMPENSATED

    def test_removals_beyond_the_thresholds_of_wps_are_a_warning(self, sync, organisation):
        sync.complete()
        for number in range(2):
            organisation.remove_user(f"u1{number}")
        run = sync.complete()
        warnings = [data for kind, data in run.events if kind == "warning"]
        assert [each["removed"] for each in warnings] == [{"memberships": 2}]


class TestNobodyIsDeletedByMistake:
    def lost(self, sync, run, kind=IncompleteAnswerError, match=""):
        published = sync.value("SELECT count(*) FROM tb_las_department WHERE pid = '-1'")
        run.fails(kind, match=match)
        assert run.status is SagaStatus.COMPENSATED
        assert sync.value("SELECT count(*) FROM tb_las_department WHERE pid = '-1'") == published

    def test_an_empty_root(self, sync, sandbox):
        sandbox.faults.add("empty", path="topapi", times=None)
        self.lost(sync, sync.start(), match="neither departments nor people")

    def test_people_missing_from_a_page(self, sync, sandbox):
        sync.complete()
        sandbox.faults.add("fewer", path="user/list", body={"dept_id": 110}, times=None)
        self.lost(sync, sync.start(), match="still in DingTalk")

    def test_departments_missing_from_a_listing(self, sync, sandbox):
        sync.complete()
        sandbox.faults.add("empty", path="listsub", body={"dept_id": 100}, times=None)
        self.lost(sync, sync.start(), match="Department 110 .* still in DingTalk")

    def test_an_empty_department_list(self, sync, sandbox):
        sync.complete()
        sandbox.faults.add("empty", path="listsub", times=None)
        self.lost(sync, sync.start(allow_mass_delete=True), match="Department 1[01]0 .* still in DingTalk")

    def test_a_last_page_that_does_not_say_so(self, sync, sandbox):
        sandbox.faults.add("omit_has_more", path="user/list", body={"dept_id": 200}, times=None)
        self.lost(sync, sync.start(), match="has_more")

    def test_a_department_deleted_between_listing_and_reading(self, sync, sandbox):
        sync.complete()
        sandbox.faults.add("vanish", path="user/list", body={"dept_id": 200}, times=None)
        self.lost(sync, sync.start(), match="Department 200 was removed from DingTalk after")

    def test_a_cursor_that_does_not_move(self, sync, sandbox, organisation):
        for number in range(150):
            organisation.add_user(User(userid=f"more{number}", name="n", placements=(Placement(200),)))
        sandbox.faults.add("repeat_cursor", path="user/list", body={"dept_id": 200}, times=None)
        self.lost(sync, sync.start(), match="cursor")

    def test_more_removals_than_anybody_meant(self, sync, organisation):
        for number in range(30, 60):
            organisation.add_user(User(userid=f"u{number}", name="n", placements=(Placement(200),)))
        sync.complete()
        for number in range(30, 55):
            organisation.remove_user(f"u{number}")
        self.lost(sync, sync.start(), GuardError, match="25 of 61 users .*allow_mass_delete")
        sync.complete(allow_mass_delete=True)

    def test_even_when_mass_deletion_is_allowed_who_is_there_stays(self, sync, sandbox):
        sync.complete()
        sandbox.faults.add("empty", path="user/list", times=None)
        self.lost(sync, sync.start(allow_mass_delete=True), match="still in DingTalk")

    def test_who_moved_out_of_the_subtree_may_go(self, sync, sandbox, organisation):
        sync.company.change("dingtalk", root_dept_id=100)
        sync.complete()
        organisation.move_user("u03", placements=[Placement(200)])
        organisation.add_department("x", dept_id=300)
        sync.complete()
        assert sandbox.compare(root_dept_id=100).differences == ()


class TestUnreadFields:
    def omit(self, sandbox, *fields):
        sandbox.dingtalk.rules = type(sandbox.dingtalk.rules)(calls_per_second=0, omitted=frozenset(fields))

    @pytest.mark.parametrize(
        "omitted",
        [("mobile", "telephone"), ("email", "title", "job_number"), ("manager_userid",), ("name", "active")],
    )
    def test_without_permission_a_field_stays_as_it_was(self, sync, sandbox, omitted):
        sync.complete()
        self.omit(sandbox, *omitted)
        sync.complete()
        sandbox.dingtalk.rules = sandbox.options.dingtalk
        assert sandbox.compare().differences == ()

    def test_without_user_details_managers_stay(self, sync, sandbox):
        sync.complete()
        sync.company.change("dingtalk", user_details=False)
        sandbox.calls.clear()
        sync.complete()
        assert "/topapi/v2/user/get" not in sandbox.calls.counts()
        assert sandbox.compare().differences == ()

    def test_a_manager_who_left_is_not_carried_over(self, sync, sandbox, organisation):
        sync.complete()
        organisation.remove_user("boss")
        sync.company.change("dingtalk", user_details=False)
        run = sync.complete()
        assert sandbox.compare().differences == ()
        reasons = run.records["fetch_dingtalk_data"].action_data["adjusted"]["reasons"]
        assert reasons["leader_unknown"] == 30

    def test_who_has_no_manager_any_more_has_none_in_wps(self, sync, sandbox, organisation):
        sync.complete()
        organisation.modify_user("u07", manager_userid=None)
        sync.complete()
        assert sync.value("SELECT leader FROM known_users WHERE uid = 'u07'") == ""
        assert sandbox.compare().differences == ()

    @pytest.mark.slow
    @pytest.mark.parametrize("lost", [(), ("mobile",)], ids=["as before", "a permission went, too"])
    def test_the_last_manager_goes_unless_a_permission_went(self, sync, sandbox, organisation, lost):
        for uid in {*organisation.users} - {"u01"}:
            organisation.modify_user(uid, manager_userid=None)
        sync.complete()
        organisation.modify_user("u01", manager_userid=None)
        self.omit(sandbox, *lost)
        sync.complete()
        assert sync.value("SELECT leader FROM known_users WHERE uid = 'u01'") == ("boss" if lost else "")


class TestSecrets:
    def test_no_phone_number_is_anywhere_in_the_database(self, sync):
        sync.complete()
        for table in (
            *SHARED,
            *STAGED,
            *PLANS,
            "known_users",
            "saga_transactions",
            "saga_steps",
            "saga_events",
        ):
            for row in sync.rows(f"SELECT t::text FROM {table} t"):
                assert "199000000" not in row[0]
