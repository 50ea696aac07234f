"""Kills a process at each boundary of a saga, lets the system recover, and judges how it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from types import TracebackType
from typing import Self

from nancalacc.errors import NancalaccError
from nancalacc.faultkit.baseline import Baseline
from nancalacc.faultkit.boundaries import Boundary, Trace, TracedDatabase
from nancalacc.faultkit.judgement import judge
from nancalacc.faultkit.report import Case, Report
from nancalacc.faultkit.run import OUTCOME, Engine, Run
from nancalacc.faultkit.subject import FORWARD, Ending, Scenario, Setup, World
from nancalacc.saga.state import SagaStatus

CHILD_SECONDS = 60.0
"""After this a child that neither ends nor dies is a failure of its own."""


class Way(StrEnum):
    """Who goes on after a process has died."""

    RETRY = "retry"
    """The task that died runs again, and the run goes on."""
    RECOVERY = "recovery"
    """The run is over: `saga_recovery` finishes it. What it undid, a person clears."""


class FaultKit:
    """The kit over one saga and its world; keeps the database's present rows as the start of every case.

    `url` is a migrated nancalacc database of the kit's own, opened as a superuser. `preload` are
    modules that children find imported; give at least the one of `setup`.
    """

    def __init__(self, url: str, setup: Setup, world: World, *, preload: Sequence[str] = ()) -> None:
        self._url = url
        self._setup = setup
        self._world = world
        self._baseline = Baseline(url)
        self._baseline.keep()
        self._processes = _forks([__name__, *preload])
        self._trace = Trace()
        self._database = TracedDatabase(url, self._trace)
        self._engine = Engine(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database.close()
        self._baseline.close()

    def boundaries(self, scenario: Scenario = FORWARD) -> tuple[Boundary, ...]:
        """Every boundary that a run which nobody disturbs passes; raises AssertionError if it ends wrong."""
        self._reset(scenario)
        receiver, sender = self._processes.Pipe(duplex=False)
        self._child(scenario, strike_at=None, sender=sender)
        found: tuple[Boundary, ...] = receiver.recv()
        ending = self._run(scenario).ending()
        wrongs = self._wrongs(ending) + _wrong_status(ending, is_forward=scenario.is_forward)
        if wrongs:
            raise AssertionError(f"{scenario}, undisturbed: {'; '.join(wrongs)}")
        return found

    def kill_everywhere(self, *scenarios: Scenario, alternately: bool = False) -> Report:
        """Kill at every boundary of the scenarios, once for each way, or each way in turn `alternately`.

        What two scenarios have in common is done in the first one only.
        """
        cases: list[Case] = []
        done: set[Boundary] = set()
        for scenario in scenarios:
            found = [boundary for boundary in self.boundaries(scenario) if boundary not in done]
            done.update(found)
            for number, boundary in enumerate(found):
                ways = [tuple(Way)[number % len(Way)]] if alternately else Way
                cases += [self.case(scenario, boundary, way=way) for way in ways]
        return Report(tuple(cases))

    def case(self, scenario: Scenario, boundary: Boundary, *, way: Way) -> Case:
        """Kill a run at the boundary, let the system end it, and judge; then clear what was undone."""
        started = time.monotonic()
        self._reset(scenario)
        wrongs = [] if self._child(scenario, strike_at=boundary) else ["the boundary was not reached"]
        try:
            wrongs += self._go_on(scenario, boundary, way=way)
        except NancalaccError as error:
            wrongs.append(f"{type(error).__name__}: {error}")
        return Case(scenario.name, boundary, way.value, time.monotonic() - started, tuple(wrongs))

    def _go_on(self, scenario: Scenario, boundary: Boundary, *, way: Way) -> list[str]:
        run = self._run(scenario)
        is_forward = scenario.is_forward if way is Way.RETRY else run.is_past_pivot()
        try:
            if way is Way.RETRY:
                run.go(start=boundary.job)
            else:
                run.recover()
        except NancalaccError:
            if not scenario.stands:
                raise
        ending = run.ending()
        if scenario.stands and ending.saga is not None and not ending.saga.status.ended:
            # Published, or perhaps, and refused since: it stays open until somebody sees to it.
            self._world.mend()
            run.go(start=OUTCOME)
            ending, is_forward = run.ending(), True
        wrongs = self._wrongs(ending) + _wrong_status(ending, is_forward=is_forward)
        if not _is_completed(ending):
            wrongs += [f"cleared: {wrong}" for wrong in self._clear()]
        return wrongs

    def _clear(self) -> list[str]:
        """Run everything again, as after a clear: it must complete now."""
        self._world.mend()
        run = self._run(FORWARD)
        run.go()
        ending = run.ending()
        return self._wrongs(ending) + _wrong_status(ending, is_forward=True)

    def _reset(self, scenario: Scenario) -> None:
        self._baseline.restore()
        self._world.reset(scenario)

    def _run(self, scenario: Scenario) -> Run:
        return Run(self._setup(self._trace), self._engine, scenario=scenario, trace=self._trace)

    def _wrongs(self, ending: Ending) -> list[str]:
        definition = self._setup(self._trace).definition
        return [*judge(definition, ending), *self._world.wrongs(ending)]

    def _child(
        self, scenario: Scenario, *, strike_at: Boundary | None, sender: Connection | None = None
    ) -> bool:
        """Run the scenario in a child; returns whether it died at the boundary."""
        arguments = (self._url, self._setup, scenario, strike_at, sender)
        child = self._processes.Process(target=_run_child, args=arguments)
        child.start()
        try:
            child.join(CHILD_SECONDS)
            if child.exitcode not in {0, -signal.SIGKILL}:
                raise AssertionError(f"a child ended with {child.exitcode} at {strike_at}")
            return child.exitcode == -signal.SIGKILL
        finally:
            child.kill()
            child.join()


def _is_completed(ending: Ending) -> bool:
    return ending.saga is not None and ending.saga.status is SagaStatus.COMPLETED


def _wrong_status(ending: Ending, *, is_forward: bool) -> list[str]:
    if _is_completed(ending) is is_forward:
        return []
    status = ending.saga.status.value if ending.saga else "not there"
    return [f"it had to go {'forward' if is_forward else 'back'}, and is {status}"]


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
    url: str, setup: Setup, scenario: Scenario, strike_at: Boundary | None, sender: Connection | None
) -> None:
    trace = Trace(strike_at=strike_at, strike=lambda: os.kill(os.getpid(), signal.SIGKILL))
    with TracedDatabase(url, trace) as database:
        Run(setup(trace), Engine(database), scenario=scenario, trace=trace).go()
    if sender is not None:
        sender.send(tuple(trace.passed))
