"""What can be done: every action with the matching permission, a reason, and a record of who asked.

An action happens once for a `request_id`, and one at a time for a saga. What touches runs and
tasks goes through Airflow's own API as the person who asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from fastapi import HTTPException, Request
from sqlalchemy import Connection, Row, exists, select, text

from nancalacc.orchestration.registry import definition_of, recovery_services_of
from nancalacc.saga.definition import SagaDefinition, transaction_id_of
from nancalacc.saga.records import SagaRecord, StepRecord
from nancalacc.saga.state import EventType, StepStatus
from nancalacc.store.tables import saga_events
from nancalacc.sync.dead_events import Decision
from nancalacc.web import airflow_links, permissions, schemas
from nancalacc.web.access import Access, BaseUser
from nancalacc.web.airflow_calls import FINISHED, AirflowCalls, AirflowRefusedError
from nancalacc.web.desk import Desk
from nancalacc.web.permissions import Permission
from nancalacc.web.possible import possible, retried_step
from nancalacc.web.routes import Reader
from nancalacc.web.schemas import Action, ActionRequest, ActionResult

ONE_AT_A_TIME = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:key, 0))")
AT_ONCE = 3
"""Each action holds one database connection and uses another."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An action somebody asks for, with all that decides whether it may happen."""

    action: Action
    definition: SagaDefinition
    saga: SagaRecord
    steps: tuple[StepRecord, ...]
    user: str
    body: ActionRequest
    calls: AirflowCalls

    @property
    def note(self) -> str:
        """What is written down where Airflow or the tables keep a note."""
        return f"{self.user}: {self.body.reason}"

    @property
    def run(self) -> tuple[str, str]:
        """DAG id and run id."""
        return str(self.saga.dag_id), str(self.saga.run_id)


Perform = Callable[[Asked], Awaitable[str]]
"""Does the action and returns a sentence about it; raises HTTPException 409 when it may not happen."""
Decide = Callable[..., tuple[Row[Any], bool]]
"""Changes a dead event; returns it, and whether that is news."""


class Actions:
    """Carries actions out, one at a time for each saga."""

    def __init__(self, desk: Desk, access: Access) -> None:
        self._desk = desk
        self._access = access
        self._reader = Reader(desk, access)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._performers: dict[Action, Perform] = {
            Action.RETRY: self._retry,
            Action.SKIP: self._skip,
            Action.CANCEL: self._cancel,
            Action.RECOVER: self._recover,
            Action.UNDO: self._undo,
        }

    async def to_saga(
        self, request: Request, user: BaseUser, *, action: Action, transaction_id: str, body: ActionRequest
    ) -> ActionResult:
        """Check permission and state, do it, and record it with the saga's events."""
        definition, saga, _ = await self._reader.saga(request, user, transaction_id)
        await self._require(request, user, permissions.of_saga(action, dag_id=str(saga.dag_id)))
        async with self._slots, self._alone(transaction_id) as connection:
            before = await self._desk.in_thread(lambda: _earlier(connection, transaction_id, body.request_id))
            if before is not None:
                return ActionResult(transaction_id=transaction_id, message=before, changed=False)
            found = await self._desk.in_thread(lambda: self._desk.store.get(transaction_id))
            if found is None:
                raise HTTPException(404, f"There is no saga {transaction_id}")
            calls = AirflowCalls(request)
            asked = Asked(action, definition, *found, user=user.get_name(), body=body, calls=calls)
            _require_possible(asked, stale_seconds=self._desk.settings().stale_seconds)
            message = await self._performers[action](asked)
            await self._desk.in_thread(lambda: self._record(asked, message))
        return ActionResult(transaction_id=transaction_id, message=message)

    async def to_event(
        self,
        request: Request,
        user: BaseUser,
        *,
        event_id: int,
        decide: Decide,
        body: ActionRequest,
    ) -> schemas.InboxActionResult:
        """Decide about a dead event; by whom and why is recorded with it."""
        await self._require(request, user, permissions.DECIDE_EVENTS)
        request_id = None if body.request_id is None else str(body.request_id)
        decision = Decision(user=user.get_name(), reason=body.reason, request_id=request_id)
        try:
            row, changed = await self._desk.read(
                lambda connection: decide(connection, event_id, decision=decision)
            )
        except LookupError as error:
            raise HTTPException(404, str(error)) from None
        return schemas.InboxActionResult(event=schemas.InboxEvent.model_validate(row), changed=changed)

    async def start_full_sync(
        self, request: Request, user: BaseUser, body: schemas.FullSyncRequest
    ) -> ActionResult:
        """Start a run of a full sync, once for a `request_id`."""
        dag_id = body.dag_id
        if dag_id not in airflow_links.full_sync_dags(self._desk.settings()):
            raise HTTPException(409, f"{dag_id} is no DAG of a full sync")
        await self._require(request, user, permissions.start_of(dag_id))
        run_id = f"console__{body.request_id or uuid4()}"
        switches = {"dry_run": body.dry_run, "allow_mass_delete": body.allow_mass_delete}
        conf = {name: True for name, value in switches.items() if value}
        note = f"{user.get_name()}: {body.reason}"
        changed = await self._start_run(AirflowCalls(request), dag_id, run_id=run_id, conf=conf, note=note)
        transaction_id = transaction_id_of(dag_id=dag_id, run_id=run_id)
        data = {"action": "start", "user": user.get_name(), "reason": body.reason, "params": conf}

        def record() -> None:
            coordinator = self._desk.coordinator
            coordinator.start(definition_of(dag_id), dag_id=dag_id, run_id=run_id, params=conf)
            self._desk.store.append(transaction_id, [(EventType.ACTION_REQUESTED, None, data)])

        # Whoever started the run may have died before this was written.
        known = await self._desk.read(lambda connection: was_requested(connection, transaction_id))
        if not known:
            await self._desk.in_thread(record)
        message = f"Run {run_id} is started" if changed else f"Run {run_id} was started already"
        return ActionResult(transaction_id=transaction_id, message=message, changed=changed)

    async def _require(self, request: Request, user: BaseUser, permission: Permission) -> None:
        """Raise HTTPException 403 unless Airflow would let the person do this to the DAG."""
        has = await self._desk.in_thread(
            lambda: permissions.granted(self._access, request, user, [permission])
        )
        if not has:
            raise HTTPException(403, permission.refusal)

    async def _retry(self, asked: Asked) -> str:
        """Clear the step's task and all that follow it, in Airflow."""
        wanted = asked.body.step if isinstance(asked.body, schemas.RetryRequest) else None
        step = wanted or retried_step(asked.saga, asked.steps)
        checkpoints = {checkpoint.name for checkpoint in asked.definition.checkpoints}
        if step not in checkpoints | {record.name for record in asked.steps}:
            raise HTTPException(409, f"The saga has no step {step}")
        dag_id, run_id = asked.run
        state = await asked.calls.run_state(dag_id, run_id)
        if state is None:
            raise HTTPException(409, f"Run {run_id} is gone from Airflow: start a new sync instead")
        if state not in FINISHED:
            raise HTTPException(409, f"Run {run_id} is {state}: wait until it has ended, or cancel the saga")
        cleared = await asked.calls.clear(dag_id, run_id, task_id=step, note=asked.note)
        return f"Cleared {step} and what follows it: {len(cleared)} tasks run again"

    async def _skip(self, asked: Asked) -> str:
        """Count the step as done."""
        assert isinstance(asked.body, schemas.SkipRequest)  # noqa: S101
        step = asked.body.step
        record = next((each for each in asked.steps if each.name == step), None)
        if record is None:
            raise HTTPException(409, f"The saga has no step {step}")
        if record.status is StepStatus.COMPLETED:
            raise HTTPException(409, f"Step {step} is completed already")
        if record.status is StepStatus.SKIPPED:
            return f"Step {step} was skipped already"
        await self._desk.in_thread(
            lambda: self._desk.coordinator.skip_step(
                asked.definition, asked.saga.transaction_id, step, reason=asked.note
            )
        )
        return f"Step {step} is skipped"

    async def _cancel(self, asked: Asked) -> str:
        """Undo the saga, then end its run so that the grid says the same."""
        saga = await self._desk.in_thread(
            lambda: self._desk.coordinator.cancel(
                asked.definition,
                asked.saga.transaction_id,
                services=recovery_services_of(asked.saga),
                reason=f"Cancelled by {asked.note}",
            )
        )
        dag_id, run_id = asked.run
        state = await asked.calls.run_state(dag_id, run_id)
        if state is not None and state not in FINISHED:
            await asked.calls.fail_run(dag_id, run_id, note=f"Cancelled by {asked.note}")
        return f"The saga is {saga.status.value}"

    async def _recover(self, asked: Asked) -> str:
        """Have saga_recovery look at this saga now."""
        dag_id, run_id = asked.run
        state = await asked.calls.run_state(dag_id, run_id)
        if state is not None and state not in FINISHED:
            raise HTTPException(409, f"Run {run_id} is {state}: it finishes the saga itself")
        started = await self._start_run(
            asked.calls,
            airflow_links.RECOVERY,
            run_id=f"console__{asked.body.request_id or uuid4()}",
            conf={"transaction_id": asked.saga.transaction_id},
            note=asked.note,
        )
        return "The recovery has been started" if started else "The recovery was started already"

    async def _undo(self, asked: Asked) -> str:
        """Start a run that brings WPS back to the state before this sync."""
        conf = {"transaction_id": asked.saga.transaction_id}
        for name in ("dingtalk_conn_id", "wps_conn_id"):
            if asked.saga.params.get(name):
                conf[name] = asked.saga.params[name]
        run_id = f"console__{asked.body.request_id or uuid4()}"
        started = await self._start_run(
            asked.calls, airflow_links.UNDO_SYNC, run_id=run_id, conf=conf, note=asked.note
        )
        return f"The undo {'has been' if started else 'was already'} started: run {run_id}"

    async def _start_run(
        self, calls: AirflowCalls, dag_id: str, *, run_id: str, conf: dict[str, Any], note: str
    ) -> bool:
        """Start a run; returns False when it exists already, and raises HTTPException 409 without its DAG."""
        try:
            return await calls.trigger(dag_id, run_id=run_id, conf=conf, note=note)
        except AirflowRefusedError as refused:
            if refused.status == 404:
                raise HTTPException(409, f"Airflow knows no DAG {dag_id}") from None
            raise

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[Connection]:
        """A transaction that holds the right to act on this saga; HTTPException 409 when another has it."""
        with ExitStack() as stack:

            def enter() -> tuple[Connection, bool]:
                connection = stack.enter_context(self._desk.database.transaction())
                # An action may take longer than a session may idle.
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10min'"))
                return connection, connection.execute(ONE_AT_A_TIME, {"key": f"action {key}"}).scalar_one()

            connection, alone = await self._desk.in_thread(enter)
            if not alone:
                raise HTTPException(409, "Another action on this saga is under way: wait for it")
            yield connection

    def _record(self, asked: Asked, message: str) -> None:
        data = {
            "action": asked.action.value,
            "user": asked.user,
            "reason": asked.body.reason,
            "result": message,
            "epoch": asked.saga.epoch,
        }
        if asked.body.request_id is not None:
            data["request_id"] = str(asked.body.request_id)
        wanted = getattr(asked.body, "step", None)
        # A checkpoint has no row that an event could belong to.
        step = wanted if wanted in {record.name for record in asked.steps} else None
        self._desk.store.append(asked.saga.transaction_id, [(EventType.ACTION_REQUESTED, step, data)])


def _require_possible(asked: Asked, *, stale_seconds: float) -> None:
    every = possible(asked.definition, asked.saga, asked.steps, stale_seconds=stale_seconds)
    found = next(each for each in every if each.action is asked.action)
    if not found.allowed:
        raise HTTPException(409, found.reason)


def _earlier(connection: Connection, transaction_id: str, request_id: UUID | None) -> str | None:
    """What the same request led to, when it came before."""
    if request_id is None:
        return None
    statement = (
        select(saga_events.c.event_data["result"].astext)
        .where(
            saga_events.c.transaction_id == transaction_id,
            saga_events.c.event_type == EventType.ACTION_REQUESTED.value,
            saga_events.c.event_data["request_id"].astext == str(request_id),
        )
        .limit(1)
    )
    found: str | None = connection.execute(statement).scalar()
    return found


def was_requested(connection: Connection, transaction_id: str) -> bool:
    """True when an action on this saga is recorded."""
    statement = select(
        exists().where(
            saga_events.c.transaction_id == transaction_id,
            saga_events.c.event_type == EventType.ACTION_REQUESTED.value,
        )
    )
    return bool(connection.execute(statement).scalar())
