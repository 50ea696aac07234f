"""What must hold of every saga that has ended, whatever happened to it: read from its own tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nancalacc.faultkit.subject import Ending
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.moves import to_undo
from nancalacc.saga.records import EventRecord
from nancalacc.saga.state import EventType, SagaStatus

TRANSITIONS = frozenset(
    kind for kind in EventType if kind.value.startswith(("saga_", "step_", "compensation_"))
)
"""Types of events that belong to an epoch."""


def judge(definition: SagaDefinition, ending: Ending) -> Iterator[str]:
    """What is wrong with how a saga ended, in sentences."""
    saga = ending.saga
    if saga is None:
        return
    yield from illegal_events(definition, ending.events)
    if not saga.status.ended:
        yield f"the saga was left {saga.status.value}: {saga.recovery_error or saga.error_message}"
        return
    if ending.is_locked:
        yield "the company's lock was not given back"
    if saga.status is SagaStatus.COMPLETED:
        open_ = [name for name, step in ending.steps.items() if not step.status.done]
        if open_ or saga.progress != 100:
            yield f"it is completed at {saga.progress} %, but not its steps {open_}"
        return
    left = [step.name for step in definition if to_undo(step, ending.steps[step.name])]
    if left or saga.progress:
        yield f"it is {saga.status.value} at {saga.progress} %, but {left} were not undone"


def illegal_events(definition: SagaDefinition, events: Sequence[EventRecord]) -> Iterator[str]:
    """Replay the events; says which one could not happen when it did."""
    replay = _Replay(definition)
    for event in events:
        name = (event.step_id or "").partition(":")[2]
        if not replay.take(event.event_type, name, event.event_data or {}):
            yield (
                f"event {event.id} {event.event_type} {name} {event.event_data} cannot follow: the saga was"
                f" {replay.saga} in epoch {replay.epoch}, its steps {replay.steps}"
            )
            return


class _Replay:
    """The states that the events so far lead to; events of other types tell of no transition."""

    def __init__(self, definition: SagaDefinition) -> None:
        self._definition = definition
        self._undoable = {step.name for step in definition if step.compensation is not None}
        self._attempts: dict[str, int] = {}
        self.epoch, self.saga = 0, "pending"
        self.steps: dict[str, str] = {step.name: "pending" for step in definition}

    def take(self, kind: str, name: str, data: Mapping[str, Any]) -> bool:
        """Go on by one event; False when it is not legal here."""
        if kind == EventType.SAGA_STARTED:
            return self._open(int(data["epoch"]))
        if data.get("epoch", self.epoch) != self.epoch:
            return kind not in TRANSITIONS
        return self._take_step(kind, name, data) if name else self._take_saga(kind)

    def _open(self, epoch: int) -> bool:
        legal = self.saga in {"pending", "completed", "compensated", "cancelled"} and epoch == self.epoch + 1
        kept = {name for name, state in self.steps.items() if self.saga == "pending" and state == "skipped"}
        self.steps = {name: "skipped" if name in kept else "pending" for name in self.steps}
        self._attempts.clear()
        self.epoch, self.saga = epoch, "open"
        return legal

    def _take_saga(self, kind: str) -> bool:
        states = set(self.steps.values())
        match kind:
            case EventType.SAGA_FAILED:
                return self.saga == "open"
            case EventType.COMPENSATION_STARTED:
                legal = self.saga == "open" and "running" not in states
                self.saga = "compensating"
            case EventType.COMPENSATION_COMPLETED:
                left = {self.steps[name] for name in self._undoable}
                legal = self.saga == "compensating" and not {"completed", "compensating"} & left
                self.saga = "compensated"
            case EventType.SAGA_CANCELLED:
                legal = self.saga in {"pending", "compensated"} or states <= {"pending", "failed", "skipped"}
                self.saga = "cancelled"
            case EventType.SAGA_COMPLETED:
                legal = self.saga == "open" and states <= {"completed", "skipped"}
                self.saga = "completed"
            case _:
                return True
        return legal

    def _take_step(self, kind: str, name: str, data: Mapping[str, Any]) -> bool:
        state, is_open = self.steps[name], self.saga == "open"
        match kind:
            case EventType.STEP_RETRIED:
                return is_open and data["attempt"] > 1
            case EventType.STEP_STARTED:
                before = [self.steps[step.name] for step in self._definition.predecessors(name)]
                legal = (
                    is_open
                    and state in {"pending", "running", "failed"}
                    and data["attempt"] > self._attempts.get(name, 0)
                    and set(before) <= {"completed", "skipped"}
                )
                self.steps[name], self._attempts[name] = "running", data["attempt"]
            case EventType.STEP_COMPLETED | EventType.STEP_FAILED:
                legal = is_open and state == "running" and data["attempt"] == self._attempts.get(name)
                self.steps[name] = kind.removeprefix("step_")
            case EventType.STEP_SKIPPED:
                legal = self.saga in {"open", "pending"} and state in {"pending", "running", "failed"}
                self.steps[name] = "skipped"
            case EventType.COMPENSATION_STARTED:
                later = self._definition.steps[self._definition.position(name) :]
                open_ = {self.steps[step.name] for step in later if step.name in self._undoable}
                legal = (
                    self.saga == "compensating"
                    and state in {"completed", "failed", "skipped"}
                    and not {"completed", "compensating"} & open_
                )
                self.steps[name] = "compensating"
            case EventType.COMPENSATION_FAILED:
                return state == "compensating"
            case EventType.COMPENSATION_COMPLETED:
                legal = state == "compensating"
                self.steps[name] = "compensated"
            case _:
                return True
        return legal
