"""Steps forward: order, results, retries, skips, and what may not be done."""

import time
from typing import Any

import pytest

from nancalacc.errors import FencedError, IllegalTransitionError, RefusedError, TransientError
from nancalacc.saga.coordinator import RunView, Verdict
from nancalacc.saga.state import SagaStatus, StepStatus
from toy_saga import COMPANY, NAMES, TASK_ID, TOY, Toy, check_ended, check_events


def once(point: str, error: BaseException) -> Any:
    """A hook that raises at a point the first time it is reached."""
    left = [error]

    def hook(reached: str, context: Any) -> None:
        if reached == point and left:
            raise left.pop()

    return hook


def test_a_saga_whose_steps_all_run_ends_completed(saga: Toy) -> None:
    for name in NAMES:
        assert saga.saga.status is (SagaStatus.PENDING if name == NAMES[0] else SagaStatus.IN_PROGRESS)
        saga.run(name)
        assert saga.saga.current_step is None
    assert saga.saga.progress == 100
    assert saga.settle().verdict is Verdict.COMPLETED
    check_ended(saga)
    assert saga.saga.status is SagaStatus.COMPLETED
    assert (saga.saga.third_company_id, saga.saga.task_id) == (COMPANY, TASK_ID)
    assert saga.effects == list(NAMES)
    assert saga.event_names() == [
        "saga_started",
        *(f"step_{what} {name}" for name in NAMES for what in ("started", "completed")),
        "saga_completed",
    ]
    assert all(step.end_time and step.start_time for step in saga.steps.values())
    assert saga.saga.end_time


def test_starting_the_same_run_again_gives_the_same_saga(saga: Toy) -> None:
    again = saga.coordinator.start(TOY, dag_id="toy", run_id=saga.run_id, params={"other": True})
    assert again == saga.id
    assert saga.saga.params == {"first": True}
    assert [step.position for step in saga.steps.values()] == list(range(1, 8))


def test_while_a_step_runs_it_is_shown_with_the_progress_so_far(saga: Toy) -> None:
    seen = {}
    saga.services.hook = lambda point, context: seen.setdefault(
        point, (saga.saga.current_step, saga.saga.progress, saga.steps["left"].status)
    )
    saga.run_until("left")
    assert seen["left:before"] == ("left", 28, StepStatus.IN_PROGRESS)


def test_a_completed_step_returns_its_result_without_running_again(saga: Toy) -> None:
    saga.run_until("left")
    saga.services.called.clear()
    assert saga.run("left") == {"from": 1, "before": {"attempt": 1}}
    assert saga.services.called == []
    assert saga.event_names("step_started").count("step_started left") == 1


def test_a_step_runs_its_missing_predecessors_first_in_order(saga: Toy) -> None:
    saga.run("right")
    assert saga.event_names("step_completed") == [
        "step_completed validate",
        "step_completed fetch",
        "step_completed right",
    ]


def test_execute_step_refuses_a_step_whose_predecessors_are_not_done(saga: Toy) -> None:
    saga.run("validate")
    with pytest.raises(IllegalTransitionError, match=r"left .* needs fetch, which is pending"):
        saga.coordinator.execute_step(TOY, saga.id, "left", services=saga.services)
    saga.coordinator.execute_step(TOY, saga.id, "fetch", services=saga.services)
    assert saga.steps["fetch"].status is StepStatus.COMPLETED


def test_a_retry_is_a_new_attempt_with_its_event_and_its_count(saga: Toy) -> None:
    saga.run("validate")
    saga.services.hook = once("fetch:written", TransientError("try later"))
    with pytest.raises(TransientError):
        saga.run("fetch")
    failed = saga.steps["fetch"]
    assert (failed.status, failed.error_message) == (StepStatus.FAILED, "try later")
    assert saga.saga.status is SagaStatus.IN_PROGRESS
    assert saga.retry("fetch") == {"fetched_by": 2}
    done = saga.steps["fetch"]
    assert (done.attempt, done.retry_count, done.error_message) == (2, 1, None)
    assert saga.event_names()[-5:] == [
        "step_started fetch",
        "step_failed fetch",
        "step_retried fetch",
        "step_started fetch",
        "step_completed fetch",
    ]
    check_events(saga.events)


def test_an_error_that_is_not_ours_is_recorded_without_its_text(saga: Toy) -> None:
    saga.services.hook = once("validate:before", ValueError("phone 13800000000"))
    with pytest.raises(ValueError):
        saga.run("validate")
    assert saga.steps["validate"].error_message == "ValueError (the task's log has the details)"
    assert "13800000000" not in str([event.event_data for event in saga.events])


def test_the_before_image_is_that_of_the_first_attempt_of_the_epoch(saga: Toy) -> None:
    saga.run_until("fetch")
    saga.services.hook = once("left:written", TransientError("x"))
    with pytest.raises(TransientError):
        saga.run("left")
    assert saga.run("left")["before"] == {"attempt": 1}
    assert saga.steps["left"].compensate_data == {"attempt": 1}


def test_a_later_epoch_has_a_before_image_of_its_own(saga: Toy) -> None:
    saga.run_until("fetch")
    saga.services.hook = once("left:written", TransientError("x"))
    with pytest.raises(TransientError):
        saga.run("left")
    assert saga.conclude().status is SagaStatus.COMPENSATED
    assert saga.run("left")["before"] == {"attempt": 1}
    assert saga.steps["left"].epoch == 2


def test_reported_counts_are_shown_with_a_heart_beat(saga: Toy) -> None:
    seen = {}

    def hook(point: str, context: Any) -> None:
        if point == "fetch:before":
            context.report({"users": 7})
            deadline = time.monotonic() + 20
            while saga.steps["fetch"].action_data != {"users": 7} and time.monotonic() < deadline:
                time.sleep(0.02)
            seen.update(saga.steps["fetch"].action_data or {})

    saga.services.hook = hook
    saga.run_until("fetch")
    assert seen == {"users": 7}
    assert saga.steps["fetch"].action_data == {"fetched_by": 1}


def test_an_action_may_write_events_of_its_step(saga: Toy) -> None:
    saga.services.hook = lambda point, context: (
        context.event("warning", {"left_out": 3}) if point == "fetch:before" else None
    )
    saga.run_until("fetch")
    warning = next(event for event in saga.events if event.event_type == "warning")
    assert (warning.step_id, warning.event_data) == (f"{saga.id}:fetch", {"epoch": 1, "left_out": 3})


def test_the_result_of_a_step_that_has_not_completed_cannot_be_read(saga: Toy) -> None:
    saga.run_until("fetch")
    saga.services.hook = lambda point, context: context.action_data("right")
    with pytest.raises(IllegalTransitionError, match="right has not completed"):
        saga.run("left")


def test_a_refused_saga_ends_cancelled_and_the_message_names_the_holder(saga: Toy, another: Any) -> None:
    saga.run("validate")
    second = another(run_id="run-2")
    with pytest.raises(RefusedError, match="run-1"):
        second.run("validate")
    assert second.saga.status is SagaStatus.CANCELLED
    assert second.saga.error_message == "validate: Run run-1 has the lock"
    assert second.event_names()[-2:] == ["step_failed validate", "saga_cancelled"]
    check_ended(second)
    assert second.settle().verdict is Verdict.ENDED
    assert saga.lock_holder == saga.id


def test_a_refusal_by_a_later_step_does_not_hide_what_was_done_before(saga: Toy) -> None:
    saga.run("validate")
    saga.services.hook = once("fetch:before", RefusedError("no"))
    with pytest.raises(RefusedError):
        saga.run("fetch")
    assert saga.saga.status is SagaStatus.IN_PROGRESS
    assert saga.conclude().status is SagaStatus.COMPENSATED
    check_ended(saga)


def test_a_step_that_may_not_be_skipped_is_refused_with_those_that_may(saga: Toy) -> None:
    saga.run("validate")
    with pytest.raises(IllegalTransitionError, match="Steps that may be: left, finish"):
        saga.skip("fetch")
    assert saga.steps["fetch"].status is StepStatus.PENDING


@pytest.mark.parametrize("started", [False, True], ids=["before the saga has begun", "in time"])
def test_a_skipped_step_does_not_run_and_counts_as_done(saga: Toy, started: bool) -> None:
    if started:
        saga.run_until("fetch")
    saga.skip("left")
    for name in NAMES:
        saga.run(name)
    assert saga.settle().verdict is Verdict.COMPLETED
    assert "left" not in saga.effects
    assert saga.steps["left"].status is StepStatus.SKIPPED
    check_ended(saga)


def test_nothing_of_an_ended_saga_can_be_skipped(saga: Toy) -> None:
    saga.run_until("finish")
    saga.settle()
    with pytest.raises(IllegalTransitionError, match="is completed: nothing can be skipped"):
        saga.skip("left")


def test_the_mark_of_a_skippable_step_is_honoured_by_its_successor(saga: Toy) -> None:
    saga.run_until("fetch")
    for name in ("middle", "right"):
        saga.run(name)
    saga.run("publish", run=RunView(green=frozenset({"validate", "fetch", "left", "middle", "right"})))
    assert saga.steps["left"].status is StepStatus.SKIPPED
    assert "left:before" not in saga.services.called


def test_the_mark_of_any_other_step_is_recorded_and_the_step_run(saga: Toy) -> None:
    saga.run("validate")
    saga.run("left", run=RunView(green=frozenset({"validate", "fetch"})))
    assert saga.steps["fetch"].status is StepStatus.COMPLETED
    assert saga.event_names()[3:6] == ["task_marked fetch", "step_started fetch", "step_completed fetch"]


def test_the_mark_of_the_last_step_is_honoured_when_the_run_is_settled(saga: Toy) -> None:
    saga.run_until("publish")
    assert saga.settle(RunView(green=frozenset(NAMES))).verdict is Verdict.COMPLETED
    assert saga.steps["finish"].status is StepStatus.SKIPPED


def test_a_step_that_really_completed_once_is_not_taken_for_marked(saga: Toy) -> None:
    saga.run_until("left")
    saga.services.hook = once("middle:before", TransientError("x"))
    with pytest.raises(TransientError):
        saga.run("middle")
    assert saga.conclude().status is SagaStatus.COMPENSATED
    saga.run("publish", run=RunView(green=frozenset({"validate", "fetch", "left"})))
    assert saga.steps["left"].status is StepStatus.COMPLETED


def test_only_the_pivot_can_intend_to_publish(saga: Toy) -> None:
    def hook(point: str, context: Any) -> None:
        with context.transaction(intend=True):
            pass

    saga.services.hook = hook
    with pytest.raises(IllegalTransitionError, match="no pivot"):
        saga.run("validate")


def test_the_failure_of_an_overtaken_attempt_does_not_fail_the_saga(saga: Toy) -> None:
    saga.run_until("left")
    saga.fail("left", "overtaken")
    assert saga.saga.status is SagaStatus.IN_PROGRESS
    saga.fail("middle", "broken")
    assert saga.saga.status is SagaStatus.FAILED
    assert (saga.saga.failed_step, saga.saga.error_message) == ("middle", "middle: broken")


def test_siblings_of_a_failed_step_still_finish(saga: Toy) -> None:
    saga.run_until("fetch")
    saga.fail("left", "broken")
    saga.run("middle")
    assert saga.saga.status is SagaStatus.FAILED
    assert saga.steps["middle"].status is StepStatus.COMPLETED


def test_a_failed_step_that_is_cleared_in_time_makes_the_saga_go_on(saga: Toy) -> None:
    saga.run_until("fetch")
    saga.fail("left", "broken")
    saga.run("left")
    assert (saga.saga.status, saga.saga.error_message) == (SagaStatus.IN_PROGRESS, None)
    for name in NAMES[3:]:
        saga.run(name)
    assert saga.settle().verdict is Verdict.COMPLETED
    check_ended(saga)


def test_a_saga_that_is_not_there_is_an_error(saga: Toy) -> None:
    with pytest.raises(IllegalTransitionError, match="no saga missing"):
        saga.coordinator.get("missing")
    with pytest.raises(IllegalTransitionError, match="no saga missing"):
        saga.coordinator.run_step(TOY, "missing", "fetch", services=saga.services, params={})


def test_a_step_of_an_earlier_epoch_cannot_begin(saga: Toy) -> None:
    saga.run("validate")
    saga.conclude()
    saga.run("validate")
    with pytest.raises(FencedError, match="in epoch 2, this task was of epoch 1"):
        saga.coordinator._execute(saga.id, TOY["fetch"], 1, services=saga.services)


def test_sagas_are_listed_newest_first_and_counted(saga: Toy, another: Any) -> None:
    second = another(run_id="run-2")
    saga.run("validate")
    coordinator = saga.coordinator
    assert [each.run_id for each in coordinator.list()] == ["run-2", "run-1"]
    assert [each.run_id for each in coordinator.list(limit=1, offset=1)] == ["run-1"]
    assert [each.run_id for each in coordinator.list(statuses=[SagaStatus.PENDING])] == ["run-2"]
    assert [each.run_id for each in coordinator.list(third_company_id=COMPANY)] == ["run-1"]
    assert coordinator.list(definition="another") == ()
    assert coordinator.statistics() == {"toy": {"pending": 1, "in_progress": 1}}
    assert coordinator.health() == {"database": "ok", "open": 2}
    assert second.saga.name == "toy run-2"


def test_events_are_read_on_from_where_one_stopped(saga: Toy) -> None:
    saga.run_until("fetch")
    first = saga.coordinator.events(saga.id, limit=2)
    rest = saga.coordinator.events(saga.id, after=first[-1].id)
    assert [event.id for event in first + rest] == [event.id for event in saga.events]
    assert len(first) == 2
