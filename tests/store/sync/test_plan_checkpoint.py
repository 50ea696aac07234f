"""The checkpoint of a full sync on the real engine: limits, approval, and that nobody gets past it."""

from typing import Any

import pytest

from nancalacc.errors import BusyError, FencedError, GuardError, IllegalTransitionError
from nancalacc.limits import DEFAULTS
from nancalacc.orchestration.incident_messages import message_of
from nancalacc.saga.checkpoint import Answer, Question
from nancalacc.saga.coordinator import RunView
from nancalacc.saga.report import explain
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.store import incidents
from nancalacc.store.tables import IncidentKind
from nancalacc.sync.company import FETCH, PLAN
from nancalacc.sync.full import FULL_SYNC

UNLIMITED = dict.fromkeys(DEFAULTS, "none")
YES = Answer(is_approved=True, by="ann", reason="They have left")
NO = Answer(is_approved=False, by="ann", reason="That is a mistake")


def check(run: Any) -> Question | None:
    return run.sync.coordinator.check(
        FULL_SYNC, run.transaction_id, PLAN, services=run.services, params=run.params
    )


def decide(run: Any, question: Question, answer: Answer) -> None:
    run.sync.coordinator.decide(
        FULL_SYNC, run.transaction_id, PLAN, key=question.key, answer=answer, services=run.services
    )


def limited(sync: Any, *, approval: bool = False, **limits: str) -> None:
    sync.company.change("wps", limits=UNLIMITED | limits, approval=approval)


def cancel(run: Any) -> None:
    run.sync.coordinator.cancel(FULL_SYNC, run.transaction_id, services=run.services, reason="enough")


def published(sync: Any) -> int:
    return sync.value("SELECT count(*) FROM tb_las_department WHERE pid = '-1'")


@pytest.fixture
def sync(sync):
    """Without a call for each person, of whose details nothing here depends."""
    sync.company.change("dingtalk", user_details=False)
    return sync


@pytest.fixture
def asking(sync, organisation):
    """A run that would remove three people, of which two may go, and asks for them."""
    limited(sync, approval=True, users_removed="2 100% 0")
    sync.complete()
    for number in (10, 11, 12):
        organisation.remove_user(f"u{number}")
    return sync.start()


class TestLimits:
    def test_of_the_whole_they_hold_at_their_edge(self, sync, organisation):
        limited(sync, users_removed="100 10% 1")
        sync.complete()
        for number in (10, 11, 12):
            organisation.remove_user(f"u{number}")
        at = sync.start()
        assert check(at) is None
        cancel(at)
        organisation.remove_user("u13")
        above = sync.start()
        with pytest.raises(GuardError, match=r"4 of 31 users would be removed, the limit is 3.*allow_mass"):
            check(above)
        cancel(above)

    def test_of_a_subtree_they_hold_although_the_whole_may_lose_more(self, sync, organisation):
        limited(sync, subtree_users_removed="100 20% 1")
        sync.complete()
        # 研发部 with 一组 has 20 people, 市场部 10.
        for number in (2, 5, 0, 3, 6):
            organisation.remove_user(f"u{number:02d}")
        at = sync.start()
        assert check(at) is None
        cancel(at)
        organisation.remove_user("u08")
        above = sync.start()
        with pytest.raises(GuardError, match=r"3 of 10 users in 市场部 \(200\) would be removed"):
            check(above)
        cancel(above)

    def test_each_sort_of_change_is_held_against_its_own(self, sync, organisation):
        sync.complete()
        organisation.move_user("u10", placements=[Placement(200, 1)])
        organisation.modify_user("u11", active=False)
        organisation.modify_department(110, parent_id=200)
        limited(
            sync,
            users_moved="0 0% 0",
            users_disabled="0 0% 0",
            departments_moved="0 0% 0",
            memberships_removed="0 0% 0",
        )
        run = sync.start()
        with pytest.raises(GuardError) as stopped:
            check(run)
        for words in (
            "1 of 31 users would be moved",
            "1 of 31 users would be disabled",
            "1 of 4 departments would be moved",
            "1 of 32 memberships would be removed",
        ):
            assert words in str(stopped.value)
        cancel(run)

    def test_a_first_sync_is_within_every_limit(self, sync):
        limited(sync, **dict.fromkeys(DEFAULTS, "0 0% 0"))
        sync.complete()

    def test_a_dry_run_beyond_them_ends_with_its_plan(self, sync, organisation, caplog):
        limited(sync, users_removed="0 0% 0")
        sync.complete()
        organisation.remove_user("u10")
        run = sync.start(dry_run=True)
        assert check(run) is None
        assert "1 of 31 users would be removed" in caplog.text
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert published(sync) == 1
        [(_, passed)] = [event for event in run.events if event[0] == "checkpoint_passed"][-1:]
        assert passed["counts"]["users"]["removed"] == 1
        assert passed["beyond"] == ["1 of 31 users would be removed, the limit is 0"]

    def test_allow_mass_delete_passes_them(self, sync, organisation):
        limited(sync, users_removed="0 0% 0")
        sync.complete()
        organisation.remove_user("u10")
        run = sync.start(allow_mass_delete=True)
        assert check(run) is None
        cancel(run)
        sync.complete(allow_mass_delete=True)


class TestNobodyGetsPast:
    @pytest.mark.parametrize("step", ["save_company_config", "save_users"])
    def test_a_save_without_the_checkpoint_makes_the_plan_and_stops(self, sync, organisation, step):
        limited(sync, users_removed="0 0% 0")
        sync.complete()
        organisation.remove_user("u10")
        run = sync.start()
        with pytest.raises(GuardError, match="1 of 31 users"):
            run.step(step)
        sync.coordinator.fail(run.transaction_id, step=step, error="stopped")
        assert run.settle() is SagaStatus.COMPENSATED
        assert sync.value("SELECT count(*) FROM sync_plans") == 2
        assert published(sync) == 1

    def test_a_save_that_nobody_approved_says_what_to_clear(self, asking):
        assert check(asking) is not None
        with pytest.raises(GuardError, match=r"nobody has approved plan .* clear plan_changes"):
            asking.step("save_users")
        cancel(asking)

    @pytest.mark.parametrize(
        "tampering",
        [
            "UPDATE tb_las_user SET title = 'by hand' WHERE task_id = :task_id AND uid = 'u20'",
            "UPDATE tb_las_user SET phone = 'by hand' WHERE task_id = :task_id AND uid = 'u20'",
            "UPDATE tb_las_department SET pid = '200' WHERE task_id = :task_id AND did = '110'",
            "UPDATE tb_las_department_user SET \"order\" = 99 WHERE task_id = :task_id AND uid = 'u20'",
            "UPDATE known_users SET nick_name = 'by hand' WHERE uid = 'u20' AND :task_id <> ''",
        ],
    )
    def test_rows_that_no_longer_match_the_plan_are_not_published(self, sync, tampering):
        sync.complete()
        run = sync.start()
        run.steps(to="save_relations")
        sync.execute(tampering, task_id=run.saga.task_id)
        with pytest.raises(GuardError, match=r"no longer those of plan .* Clear fetch_dingtalk_data"):
            run.step("notify_wps")
        sync.coordinator.fail(run.transaction_id, step="notify_wps", error="stopped")
        assert run.settle() is SagaStatus.COMPENSATED
        assert published(sync) == 1

    def test_staged_rows_that_changed_after_the_plan_are_not_published(self, sync):
        run = sync.start()
        run.step(FETCH)
        assert check(run) is None
        sync.execute("UPDATE staged_users SET nick_name = 'by hand' WHERE uid = 'u20'")
        with pytest.raises(GuardError, match="no longer those of plan"):
            run.steps(to="notify_wps")
        cancel(run)

    def test_what_may_be_published_goes_forward_whatever_the_limits_have_become(self, sync, organisation):
        sync.complete()
        organisation.remove_user("u10")
        run = sync.start()
        run.steps(to="save_relations")
        sync.sandbox.faults.add("busy", path="full/sync", times=None)
        with pytest.raises(BusyError):
            run.step("notify_wps")
        limited(sync, users_removed="0 0% 0")
        sync.sandbox.faults.clear()
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED


class TestApproval:
    def test_the_request_says_what_would_happen(self, asking, organisation):
        organisation.remove_user("u13")
        organisation.modify_user("u14", email="geheim@example.com", mobile="19912345678")
        question = check(asking)
        assert "公司" in question.subject or "演示集团" in question.subject
        assert "4 of 31 users would be removed, the limit is 2" in question.body.replace("\\", "")
        assert "员工10" in question.body
        assert "| users | 31 | 0 | 1 | 0 | 0 | 4 |" in question.body
        for secret in ("geheim", "1991234"):
            assert secret not in question.body
        [(_, requested)] = [event for event in asking.events if event[0] == "approval_requested"]
        assert requested["hash"] == question.key
        cancel(asking)

    def test_people_are_told_of_it_once(self, asking):
        assert check(asking) is not None
        with asking.sync.database.transaction() as connection:
            assert incidents.find(connection) == 1
            assert incidents.find(connection) == 0
        with asking.sync.database.transaction() as connection:
            incident = incidents.take(connection)
        assert incident.kind is IncidentKind.APPROVAL
        message = message_of(incident, console="https://airflow.example/console")
        assert message.title == "nancalacc: full_sync waits for somebody to approve it"
        assert "3 of 31 users would be removed, the limit is 2" in message.text
        assert "plan_changes" in message.text
        cancel(asking)

    def test_nobody_is_told_of_what_is_decided(self, asking):
        decide(asking, check(asking), YES)
        with asking.sync.database.transaction() as connection:
            assert incidents.find(connection) == 0
        cancel(asking)

    def test_an_approved_plan_is_published_and_the_events_say_by_whom(self, asking):
        question = check(asking)
        decide(asking, question, YES)
        assert check(asking) is None
        asking.steps()
        assert asking.settle() is SagaStatus.COMPLETED
        [(_, approved)] = [event for event in asking.events if event[0] == "approved"]
        assert approved == {
            "epoch": 1,
            "checkpoint": PLAN,
            "hash": question.key,
            "user": "ann",
            "reason": "They have left",
        }

    def test_it_holds_for_a_replayed_fetch_with_the_same_plan(self, asking):
        decide(asking, check(asking), YES)
        cancel(asking)
        assert check(asking) is None
        assert asking.saga.epoch == 2
        asking.steps()
        assert asking.settle() is SagaStatus.COMPLETED

    def test_another_plan_needs_another_decision(self, asking, organisation):
        first = check(asking)
        decide(asking, first, YES)
        cancel(asking)
        organisation.remove_user("u14")
        second = check(asking)
        assert second is not None
        assert second.key != first.key
        with pytest.raises(GuardError, match="nobody has approved"):
            asking.step("save_users")
        cancel(asking)

    def test_it_does_not_hold_for_another_run(self, asking):
        decide(asking, check(asking), YES)
        cancel(asking)
        other = asking.sync.start()
        assert check(other) is not None
        cancel(other)

    def test_a_rejection_undoes_the_run_and_says_who_and_why(self, asking):
        question = check(asking)
        with pytest.raises(GuardError, match=r"ann rejected plan .*: That is a mistake") as rejected:
            decide(asking, question, NO)
        asking.sync.coordinator.fail(asking.transaction_id, step=PLAN, error=str(rejected.value))
        assert asking.settle() is SagaStatus.COMPENSATED
        assert published(asking.sync) == 1
        message = " ".join(explain(FULL_SYNC, *asking.sync.coordinator.get(asking.transaction_id)))
        assert "checkpoint plan_changes failed: ann rejected plan" in message
        assert "clear plan_changes together with its downstream tasks" in message
        [(_, event)] = [event for event in asking.events if event[0] == "rejected"]
        assert (event["user"], event["reason"]) == ("ann", "That is a mistake")
        # Who clears the task is asked again, and may say yes now.
        again = check(asking)
        assert again.key == question.key
        decide(asking, again, YES)
        asking.steps()
        assert asking.settle() is SagaStatus.COMPLETED

    def test_no_answer_is_a_no(self, asking):
        with pytest.raises(GuardError, match="Nobody decided about plan"):
            decide(asking, check(asking), Answer(is_approved=False, by=None))
        [(_, event)] = [event for event in asking.events if event[0] == "rejected"]
        assert event["user"] is None
        cancel(asking)

    def test_an_answer_after_the_saga_was_undone_counts_for_nothing(self, asking):
        question = check(asking)
        cancel(asking)
        with pytest.raises(FencedError, match="went on without plan_changes"):
            decide(asking, question, YES)
        assert asking.sync.value("SELECT count(*) FROM plan_decisions") == 0
        assert check(asking) is not None
        cancel(asking)


class TestFailure:
    def test_a_checkpoint_whose_process_was_killed_is_named_as_the_reason(self, sync):
        run = sync.start()
        run.step(FETCH)
        settled = sync.coordinator.settle(
            FULL_SYNC, run.transaction_id, run=RunView(failed=frozenset({PLAN}))
        )
        assert settled.first == FETCH
        assert run.saga.failed_step == PLAN
        assert run.saga.error_message == "plan_changes: Its task failed; its log says why"
        assert run.settle() is SagaStatus.COMPENSATED

    def test_one_that_failed_in_a_saga_that_completed_is_no_reason(self, sync):
        run = sync.start()
        run.steps()
        sync.coordinator.settle(FULL_SYNC, run.transaction_id, run=RunView(failed=frozenset({PLAN})))
        assert run.status is SagaStatus.COMPLETED
        assert "saga_failed" not in [kind for kind, _ in run.events]

    def test_its_failure_is_forgotten_when_the_saga_goes_on(self, sync):
        run = sync.start()
        run.step(FETCH)
        sync.coordinator.fail(run.transaction_id, step=PLAN, error="the database was away")
        assert run.status is SagaStatus.FAILED
        assert check(run) is None
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert run.saga.error_message is None

    def test_after_compensation_it_runs_what_was_undone_before_it(self, sync):
        run = sync.start()
        run.step(FETCH)
        cancel(run)
        assert check(run) is None
        assert run.records[FETCH].epoch == 2
        cancel(run)

    def test_it_is_refused_where_nobody_would_settle_the_run(self, sync):
        run = sync.start()
        with pytest.raises(IllegalTransitionError, match="with its downstream tasks"):
            sync.coordinator.check(
                FULL_SYNC,
                run.transaction_id,
                PLAN,
                services=run.services,
                params=run.params,
                run=RunView(closed=True),
            )


def test_the_plan_of_a_dry_run_is_that_of_the_run_after_it(sync, organisation):
    for number in range(40):
        organisation.add_user(User(userid=f"x{number}", name="n", placements=(Placement(200),)))
    sync.complete()
    for number in range(30):
        organisation.remove_user(f"x{number}")
    dry = sync.start(dry_run=True)
    check(dry)
    dry.steps()
    assert dry.settle() is SagaStatus.COMPLETED
    run = sync.complete(allow_mass_delete=True)
    hashes = sync.rows("SELECT hash FROM sync_plans ORDER BY created_at DESC LIMIT 2")
    assert hashes[0] == hashes[1]
    assert run.status is SagaStatus.COMPLETED
