"""The routes that change something; what they do is in `actions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from nancalacc.sync import dead_events
from nancalacc.web import schemas
from nancalacc.web.access import Access, require_own_page
from nancalacc.web.actions import Actions
from nancalacc.web.desk import Desk
from nancalacc.web.routes import NEVER_A_ROW, TransactionId, User
from nancalacc.web.schemas import Action, ActionRequest, ActionResult, InboxActionResult

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
            request, user, action=Action.RETRY, transaction_id=transaction_id, body=body
        )

    @router.post("/sagas/{transaction_id}/skip")
    async def skip(
        request: Request, user: User, transaction_id: TransactionId, body: schemas.SkipRequest
    ) -> ActionResult:
        """Count a step as done; only the steps whose result nobody needs."""
        return await actions.to_saga(
            request, user, action=Action.SKIP, transaction_id=transaction_id, body=body
        )

    @router.post("/sagas/{transaction_id}/cancel")
    async def cancel(
        request: Request, user: User, transaction_id: TransactionId, body: ActionRequest
    ) -> ActionResult:
        """Undo the saga and end its run; not when it is published."""
        return await actions.to_saga(
            request, user, action=Action.CANCEL, transaction_id=transaction_id, body=body
        )

    @router.post("/sagas/{transaction_id}/recover")
    async def recover(
        request: Request, user: User, transaction_id: TransactionId, body: ActionRequest
    ) -> ActionResult:
        """Have a saga whose run has ended finished now."""
        return await actions.to_saga(
            request, user, action=Action.RECOVER, transaction_id=transaction_id, body=body
        )

    @router.post("/sagas/{transaction_id}/undo")
    async def undo(
        request: Request, user: User, transaction_id: TransactionId, body: ActionRequest
    ) -> ActionResult:
        """Start a sync that brings WPS back to the state before this one."""
        return await actions.to_saga(
            request, user, action=Action.UNDO, transaction_id=transaction_id, body=body
        )

    @router.post("/full-syncs")
    async def full_sync(request: Request, user: User, body: schemas.FullSyncRequest) -> ActionResult:
        """Start a full sync."""
        return await actions.start_full_sync(request, user, body)

    @router.post("/inbox/{event_id}/retry")
    async def retry_event(
        request: Request, user: User, event_id: EventId, body: ActionRequest
    ) -> InboxActionResult:
        """Have a dead event dealt with again."""
        return await actions.to_event(request, user, event_id=event_id, decide=dead_events.retry, body=body)

    @router.post("/inbox/{event_id}/drop")
    async def drop_event(
        request: Request, user: User, event_id: EventId, body: ActionRequest
    ) -> InboxActionResult:
        """Give a dead event up."""
        return await actions.to_event(request, user, event_id=event_id, decide=dead_events.drop, body=body)

    return router
