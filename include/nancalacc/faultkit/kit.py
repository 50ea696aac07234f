"""Kills a process at each boundary of a saga, lets the system recover, and judges how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Self

from nancalacc.errors import NancalaccError
from nancalacc.faultkit.baseline import Baseline
from nancalacc.faultkit.boundaries import Boundary, Kind, Trace, TracedDatabase
from nancalacc.faultkit.children import Children, Part
from nancalacc.faultkit.judgement import judge
from nancalacc.faultkit.report import Case, Report
from nancalacc.faultkit.run import OUTCOME, START, Engine, Run
from nancalacc.faultkit.subject import FORWARD, Ending, Scenario, Setup, World
from nancalacc.saga.state import SagaStatus


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
        self._children = Children(url, setup, preload=preload)
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

    def boundaries(self, scenario: Scenario = FORWARD) -> tuple[Boundary, ...]:
        """Every boundary that a run which nobody disturbs passes; raises AssertionError if it ends wrong."""
        self._reset(scenario)
        found = self._children.record(scenario)
        ending = self._run(scenario).ending()
        wrongs = self._wrongs(ending) + _wrong_status(ending, is_forward=scenario.is_forward)
        if wrongs:
            raise AssertionError(f"{scenario}, undisturbed: {'; '.join(wrongs)}")
        return found

    def kill_everywhere(
        self,
        *scenarios: Scenario,
        alternately: bool = False,
        jobs: Collection[str] = (),
        every: int = 1,
    ) -> Report:
        """Kill at every boundary of the scenarios, once for each way, or each way in turn `alternately`.

        What two scenarios have in common is done in the first one only. `jobs`: only boundaries of
        these; `every`: only each n-th.
        """
        cases: list[Case] = []
        done: set[Boundary] = set()
        for scenario in scenarios:
            found = [boundary for boundary in self.boundaries(scenario) if boundary not in done]
            found = [boundary for boundary in found if not jobs or boundary.job in jobs]
            done.update(found)
            for number, boundary in enumerate(found[::every]):
                ways = [tuple(Way)[number % len(Way)]] if alternately else Way
                cases += [self.case(scenario, boundary, way=way) for way in ways]
        return Report(tuple(cases))

    def case(self, scenario: Scenario, boundary: Boundary, *, way: Way) -> Case:
        """Kill a run at the boundary, let the system end it, and judge; then clear what was undone."""
        started = time.monotonic()
        self._reset(scenario)
        wrongs = [] if self._children.kill(scenario, boundary) else ["the boundary was not reached"]
        wrongs += self._go_on(scenario, start=boundary.job, way=way)
        return Case(scenario.name, boundary, f"kill, {way}", time.monotonic() - started, tuple(wrongs))

    def kill_recovery_everywhere(self, boundary: Boundary, *, scenario: Scenario = FORWARD) -> Report:
        """Kill a run at the boundary, and the recovery that follows at every one of its own."""
        self._reset(scenario)
        self._children.kill(scenario, boundary)
        found = self._children.record(scenario, Part.RECOVERY)
        return Report(tuple(self._kill_recovery(scenario, boundary, at=each) for each in found))

    def suspend_everywhere(self, scenario: Scenario = FORWARD, *, every: int = 1) -> Report:
        """Suspend a process at every boundary; it wakes up when another one has ended its saga.

        That is a retry and a recovery in turn. What was undone is cleared then.
        """
        found = self.boundaries(scenario)[::every]
        return Report(
            tuple(
                self._suspend(scenario, boundary, way=tuple(Way)[number % len(Way)])
                for number, boundary in enumerate(found)
            )
        )

    def disturb_everywhere(
        self,
        disturb: Callable[[], None],
        *,
        scenario: Scenario = FORWARD,
        kinds: Collection[Kind] = tuple(Kind),
        every: int = 1,
    ) -> Report:
        """Call `disturb` at every boundary of these kinds; the process lives, and its jobs are retried.

        It may raise. What was undone is cleared then. `every`: only each n-th boundary.
        """
        found = [each for each in self.boundaries(scenario) if each.kind in kinds]
        return Report(tuple(self._disturb(scenario, each, disturb) for each in found[::every]))

    def endure(self, scenario: Scenario) -> list[str]:
        """Run a scenario in which the world stands in the way, mend that, and say what is wrong then."""
        self._reset(scenario)
        return self._go_on(scenario, start=START, way=Way.RETRY)

    def _kill_recovery(self, scenario: Scenario, boundary: Boundary, *, at: Boundary) -> Case:
        started = time.monotonic()
        self._reset(scenario)
        self._children.kill(scenario, boundary)
        run = self._run(scenario)
        is_forward = run.must_complete()
        died = self._children.kill(scenario, at, Part.RECOVERY)
        wrongs = [] if died else ["the boundary was not reached"]
        run.recover(at_once=True)
        wrongs += self._judged(run.ending(), is_forward=is_forward)
        return Case(scenario.name, at, "kill, recovery", time.monotonic() - started, tuple(wrongs))

    def _suspend(self, scenario: Scenario, boundary: Boundary, *, way: Way) -> Case:
        started = time.monotonic()
        self._reset(scenario)
        with self._children.suspended(scenario, boundary):
            run = self._run(scenario)
            is_forward = scenario.is_forward if way is Way.RETRY else run.must_complete()
            if way is Way.RETRY:
                run.go(start=boundary.job)
            else:
                run.recover()
            before = run.ending()
        after = run.ending()
        wrongs = []
        if before.saga is None:
            # It has made the saga after the recovery looked for one: the next recovery finds it.
            run.recover()
        elif (before.saga, before.events) != (after.saga, after.events):
            wrongs.append("the process that woke up has changed the saga")
        wrongs += self._judged(run.ending(), is_forward=is_forward)
        return Case(scenario.name, boundary, f"suspend, {way}", time.monotonic() - started, tuple(wrongs))

    def _disturb(self, scenario: Scenario, boundary: Boundary, disturb: Callable[[], None]) -> Case:
        started = time.monotonic()
        self._reset(scenario)
        run = self._run(scenario)
        wrongs = []
        self._trace.arm(boundary, disturb)
        try:
            run.go()
        except NancalaccError as error:
            wrongs.append(f"{type(error).__name__}: {error}")
        wrongs += [] if boundary in self._trace.passed else ["the boundary was not reached"]
        self._trace.arm()
        wrongs += self._judged(run.ending(), is_forward=scenario.is_forward)
        return Case(scenario.name, boundary, "disturb", time.monotonic() - started, tuple(wrongs))

    def _go_on(self, scenario: Scenario, *, start: str, way: Way) -> list[str]:
        run = self._run(scenario)
        is_forward = scenario.is_forward if way is Way.RETRY else run.must_complete()
        wrongs = []
        try:
            if way is Way.RETRY:
                run.go(start=start)
            else:
                run.recover()
        except NancalaccError as error:
            wrongs = [] if scenario.stands else [f"{type(error).__name__}: {error}"]
        ending = run.ending()
        if scenario.stands and ending.saga is not None and not ending.saga.status.ended:
            # Published, or perhaps, and refused since: it stays open until somebody sees to it.
            self._world.mend()
            run.go(start=OUTCOME)
            ending, is_forward = run.ending(), True
        return wrongs + self._judged(ending, is_forward=is_forward)

    def _judged(self, ending: Ending, *, is_forward: bool) -> list[str]:
        """What is wrong with how a saga ended; one that was undone is cleared, and must complete."""
        wrongs = self._wrongs(ending) + _wrong_status(ending, is_forward=is_forward)
        if not _is_completed(ending):
            wrongs += [f"cleared: {wrong}" for wrong in self._clear()]
        return wrongs

    def _clear(self) -> list[str]:
        """Run everything again, as after a clear: it must complete now."""
        self._world.mend()
        run = self._run(FORWARD)
        try:
            run.go()
        except NancalaccError as error:
            return [f"{type(error).__name__}: {error}"]
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


def _is_completed(ending: Ending) -> bool:
    return ending.saga is not None and ending.saga.status is SagaStatus.COMPLETED


def _wrong_status(ending: Ending, *, is_forward: bool) -> list[str]:
    if _is_completed(ending) is is_forward:
        return []
    status = ending.saga.status.value if ending.saga else "not there"
    return [f"it had to go {'forward' if is_forward else 'back'}, and is {status}"]
