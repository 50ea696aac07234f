"""An attempt that was overtaken writes nothing, and holds nobody up."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from nancalacc.errors import CallRefusedError, DatabaseError, FencedError, TransientError
from nancalacc.saga.coordinator import RunView, Verdict
from nancalacc.saga.state import SagaStatus, StepStatus
from toy_saga import INSERT, Toy, check_ended, check_events

STEP_OF = {"identify": "validate", "intend": "publish", "refused": "publish", "published": "publish"}


class Suspended:
    """An actor that stops at a point of its action, as a suspended process would."""

    def __init__(self, actor: Toy, *, at: str, then: Callable[[Any], None] = lambda context: None) -> None:
        self._actor, self._at, self._then = actor, at, then
        self._reached, self._go = threading.Event(), threading.Event()
        actor.services.hook = self._hook
        self._executor = ThreadPoolExecutor(1)

    def _hook(self, point: str, context: Any) -> None:
        if point == self._at:
            self._reached.set()
            assert self._go.wait(60)
            self._then(context)

    def __enter__(self) -> "Suspended":
        name = self._at.partition(":")[0]
        job = self._actor.review if name == "review" else partial(self._actor.run, name)
        self._future = self._executor.submit(job)
        assert self._reached.wait(30)
        return self

    def wake(self) -> BaseException | None:
        """Let it go on to its end; returns what it raised."""
        self._go.set()
        return self._future.exception(60)

    def __exit__(self, *error: object) -> None:
        self._go.set()
        self._executor.shutdown()


@pytest.fixture
def mute(another: Any) -> Callable[..., Toy]:
    """An actor whose heart-beat does not come before the test is over."""
    return lambda **options: another(heartbeat_seconds=1000, stale_seconds=0.1, **options)


def write_in(kind: str) -> Callable[[Any], None]:
    """What an overtaken attempt tries when it wakes up."""

    def attempt(context: Any) -> None:
        if kind == "remember":
            context.remember({"late": True})
        elif kind == "transaction":
            with context.transaction() as connection:
                connection.execute(
                    INSERT,
                    {"transaction_id": context.saga.transaction_id, "step": "late", "epoch": 9, "attempt": 9},
                )
        elif kind == "intend":
            with context.transaction(intend=True):
                pass
        elif kind == "refused":
            context.refused()
        elif kind == "identify":
            with context.transaction() as connection:
                context.identify(connection, third_company_id="late", task_id="late")
        elif kind == "event":
            context.event("warning", {"late": True})
        elif kind == "published":
            raise CallRefusedError("no", code="500")

    return attempt


@pytest.mark.parametrize(
    "kind", ["complete", "remember", "transaction", "intend", "refused", "identify", "event", "published"]
)
@pytest.mark.parametrize("overtaken", ["by compensation", "by another attempt"])
def test_an_overtaken_attempt_writes_nothing(saga: Toy, mute: Any, kind: str, overtaken: str) -> None:
    step = STEP_OF.get(kind, "fetch")
    point = f"{step}:call" if kind == "published" else f"{step}:before"
    if step != "validate":
        for name in {"fetch": ("validate",), "publish": ("left", "middle", "right")}[step]:
            saga.run(name)
    with Suspended(mute(), at=point, then=write_in(kind)) as sleeper:
        time.sleep(0.15)
        helper = mute()
        if overtaken == "by another attempt":
            helper.run(step)
        elif kind == "published":
            assert helper.conclude().status is SagaStatus.COMPLETED
        else:
            assert helper.conclude().status is SagaStatus.COMPENSATED
        before = (saga.saga, saga.effects, saga.events, {n: s.compensate_data for n, s in saga.steps.items()})
        error = sleeper.wake()
    assert isinstance(error, FencedError)
    after = (saga.saga, saga.effects, saga.events, {n: s.compensate_data for n, s in saga.steps.items()})
    assert after == before
    check_events(saga.events)


@pytest.mark.parametrize("point", ["review:before", "review:looked"])
def test_a_checkpoint_whose_saga_has_ended_meanwhile_writes_nothing(saga: Toy, mute: Any, point: str) -> None:
    saga.run("fetch")
    with Suspended(mute(), at=point) as sleeper:
        assert mute().conclude().status is SagaStatus.COMPENSATED
        before = (saga.saga, saga.events)
        error = sleeper.wake()
    assert isinstance(error, FencedError)
    assert (saga.saga, saga.events) == before


@pytest.mark.parametrize("end", ["taken over", "compensated"])
def test_a_suspended_process_that_holds_rows_locked_holds_nobody_up(
    saga: Toy, mute: Any, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    saga.run("left")
    with Suspended(mute(), at="middle:written") as sleeper:
        time.sleep(0.15)
        helper = mute()
        if end == "taken over":
            helper.run("middle")
            assert saga.steps["middle"].attempt == 2
        else:
            # Its compensation needs the table that the sleeper has written to.
            helper.services.hook = lambda point, context: (
                context.connection.execute(text("LOCK TABLE toy_effects")) if point == "left:undo" else None
            )
            assert helper.conclude().status is SagaStatus.COMPENSATED
        error = sleeper.wake()
    assert isinstance(error, FencedError)
    assert "Ended 1 database session(s)" in caplog.text
    check_events(saga.events)


def test_a_step_that_beats_is_waited_for_and_not_run_twice(saga: Toy, another: Any) -> None:
    saga.run("validate")
    with Suspended(another(heartbeat_seconds=0.05, stale_seconds=0.5), at="fetch:before") as worker:
        successor = another(stale_seconds=0.5)
        thread = threading.Thread(target=successor.run, args=("left",))
        thread.start()
        time.sleep(1.2)
        assert thread.is_alive()
        assert saga.steps["fetch"].attempt == 1
        assert worker.wake() is None
        thread.join(30)
    assert saga.steps["left"].status is StepStatus.COMPLETED
    assert "fetch:before" not in successor.services.called


def test_a_marked_step_whose_process_lives_on_is_waited_for_and_then_skipped(saga: Toy, another: Any) -> None:
    saga.run("fetch")
    saga.run("middle")
    saga.run("right")

    def ended(context: Any) -> None:
        raise TransientError("its process was ended")

    with Suspended(another(heartbeat_seconds=0.05), at="left:before", then=ended) as worker:
        successor = another()
        thread = threading.Thread(
            target=successor.run, args=("publish",), kwargs={"run": RunView(green=frozenset({"left"}))}
        )
        thread.start()
        time.sleep(0.2)
        assert saga.steps["left"].status is StepStatus.IN_PROGRESS
        worker.wake()
        thread.join(30)
    assert saga.steps["left"].status is StepStatus.SKIPPED
    assert "left:before" not in successor.services.called
    assert saga.steps["publish"].status is StepStatus.COMPLETED


def test_a_step_skipped_while_it_runs_loses_its_sessions_and_its_work(saga: Toy, mute: Any) -> None:
    saga.run("fetch")
    with Suspended(mute(), at="left:written") as sleeper:
        saga.skip("left")
        error = sleeper.wake()
    assert isinstance(error, FencedError)
    assert saga.effects == ["validate", "fetch"]
    assert saga.steps["left"].status is StepStatus.SKIPPED


def test_an_attempt_learns_by_its_heart_beat_that_it_was_overtaken(saga: Toy, another: Any) -> None:
    saga.run("validate")
    learnt: list[BaseException] = []

    def notice(context: Any) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                context.check()
            except FencedError as error:
                learnt.append(error)
                raise
            time.sleep(0.02)

    with Suspended(another(heartbeat_seconds=0.05), at="fetch:before", then=notice) as sleeper:
        saga.settle()
        sleeper.wake()
    assert len(learnt) == 1


def test_a_commit_whose_answer_is_lost_counts(saga: Toy) -> None:
    saga.run("fetch")
    store = saga.store
    original = store.join

    @contextmanager
    def lose_answer(connection: Any, transaction_id: str) -> Iterator[Any]:
        with original(connection, transaction_id) as locked:
            yield locked
            done = locked.steps["left"].status is StepStatus.COMPLETED
        if done:
            connection.commit()
            store.join = original  # type: ignore[method-assign]
            raise DatabaseError("the connection was lost")

    store.join = lose_answer  # type: ignore[method-assign]
    assert saga.run("left") == {"from": 1, "before": {"attempt": 1}}
    assert saga.event_names("step_failed") == []
    assert saga.effects == ["validate", "fetch", "left"]


def test_a_database_that_lost_the_beginning_of_an_attempt_makes_it_try_again(saga: Toy, another: Any) -> None:
    saga.run("validate")

    def forget(point: str, context: Any) -> None:
        if point == "fetch:before" and context.record.attempt == 1:
            # What a crash of the server leaves: the row as it was before the attempt began.
            saga.query(
                "UPDATE saga_steps SET status = 'pending', attempt = 0, worker = NULL"
                " WHERE step_id = :id RETURNING 1",
                id=f"{saga.id}:fetch",
            )
            saga.services.hook = lambda point, context: None

    saga.services.hook = forget
    with pytest.raises(DatabaseError, match="lost the beginning of attempt 1"):
        saga.run("fetch")
    assert saga.effects == ["validate"]
    assert saga.run("fetch") == {"fetched_by": 1}


def test_attempts_that_were_given_the_same_number_are_told_apart(saga: Toy, mute: Any) -> None:
    saga.run("fetch")
    with Suspended(mute(), at="left:before") as sleeper:
        saga.query(
            "UPDATE saga_steps SET status = 'pending', attempt = 0, worker = NULL"
            " WHERE step_id = :id RETURNING 1",
            id=f"{saga.id}:left",
        )
        with Suspended(mute(), at="left:before") as second:
            assert saga.steps["left"].attempt == 1
            assert isinstance(sleeper.wake(), FencedError)
            assert saga.steps["left"].compensate_data is None
            assert second.wake() is None
    assert saga.event_names().count("step_completed left") == 1


@pytest.mark.parametrize("back", [True, False])
def test_a_step_in_progress_when_the_run_is_settled_is_fenced_off(saga: Toy, mute: Any, back: bool) -> None:
    if not back:
        saga.run_until("publish")
    step = "middle" if back else "finish"
    saga.run("fetch")
    with Suspended(mute(), at=f"{step}:written") as sleeper:
        time.sleep(0.15)
        verdict = mute().settle().verdict
        assert verdict is (Verdict.COMPENSATE if back else Verdict.FORWARD)
        if back:
            failed = saga.steps[step]
            assert (failed.status, failed.attempt) == (StepStatus.FAILED, 2)
        error = sleeper.wake()
    assert isinstance(error, FencedError if back else type(None))
    saga.conclude()
    check_ended(saga)


def test_a_sign_of_life_from_before_the_clock_went_back_keeps_nobody_waiting(saga: Toy) -> None:
    saga.run("validate")
    saga.query(
        "UPDATE saga_steps SET status = 'in_progress', heartbeat_at = timezone('utc', now()) + interval '1 h'"
        " WHERE step_name = 'validate' RETURNING 1"
    )
    saga.run("validate")
    assert saga.steps["validate"].attempt == 2
