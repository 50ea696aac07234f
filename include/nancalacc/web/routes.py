"""What can be looked at of sagas: lists, steps and events, figures; and what all such routes share.

Every route needs an Airflow login. Of sagas a person sees those of the DAGs whose runs they may
see in Airflow; what belongs to no DAG is for those who may see any of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, StringConstraints
from sqlalchemy import Connection

from nancalacc.errors import ConfigurationError
from nancalacc.orchestration.registry import NAMES, definition_of
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.moves import past_pivot
from nancalacc.saga.records import EventRecord, SagaRecord, StepRecord
from nancalacc.saga.state import SagaStatus
from nancalacc.store import figures, queries
from nancalacc.store.queries import SagaFilter
from nancalacc.web import airflow_links, permissions, schemas
from nancalacc.web.access import Access, BaseUser, get_user
from nancalacc.web.desk import Desk
from nancalacc.web.permissions import Permission
from nancalacc.web.possible import possible

M = TypeVar("M", bound=BaseModel)

MOST = 200
EVENTS_IN_DETAIL = 500
NEVER_A_ROW = 2**63
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": schemas.Problem} for code in (401, 403, 404, 503)
}

User = Annotated[BaseUser, Depends(get_user)]
Cursor = Annotated[str | None, Query(pattern=r"^\d{1,18}$", description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=MOST)]
Word = Annotated[str, StringConstraints(max_length=250, pattern=r"^[^\x00]*$")]
TransactionId = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F-]{1,64}$")]


class Reader:
    """Reads sagas as one person may see them."""

    def __init__(self, desk: Desk, access: Access) -> None:
        self.desk = desk
        self.access = access

    async def dags(self, request: Request, user: BaseUser) -> Collection[str]:
        """The DAGs whose sagas the person may see; raises HTTPException 403 when there is none."""
        known = {*self._configured(), *await self.desk.read(queries.dag_ids)}
        seen = await self.granted(request, user, [permissions.sight_of(dag_id) for dag_id in sorted(known)])
        if not seen:
            raise HTTPException(403, "You may see none of the DAGs that synchronise")
        return sorted(each.dag_id for each in seen)

    async def granted(
        self, request: Request, user: BaseUser, wanted: Collection[Permission]
    ) -> frozenset[Permission]:
        """Those of the permissions that the person has."""
        return await self.desk.in_thread(lambda: permissions.granted(self.access, request, user, wanted))

    async def saga(
        self, request: Request, user: BaseUser, transaction_id: str
    ) -> tuple[SagaDefinition, SagaRecord, tuple[StepRecord, ...]]:
        """A saga; raises HTTPException 404 when there is none that the person may see."""
        found = await self.desk.in_thread(lambda: self.desk.store.get(transaction_id))
        if found is None or found[0].dag_id is None:
            raise HTTPException(404, f"There is no saga {transaction_id}")
        saga, steps = found
        dag_id = str(saga.dag_id)
        if not await self.granted(request, user, [permissions.sight_of(dag_id)]):
            raise HTTPException(404, f"There is no saga {transaction_id}")
        try:
            return definition_of(dag_id), saga, steps
        except ConfigurationError as error:
            raise HTTPException(404, str(error)) from None

    def _configured(self) -> Collection[str]:
        return {*NAMES, *airflow_links.full_sync_dags(self.desk.settings())}


def read_router(desk: Desk, access: Access) -> APIRouter:
    """The routes of sagas that change nothing."""
    reader = Reader(desk, access)
    router = APIRouter(dependencies=[Depends(get_user)], responses=REFUSALS)

    @router.get("/me")
    async def me(request: Request, user: User) -> schemas.Person:
        """Who is signed in, and what they may change."""
        dags = await reader.dags(request, user)
        full_syncs = {
            dag_id: permissions.start_of(dag_id)
            for dag_id in airflow_links.full_sync_dags(desk.settings())
            if dag_id in dags
        }
        changed = {dag_id: permissions.of_saga(schemas.Action.RETRY, dag_id=dag_id) for dag_id in dags}
        wanted = [permissions.DECIDE_EVENTS, *full_syncs.values(), *changed.values()]
        has = await reader.granted(request, user, wanted)
        return schemas.Person(
            name=user.get_name(),
            editable_dags=[dag_id for dag_id, permission in changed.items() if permission in has],
            full_sync_dags=[dag_id for dag_id, permission in full_syncs.items() if permission in has],
            decides_events=permissions.DECIDE_EVENTS in has,
        )

    @router.get("/sagas", response_model=schemas.Sagas)
    async def sagas(
        request: Request,
        user: User,
        status: Annotated[list[SagaStatus], Query()] = [],  # noqa: B006 - FastAPI copies it
        definition: Annotated[list[Word], Query(max_length=20)] = [],  # noqa: B006
        company: Word | None = None,
        run_id: Word | None = None,
        dag_id: Word | None = None,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        text: Word = "",
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """Sagas, newest first. `text`: words that must all occur in ids, name, company or error."""
        dags = [dag for dag in await reader.dags(request, user) if dag_id in (None, dag)]
        wanted = SagaFilter(
            dag_ids=dags,
            statuses=status,
            definitions=definition,
            third_company_id=company,
            run_id=run_id,
            since=_naive(since),
            until=_naive(until),
            text=text,
        )

        def ask(connection: Connection) -> tuple[tuple[queries.Listed, ...], dict[str, int]]:
            page = queries.sagas(
                connection, wanted, before=None if cursor is None else int(cursor), limit=limit
            )
            return page, queries.count_sagas(connection, wanted)

        page, counts = await desk.read(ask)
        return answer(
            request,
            schemas.Sagas(
                items=[saga_of(each.saga, steps=each.steps) for each in page],
                next_cursor=str(page[-1].id) if len(page) == limit else None,
                counts=counts,
            ),
        )

    @router.get("/sagas/{transaction_id}", response_model=schemas.SagaDetail)
    async def saga(request: Request, user: User, transaction_id: TransactionId) -> Response:
        """A saga with its steps, its latest events, links into Airflow and what can be done."""
        definition, found, steps = await reader.saga(request, user, transaction_id)
        events, now = await desk.read(
            lambda connection: (
                queries.latest_events(connection, transaction_id, limit=EVENTS_IN_DETAIL),
                figures.now(connection),
            )
        )
        detail = schemas.SagaDetail.model_validate(
            asdict(found)
            | {
                "steps_by_status": _by_status(steps),
                "past_pivot": past_pivot(definition, {step.name: step for step in steps}),
                "steps": _steps(definition, found, steps),
                "events": [_event(event) for event in events],
                "links": airflow_links.links(found),
                "actions": await _actions(request, user, definition, found, steps),
                "now": now,
            }
        )
        # The clock alone is no news.
        return answer(request, detail, apart_from={"now"})

    async def _actions(
        request: Request,
        user: BaseUser,
        definition: SagaDefinition,
        found: SagaRecord,
        steps: tuple[StepRecord, ...],
    ) -> list[schemas.Possible]:
        every = possible(definition, found, steps, stale_seconds=desk.settings().stale_seconds)
        needed = {
            each.action: permissions.of_saga(each.action, dag_id=str(found.dag_id))
            for each in every
            if each.allowed
        }
        has = await reader.granted(request, user, needed.values())
        return [
            each
            if each.action not in needed or needed[each.action] in has
            else schemas.Possible(action=each.action, allowed=False, reason=needed[each.action].refusal)
            for each in every
        ]

    @router.get("/sagas/{transaction_id}/steps", response_model=schemas.Steps)
    async def steps(request: Request, user: User, transaction_id: TransactionId) -> Response:
        """The steps of a saga in their order."""
        definition, found, records = await reader.saga(request, user, transaction_id)
        return answer(request, schemas.Steps(items=_steps(definition, found, records)))

    @router.get("/sagas/{transaction_id}/events", response_model=schemas.Events)
    async def events(
        request: Request,
        user: User,
        transaction_id: TransactionId,
        after: Annotated[int, Query(ge=0, lt=NEVER_A_ROW)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = MOST,
    ) -> Response:
        """The audit trail of a saga, oldest first."""
        await reader.saga(request, user, transaction_id)
        found = await desk.in_thread(lambda: desk.store.events(transaction_id, after=after, limit=limit))
        page = schemas.Events(
            items=[_event(event) for event in found],
            next_after=found[-1].id if len(found) == limit else None,
        )
        return answer(request, page)

    @router.get("/statistics", response_model=schemas.Statistics)
    async def statistics(
        request: Request, user: User, days: Annotated[int, Query(ge=1, le=366)] = 7
    ) -> Response:
        """Figures of the last days: counts, durations, reasons of failures."""
        dags = await reader.dags(request, user)

        def ask(connection: Connection) -> schemas.Statistics:
            since = figures.now(connection) - timedelta(days=days)
            counts: dict[str, dict[str, int]] = {}
            for row in figures.counts(connection, dags=dags, since=since):
                counts.setdefault(row.definition, {})[row.status] = row.count
            ended = {
                status: sum(each.get(status.value, 0) for each in counts.values())
                for status in SagaStatus
                if status.ended
            }
            total = sum(ended.values())
            oldest = figures.oldest(connection, dags=dags, statuses=figures.GOING_BACK)
            return schemas.Statistics(
                days=days,
                counts=counts,
                compensation_rate=ended[SagaStatus.COMPENSATED] / total if total else None,
                steps=[
                    schemas.StepFigures.model_validate(row)
                    for row in figures.steps(connection, dags=dags, since=since)
                ],
                reasons=[
                    schemas.FailureReason.model_validate(row)
                    for row in figures.reasons(connection, dags=dags, since=since)
                ],
                oldest_uncompensated=None if oldest is None else saga_of(oldest),
            )

        return answer(request, await desk.read(ask))

    return router


def answer(request: Request, content: BaseModel, *, apart_from: set[str] | None = None) -> Response:
    """The content, or 304 when the asker has it already; `apart_from` is left out of that comparison."""
    compared = content.model_dump_json(exclude=apart_from).encode()
    tag = f'W/"{hashlib.sha256(compared).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content.model_dump_json(), media_type="application/json", headers=headers)


def _naive(moment: datetime | None) -> datetime | None:
    """A moment as the saga tables have it."""
    if moment is None:
        return None
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise HTTPException(422, "The time is out of range") from None


def saga_of(saga: SagaRecord, *, steps: dict[str, int] | None = None) -> schemas.Saga:
    """A saga as a list shows it."""
    return schemas.Saga.model_validate(asdict(saga) | {"steps_by_status": steps or {}})


def _by_status(steps: Collection[StepRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.status.value] = counts.get(step.status.value, 0) + 1
    return counts


def _steps(definition: SagaDefinition, saga: SagaRecord, steps: Collection[StepRecord]) -> list[schemas.Step]:
    kinds = {step.name: step.kind.value for step in definition}
    return [
        schemas.Step.model_validate(
            asdict(step) | {"kind": kinds.get(step.name), "log_url": airflow_links.task(saga, step.name)}
        )
        for step in steps
    ]


def _event(event: EventRecord) -> schemas.Event:
    return schemas.Event.model_validate(
        asdict(event) | {"step": event.step_id.partition(":")[2] if event.step_id else None}
    )
