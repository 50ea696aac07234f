"""Steps back: settlement, compensation, cancelling, and opening again."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nancalacc.errors import (
    CallRefusedError,
    GuardError,
    IllegalTransitionError,
    RefusedError,
    TransientError,
    UnknownOutcomeError,
)
from nancalacc.saga.coordinator import RunView, Verdict
from nancalacc.saga.state import PivotState, SagaStatus, StepStatus
from toy_saga import BEFORE_PIVOT, COMPANY, NAMES, TASK_ID, Toy, check_ended, check_events, together


def break_at(point: str, error: BaseException, *, times: int = 1000) -> Any:
    left = [error] * times

    def hook(reached: str, context: Any) -> None:
        if reached == point and left:
            raise left.pop()

    return hook


def run_until_broken(saga: Toy, point: str, error: Exception) -> None:
    """Run as the scheduler would: siblings of the broken step finish, what follows does not start."""
    saga.services.hook = break_at(point, error)
    broken = point.partition(":")[0]
    saves = ("left", "middle", "right")
    for name in NAMES:
        if name == broken:
            with pytest.raises(type(error)):
                saga.run(name)
            saga.fail(name, str(error))
        elif NAMES.index(name) < NAMES.index(broken) or (name in saves and broken in saves):
            saga.run(name)


@pytest.mark.parametrize(
    "point",
    [f"{name}:{when}" for name in BEFORE_PIVOT for when in ("before", "written")] + ["publish:before"],
)
def test_a_failure_before_the_pivot_undoes_everything_in_reverse(saga: Toy, point: str) -> None:
    run_until_broken(saga, point, GuardError("too few"))
    assert saga.saga.status is SagaStatus.FAILED
    settlement = saga.settle()
    assert settlement.verdict is Verdict.COMPENSATE
    assert saga.saga.status is SagaStatus.COMPENSATING
    assert saga.lock_holder is None
    progress = saga.saga.progress
    undone = []
    for name in reversed(NAMES):
        if saga.saga.status is SagaStatus.COMPENSATING:
            assert saga.saga.progress == progress
        if saga.compensate(name):
            undone.append(name)
    check_ended(saga)
    assert saga.saga.status is SagaStatus.COMPENSATED
    assert saga.saga.failed_step == point.partition(":")[0]
    assert "too few" in (saga.saga.error_message or "")
    assert settlement.first == (undone[0] if undone else NAMES[0])
    assert saga.event_names("compensation_completed") == [
        *(f"compensation_completed {name}" for name in undone),
        "compensation_completed",
    ]


def test_a_definite_refusal_of_the_pivot_is_compensated(saga: Toy) -> None:
    run_until_broken(saga, "publish:call", CallRefusedError("no such company", code="500"))
    assert saga.steps["publish"].pivot_state is PivotState.REFUSED
    assert saga.conclude().status is SagaStatus.COMPENSATED
    check_ended(saga)


@pytest.mark.parametrize("point", ["publish:intended", "publish:call", "publish:answered", "finish:before"])
def test_from_the_intent_to_publish_on_it_only_goes_forward(saga: Toy, point: str) -> None:
    run_until_broken(saga, point, UnknownOutcomeError("no answer"))
    assert saga.settle().verdict is Verdict.FORWARD
    assert saga.saga.status is SagaStatus.FAILED
    with pytest.raises(IllegalTransitionError, match="Going back is a new sync"):
        saga.cancel()
    with pytest.raises(UnknownOutcomeError):
        saga.conclude()
    assert not saga.saga.status.ended
    assert saga.lock_holder == saga.id
    saga.services.hook = lambda point, context: None
    assert saga.conclude().status is SagaStatus.COMPLETED
    check_ended(saga)


def test_a_refusal_after_an_outcome_left_open_stays_forward(saga: Toy) -> None:
    run_until_broken(saga, "publish:call", UnknownOutcomeError("no answer"))
    saga.services.hook = break_at("publish:call", CallRefusedError("no", code="500"))
    with pytest.raises(CallRefusedError):
        saga.run("publish")
    assert saga.steps["publish"].pivot_state is PivotState.INTENDED
    assert saga.settle().verdict is Verdict.FORWARD


def test_an_open_outcome_after_a_refusal_goes_forward(saga: Toy) -> None:
    run_until_broken(saga, "publish:call", CallRefusedError("no", code="500"))
    saga.services.hook = break_at("publish:call", UnknownOutcomeError("no answer"))
    with pytest.raises(UnknownOutcomeError):
        saga.run("publish")
    assert saga.settle().verdict is Verdict.FORWARD


def test_a_step_whose_process_was_killed_is_named_when_the_run_is_settled(saga: Toy, another: Any) -> None:
    saga.run_until("fetch")
    saga.services.hook = break_at("middle:written", TransientError("lost"))
    saga.run("left")
    with pytest.raises(TransientError):
        saga.run("middle")
    assert saga.settle().verdict is Verdict.COMPENSATE
    assert saga.saga.failed_step == "middle"
    assert saga.saga.error_message == "middle: lost"
    assert saga.conclude().status is SagaStatus.COMPENSATED


def test_a_run_of_which_nothing_ran_is_cancelled(saga: Toy) -> None:
    assert saga.settle().verdict is Verdict.ENDED
    assert saga.saga.status is SagaStatus.CANCELLED
    check_ended(saga)


def test_a_step_that_wrote_before_it_failed_is_undone_although_it_remembered_nothing(saga: Toy) -> None:
    run_until_broken(saga, "fetch:written", GuardError("x"))
    assert saga.effects == ["validate", "fetch"]
    assert saga.conclude().status is SagaStatus.COMPENSATED
    check_ended(saga)


def test_a_step_that_wrote_before_it_was_skipped_is_undone(saga: Toy) -> None:
    def hook(point: str, context: Any) -> None:
        if point == "left:written":
            raise TransientError("x")

    saga.run_until("fetch")
    saga.services.hook = hook
    with pytest.raises(TransientError):
        saga.run("left")
    saga.skip("left")
    assert saga.settle().first == "left"
    assert saga.conclude().status is SagaStatus.COMPENSATED
    check_ended(saga)


def test_remembering_after_having_written_is_an_error(saga: Toy) -> None:
    saga.run("validate")
    saga.services.hook = lambda point, context: (
        context.remember({"late": True}) if point == "fetch:written" else None
    )
    with pytest.raises(IllegalTransitionError, match="before it remembered"):
        saga.run("fetch")
    assert saga.conclude().status is SagaStatus.COMPENSATED
    check_ended(saga)


def test_a_transaction_that_only_reads_may_come_before_remembering(saga: Toy) -> None:
    def hook(point: str, context: Any) -> None:
        if point == "left:before":
            with context.transaction() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM toy_effects").all()

    saga.services.hook = hook
    saga.run("left")
    assert saga.steps["left"].compensate_data == {"attempt": 1}


def test_compensation_out_of_order_is_refused(saga: Toy) -> None:
    run_until_broken(saga, "middle:before", GuardError("x"))
    saga.settle()
    with pytest.raises(IllegalTransitionError, match="left must be compensated before fetch"):
        saga.compensate("fetch")
    assert saga.saga.status is SagaStatus.COMPENSATING


def test_nothing_is_compensated_unless_the_saga_is_going_back(saga: Toy) -> None:
    saga.run_until("fetch")
    with pytest.raises(IllegalTransitionError, match="not compensating"):
        saga.compensate("fetch")
    assert saga.effects == ["validate", "fetch"]


def test_a_compensation_that_fails_is_recorded_and_repeated(saga: Toy) -> None:
    run_until_broken(saga, "right:before", GuardError("x"))
    saga.settle()
    saga.services.hook = break_at("middle:undone", TransientError("table is locked"), times=1)
    with pytest.raises(TransientError):
        saga.conclude()
    assert saga.saga.status is SagaStatus.COMPENSATING
    assert saga.saga.error_message == "Compensation of middle: table is locked"
    assert "middle" in saga.effects
    assert saga.event_names("compensation_failed") == ["compensation_failed middle"]
    assert saga.conclude().status is SagaStatus.COMPENSATED
    assert saga.event_names("compensation_started").count("compensation_started middle") == 1
    check_ended(saga)


@pytest.mark.parametrize("actors", [2, 4])
def test_of_concurrent_compensators_each_step_is_undone_once(saga: Toy, another: Any, actors: int) -> None:
    run_until_broken(saga, "publish:before", GuardError("x"))
    sagas = [another() for _ in range(actors)]
    statuses = together(*(lambda actor=actor: actor.conclude().status for actor in sagas))
    assert statuses == [SagaStatus.COMPENSATED] * actors
    called = sorted(point for actor in sagas for point in actor.services.called if point.endswith(":undo"))
    assert called == sorted(f"{name}:undo" for name in BEFORE_PIVOT)
    assert saga.saga.status is SagaStatus.COMPENSATED
    check_ended(saga)


def test_of_concurrent_finishers_past_the_pivot_none_fails(saga: Toy, another: Any) -> None:
    run_until_broken(saga, "finish:before", TransientError("x"))
    sagas = [another() for _ in range(3)]
    for actor in sagas:
        actor.services.hook = lambda point, context: time.sleep(0.3) if point == "finish:before" else None
    statuses = together(*(lambda actor=actor: actor.conclude().status for actor in sagas))
    assert statuses == [SagaStatus.COMPLETED] * 3
    assert saga.effects.count("finish") == 1
    check_ended(saga)


@pytest.mark.parametrize("last", [None, "validate", "fetch", "right"])
def test_a_saga_before_its_pivot_can_be_cancelled(saga: Toy, last: str | None) -> None:
    if last:
        saga.run_until(last)
    assert saga.cancel("Wrong company").status is SagaStatus.CANCELLED
    assert saga.saga.error_message == "Wrong company"
    assert saga.event_names()[-1] == "saga_cancelled"
    assert saga.events[-1].event_data["reason"] == "Wrong company"  # type: ignore[index]
    check_ended(saga)


def test_a_saga_that_is_going_back_already_can_be_cancelled(saga: Toy) -> None:
    run_until_broken(saga, "middle:before", GuardError("x"))
    saga.settle()
    assert saga.cancel().status is SagaStatus.CANCELLED
    check_ended(saga)


@pytest.mark.parametrize("ended", ["completed", "compensated", "cancelled"])
def test_an_ended_saga_cannot_be_cancelled(saga: Toy, ended: str) -> None:
    if ended == "completed":
        saga.run_until("finish")
        saga.settle()
    elif ended == "compensated":
        run_until_broken(saga, "left:before", GuardError("x"))
        saga.conclude()
    else:
        saga.cancel()
    with pytest.raises(IllegalTransitionError, match=f"is {ended}: there is nothing to cancel"):
        saga.cancel()
    check_ended(saga)


def test_a_task_cleared_while_the_saga_is_being_cancelled_is_refused(saga: Toy) -> None:
    saga.run_until("right")
    saga.services.hook = break_at("fetch:undo", TransientError("later"))
    with pytest.raises(TransientError):
        saga.cancel()
    with pytest.raises(IllegalTransitionError, match="is being cancelled"):
        saga.run("left")
    saga.services.hook = lambda point, context: None
    assert saga.conclude().status is SagaStatus.CANCELLED
    check_ended(saga)


def test_a_task_cleared_while_the_saga_goes_back_waits_for_that_and_opens_it_again(saga: Toy) -> None:
    run_until_broken(saga, "left:before", GuardError("x"))
    saga.settle()
    saga.services.hook = lambda point, context: None
    saga.run("left")
    assert (saga.saga.epoch, saga.saga.status) == (2, SagaStatus.IN_PROGRESS)
    for name in NAMES:
        saga.run(name)
    assert saga.settle().verdict is Verdict.COMPLETED
    check_ended(saga)


@pytest.mark.parametrize("end", ["compensated", "cancelled"])
def test_a_saga_that_went_back_is_opened_again_under_the_same_task_id(saga: Toy, end: str) -> None:
    if end == "compensated":
        run_until_broken(saga, "left:before", GuardError("x"))
        saga.conclude()
    else:
        saga.run_until("left")
        saga.cancel()
    saga.services = type(saga.services)(saga.services.url, task_id="20990101000000")
    saga.run("left", params={"second": True})
    assert (saga.saga.epoch, saga.saga.task_id, saga.saga.params) == (2, TASK_ID, {"second": True})
    assert (saga.saga.error_message, saga.saga.failed_step, saga.saga.goal) == (None, None, None)
    assert saga.lock_holder == saga.id
    assert {name for name, step in saga.steps.items() if step.status is StepStatus.COMPLETED} == {
        "validate", "fetch", "left",
    }  # fmt: skip
    for name in NAMES:
        saga.run(name)
    assert saga.settle().verdict is Verdict.COMPLETED
    check_ended(saga)


def test_a_completed_saga_is_opened_again_under_a_new_task_id(saga: Toy) -> None:
    saga.run_until("finish")
    saga.settle()
    saga.services.task_id = "20990101000000"
    saga.run("middle")
    assert (saga.saga.epoch, saga.saga.task_id) == (2, "20990101000000")
    assert saga.steps["right"].status is StepStatus.PENDING
    assert saga.steps["middle"].compensate_data == {"attempt": 1}
    check_events(saga.events)


def test_a_step_cleared_alone_in_a_run_that_is_over_changes_nothing(saga: Toy) -> None:
    run_until_broken(saga, "left:before", GuardError("x"))
    saga.conclude()
    before = (saga.saga, saga.steps, saga.events)
    with pytest.raises(IllegalTransitionError, match="Clear left again together with its downstream tasks"):
        saga.run("left", run=RunView(closed=True))
    after = (saga.saga, saga.steps, saga.events)
    assert after[0] == before[0]
    assert after[2] == before[2]


@pytest.mark.parametrize("settled", [True, False], ids=["after compensation", "while it is going back"])
def test_siblings_cleared_together_replay_each_predecessor_once(
    saga: Toy, another: Any, settled: bool
) -> None:
    run_until_broken(saga, "left:before", GuardError("x"))
    saga.settle()
    if settled:
        saga.conclude()
    sagas = {name: another() for name in ("left", "middle", "right")}
    ends = together(*(lambda name=name, actor=actor: actor.run(name) for name, actor in sagas.items()))
    assert ends == [{"from": 1, "before": {"attempt": 1}}] * 3
    assert saga.saga.epoch == 2
    called = [point for actor in sagas.values() for point in actor.services.called]
    assert called.count("validate:before") == 1
    assert called.count("fetch:before") == 1
    assert saga.effects == ["validate", "fetch", "left", "middle", "right"]
    assert saga.query("SELECT third_company_id, holder FROM company_locks") == [(COMPANY, saga.id)]
    check_events(saga.events)


def test_a_task_cleared_while_another_one_finishes_the_way_back_joins_it(saga: Toy, another: Any) -> None:
    run_until_broken(saga, "left:before", GuardError("x"))
    saga.settle()
    first, second = another(), another()
    opened = first.store.open
    calls = []

    def overtaken(transaction_id: str) -> Any:
        calls.append(transaction_id)
        if len(calls) == 3:
            second.run("middle")
        return opened(transaction_id)

    first.store.open = overtaken
    first.run("right")
    assert saga.saga.epoch == 2
    assert saga.effects == ["validate", "fetch", "middle", "right"]
    check_events(saga.events)


@pytest.mark.parametrize("last", [None, "fetch"], ids=["before its first step", "under way"])
def test_a_queued_task_of_a_cancelled_run_does_not_open_the_saga_again(saga: Toy, last: str | None) -> None:
    run = RunView(started=datetime.now(tz=UTC) - timedelta(minutes=1))
    if last is not None:
        saga.run_until(last)
    saga.cancel()
    with pytest.raises(IllegalTransitionError, match="was cancelled while this run was under way"):
        saga.run("validate", run=run)
    assert saga.saga.status is SagaStatus.CANCELLED

    saga.run("validate", run=RunView(started=datetime.now(tz=UTC) + timedelta(minutes=1)))
    assert saga.saga.status is SagaStatus.IN_PROGRESS


@pytest.mark.parametrize("end", ["settle", "cancel"])
def test_a_saga_that_ends_before_it_ran_has_no_progress_whatever_was_skipped(saga: Toy, end: str) -> None:
    saga.skip("left")
    assert saga.saga.progress > 0
    getattr(saga, end)()
    assert (saga.saga.status, saga.saga.progress) == (SagaStatus.CANCELLED, 0)


def test_a_saga_that_is_refused_has_no_progress_whatever_was_skipped(saga: Toy) -> None:
    saga.skip("left")
    saga.services.hook = break_at("validate:before", RefusedError("no"))
    with pytest.raises(RefusedError):
        saga.run("validate")
    assert (saga.saga.status, saga.saga.progress) == (SagaStatus.CANCELLED, 0)


def test_a_step_cleared_beside_a_failed_sibling_names_the_sibling_whose_task_is_in_the_way(saga: Toy) -> None:
    run_until_broken(saga, "middle:before", GuardError("too few"))
    assert saga.conclude().status is SagaStatus.COMPENSATED
    saga.services.hook = break_at("", GuardError("never"))
    # The run's other tasks are as they were: only this one and what follows it ran again.
    saga.run("right")
    settlement = saga.settle(RunView(green=frozenset({"validate", "fetch", "left", "right"})))
    assert settlement.verdict is Verdict.COMPENSATE
    assert saga.conclude().status is SagaStatus.COMPENSATED
    assert (saga.saga.failed_step, saga.saga.error_message) == ("middle", "middle: It did not run")
    check_ended(saga)
