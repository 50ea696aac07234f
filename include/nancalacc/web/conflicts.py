"""What is held back from WPS at present because of conflicts: ids and reasons, no personal data."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import Connection

from nancalacc.sync import conflicts as held_back
from nancalacc.sync.conflicts import Kind
from nancalacc.web import schemas
from nancalacc.web.access import Access, get_user
from nancalacc.web.cursors import KeyCursor, cursor_of, key_of
from nancalacc.web.desk import Desk
from nancalacc.web.routes import Limit, Reader, User, Word, answer
from nancalacc.web.schemas import Model, Moment


class Conflict(Model):
    """`key` is the uid or did that is concerned, `other` the one it clashes with, if there is one.

    `transaction_id`: the saga that found it first, if there is still one and the person may see it.
    """

    third_company_id: str
    kind: Kind
    key: str
    other: str | None
    reason: str
    since: Moment
    transaction_id: str | None


class ConflictsPage(BaseModel):
    """A page of conflicts; `counts`: all of them by kind."""

    items: list[Conflict]
    next_cursor: str | None
    counts: dict[Kind, int]


def conflicts_router(desk: Desk, access: Access) -> APIRouter:
    """The route of the present conflicts."""
    reader = Reader(desk, access)
    router = APIRouter(
        dependencies=[Depends(get_user)],
        responses={code: {"model": schemas.Problem} for code in (400, 401, 403, 503)},
    )

    @router.get("/conflicts", response_model=ConflictsPage)
    async def conflicts(
        request: Request,
        user: User,
        kind: Annotated[list[Kind], Query()] = [],  # noqa: B006 - FastAPI copies it
        company: Word | None = None,
        limit: Limit = 50,
        cursor: KeyCursor = None,
    ) -> Response:
        """What is held back at present, by company, kind and id, of companies the person may see syncs of."""
        dags = await reader.dags(request, user)
        after = None if cursor is None else key_of(cursor, length=3)

        def ask(connection: Connection) -> ConflictsPage:
            rows = held_back.page(
                connection, dags=dags, kinds=kind, third_company_id=company, after=after, limit=limit
            )
            return ConflictsPage(
                items=[Conflict.model_validate(row) for row in rows],
                next_cursor=(
                    cursor_of(rows[-1].third_company_id, rows[-1].kind, rows[-1].key)
                    if len(rows) == limit
                    else None
                ),
                counts=held_back.count(connection, dags=dags, third_company_id=company),
            )

        return answer(request, await desk.read(ask))

    return router
