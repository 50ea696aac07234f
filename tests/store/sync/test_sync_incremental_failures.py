"""Batches of events when something goes wrong: nothing lost, nothing stuck, nobody else held up."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nancalacc.config import Settings
from nancalacc.errors import (
    BusyError,
    CallRefusedError,
    ConfigurationError,
    NancalaccError,
    RefusedError,
    StatementRefusedError,
    TransientError,
)
from nancalacc.orchestration.registry import IMPATIENT
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.store import locks
from nancalacc.sync.inbox import Company
from store.sync.batches import Batches

pytestmark = pytest.mark.slow  # WPS's window must contain a row before WPS can take it

POISON = """
CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.key = 'u13' THEN RAISE EXCEPTION 'broken on purpose'; END IF; RETURN NEW; END $$;
CREATE TRIGGER poison BEFORE INSERT ON staged_increments FOR EACH ROW EXECUTE FUNCTION poison()
"""


@pytest.fixture
def batches(sync) -> Batches:
    sync.complete()
    sync.execute("TRUNCATE staged_departments, staged_users, staged_memberships")
    return Batches(sync)


def set_consumer(batches: Batches, **rules) -> None:
    consumer = batches.sync.sandbox.consumer
    consumer.set_rules(replace(consumer.rules, **rules))


def fails(batches: Batches, step: str, kind: type[NancalaccError]) -> SagaStatus:
    """Run a batch whose step must fail for good; returns how its saga ends."""
    run = batches.start()
    with pytest.raises(kind) as caught:
        run.steps(to=step)
    return run.fail(step, caught.value)


def newcomer(batches: Batches):
    [event] = [event for event in batches.events() if event.event_id == "newcomer"]
    return event


def left(batches: Batches, *tables: str) -> int:
    return sum(batches.sync.value(f"SELECT count(*) FROM {table}") for table in tables)


STAGING = ("staged_departments", "staged_users", "staged_memberships", "staged_changes", "staged_increments")
PUBLISHED = (
    "tb_las_department_increment", "tb_las_user_increment", "tb_las_department_user_increment",
)  # fmt: skip


class TestBeforeThePublication:
    @pytest.mark.parametrize("fault", ["http", "html", "truncate"])
    def test_while_dingtalk_is_away_the_batch_waits_whole_and_no_event_dies(self, batches, fault):
        batches.sync.settings = replace(batches.sync.settings, event_pause_seconds=60)
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        batches.sync.sandbox.faults.add(fault, path="topapi", times=None, status=500)
        for times in range(1, 4):
            assert fails(batches, "fetch_changes", TransientError) is SagaStatus.COMPENSATED
            [event] = batches.events()
            assert (event.status, event.attempts, event.returns) == ("pending", 0, times)
            assert event.batch_limit is None
            wait = event.next_attempt_at - datetime.now(tz=UTC).replace(tzinfo=None)
            assert (
                timedelta(seconds=60 * 2 ** (times - 1) - 10)
                < wait
                <= timedelta(seconds=60 * 2 ** (times - 1))
            )
            assert batches.run().records["claim_events"].action_data == {"events": 0}
            batches.sync.execute("UPDATE dingtalk_events SET next_attempt_at = received_at")
        assert left(batches, *STAGING, *PUBLISHED) == 0
        batches.sync.sandbox.faults.clear()
        batches.run()
        assert batches.difference() == ()
        assert batches.events()[0].returns == 0

    def test_in_ten_minutes_without_dingtalk_no_event_dies(self, batches):
        """The pauses are not waited for: the clock of the inbox is put forward."""
        batches.sync.settings = replace(batches.sync.settings, event_pause_seconds=10, event_attempts=2)
        for uid in ("u07", "u08"):
            batches.sync.sandbox.organisation.modify_user(uid, name="改名")
            batches.event("user_modify_org", uid)
        batches.sync.sandbox.faults.add("http", path="topapi", times=None, status=500)
        away = 0.0
        while away < 600:
            assert fails(batches, "fetch_changes", TransientError) is SagaStatus.COMPENSATED
            pause = batches.sync.value(
                "SELECT extract(epoch FROM max(next_attempt_at) - timezone('utc', clock_timestamp()))"
                " FROM dingtalk_events"
            )
            away += float(pause)
            batches.sync.execute("UPDATE dingtalk_events SET next_attempt_at = received_at")
        assert [(event.status, event.attempts) for event in batches.events()] == [("pending", 0)] * 2
        batches.sync.sandbox.faults.clear()
        batches.run()
        assert batches.difference() == ()
        assert batches.count("done") == 2

    def test_a_step_that_fails_for_good_leaves_nothing_behind(self, batches):
        batches.sync.execute("ALTER TABLE staged_increments ADD CHECK (kind <> 'memberships')")
        batches.event("user_modify_org", "u07")
        assert fails(batches, "save_relations", StatementRefusedError) is SagaStatus.COMPENSATED
        assert left(batches, *STAGING, *PUBLISHED) == 0
        assert batches.count("pending") == 1
        assert batches.sync.value("SELECT holder FROM company_locks") is None

    def test_an_event_that_breaks_its_batch_is_found_by_halving_and_given_up(self, batches):
        batches.sync.settings = replace(batches.sync.settings, event_attempts=2)
        batches.sync.execute(POISON)
        for number in range(20):
            uid = f"u{number:02d}"
            batches.sync.sandbox.organisation.modify_user(uid, title="新")
            batches.event("user_modify_org", uid)
        failed = 0
        while batches.count("pending"):
            run = batches.start()
            try:
                run.steps()
            except StatementRefusedError as error:
                failed += 1
                run.fail("save_users", error)
            else:
                assert run.settle() is SagaStatus.COMPLETED
        [dead] = [event for event in batches.events() if event.status == "dead"]
        assert dead.object_ids == ["u13"]
        assert "save_users" in dead.error
        assert batches.count("done") == 19
        assert failed <= 7
        assert {line.split(":")[0] for line in batches.difference()} == {"user u13"}

    def test_events_that_come_while_a_batch_is_halved_wait_for_one_failure_at_most(self, batches):
        batches.sync.settings = replace(batches.sync.settings, event_attempts=2)
        batches.sync.execute(POISON)
        for number in range(10, 18):
            batches.event("user_modify_org", f"u{number}")
        assert fails(batches, "save_users", StatementRefusedError) is SagaStatus.COMPENSATED
        batches.sync.sandbox.organisation.modify_user("u20", title="新")
        batches.event("user_modify_org", "u20", event_id="newcomer")
        failed = 0
        while newcomer(batches).status != "done":
            run = batches.start()
            try:
                run.steps()
            except StatementRefusedError as error:
                failed += 1
                run.fail("save_users", error)
            else:
                assert run.settle() is SagaStatus.COMPLETED
        assert failed <= 1

    def test_a_cancelled_batch_gives_its_events_back_at_once(self, batches):
        batches.event("user_modify_org", "u07")
        run = batches.start()
        run.steps(to="save_users")
        run.cancel()
        [event] = batches.events()
        assert (event.status, event.attempts, event.returns, event.batch_limit) == ("pending", 0, 0, None)
        batches.run()
        assert batches.count("done") == 1

    def test_rows_of_a_platform_that_wps_does_not_read_are_not_published(self, batches):
        batches.event("user_modify_org", "u07")
        run = batches.start()
        run.steps(to="save_relations")
        wps = batches.sync.company.wps
        batches.sync.company.change("wps", platform_id="otherplat")
        with pytest.raises(ConfigurationError, match=r"'otherplat'.*full sync") as caught:
            run.step("notify_wps")
        assert run.fail("notify_wps", caught.value) is SagaStatus.COMPENSATED
        assert batches.run().records["claim_events"].action_data == {"events": 0}
        assert left(batches, *PUBLISHED, *STAGING) == 0
        batches.sync.company.wps = wps
        assert batches.drain() == 1
        assert batches.count("done") == 1

    def test_an_unknown_parameter_is_refused_before_anything_is_touched(self, batches):
        batches.event("user_modify_org", "u07")
        run = batches.start(batchsize=5)
        with pytest.raises(RefusedError, match="batchsize"):
            run.steps()
        assert run.settle() is SagaStatus.CANCELLED
        assert batches.count("pending") == 1


class TestObjects:
    def test_an_object_that_cannot_be_read_fails_alone_and_dies(self, batches):
        batches.sync.settings = replace(batches.sync.settings, event_attempts=2)
        sandbox = batches.sync.sandbox
        for uid in ("u07", "u08"):
            sandbox.organisation.modify_user(uid, name="改名")
            batches.event("user_modify_org", uid)
        sandbox.faults.add("sub_code", path="user/get", body={"userid": "u08"}, code="50002", times=None)
        batches.run()
        assert [(event.status, event.attempts) for event in batches.events()] == [("done", 0), ("pending", 1)]
        batches.run()
        dead = batches.events()[1]
        assert dead.status == "dead"
        assert "50002" in dead.error

    def test_an_answer_that_is_cut_off_for_one_object_only_is_that_objects_fault(self, batches):
        for uid in ("u07", "u08"):
            batches.event("user_modify_org", uid)
        batches.sync.sandbox.faults.add("truncate", path="user/get", body={"userid": "u08"}, times=None)
        batches.run()
        assert [event.status for event in batches.events()] == ["done", "pending"]

    def test_what_wps_refuses_is_tried_again_and_then_given_up_with_the_reason(self, batches):
        batches.sync.settings = replace(batches.sync.settings, event_attempts=2)
        set_consumer(batches, rejected=frozenset({"u08"}))
        for uid in ("u07", "u08"):
            batches.sync.sandbox.organisation.modify_user(uid, name="改名")
            batches.event("user_modify_org", uid)
        run = batches.run()
        assert [event.status for event in batches.events()] == ["done", "pending"]
        [row] = batches.sync.rows(
            "SELECT sync_time, round(extract(epoch FROM mtime - timezone('utc', now())) / 3600) AS hours"
            " FROM tb_las_user_increment WHERE status = -1"
        )
        assert (row.sync_time.year, row.hours) == (2000, 8)  # withdrawn, in the company's time
        rejected = [data for kind, data in run.events if kind == "record_rejected"]
        assert {data["id"] for data in rejected} == {"u08"}
        assert batches.sync.value("SELECT nick_name FROM known_users WHERE uid = 'u08'") == "员工8"
        # WPS does not try the outdated row again, whatever its window.
        assert batches.sync.value(
            "SELECT max(sync_time) < '2001-01-01' FROM tb_las_user_increment WHERE status = -1"
        )
        batches.run()
        dead = batches.events()[1]
        assert (dead.status, dead.attempts) == ("dead", 2)
        assert "rejected by the sandbox" in dead.error

    def test_a_removed_department_whose_member_wps_keeps_goes_later(self, batches):
        organisation = batches.sync.sandbox.organisation
        set_consumer(batches, rejected=frozenset({"u01"}))
        for uid in organisation.members(110):
            organisation.move_user(uid, placements=[Placement(200, 1)])
        organisation.remove_department(110)
        batches.event("org_dept_remove", 110)
        batches.run()
        assert batches.sync.sandbox.directory.department("110") is not None
        set_consumer(batches, rejected=frozenset())
        batches.drain()
        assert batches.difference() == ()

    def test_an_event_of_two_people_is_not_done_before_both_are(self, batches):
        set_consumer(batches, rejected=frozenset({"u08"}))
        batches.event("user_modify_org", "u07", "u08")
        batches.run()
        assert [event.status for event in batches.events()] == ["pending"]
        set_consumer(batches, rejected=frozenset())
        batches.run()
        assert [event.status for event in batches.events()] == ["done"]


class TestWps:
    def test_a_lost_answer_is_no_failure(self, batches):
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        batches.sync.sandbox.faults.add("drop", path="increment/sync", after_effect=True)
        batches.run()
        assert batches.difference() == ()
        assert batches.count("done") == 1

    def test_a_busy_wps_is_waited_for(self, batches):
        batches.sync.settings = replace(batches.sync.settings, busy_wait_seconds=30)
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        batches.sync.sandbox.faults.add("busy", path="increment/sync", times=2)
        assert batches.run().records["notify_wps"].action_data["calls"] == 3
        assert batches.difference() == ()

    def test_after_the_publication_the_batch_only_goes_forward(self, batches):
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        batches.sync.sandbox.faults.add("gateway", path="increment/sync", code="400000201", status=400)
        run = batches.start()
        with pytest.raises(CallRefusedError) as caught:
            run.steps()
        assert run.fail("notify_wps", caught.value) is SagaStatus.COMPLETED
        assert batches.difference() == ()
        assert batches.count("done") == 1

    def test_a_wps_that_refuses_the_call_but_reads_the_rows_by_itself_ends_the_batch(self, batches):
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        batches.sync.sandbox.faults.add(
            "gateway", path="increment/sync", code="400000201", status=400, times=None
        )
        run = batches.start()
        with pytest.raises(CallRefusedError) as caught:
            run.steps()
        set_consumer(batches, increment_every=0.1)
        deadline = time.monotonic() + 60
        while batches.sync.value("SELECT count(*) FROM tb_las_user_increment WHERE status = 0"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert run.fail("notify_wps", caught.value) is SagaStatus.COMPLETED
        assert batches.difference() == ()

    def test_rows_that_wps_leaves_alone_are_stamped_and_told_again(self, batches):
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        run = batches.start()
        run.steps(to="save_relations")
        publish_late(batches)
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert run.records["confirm_increments"].action_data["stamped_again"] > 0
        assert batches.difference() == ()

    def test_a_recovery_has_wps_see_what_it_has_missed(self, batches):
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        run = batches.start()
        run.steps(to="save_relations")
        publish_late(batches)
        run.step("notify_wps")
        settings = replace(run.services.settings, renotify_seconds=Settings().renotify_seconds)
        run.services = replace(run.services, settings=replace(settings, **IMPATIENT))
        assert run.settle() is SagaStatus.COMPLETED
        assert run.records["confirm_increments"].action_data["stamped_again"] > 0
        assert batches.difference() == ()

    def test_a_wps_that_begins_late_is_waited_for(self, batches):
        set_consumer(batches, increment_delay=5)
        batches.sync.sandbox.organisation.modify_user("u07", name="改名")
        batches.event("user_modify_org", "u07")
        batches.run()
        assert batches.difference() == ()

    def test_a_wps_that_never_begins_fails_the_step_with_what_to_look_for(self, batches):
        batches.sync.settings = replace(batches.sync.settings, confirm_seconds=1)
        set_consumer(batches, paused=True)
        batches.event("user_modify_org", "u07")
        run = batches.start()
        with pytest.raises(BusyError, match="left 2 rows"):
            run.steps()
        set_consumer(batches, paused=False)
        assert run.fail("confirm_increments", TransientError("x")) is SagaStatus.COMPLETED
        assert batches.count("done") == 1

    def test_a_department_with_three_thousand_people_goes_in_rounds_that_wps_can_read(self, batches):
        organisation = batches.sync.sandbox.organisation
        organisation.add_department("大部门", dept_id=500)
        for number in range(3000):
            organisation.add_user(User(f"m{number}", f"人{number}", (Placement(500, number),)))
        batches.sync.complete(allow_mass_delete=True)
        for number in range(3000):
            organisation.move_user(f"m{number}", placements=[Placement(200, 1)])
        organisation.remove_department(500)
        batches.event("org_dept_remove", 500)
        run = batches.run()
        assert batches.difference() == ()
        assert run.records["save_relations"].action_data["rounds"] == 5
        for rows in batches.published().values():
            for window in batches.sync.sandbox.consumer.runs:
                assert sum(window.start <= row.sync_time < window.end for row in rows) <= 900

    def test_windows_that_end_all_the_time_miss_no_row(self, batches):
        """WPS runs by itself every moment, its watermark close behind the present."""
        batches.sync.settings = replace(batches.sync.settings, busy_wait_seconds=60)
        set_consumer(batches, increment_every=0.1)
        organisation = batches.sync.sandbox.organisation
        batches.observe()
        for number in range(2):
            organisation.add_department(f"新{number}", dept_id=600 + number, parent_id=100)
            organisation.add_department(f"下{number}", dept_id=700 + number, parent_id=600 + number)
            organisation.add_user(
                User(f"w{number}", "新人", (Placement(700 + number),), manager_userid=f"w{number - 1}")
            )
            run = batches.run()
            assert run.records["confirm_increments"].action_data["stamped_again"] == 0
            assert run.records["confirm_increments"].action_data["refused"] == {}
        assert batches.difference() == ()


def publish_late(batches: Batches) -> None:
    """Make the first stamp too old, as if the commit had taken longer than the seconds it is ahead."""
    batches.sync.execute(
        """
        CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.sync_time := NEW.sync_time - interval '1 hour'; RETURN NEW; END $$;
        CREATE TRIGGER late BEFORE UPDATE ON tb_las_user_increment FOR EACH ROW
            WHEN (OLD.sync_time = OLD.ctime) EXECUTE FUNCTION late();
        """
    )
    batches.sync.sandbox.consumer.run_increments()


class TestBesideAFullSync:
    def test_events_wait_for_a_full_sync_and_the_first_one(self, sync):
        batches = Batches(sync)
        batches.event("user_modify_org", "u07")
        assert batches.run().records["claim_events"].action_data == {"events": 0}
        full = sync.start()
        full.steps(to="notify_wps")
        assert batches.run().records["claim_events"].action_data == {"events": 0}
        full.steps()
        full.settle()
        assert batches.run().records["claim_events"].action_data["events"] == 1

    def test_a_waiting_full_sync_goes_first(self, batches):
        full = batches.sync.start()
        batches.sync.execute(
            "UPDATE saga_transactions SET status = 'in_progress' WHERE transaction_id = :id",
            id=full.transaction_id,
        )
        with batches.sync.database.transaction() as connection:
            locks.wait(connection, third_company_id="sandbox", transaction_id=full.transaction_id)
        batches.event("user_modify_org", "u07")
        assert batches.run().records["claim_events"].action_data == {"events": 0}

    def test_a_full_sync_is_refused_by_no_batch_for_longer_than_it_takes(self, batches):
        batches.sync.settings = replace(batches.sync.settings, lock_wait_seconds=30)
        batches.event("user_modify_org", "u07")
        run = batches.start()
        run.steps(to="save_users")
        full = batches.sync.start(start=datetime.now(tz=UTC))
        full.services = replace(
            full.services, settings=replace(full.services.settings, lock_wait_seconds=30), sleep=time.sleep
        )
        thread = threading.Thread(target=full.steps)
        thread.start()
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        thread.join(60)
        assert full.settle() is SagaStatus.COMPLETED

    def test_a_full_job_that_wps_runs_late_does_not_undo_what_is_newer(self, sync):
        sync.sandbox.organisation.add_department("旧", dept_id=300)
        sync.complete()
        batches = Batches(sync)
        consumer = sync.sandbox.consumer
        set_consumer(batches, full_delay=3600)
        full = sync.start()
        full.steps()
        assert full.settle() is SagaStatus.COMPLETED
        sync.execute(
            "UPDATE saga_steps SET action_data = action_data || jsonb_build_object('accepted_at', now())"
            " WHERE step_name = 'notify_wps' AND action_data ? 'accepted_at'"
        )
        sync.sandbox.organisation.add_user(User("neu", "新人", (Placement(110),)))
        sync.sandbox.organisation.remove_user("u07")
        sync.sandbox.organisation.remove_department(300)
        batches.event("user_add_org", "neu")
        batches.event("user_leave_org", "u07")
        batches.event("org_dept_remove", 300)
        batches.run()
        assert sync.sandbox.compare().differences == ()
        consumer.run_now()
        assert len(sync.sandbox.compare().differences) == 3

        event, *_ = batches.events()
        assert event.status == "done"
        wait = event.repeat_at - datetime.now(tz=UTC).replace(tzinfo=None)
        assert timedelta(minutes=20) < wait <= timedelta(minutes=30)
        assert batches.run().records["claim_events"].action_data == {"events": 0}
        sync.execute("UPDATE dingtalk_events SET repeat_at = received_at")
        sync.execute(
            "UPDATE saga_steps SET action_data = action_data"
            " || jsonb_build_object('accepted_at', now() - interval '31 minutes')"
            " WHERE step_name = 'notify_wps' AND action_data ? 'accepted_at'"
        )
        batches.run()
        assert batches.difference() == ()
        assert {event.repeat_at for event in batches.events()} == {None}
        # Handled yet again, it finds nothing to remove, and that is well.
        sync.execute("UPDATE dingtalk_events SET repeat_at = received_at")
        batches.run()
        assert {(event.status, event.attempts) for event in batches.events()} == {("done", 0)}


class TestClaims:
    def test_events_of_a_batch_that_ended_without_ending_them_are_free_again(self, batches):
        batches.event("user_modify_org", "u07")
        run = batches.start()
        run.steps(to="confirm_increments")
        run.skip("update_event_status")
        assert run.settle() is SagaStatus.COMPLETED
        assert batches.count("claimed") == 1
        assert batches.run().records["claim_events"].action_data["events"] == 1
        assert batches.count("done") == 1

    def test_a_batch_takes_the_oldest_events_and_no_more_than_it_may(self, batches):
        for number in range(5):
            batches.event("user_modify_org", f"u{number:02d}")
        assert batches.run(batch_size=2).records["claim_events"].action_data["events"] == 2
        assert [event.status for event in batches.events()] == ["done"] * 2 + ["pending"] * 3

    def test_a_claim_that_was_killed_after_its_commit_keeps_its_events(self, batches):
        for number in range(3):
            batches.event("user_modify_org", f"u{number:02d}")
        run = batches.start()
        assert run.step("claim_events")["events"] == 3
        batches.sync.execute(
            "UPDATE saga_steps SET status = 'in_progress', action_data = NULL,"
            " heartbeat_at = timezone('utc', now()) - interval '1 hour' WHERE step_name = 'claim_events'"
        )
        batches.event("user_modify_org", "u03")
        assert run.step("claim_events")["events"] == 3
        assert (batches.count("claimed"), batches.count("pending")) == (3, 1)

    def test_events_of_one_object_collapse_into_one_reading(self, batches):
        for _ in range(5):
            batches.event("user_modify_org", "u07")
        batches.sync.sandbox.calls.clear()
        batches.run()
        assert batches.sync.sandbox.calls.counts()["/topapi/v2/user/get"] == 1
        assert [row.uid for row in batches.published()["tb_las_user_increment"]] == ["u07"]

    def test_events_of_a_pair_that_is_not_configured_wait(self, batches):
        batches.event("user_modify_org", "u07", company=Company("other_dingtalk", "other_wps"))
        assert batches.run().records["claim_events"].action_data == {"events": 0}
        assert batches.count("pending") == 1

    def test_a_batch_cleared_after_its_end_takes_what_is_there_then(self, batches):
        batches.event("user_modify_org", "u07")
        run = batches.run()
        batches.event("user_modify_org", "u08")
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert batches.count("done") == 2
