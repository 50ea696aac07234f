"""What is held back from WPS at present because of conflicts: ids and reasons, no personal data."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import Connection, Row

from nancalacc.sync import conflicts as held_back
from nancalacc.sync.conflicts import Kind
from nancalacc.web import schemas
from nancalacc.web.access import Access, get_user
from nancalacc.web.desk import Desk
from nancalacc.web.routes import Limit, Reader, User, Word, answer
from nancalacc.web.schemas import Model, Moment

NO_CURSOR = "The cursor is not one of a page before"

Cursor = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9_=-]{1,2000}$", description="`next_cursor` of the page before"),
]


class Conflict(Model):
    """`key` is the uid or did that is concerned, `other` the one it clashes with, if there is one.

    `transaction_id`: the saga that found it first.
    """

    third_company_id: str
    kind: Kind
    key: str
    other: str | None
    reason: str
    since: Moment
    transaction_id: str


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
        cursor: Cursor = None,
    ) -> Response:
        """What is held back at present, by company, kind and id."""
        await reader.dags(request, user)
        after = None if cursor is None else _key_of(cursor)

        def ask(connection: Connection) -> ConflictsPage:
            rows = held_back.page(connection, kinds=kind, third_company_id=company, after=after, limit=limit)
            return ConflictsPage(
                items=[Conflict.model_validate(row) for row in rows],
                next_cursor=_cursor_of(rows[-1]) if len(rows) == limit else None,
                counts=held_back.count(connection, third_company_id=company),
            )

        return answer(request, await desk.read(ask))

    return router


def _cursor_of(row: Row[Any]) -> str:
    key = [row.third_company_id, row.kind, row.key]
    return urlsafe_b64encode(json.dumps(key).encode()).decode()


def _key_of(cursor: str) -> tuple[str, str, str]:
    try:
        company, kind, key = json.loads(urlsafe_b64decode(cursor))
        f"{company}{kind}{key}".encode()
    except (ValueError, TypeError):
        raise HTTPException(400, NO_CURSOR) from None
    if not all(isinstance(each, str) and "\x00" not in each for each in (company, kind, key)):
        raise HTTPException(400, NO_CURSOR)
    return company, kind, key
