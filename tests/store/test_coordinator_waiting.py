"""A step that waits: its attempt is laid down, watched, and taken up again as the same attempt."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from nancalacc.errors import ConfigurationError, FencedError, IllegalTransitionError, TransientError
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.state import SagaStatus, StepStatus
from nancalacc.saga.waiting import Outlook, Wait, Waiting, Watch
from toy_saga import TOY, Toy, check_ended, check_events, together

CONDITION = {"phone": "here"}
LONG = Wait(condition=CONDITION, seconds=60, data={"seen": 1}, poll_seconds=0.05)


def come(saga: Toy) -> None:
    """What is waited for comes about."""
    with saga.database.transaction() as connection:
        connection.execute(text("INSERT INTO toy_people VALUES ('here', 1)"))


def lay_down(saga: Toy, step: str = "finish", *waits: Wait) -> Waiting:
    """Run the saga up to a step that has to wait; returns its attempt, as whoever watches it gets it."""
    before = [each.name for each in TOY.predecessors(step)]
    saga.run_until(before[-1])
    saga.services.waits = list(waits or [LONG])
    laid_down = run_or_wait(saga, step)
    assert isinstance(laid_down, Waiting)
    return Waiting.of(json.loads(json.dumps(laid_down.as_data())))


def run_or_wait(saga: Toy, step: str) -> Any:
    return saga.coordinator.run_step_or_wait(TOY, saga.id, step, services=saga.services, params={})


def resume(saga: Toy, waiting: Waiting) -> Any:
    return saga.coordinator.resume_step(TOY, waiting, services=saga.services)


def watch(saga: Toy, waiting: Waiting) -> Watch:
    return saga.coordinator.watch(TOY, waiting)


def age(saga: Toy, seconds: float, *, column: str = "heartbeat_at") -> None:
    """As if the last sign of life (or the beginning) of the step in progress were so long ago."""
    with saga.database.transaction() as connection:
        connection.execute(
            text(
                f"UPDATE saga_steps SET {column} = {column} - make_interval(secs => :seconds)"
                " WHERE transaction_id = :id AND status = 'in_progress'"
            ),
            {"seconds": seconds, "id": saga.id},
        )


def test_it_stays_in_progress_with_what_it_has_done_so_far(saga: Toy) -> None:
    waiting = lay_down(saga)
    step = saga.steps["finish"]
    assert (step.status, step.attempt, step.action_data) == (StepStatus.IN_PROGRESS, 1, {"seen": 1})
    assert saga.saga.current_step == "finish"
    assert watch(saga, waiting).look() is Outlook.NOT_YET
    come(saga)
    assert watch(saga, waiting).look() is Outlook.MET


def test_the_same_attempt_goes_on_with_what_it_had(saga: Toy, another: Any) -> None:
    first = lay_down(saga)
    elsewhere = another()
    elsewhere.services.waits = [replace(LONG, data={"seen": 2})]
    second = resume(elsewhere, first)
    assert (second.attempt, second.epoch) == (first.attempt, first.epoch)
    assert second.worker != first.worker
    assert resume(saga, second) == {"seen": 2}
    assert saga.conclude().status is SagaStatus.COMPLETED
    assert saga.event_names("step_retried") == []
    assert saga.event_names("step_started").count("step_started finish") == 1
    check_ended(saga)


def test_nobody_takes_it_over_while_it_is_watched(saga: Toy, another: Any) -> None:
    waiting = lay_down(saga)
    age(saga, 600)
    assert watch(saga, waiting).look() is Outlook.NOT_YET
    with ThreadPoolExecutor(1) as executor:
        other = executor.submit(another(stale_seconds=300).run, "finish")
        with pytest.raises(TimeoutError):
            other.result(0.5)
        resume(saga, waiting)
        assert other.result(30) == {"seen": 1}
    assert saga.steps["finish"].attempt == 1
    check_events(saga.events)


def test_when_nobody_watches_it_another_takes_it_over_and_it_cannot_go_on(saga: Toy, another: Any) -> None:
    waiting = lay_down(saga)
    age(saga, 60)
    another().run("finish")
    assert saga.event_names("step_retried") == ["step_retried finish"]
    assert watch(saga, waiting).look() is Outlook.OVERTAKEN
    with pytest.raises(FencedError, match="overtaken"):
        resume(saga, waiting)
    assert saga.conclude().status is SagaStatus.COMPLETED
    check_ended(saga)


def test_an_attempt_that_is_let_go_is_taken_over_at_once(saga: Toy, another: Any) -> None:
    waiting = lay_down(saga)
    watch(saga, waiting).let_go()
    actor = another(stale_seconds=1000)
    actor.run("finish")
    assert saga.steps["finish"].attempt == 2
    # The new attempt is not the one that was watched.
    watch(saga, waiting).let_go()
    assert saga.steps["finish"].heartbeat_age is not None


def test_of_two_that_take_it_up_one_goes_on(saga: Toy, another: Any) -> None:
    waiting = lay_down(saga)
    results = together(lambda: resume(saga, waiting), lambda: resume(another(), waiting))
    assert sum(isinstance(result, FencedError) for result in results) == 1
    assert {"seen": 1} in results
    assert saga.event_names("step_completed").count("step_completed finish") == 1
    assert saga.conclude().status is SagaStatus.COMPLETED
    check_ended(saga)


def test_who_took_it_up_and_died_is_replaced_by_another_attempt(saga: Toy, another: Any) -> None:
    waiting = lay_down(saga)
    dying = another()

    def die(point: str, context: Any) -> None:
        raise KeyboardInterrupt

    dying.services.hook = die
    with pytest.raises(KeyboardInterrupt):
        resume(dying, waiting)
    assert run_or_wait(saga, "finish") == {}
    assert saga.event_names("step_retried") == ["step_retried finish"]
    check_events(saga.events)


def test_a_saga_that_goes_back_leaves_nothing_of_it_and_it_cannot_go_on(saga: Toy) -> None:
    waiting = lay_down(saga, "fetch")
    assert saga.conclude().status is SagaStatus.COMPENSATED
    assert watch(saga, waiting).look() is Outlook.OVERTAKEN
    with pytest.raises(FencedError):
        resume(saga, waiting)
    check_ended(saga)
    saga.run_until("finish")
    with pytest.raises(FencedError):
        resume(saga, waiting)
    assert saga.conclude().status is SagaStatus.COMPLETED


@pytest.mark.parametrize("step", ["fetch", "finish"])
def test_whoever_runs_it_without_a_watcher_waits_in_place(saga: Toy, step: str) -> None:
    lay_down(saga, step)
    saga.services.waits = [replace(LONG, data={"seen": 2})]
    age(saga, 60)
    timer = threading.Timer(0.5, come, [saga])
    timer.start()
    if step == "finish":
        assert saga.conclude().status is SagaStatus.COMPLETED
        assert saga.steps["finish"].action_data == {"seen": 2}
    else:
        # A successor that runs it again.
        saga.run("left")
        assert saga.steps["fetch"].status is StepStatus.COMPLETED
    timer.join()
    assert saga.services.called.count(f"{step}:before") == 3
    check_events(saga.events)


def test_in_place_the_action_goes_on_when_its_time_is_over(saga: Toy) -> None:
    saga.services.waits = [replace(LONG, seconds=0.2), replace(LONG, seconds=0)]
    saga.run_until("fetch")
    assert saga.services.called.count("fetch:before") == 3
    assert saga.steps["fetch"].attempt == 1


def test_who_is_overtaken_while_waiting_in_place_stops(saga: Toy, another: Any) -> None:
    saga.run_until("publish")
    saga.services.waits = [LONG]
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(saga.run, "finish")
        while "finish:before" not in saga.services.called:
            time.sleep(0.01)
        other = another(stale_seconds=0)
        assert other.run("finish") == {}
        assert isinstance(waiting.exception(30), FencedError)
    assert saga.steps["finish"].attempt == 2
    check_events(saga.events)


def test_one_that_has_waited_beyond_its_time_limit_is_tried_again(saga: Toy) -> None:
    waiting = lay_down(saga)
    age(saga, TOY["finish"].time_limit.total_seconds() + 60, column="start_time")
    with pytest.raises(TransientError, match="time limit"):
        resume(saga, waiting)
    assert saga.steps["finish"].status is StepStatus.FAILED
    assert run_or_wait(saga, "finish") == {}
    assert saga.steps["finish"].attempt == 2
    check_events(saga.events)


def test_waiting_inside_the_completing_transaction_is_refused(saga: Toy) -> None:
    saga.run_until("publish")
    saga.services.waits = [LONG]
    saga.services.hook = lambda point, context: context.connection
    with pytest.raises(IllegalTransitionError, match="completing transaction"):
        run_or_wait(saga, "finish")
    assert saga.steps["finish"].status is StepStatus.FAILED


def test_waiting_for_what_the_definition_cannot_tell_is_refused(saga: Toy) -> None:
    waiting = lay_down(saga)
    steps = tuple(replace(step, is_met=None) for step in TOY)
    with pytest.raises(ConfigurationError, match="is_met"):
        saga.coordinator.watch(SagaDefinition("toy", steps), waiting).look()


def test_the_outcome_waits_for_a_watched_attempt_and_goes_on_when_it_is_let_go(
    saga: Toy, another: Any
) -> None:
    """The task was marked as failed: Airflow takes its trigger away, and the outcome finishes the saga."""
    waiting = lay_down(saga)
    with ThreadPoolExecutor(1) as executor:
        outcome = executor.submit(another(stale_seconds=300).conclude)
        with pytest.raises(TimeoutError):
            outcome.result(0.5)
        watch(saga, waiting).let_go()
        assert outcome.result(30).status is SagaStatus.COMPLETED
    assert saga.event_names("step_retried") == ["step_retried finish"]
    check_ended(saga)
