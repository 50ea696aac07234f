"""What can be looked at of the inbox and of the shared table `task`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from sqlalchemy import Connection

from nancalacc.store import queries
from nancalacc.store.tables import EventStatus
from nancalacc.web import airflow_links, schemas
from nancalacc.web.access import Access, get_user
from nancalacc.web.desk import Desk
from nancalacc.web.routes import REFUSALS, Cursor, Limit, Reader, User, Word, answer


def inbox_router(desk: Desk, access: Access) -> APIRouter:
    """The routes of inbox and `task` that change nothing."""
    reader = Reader(desk, access)
    router = APIRouter(dependencies=[Depends(get_user)], responses=REFUSALS)

    @router.get("/inbox", response_model=schemas.InboxPage)
    async def inbox(
        request: Request,
        user: User,
        status: Annotated[list[EventStatus], Query()] = [],  # noqa: B006
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """Events of DingTalk that belong to DAGs the person may see, newest first; no personal data."""
        dags = await reader.dags(request, user)

        def ask(connection: Connection) -> schemas.InboxPage:
            rows = queries.events_in_inbox(
                connection,
                dags=dags,
                handler=airflow_links.INCREMENTAL_SYNC,
                statuses=status,
                before=None if cursor is None else int(cursor),
                limit=limit,
            )
            return schemas.InboxPage(
                items=[schemas.InboxEvent.model_validate(row) for row in rows],
                next_cursor=str(rows[-1].id) if len(rows) == limit else None,
                counts=queries.count_inbox(connection, dags=dags, handler=airflow_links.INCREMENTAL_SYNC),
            )

        return answer(request, await desk.read(ask))

    @router.get("/tasks", response_model=schemas.TaskRecords)
    async def tasks(request: Request, user: User, limit: Limit = 50, cursor: Cursor = None) -> Response:
        """Records of the shared table `task`, newest first, but those of syncs the person may not see."""
        dags = await reader.dags(request, user)
        before = None if cursor is None else int(cursor)
        rows = await desk.read(
            lambda connection: queries.tasks(connection, dags=dags, before=before, limit=limit)
        )
        page = schemas.TaskRecords(
            items=[schemas.TaskRecord.model_validate(row) for row in rows],
            next_cursor=str(rows[-1].id) if len(rows) == limit else None,
        )
        return answer(request, page)

    @router.get("/tasks/{name}", response_model=schemas.TaskRecord)
    async def task(request: Request, user: User, name: Word) -> Response:
        """The record of a sync by its task id (yyyyMMddHHmmss)."""
        dags = await reader.dags(request, user)
        rows = await desk.read(lambda connection: queries.tasks(connection, dags=dags, title=name, limit=1))
        if not rows:
            raise HTTPException(404, f"There is no task {name}")
        return answer(request, schemas.TaskRecord.model_validate(rows[0]))

    return router
