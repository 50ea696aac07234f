"""Child processes that run a saga until they are struck at a boundary."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from time import monotonic, sleep

from nancalacc.errors import NancalaccError
from nancalacc.faultkit.boundaries import Boundary, Trace, TracedDatabase
from nancalacc.faultkit.disturbances import expire
from nancalacc.faultkit.run import Engine, Run
from nancalacc.faultkit.subject import Scenario, Setup

CHILD_SECONDS = 60.0
"""After this a child that neither ends nor dies is a failure of its own."""
STOPPED = "T"


class Part(StrEnum):
    """What a child does."""

    RUN = "run"
    RECOVERY = "recovery"


class Children:
    """Starts children; `preload` are modules that they find imported."""

    def __init__(self, url: str, setup: Setup, *, preload: Sequence[str]) -> None:
        self._url = url
        self._setup = setup
        self._processes = _forks([__name__, *preload])

    def record(self, scenario: Scenario, part: Part = Part.RUN) -> tuple[Boundary, ...]:
        """Run a scenario, or recover it, to its end; returns the boundaries it has passed."""
        receiver, sender = self._processes.Pipe(duplex=False)
        with self._child(scenario, None, signal.SIGKILL, part=part, sender=sender) as child:
            child.join(CHILD_SECONDS)
            _require(child, 0)
        found: tuple[Boundary, ...] = receiver.recv()
        return found

    def kill(self, scenario: Scenario, boundary: Boundary, part: Part = Part.RUN) -> bool:
        """Run or recover a scenario until the boundary; False when it ended without reaching that."""
        with self._child(scenario, boundary, signal.SIGKILL, part=part) as child:
            child.join(CHILD_SECONDS)
            _require(child, 0, -signal.SIGKILL)
            return child.exitcode == -signal.SIGKILL

    @contextmanager
    def suspended(self, scenario: Scenario, boundary: Boundary) -> Iterator[None]:
        """A child that is suspended at the boundary; behind the block it has gone on to the job's end.

        It is suspended for so long that the server has ended its transactions.
        """
        with self._child(scenario, boundary, signal.SIGSTOP) as child:
            _wait_until_stopped(child)
            expire(self._url)
            yield
            os.kill(child.pid or 0, signal.SIGCONT)
            child.join(CHILD_SECONDS)
            _require(child, 0)

    @contextmanager
    def _child(
        self,
        scenario: Scenario,
        boundary: Boundary | None,
        strike: signal.Signals,
        *,
        part: Part = Part.RUN,
        sender: Connection | None = None,
    ) -> Iterator[ForkServerProcess]:
        arguments = (self._url, self._setup, scenario, boundary, strike, part, sender)
        child = self._processes.Process(target=_run_child, args=arguments)
        child.start()
        try:
            yield child
        finally:
            child.kill()
            child.join()


def _require(child: ForkServerProcess, *codes: int) -> None:
    if child.exitcode not in codes:
        raise AssertionError(f"a child ended with {child.exitcode}, expected was one of {codes}")


def _wait_until_stopped(child: ForkServerProcess) -> None:
    state = Path(f"/proc/{child.pid}/stat")
    deadline = monotonic() + CHILD_SECONDS
    while True:
        try:
            if state.read_text().rpartition(") ")[2][0] == STOPPED:
                return
        except (FileNotFoundError, ProcessLookupError):
            raise AssertionError("a child has ended without reaching its boundary") from None
        if monotonic() > deadline:
            raise AssertionError("a child does not reach its boundary")
        sleep(0.005)


def _forks(preload: Sequence[str]) -> ForkServerContext:
    """Processes forked from one without threads, which has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    before = os.environ.get("PYTHONPATH")
    # The server of forks looks for what it is to import before it is told our sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _run_child(
    url: str,
    setup: Setup,
    scenario: Scenario,
    boundary: Boundary | None,
    strike: signal.Signals,
    part: Part,
    sender: Connection | None,
) -> None:
    is_suspended = boundary is not None and strike is signal.SIGSTOP
    trace = Trace(boundary, lambda: os.kill(os.getpid(), strike))
    with TracedDatabase(url, trace) as database:
        run = Run(setup(trace), Engine(database), scenario=scenario, trace=trace)
        if boundary is not None and is_suspended:
            try:
                run.go(until=boundary.job, tries=1)
            except NancalaccError:
                # Overtaken meanwhile, or put out by the server: what a task says of it, nobody hears.
                return
        elif part is Part.RECOVERY:
            run.recover()
        else:
            run.go()
    if sender is not None:
        sender.send(tuple(trace.passed))
