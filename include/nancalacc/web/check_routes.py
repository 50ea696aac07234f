"""What came of a sync afterwards: how WPS differs from what it was given, and what an undo left alone."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import Connection

from nancalacc.store import checks
from nancalacc.web import schemas
from nancalacc.web.access import Access, get_user
from nancalacc.web.check_schemas import Difference, Differences, Left, LeftAlone, Verification, What
from nancalacc.web.cursors import KeyCursor, cursor_of, key_of
from nancalacc.web.desk import Desk
from nancalacc.web.plan_routes import Kind
from nancalacc.web.routes import Cursor, Limit, Reader, TransactionId, User, Word, answer


def check_router(desk: Desk, access: Access) -> APIRouter:
    """The routes of verifications and undos."""
    reader = Reader(desk, access)
    router = APIRouter(
        prefix="/sagas/{transaction_id}",
        dependencies=[Depends(get_user)],
        responses={code: {"model": schemas.Problem} for code in (400, 401, 403, 404, 503)},
    )

    @router.get("/differences", response_model=Differences)
    async def differences(
        request: Request,
        user: User,
        transaction_id: TransactionId,
        kind: Kind | None = None,
        what: What | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """How WPS differed from what this saga gave it when it was last read back.

        All are counted; of each kind the first 10 000 are listed.
        """
        await reader.saga(request, user, transaction_id)

        def ask(connection: Connection) -> Differences:
            found = checks.latest(connection, transaction_id)
            if found is None:
                return Differences(verification=None, items=[], next_cursor=None)
            after = 0 if cursor is None else int(cursor)
            rows = checks.differences(
                connection, found, kind=kind or "", what=what or "", after=after, limit=limit
            )
            return Differences(
                verification=Verification.model_validate(found),
                items=[Difference.model_validate(row) for row in rows],
                next_cursor=str(rows[-1].id) if len(rows) == limit else None,
            )

        return answer(request, await desk.read(ask))

    @router.get("/left-alone", response_model=LeftAlone)
    async def left_alone(
        request: Request,
        user: User,
        transaction_id: TransactionId,
        kind: Kind | None = None,
        reason: Word = "",
        limit: Limit = 50,
        cursor: KeyCursor = None,
    ) -> Response:
        """Objects that this undo left as they are, with the reason, by kind and id."""
        _, saga, _ = await reader.saga(request, user, transaction_id)
        after = None if cursor is None else key_of(cursor, length=2)

        def ask(connection: Connection) -> LeftAlone:
            rows = checks.left_alone(
                connection,
                transaction_id,
                third_company_id=saga.third_company_id,
                kind=kind or "",
                reason=reason,
                after=after,
                limit=limit,
            )
            return LeftAlone(
                items=[Left.model_validate(row) for row in rows],
                next_cursor=cursor_of(rows[-1].kind, rows[-1].key) if len(rows) == limit else None,
            )

        return answer(request, await desk.read(ask))

    return router
