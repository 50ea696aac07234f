"""Whether things are as they should be, in sentences for the person on call."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import Connection, Row

from nancalacc.store import checks, figures, incidents, listeners
from nancalacc.store.listeners import ListenerSign
from nancalacc.store.migrate import expected_revision
from nancalacc.sync.verdicts import Verdict
from nancalacc.web import schemas
from nancalacc.web.access import Access, get_user
from nancalacc.web.desk import Desk
from nancalacc.web.routes import REFUSALS, Reader, User, answer, saga_of

LATE_SECONDS = 600.0
"""An inbox that lags, or a saga that goes back, longer than this is a problem."""


def health_router(desk: Desk, access: Access) -> APIRouter:
    """The route of the health strip."""
    reader = Reader(desk, access)
    router = APIRouter(dependencies=[Depends(get_user)], responses=REFUSALS)

    @router.get("/health/details", response_model=schemas.HealthDetails)
    async def health_details(request: Request, user: User) -> Response:
        """Database, schema, listeners, inbox, open sagas, last full syncs, and what is wrong with them."""
        dags = await reader.dags(request, user)
        conn_ids = list(dict.fromkeys(dingtalk for dingtalk, _ in desk.settings().companies))
        details = await desk.read(lambda connection: _health(connection, dags=dags, conn_ids=conn_ids))
        return answer(request, details, apart_from={"now"})

    return router


def _health(
    connection: Connection, *, dags: Collection[str], conn_ids: Sequence[str]
) -> schemas.HealthDetails:
    now = figures.now(connection)
    inbox = figures.inbox(connection)
    oldest = figures.oldest(connection, dags=dags)
    last = figures.last_completed(connection, dags=dags, definition="full_sync")
    revision, expected = figures.schema_revision(connection), expected_revision()
    signs = {sign.dingtalk_conn_id: sign for sign in listeners.present(connection)}
    problems = []
    if revision != expected:
        problems.append(f"The schema is at revision {revision}, {expected} is needed")
    problems += _silent(signs[conn_id] for conn_id in conn_ids if conn_id in signs)
    problems += [
        f"Saga {saga.transaction_id} waits for a person to approve or reject it"
        for saga in figures.asking(connection, dags=dags)
    ]
    if inbox.dead:
        problems.append(f"{inbox.dead} dead events wait for a decision")
    if inbox.lag_seconds is not None and inbox.lag_seconds > LATE_SECONDS:
        problems.append(f"The oldest event has been waiting for {inbox.lag_seconds / 60:.0f} minutes")
    problems += [
        f"Saga {saga.transaction_id} is {saga.status.value} and does not get on"
        for saga in figures.stuck(connection, dags=dags, seconds=LATE_SECONDS)
    ]
    problems += [_differs(found) for found in checks.bad_verdicts(connection, dags=dags)]
    unsent, reason = incidents.unsent(connection)
    if unsent:
        problems.append(f"{unsent} messages about incidents could not be sent: {reason}")
    if not last:
        problems.append("No full sync has completed yet")
    return schemas.HealthDetails(
        database="ok",
        schema_revision=revision,
        schema_expected=expected,
        open_sagas=sum(row.count for row in figures.open_counts(connection, dags=dags)),
        oldest_open=None if oldest is None else saga_of(oldest),
        last_full_sync=saga_of(last[0]) if last else None,
        last_full_syncs=[saga_of(saga) for saga in last],
        listeners=[_listener(conn_id, signs.get(conn_id)) for conn_id in conn_ids],
        inbox=schemas.InboxFigures.model_validate(inbox),
        problems=problems,
        now=now,
    )


def _silent(signs: Iterator[ListenerSign]) -> list[str]:
    return [
        f"No listener is connected to DingTalk by {sign.dingtalk_conn_id}; the last one was seen"
        f" {_age(sign.silence)} ago: is `python -m nancalacc listen` running?"
        for sign in signs
        if not sign.is_connected
    ]


def _differs(found: Row[Any]) -> str:
    number = sum(sum(kinds.values()) for kinds in found.counts.values())
    said = (
        f"WPS differs from what company {found.third_company_id} was given, in {number} objects"
        if found.verdict == Verdict.DRIFTED
        else f"WPS has stopped the last sync of company {found.third_company_id} by its own thresholds"
    )
    return f"{said}: saga {found.transaction_id} lists every difference"


def _listener(conn_id: str, sign: ListenerSign | None) -> schemas.Listener:
    if sign is None:
        return schemas.Listener(dingtalk_conn_id=conn_id, is_connected=False, seen_at=None, started_at=None)
    # To the minute: a sign of life alone is no news for a page.
    seen_at = sign.seen_at.replace(second=0, microsecond=0) if sign.is_connected else sign.seen_at
    return schemas.Listener(
        dingtalk_conn_id=conn_id,
        is_connected=sign.is_connected,
        seen_at=seen_at,
        started_at=sign.started_at,
    )


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
