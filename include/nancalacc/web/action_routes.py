"""The routes that change something; what they do is in `actions`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from sqlalchemy import Row

from nancalacc.orchestration.registry import definition_of
from nancalacc.saga.definition import transaction_id_of
from nancalacc.saga.state import EventType
from nancalacc.sync import dead_events
from nancalacc.web import airflow_links, schemas
from nancalacc.web.access import Access, BaseUser, DagAccessEntity, require_own_page
from nancalacc.web.actions import Actions
from nancalacc.web.airflow_calls import AirflowCalls
from nancalacc.web.desk import Desk
from nancalacc.web.routes import NEVER_A_ROW, TransactionId, User
from nancalacc.web.schemas import Action, ActionRequest, ActionResult

EventId = Annotated[int, Path(ge=1, lt=NEVER_A_ROW)]


def action_router(desk: Desk, access: Access) -> APIRouter:
    """The routes that change something."""
    actions = Actions(desk, access)
    router = APIRouter(
        dependencies=[Depends(require_own_page)],
        responses={code: {"model": schemas.Problem} for code in (401, 403, 404, 409, 415, 503)},
    )

    @router.post("/sagas/{transaction_id}/retry")
    async def retry(
        request: Request, user: User, transaction_id: TransactionId, body: schemas.RetryRequest
    ) -> ActionResult:
        """Run the saga again from a step on: Airflow's clear, with all that follows."""
        return await actions.to_saga(
            request,
            user,
            transaction_id=transaction_id,
            action=Action.RETRY,
            body=body,
            perform=actions.retry,
        )

    @router.post("/sagas/{transaction_id}/skip")
    async def skip(
        request: Request, user: User, transaction_id: TransactionId, body: schemas.SkipRequest
    ) -> ActionResult:
        """Count a step as done; only the steps whose result nobody needs."""
        return await actions.to_saga(
            request, user, transaction_id=transaction_id, action=Action.SKIP, body=body, perform=actions.skip
        )

    @router.post("/sagas/{transaction_id}/cancel")
    async def cancel(
        request: Request, user: User, transaction_id: TransactionId, body: ActionRequest
    ) -> ActionResult:
        """Undo the saga and end its run; not when it is published."""
        return await actions.to_saga(
            request,
            user,
            transaction_id=transaction_id,
            action=Action.CANCEL,
            body=body,
            perform=actions.cancel,
        )

    @router.post("/sagas/{transaction_id}/recover")
    async def recover(
        request: Request, user: User, transaction_id: TransactionId, body: ActionRequest
    ) -> ActionResult:
        """Have a saga whose run has ended finished now."""
        return await actions.to_saga(
            request,
            user,
            transaction_id=transaction_id,
            action=Action.RECOVER,
            body=body,
            perform=actions.recover,
        )

    @router.post("/full-syncs")
    async def full_sync(request: Request, user: User, body: schemas.FullSyncRequest) -> ActionResult:
        """Start a full sync."""
        if body.dag_id not in airflow_links.full_sync_dags(desk.settings()):
            raise HTTPException(409, f"{body.dag_id} is no DAG of a full sync")
        await actions.require(request, user, method="POST", entity=DagAccessEntity.RUN, dag_id=body.dag_id)
        run_id = f"console__{body.request_id or uuid4()}"
        conf = {
            name: True
            for name, value in {"dry_run": body.dry_run, "allow_mass_delete": body.allow_mass_delete}.items()
            if value
        }
        changed = await actions.start_run(
            AirflowCalls(request),
            body.dag_id,
            run_id=run_id,
            conf=conf,
            note=f"{user.get_name()}: {body.reason}",
        )
        transaction_id = transaction_id_of(dag_id=body.dag_id, run_id=run_id)

        def record() -> None:
            definition = definition_of(body.dag_id)
            desk.coordinator.start(definition, dag_id=body.dag_id, run_id=run_id, params=conf)
            data = {"action": "start", "user": user.get_name(), "reason": body.reason, "params": conf}
            desk.store.append(transaction_id, [(EventType.ACTION_REQUESTED, None, data)])

        if changed:
            await desk.in_thread(record)
        message = f"Run {run_id} is started" if changed else f"Run {run_id} was started already"
        return ActionResult(transaction_id=transaction_id, message=message, changed=changed)

    async def to_event(
        request: Request,
        user: BaseUser,
        change: Callable[..., tuple[Row[Any], bool]],
        *,
        event_id: int,
        note: str,
    ) -> schemas.InboxActionResult:
        await actions.require(
            request,
            user,
            method="PUT",
            entity=DagAccessEntity.RUN,
            dag_id=airflow_links.INCREMENTAL_SYNC,
        )
        try:
            row, changed = await desk.read(lambda connection: change(connection, event_id, note=note))
        except LookupError as error:
            raise HTTPException(404, str(error)) from None
        return schemas.InboxActionResult(event=schemas.InboxEvent.model_validate(row), changed=changed)

    @router.post("/inbox/{event_id}/retry")
    async def retry_event(
        request: Request, user: User, event_id: EventId, body: ActionRequest
    ) -> schemas.InboxActionResult:
        """Have a dead event dealt with again."""
        note = f"Retried by {user.get_name()}: {body.reason}"
        return await to_event(request, user, dead_events.retry, event_id=event_id, note=note)

    @router.post("/inbox/{event_id}/drop")
    async def drop_event(
        request: Request, user: User, event_id: EventId, body: ActionRequest
    ) -> schemas.InboxActionResult:
        """Give a dead event up."""
        note = f"Dropped by {user.get_name()}: {body.reason}"
        return await to_event(request, user, dead_events.drop, event_id=event_id, note=note)

    return router
