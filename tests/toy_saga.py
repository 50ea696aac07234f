"""A small saga for the tests of engine and store: a diamond with a pivot and a retriable step.

    validate → fetch → (review) → [left | middle | right] → publish (pivot) → finish (retriable)

The checkpoint between them asks a person where there are doubts (rows of `toy_doubts`); without their
yes to what was fetched nothing is saved.

Its effects are rows of `toy_effects`, keyed by transaction and step. What it publishes is a row
of `toy_published`, written on a connection of its own: no transaction of the engine can take it
back.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy import Connection, text

from nancalacc.errors import CallRefusedError, GuardError, RefusedError
from nancalacc.saga.checkpoint import Answer, Checkpoint, Deciding, Looking, Question
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.coordinator import Coordinator, RunView
from nancalacc.saga.definition import SagaDefinition, Step, StepKind
from nancalacc.saga.records import EventRecord, SagaRecord, StepRecord
from nancalacc.saga.state import EventType, SagaStatus
from nancalacc.saga.waiting import Wait
from nancalacc.store import locks
from nancalacc.store.database import Database
from nancalacc.store.repository import SagaStore

COMPANY = "company-1"
TASK_ID = "20260101020304"
DAG = "toy"
ABOUT = {"task_marked", "warning", "checkpoint_passed", "approval_requested", "approved", "rejected"}
"""Events that tell of no transition."""
FENCED = 3
"""How a process ends that was overtaken."""
TABLES = """
CREATE TABLE IF NOT EXISTS toy_effects (
  transaction_id text NOT NULL, step text NOT NULL, epoch int NOT NULL, attempt int NOT NULL,
  PRIMARY KEY (transaction_id, step, epoch, attempt));
CREATE TABLE IF NOT EXISTS toy_published (transaction_id text NOT NULL, epoch int NOT NULL);
CREATE TABLE IF NOT EXISTS toy_people (phone text PRIMARY KEY, age int);
CREATE TABLE IF NOT EXISTS toy_doubts (about text PRIMARY KEY);
CREATE TABLE IF NOT EXISTS toy_decisions (
  id int GENERATED ALWAYS AS IDENTITY, transaction_id text NOT NULL, key text NOT NULL, is_yes bool NOT NULL);
"""
INSERT = text("INSERT INTO toy_effects VALUES (:transaction_id, :step, :epoch, :attempt)")
DECIDE = text(
    "INSERT INTO toy_decisions (transaction_id, key, is_yes) VALUES (:transaction_id, :key, :is_yes)"
)
IS_AGREED = text(
    "SELECT NOT EXISTS (SELECT FROM toy_doubts) OR coalesce((SELECT is_yes FROM toy_decisions"
    " WHERE transaction_id = :transaction_id AND key = :key ORDER BY id DESC LIMIT 1), false)"
)
DELETE = text("DELETE FROM toy_effects WHERE transaction_id = :transaction_id AND step = :step")

Hook = Callable[[str, Any], None]
"""Called with `<step>:<point>` and the context; may raise, wait or kill."""


@dataclass
class ToyServices:
    """What the actions are given; `waits`: what those that may wait have to wait for, one after the other."""

    url: str = ""
    hook: Hook = lambda point, context: None
    task_id: str | None = TASK_ID
    refuse: str = ""
    call: Callable[[str], AbstractContextManager[Any]] = nullcontext
    waits: list[Wait] = field(default_factory=list)
    called: list[str] = field(default_factory=list)

    def at(self, point: str, context: Any) -> None:
        self.called.append(point)
        self.hook(point, context)


def _key(context: StepContext | CompensationContext) -> dict[str, Any]:
    return {
        "transaction_id": context.saga.transaction_id,
        "step": context.step.name,
        "epoch": context.record.epoch,
        "attempt": context.record.attempt,
    }


def validate(context: StepContext) -> Mapping[str, Any]:
    services: ToyServices = context.services
    services.at("validate:before", context)
    with context.transaction() as connection:
        task_id = context.saga.task_id or services.task_id
        context.identify(connection, third_company_id=COMPANY, task_id=task_id)
        holder = locks.acquire(
            connection, third_company_id=COMPANY, transaction_id=context.saga.transaction_id
        )
        if holder:
            raise RefusedError(f"Run {holder.run_id} has the lock")
    services.at("validate:written", context)
    context.connection.execute(INSERT, _key(context))
    return {"task_id": task_id}


def has_come(connection: Connection, condition: Mapping[str, Any]) -> bool:
    """What a step of the toy may wait for: a row that somebody writes."""
    found = connection.execute(text("SELECT 1 FROM toy_people WHERE phone = :phone"), dict(condition))
    return found.first() is not None


def fetch(context: StepContext) -> Mapping[str, Any] | Wait:
    context.services.at("fetch:before", context)
    if context.so_far is None:
        with context.transaction() as connection:
            connection.execute(INSERT, _key(context))
    context.services.at("fetch:written", context)
    if context.services.waits:
        return context.services.waits.pop(0)
    return {"fetched_by": context.record.attempt}


def _is_agreed(connection: Connection, look: Looking) -> bool:
    """Whether nobody doubts, or a person has said yes to this very fetch."""
    values = {"transaction_id": look.saga.transaction_id, "key": _fetched(look)}
    return bool(connection.execute(IS_AGREED, values).scalar_one())


def _fetched(look: Looking) -> str:
    return f"{look.saga.epoch}.{look.action_data('fetch')['fetched_by']}"


def review(look: Looking) -> Question | None:
    look.services.at("review:before", look)
    key = _fetched(look)
    with look.transaction() as connection:
        is_agreed = _is_agreed(connection, look)
    look.services.at("review:looked", look)
    if is_agreed:
        look.event(EventType.CHECKPOINT_PASSED, {"key": key})
        return None
    look.event(EventType.APPROVAL_REQUESTED, {"key": key})
    return Question(key, subject="May the toy go on?", body="There are doubts", seconds=60)


def decide(look: Deciding, key: str, answer: Answer) -> None:
    with look.transaction() as connection:
        values = {"transaction_id": look.saga.transaction_id, "key": key, "is_yes": answer.is_approved}
        connection.execute(DECIDE, values)
        look.record(
            connection, EventType.APPROVED if answer.is_approved else EventType.REJECTED, {"key": key}
        )
    if not answer.is_approved:
        raise GuardError(f"{answer.by} said no to fetch {key}")


def save(context: StepContext) -> Mapping[str, Any]:
    context.services.at(f"{context.step.name}:before", context)
    before = context.remember({"attempt": context.record.attempt})
    if not _is_agreed(context.connection, context):
        raise GuardError("Nobody has agreed to what was fetched: clear review")
    context.connection.execute(DELETE, _key(context))
    context.connection.execute(INSERT, _key(context))
    context.services.at(f"{context.step.name}:written", context)
    return {"from": context.action_data("fetch")["fetched_by"], "before": dict(before)}


def publish(context: StepContext) -> Mapping[str, Any]:
    services: ToyServices = context.services
    services.at("publish:before", context)
    with context.transaction(intend=True) as connection:
        connection.execute(DELETE, _key(context))
        connection.execute(INSERT, _key(context))
    services.at("publish:intended", context)
    try:
        services.at("publish:call", context)
    except CallRefusedError:
        context.refused()
        raise
    with services.call("publish"), psycopg.connect(services.url, autocommit=True) as outside:
        outside.execute(
            "INSERT INTO toy_published VALUES (%s, %s)", (context.saga.transaction_id, context.saga.epoch)
        )
    services.at("publish:answered", context)
    return {}


def finish(context: StepContext) -> Mapping[str, Any] | Wait:
    context.services.at("finish:before", context)
    if context.services.waits:
        return context.services.waits.pop(0)
    context.connection.execute(INSERT, _key(context))
    context.services.at("finish:written", context)
    return dict(context.so_far or {})


def undo(context: CompensationContext) -> None:
    context.services.at(f"{context.step.name}:undo", context)
    context.connection.execute(DELETE, _key(context))
    context.services.at(f"{context.step.name}:undone", context)


TOY = SagaDefinition(
    "toy",
    (
        Step("validate", validate, undo),
        Step("fetch", fetch, undo, depends_on=("validate",), is_met=has_come),
        Step("left", save, undo, depends_on=("fetch",), skippable=True),
        Step("middle", save, undo, depends_on=("fetch",)),
        Step("right", save, undo, depends_on=("fetch",)),
        Step("publish", publish, undo, depends_on=("left", "middle", "right"), kind=StepKind.PIVOT),
        Step(
            "finish",
            finish,
            depends_on=("publish",),
            kind=StepKind.RETRIABLE,
            skippable=True,
            is_met=has_come,
        ),
    ),
    checkpoints=(Checkpoint("review", review, decide, after=("fetch",), before=("left", "middle", "right")),),
)
NAMES = tuple(step.name for step in TOY)
BEFORE_PIVOT = NAMES[: NAMES.index("publish")]


class Toy:
    """One toy saga in one process, with short heart-beats, and what can be read about it."""

    def __init__(
        self,
        url: str,
        *,
        run_id: str = "run-1",
        store: Callable[[Database], SagaStore] = SagaStore,
        heartbeat_seconds: float = 0.2,
        stale_seconds: float = 1.0,
    ) -> None:
        self.database = Database(url, pool_size=8)
        self.store = store(self.database)
        self.coordinator = Coordinator(
            self.store,
            heartbeat_seconds=heartbeat_seconds,
            stale_seconds=stale_seconds,
            sleep=lambda seconds: time.sleep(seconds / 20),
        )
        self.services = ToyServices(url)
        self.run_id = run_id
        self.id = self.coordinator.start(TOY, dag_id=DAG, run_id=run_id, params={"first": True})

    def close(self) -> None:
        self.database.close()

    def run(self, step: str, **options: Any) -> Mapping[str, Any]:
        options = {"services": self.services, "params": {}} | options
        return self.coordinator.run_step(TOY, self.id, step, **options)

    def run_until(self, last: str) -> None:
        """Run the steps up to and including `last`, as the scheduler would."""
        for name in NAMES[: NAMES.index(last) + 1]:
            self.run(name)

    def review(self) -> Question | None:
        return self.coordinator.check(TOY, self.id, "review", services=self.services, params={})

    def retry(self, step: str) -> Mapping[str, Any]:
        return self.coordinator.retry_step(TOY, self.id, step, services=self.services)

    def settle(self, run: RunView = RunView()) -> Any:
        return self.coordinator.settle(TOY, self.id, run=run)

    def compensate(self, step: str) -> bool:
        return self.coordinator.compensate_step(TOY, self.id, step, services=self.services)

    def conclude(self, run: RunView = RunView()) -> SagaRecord:
        return self.coordinator.conclude(TOY, self.id, services=self.services, run=run)

    def cancel(self, reason: str = "No longer wanted") -> SagaRecord:
        return self.coordinator.cancel(TOY, self.id, services=self.services, reason=reason)

    def skip(self, step: str) -> None:
        self.coordinator.skip_step(TOY, self.id, step, reason="Not needed")

    def fail(self, step: str, error: str = "broken") -> None:
        self.coordinator.fail(self.id, step=step, error=error)

    @property
    def saga(self) -> SagaRecord:
        found = self.store.get(self.id)
        assert found
        return found[0]

    @property
    def steps(self) -> dict[str, StepRecord]:
        found = self.store.get(self.id)
        assert found
        return {step.name: step for step in found[1]}

    @property
    def events(self) -> tuple[EventRecord, ...]:
        return self.store.events(self.id)

    def event_names(self, *types: str) -> list[str]:
        """`type step` of every event, or of those of these types, in order."""
        return [
            f"{event.event_type} {(event.step_id or '').partition(':')[2]}".strip()
            for event in self.events
            if not types or event.event_type in types
        ]

    def query(self, statement: str, **arguments: Any) -> Sequence[Any]:
        with self.database.transaction() as connection:
            return connection.execute(text(statement), arguments).all()

    @property
    def effects(self) -> list[str]:
        """The steps whose effect of the present epoch is there, one entry for each row."""
        rows = self.query(
            "SELECT step FROM toy_effects WHERE transaction_id = :id AND epoch = :epoch",
            id=self.id,
            epoch=self.saga.epoch,
        )
        return sorted((row.step for row in rows), key=NAMES.index)

    @property
    def published(self) -> int:
        """How often the present epoch was published."""
        return len(
            self.query(
                "SELECT 1 FROM toy_published WHERE transaction_id = :id AND epoch = :epoch",
                id=self.id,
                epoch=self.saga.epoch,
            )
        )

    @property
    def ever_completed(self) -> bool:
        return "saga_completed" in self.event_names()

    @property
    def lock_holder(self) -> str | None:
        rows = self.query("SELECT holder FROM company_locks WHERE third_company_id = :id", id=COMPANY)
        return rows[0].holder if rows else None


def create_tables(connection: Connection) -> None:
    connection.execute(text(TABLES))


@contextmanager
def toy(url: str, **options: Any) -> Iterator[Toy]:
    saga = Toy(url, **options)
    try:
        yield saga
    finally:
        saga.close()


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Make the calls at the same moment, each in a thread; returns what each returned or raised."""
    start = threading.Barrier(len(calls))

    def call(function: Callable[[], Any]) -> Any:
        start.wait()
        return function()

    with ThreadPoolExecutor(len(calls)) as executor:
        futures = [executor.submit(call, function) for function in calls]
    return [future.exception() or future.result() for future in futures]


def check_ended(saga: Toy) -> None:
    """What must hold of every toy saga that has ended, whatever happened to it."""
    status = saga.saga.status
    check_events(saga.events)
    assert status.ended, f"left open: {status}"
    assert saga.lock_holder != saga.id, "the company's lock was not given back"
    if status is SagaStatus.COMPLETED:
        expected = [name for name, step in saga.steps.items() if step.status == "completed"]
        assert list(dict.fromkeys(saga.effects)) == expected
        assert saga.published >= 1
        assert saga.saga.progress == 100
    else:
        assert saga.effects == []
        assert saga.published == 0
        if not saga.ever_completed:
            assert saga.query("SELECT * FROM toy_effects WHERE transaction_id = :id", id=saga.id) == []
        assert saga.saga.progress == 0


def check_events(events: Sequence[EventRecord]) -> None:
    """Replay the events of a saga; fails at the first one that could not happen then."""
    position = {step.name: TOY.position(step.name) for step in TOY}
    epoch, saga = 0, "pending"
    steps: dict[str, str] = dict.fromkeys(position, "pending")
    attempts: dict[str, int] = dict.fromkeys(position, 0)
    for event in events:
        kind, data = event.event_type, event.event_data or {}
        name = (event.step_id or "").partition(":")[2]
        told = f"event {event.id} {kind} {name} {data} in saga {saga}, steps {steps}"
        if kind == "saga_started":
            assert saga in {"pending", "completed", "compensated", "cancelled"}, told
            assert data["epoch"] == epoch + 1, told
            kept = {name for name, state in steps.items() if saga == "pending" and state == "skipped"}
            steps = {name: "skipped" if name in kept else "pending" for name in position}
            epoch, saga = epoch + 1, "open"
            attempts = dict.fromkeys(position, 0)
            continue
        assert data["epoch"] == epoch, told
        if kind == "step_retried":
            assert data["attempt"] > 1, told
        elif kind == "step_started":
            assert saga == "open", told
            assert steps[name] in {"pending", "running", "failed"}, told
            assert data["attempt"] > attempts[name], told
            needed = [step.name for step in TOY.predecessors(name)]
            assert all(steps[before] in {"completed", "skipped"} for before in needed), told
            steps[name], attempts[name] = "running", data["attempt"]
        elif kind in {"step_completed", "step_failed"}:
            assert saga == "open", told
            assert steps[name] == "running", told
            assert data["attempt"] == attempts[name], told
            steps[name] = kind.removeprefix("step_")
        elif kind == "step_skipped":
            assert steps[name] in {"pending", "running", "failed"}, told
            steps[name] = "skipped"
        elif kind == "saga_failed":
            assert saga == "open", told
        elif kind == "compensation_started" and not name:
            assert saga == "open", told
            assert "running" not in steps.values(), told
            saga = "compensating"
        elif kind == "compensation_started":
            assert saga == "compensating", told
            assert steps[name] in {"completed", "failed", "skipped"}, told
            later = [step for step in position if position[step] > position[name]]
            assert not any(steps[step] in {"completed", "compensating"} for step in later), told
            steps[name] = "compensating"
        elif kind == "compensation_failed":
            assert steps[name] == "compensating", told
        elif kind == "compensation_completed" and name:
            assert steps[name] == "compensating", told
            steps[name] = "compensated"
        elif kind == "compensation_completed":
            assert saga == "compensating", told
            assert not {"completed", "compensating"} & set(steps.values()), told
            saga = "compensated"
        elif kind == "saga_cancelled":
            assert saga in {"pending", "compensated"} or set(steps.values()) <= {"pending", "failed"}, told
            saga = "cancelled"
        elif kind == "saga_completed":
            assert saga == "open", told
            assert set(steps.values()) <= {"completed", "skipped"}, told
            saga = "completed"
        else:
            assert kind in ABOUT, told
