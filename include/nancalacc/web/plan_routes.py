"""Plans: what a sync will change, or has changed, to look at and to take away as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection, Row

from nancalacc.store import plans
from nancalacc.store.plans import ChangeFilter
from nancalacc.web import schemas
from nancalacc.web.access import Access, get_user
from nancalacc.web.desk import Desk
from nancalacc.web.plan_schemas import Change, Changes, Decision, Example, Plan, PlanAnswer, Subtree
from nancalacc.web.routes import Cursor, Limit, Reader, TransactionId, User, Word, answer

SUBTREES = 30
ROWS_AT_ONCE = 2000
COLUMNS = ("kind", "action", "is_moved", "is_disabled", "uid", "did", "name", "old_name", "place",
           "place_name", "old_place", "old_place_name", "fields", "subtree")  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
"""With what a spreadsheet takes a cell for a formula; some read the full-width forms alike."""
MARK = "\ufeff"
"""Tells Excel that the file is UTF-8."""


class Kind(StrEnum):
    """Kinds of objects."""

    DEPARTMENTS = "departments"
    USERS = "users"
    MEMBERSHIPS = "memberships"


class Sort(StrEnum):
    """Sorts of changes; moved and disabled ones are among the changed ones."""

    ADDED = "added"
    CHANGED = "changed"
    MOVED = "moved"
    DISABLED = "disabled"
    REMOVED = "removed"


def plan_router(desk: Desk, access: Access) -> APIRouter:
    """The routes of plans."""
    reader = Reader(desk, access)
    router = APIRouter(
        prefix="/sagas/{transaction_id}",
        dependencies=[Depends(get_user)],
        responses={code: {"model": schemas.Problem} for code in (401, 403, 404, 503)},
    )

    @router.get("/plan", response_model=PlanAnswer)
    async def plan(request: Request, user: User, transaction_id: TransactionId) -> Response:
        """The latest plan of a saga: counts, examples, subtrees, and who decided what about it."""
        await reader.saga(request, user, transaction_id)

        def ask(connection: Connection) -> PlanAnswer:
            found = plans.latest(connection, transaction_id)
            if found is None:
                return PlanAnswer(plan=None)
            subtrees, every = plans.subtrees(connection, found, limit=SUBTREES)
            decisions = plans.decisions(connection, transaction_id)
            return PlanAnswer(
                plan=Plan(
                    hash=found.hash,
                    epoch=found.epoch,
                    attempt=found.attempt,
                    created_at=found.created_at,
                    counts=found.counts,
                    examples=[Example(**each) for each in found.examples],
                    subtrees=[Subtree.model_validate(each) for each in subtrees],
                    every_subtree=every,
                    decisions=[Decision.model_validate(each) for each in decisions],
                )
            )

        return answer(request, await desk.read(ask))

    @router.get("/plan/changes", response_model=Changes)
    async def changes(
        request: Request,
        user: User,
        transaction_id: TransactionId,
        kind: Kind | None = None,
        sort: Sort | None = None,
        subtree: Word | None = None,
        text: Word = "",
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """Changes of the latest plan, the removed ones of each kind first."""
        await reader.saga(request, user, transaction_id)
        wanted = ChangeFilter(kind=kind or "", sort=sort or "", subtree=subtree, text=text)

        def ask(connection: Connection) -> list[Change]:
            found = plans.latest(connection, transaction_id)
            if found is None:
                return []
            after = 0 if cursor is None else int(cursor)
            rows = plans.changes(connection, found, wanted, after=after, limit=limit)
            return [Change.of(row) for row in rows]

        page = await desk.read(ask)
        following = str(page[-1].position) if len(page) == limit else None
        return answer(request, Changes(items=page, next_cursor=following))

    @router.get("/plan.csv", response_class=StreamingResponse)
    async def table(request: Request, user: User, transaction_id: TransactionId) -> StreamingResponse:
        """Every change of the latest plan as CSV (UTF-8)."""
        await reader.saga(request, user, transaction_id)
        found = await desk.read(lambda connection: plans.latest(connection, transaction_id))
        if found is None:
            raise HTTPException(404, f"Saga {transaction_id} has no plan")
        name = f"plan-{found.hash[:12]}.csv"
        return StreamingResponse(
            _lines(desk, found),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
        )

    return router


async def _lines(desk: Desk, plan: Row[Any]) -> AsyncIterator[str]:
    """The file, a few thousand rows at a time: it is never whole in memory."""
    yield MARK + _csv([dict(zip(COLUMNS, COLUMNS, strict=True))])
    page = await _page(desk, plan, after=0)
    while page:
        yield _csv(page)
        page = await _page(desk, plan, after=page[-1]["position"])


async def _page(desk: Desk, plan: Row[Any], *, after: int) -> Sequence[dict[str, Any]]:
    return await desk.read(
        lambda connection: plans.changes(connection, plan, ChangeFilter(), after=after, limit=ROWS_AT_ONCE)
    )


def _csv(changes: Iterable[Mapping[str, Any]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows([_cell(change, column) for column in COLUMNS] for change in changes)
    return written.getvalue()


def _cell(change: Mapping[str, Any], column: str) -> str:
    """A value that no spreadsheet takes for a formula."""
    value = change[column]
    if isinstance(value, list):
        value = " ".join(value)
    elif isinstance(value, bool):
        value = "yes" if value else ""
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
