"""Processes that are killed or suspended anywhere; another one ends the saga."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from nancalacc.saga.state import SagaStatus
from toy_saga import FENCED, NAMES, Toy, check_ended, run_in_process

SAVES = ("left", "middle", "right")
POINTS = [
    *(f"{name}:{when}" for name in ("validate", "fetch", "left", "right") for when in ("before", "written")),
    *(f"publish:{when}" for when in ("before", "intended", "call", "answered")),
    *(f"finish:{when}" for when in ("before", "written")),
]
FORWARD_FROM = POINTS.index("publish:intended")
CHANGES = 24
"""About as many changes of the saga's rows as one that succeeds takes."""


@pytest.fixture(scope="session")
def processes() -> Any:
    """Processes forked from one without threads, which has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_saga"])
    with pytest.MonkeyPatch.context() as patch:
        # The server of forks looks for what it is to import before it is told our sys.path.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
    return context


@pytest.fixture
def child(processes: Any, toy_url: str) -> Callable[..., Any]:
    @contextmanager
    def start(**options: Any) -> Iterator[BaseProcess]:
        process = processes.Process(target=run_in_process, args=(toy_url,), kwargs=options)
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()

    return start


@pytest.fixture
def killed(child: Any) -> Callable[..., None]:
    """Runs a child until it has been killed, or has ended before that."""

    def run(**options: Any) -> None:
        with child(**options) as process:
            process.join(60)
            assert process.exitcode in {0, -signal.SIGKILL}

    return run


def wait_until_stopped(process: BaseProcess) -> None:
    state = Path(f"/proc/{process.pid}/stat")
    while state.read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.02)


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_in_an_action_leaves_a_saga_that_another_one_ends(
    saga: Toy, killed: Any, point: str
) -> None:
    killed(point=point)
    assert not saga.saga.status.ended
    expected = SagaStatus.COMPLETED if POINTS.index(point) >= FORWARD_FROM else SagaStatus.COMPENSATED
    assert saga.conclude().status is expected
    check_ended(saga)


@pytest.mark.parametrize("point", ["validate:written", "fetch:written", "middle:written", "publish:call"])
def test_the_retry_of_a_killed_process_goes_on_where_it_was(saga: Toy, killed: Any, point: str) -> None:
    killed(point=point)
    step = point.partition(":")[0]
    saga.run(step)
    assert saga.steps[step].attempt == 2
    for name in NAMES:
        saga.run(name)
    assert saga.conclude().status is SagaStatus.COMPLETED
    assert saga.event_names("step_retried") == [f"step_retried {step}"]
    check_ended(saga)


@pytest.mark.slow
@pytest.mark.parametrize("locked", [True, False], ids=["before its commit", "before its lock"])
@pytest.mark.parametrize("at", range(1, CHANGES + 1))
def test_a_process_killed_at_any_change_leaves_a_saga_that_another_one_ends(
    saga: Toy, killed: Any, at: int, locked: bool
) -> None:
    killed(at=at, locked=locked)
    saga.conclude()
    check_ended(saga)
    if saga.saga.status is not SagaStatus.COMPLETED:
        for name in NAMES:
            saga.run(name)
        assert saga.conclude().status is SagaStatus.COMPLETED
        check_ended(saga)


@pytest.mark.slow
@pytest.mark.parametrize("locked", [True, False], ids=["before its commit", "before its lock"])
@pytest.mark.parametrize("at", range(1, 17, 3))
def test_a_compensation_killed_at_any_change_is_finished_by_another_process(
    saga: Toy, killed: Any, at: int, locked: bool
) -> None:
    saga.run_until("right")
    killed(job="conclude", at=at, locked=locked)
    assert saga.conclude().status is SagaStatus.COMPENSATED
    check_ended(saga)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_processes_killed_one_after_the_other_at_any_time_leave_a_saga_that_another_one_ends(
    saga: Toy, child: Any, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        with child(pause=0.03) as process:
            process.join(chance.uniform(0.1, 1.5))
    saga.conclude()
    check_ended(saga)


@pytest.mark.parametrize("point", ["fetch:before", "middle:written", "publish:before"])
def test_a_suspended_process_that_wakes_up_after_compensation_cannot_write(
    saga: Toy, child: Any, point: str
) -> None:
    with child(point=point, how=signal.SIGSTOP) as process:
        wait_until_stopped(process)
        # Longer than its heart-beat counts.
        time.sleep(1.1)
        assert saga.conclude().status is SagaStatus.COMPENSATED
        before = (saga.saga, saga.events)
        os.kill(process.pid or 0, signal.SIGCONT)
        process.join(60)
        assert process.exitcode == FENCED
    assert (saga.saga, saga.events) == before
    check_ended(saga)


def test_a_suspended_process_whose_step_was_taken_over_cannot_write(saga: Toy, child: Any) -> None:
    with child(point="left:written", how=signal.SIGSTOP) as process:
        wait_until_stopped(process)
        time.sleep(1.1)
        for name in (*SAVES, "publish", "finish"):
            saga.run(name)
        assert saga.conclude().status is SagaStatus.COMPLETED
        os.kill(process.pid or 0, signal.SIGCONT)
        process.join(60)
        assert process.exitcode == FENCED
    assert saga.effects == list(NAMES)
    assert saga.event_names("step_completed").count("step_completed left") == 1
    check_ended(saga)


@pytest.mark.parametrize("at", [1, 6, 8], ids=["opening", "beginning a step", "completing a step"])
def test_a_process_suspended_with_the_saga_locked_is_put_out_by_the_server(
    saga: Toy, child: Any, at: int
) -> None:
    with child(at=at, locked=True, how=signal.SIGSTOP, idle_timeout="1s") as process:
        wait_until_stopped(process)
        saga.conclude()
        os.kill(process.pid or 0, signal.SIGCONT)
        process.join(60)
        assert process.exitcode != 0
    check_ended(saga)
