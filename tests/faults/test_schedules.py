"""Two or three actors on one saga, in a thousand orders: each can be repeated, and is made short."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from faults.toy_subject import DOUBT, ToyWorld, toy_setup
from nancalacc.errors import CallRefusedError, UnknownOutcomeError
from nancalacc.faultkit.actors import Actor
from nancalacc.faultkit.boundaries import Trace
from nancalacc.faultkit.clock import Clock, install_clock
from nancalacc.faultkit.judgement import judge
from nancalacc.faultkit.run import Engine, Run
from nancalacc.faultkit.schedule import Schedule
from nancalacc.faultkit.subject import FORWARD
from nancalacc.orchestration.recovery import CLAIM_SECONDS
from nancalacc.store.database import Database
from toy_saga import NAMES, TOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCHEDULES = 1000
ACTORS = ("Ann", "Bob", "Cat")
ON_A_STEP = ("step", "step", "step", "clear", "retry", "fail", "step_after_marks", "settle_after_mark")
ON_THE_CHECKPOINT = ("check", "check", "approve", "approve", "reject", "fail", "settle_after_failure")
ON_THE_SAGA = ("settle", "outcome", "outcome", "recovery", "cancel")
CLEAN = (
    "DELETE FROM saga_events; DELETE FROM saga_steps; DELETE FROM saga_transactions;"
    " DELETE FROM company_locks; DELETE FROM toy_effects; DELETE FROM toy_published;"
    " DELETE FROM toy_doubts; DELETE FROM toy_decisions"
)

things = st.one_of(
    st.tuples(st.sampled_from(ON_A_STEP), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(ON_THE_CHECKPOINT), st.just("review")),
    st.tuples(st.sampled_from(ON_THE_SAGA)),
    st.just(("skip", "left")),
    st.just(("run",)),
)
programs = st.lists(st.lists(things, min_size=1, max_size=3), min_size=2, max_size=3)
choices = st.lists(st.integers(0, 2), max_size=60)
deaths = st.dictionaries(st.sampled_from(ACTORS), st.integers(1, 40), max_size=2)
answers = st.lists(st.sampled_from(["accepted", "refused", "unknown"]), max_size=3)


class Stage:
    """The actors and the database on which all schedules are played."""

    def __init__(self, url: str) -> None:
        install_clock(url)
        self._answers: Iterator[str] = iter(())
        self._actors = {name: Actor(url, toy_setup(url, hook=self._answer)) for name in ACTORS}
        self._clock = Clock(url)
        self._world = ToyWorld(url)
        self._connection = psycopg.connect(url, autocommit=True)
        self._database = Database(url)
        trace = Trace()
        self._last = Run(toy_setup(url)(trace), Engine(self._database), scenario=FORWARD, trace=trace)
        self.endings: Counter[str] = Counter()

    def close(self) -> None:
        for each in (*self._actors.values(), self._connection, self._database):
            each.close()

    def play(
        self, schedule: Schedule, parts: list[list[Any]], answers: list[str], *, doubted: bool
    ) -> list[str]:
        """Play a schedule, end what it left open, and say what is wrong; `doubted`: the checkpoint asks."""
        self._connection.execute(CLEAN)
        if doubted:
            self._connection.execute(DOUBT)
        self._answers = iter(answers)
        playing = dict(zip(self._actors, parts, strict=False))
        for name in playing:
            self._actors[name].begin(schedule)
        self._actors[ACTORS[0]].start()
        schedule.run({name: lambda name=name: self._act(name, playing[name]) for name in playing})
        self._answers = iter(())
        # A recovery that died keeps its saga for a while.
        self._clock.move(CLAIM_SECONDS)
        self._last.recover()
        ending = self._last.ending()
        assert ending.saga is not None
        self.endings[f"{ending.saga.status} in epoch {ending.saga.epoch}"] += 1
        surprises = [surprise for name in playing for surprise in self._actors[name].surprises]
        return [*surprises, *judge(TOY, ending), *self._world.wrongs(ending)]

    def _act(self, name: str, part: list[Any]) -> None:
        for thing in part:
            self._actors[name].do(*thing)

    def _answer(self, point: str, context: Any) -> None:
        """WPS's side: some calls are refused, of some the answer is lost."""
        if point == "publish:call":
            match next(self._answers, "accepted"):
                case "refused":
                    raise CallRefusedError("refused")
                case "unknown":
                    raise UnknownOutcomeError("lost")


def test_whatever_two_or_three_actors_do_the_saga_ends_right(toy_url: str, record_property) -> None:
    with closing(Stage(toy_url)) as stage:

        @settings(
            max_examples=SCHEDULES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(programs, choices, deaths, answers, st.booleans())
        def play(parts, who, dying, answering, doubted):
            schedule = Schedule(who, deaths=dying)
            wrongs = stage.play(schedule, parts, answering, doubted=doubted)
            note(f"{parts=} {who=} {dying=} {answering=} {doubted=}")
            for line in schedule.told:
                note(line)
            assert not wrongs

        play()
        record_property("figures", f"{stage.endings.total()} schedules: {dict(stage.endings.most_common())}")
        assert stage.endings.total() >= SCHEDULES
