"""What the kit is given: a saga with its services, and the world in which it has its effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nancalacc.faultkit.boundaries import Trace
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.records import EventRecord, SagaRecord, StepRecord


@dataclass(frozen=True, slots=True)
class Subject:
    """A saga to be run: what its tasks would hand to the engine."""

    definition: SagaDefinition
    services: Any
    dag_id: str
    run_id: str = "faultkit"
    params: Mapping[str, Any] = field(default_factory=dict)


Setup = Callable[[Trace], Subject]
"""Builds the subject in each process, with `trace.call(...)` around every outgoing call of the services.

A function of a module, or a `functools.partial` of one: it is pickled.
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way through the saga: forward, or back because the step or checkpoint `fails` fails for good.

    `stands`: the world stands in the way, from the pivot on, until it is mended. `rejects`: the
    checkpoint to whose question a person says no; to every other one they say yes.
    """

    name: str
    fails: str = ""
    stands: bool = False
    rejects: str = ""

    @property
    def is_forward(self) -> bool:
        """True when a run that nobody disturbs completes."""
        return not (self.fails or self.stands or self.rejects)

    def __str__(self) -> str:
        return self.name


FORWARD = Scenario("forward")


def back_from(step: str) -> Scenario:
    """The scenario in which this step fails before it has done anything."""
    return Scenario(f"back from {step}", fails=step)


def rejected_at(checkpoint: str) -> Scenario:
    """The scenario in which a person says no to what this checkpoint asks; your world sees that it asks."""
    return Scenario(f"rejected at {checkpoint}", rejects=checkpoint)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a saga ended; `saga` is None when not even its creation was committed."""

    scenario: Scenario
    saga: SagaRecord | None
    steps: Mapping[str, StepRecord]
    events: Sequence[EventRecord]
    is_locked: bool


class World(Protocol):
    """Everything the saga has effects on; lives in the process that runs the kit."""

    def reset(self, scenario: Scenario) -> None:
        """Put what is outside the nancalacc database back to the start, ready for this scenario."""

    def mend(self) -> None:
        """What a person does before the run is cleared: what made it fail is over."""

    def wrongs(self, ending: Ending) -> Sequence[str]:
        """What is not as it must be after such an ending, in sentences; nothing when all is well."""
