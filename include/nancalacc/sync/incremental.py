"""The incremental sync: applies a batch of DingTalk's contact events to WPS.

Read `INCREMENTAL_SYNC` at the end first: eight steps, each action beside its compensation.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.definition import SagaDefinition, Step, StepKind
from nancalacc.saga.waiting import Wait
from nancalacc.sync import claims, planned_rows, staging, touched
from nancalacc.sync.batch import (
    CLAIM,
    CONFIRM,
    FETCH,
    NAME,
    NOTIFY,
    SAVE_DEPARTMENTS,
    SAVE_RELATIONS,
    SAVE_USERS,
    UPDATE_STATUS,
    Batch,
    retry_rules,
)
from nancalacc.sync.claiming import claim_events, return_events
from nancalacc.sync.confirm import Publication, is_dealt_with
from nancalacc.sync.fetch_changes import delete_staged, fetch_changes, keep_conflicts, remove_staged
from nancalacc.sync.planning import (
    DEPARTMENTS,
    MEMBERSHIPS,
    USERS,
    Content,
    Increment,
    plan_departments,
    plan_memberships,
    plan_users,
)
from nancalacc.sync.publish import SNAPSHOT_SAGAS
from nancalacc.sync.services import SyncServices
from nancalacc.sync.staging import Fetch

FEW_RETRIES = 3
"""Others wait for a batch; its events come again with the next one."""


# save_departments, save_users, save_relations


def save_departments(ctx: StepContext) -> Mapping[str, Any]:
    """Plan the rows of departments."""
    batch = Batch.of(ctx)
    if batch is None:
        return {"rows": 0}
    company, saga = batch.wps.third_company_id, ctx.saga.transaction_id
    known = planned_rows.known_rows(
        ctx.connection, DEPARTMENTS, transaction_id=saga, third_company_id=company
    )
    rows = plan_departments(
        _saved(ctx, DEPARTMENTS, batch),
        removed=planned_rows.removed(ctx.connection, DEPARTMENTS, transaction_id=saga),
        known=known,
        parents={did: row["pid"] for did, row in known.items()}
        | planned_rows.parents(ctx.connection, third_company_id=company),
    )
    return _plan(ctx, DEPARTMENTS, rows)


def save_users(ctx: StepContext) -> Mapping[str, Any]:
    """Plan the rows of people."""
    batch = Batch.of(ctx)
    if batch is None:
        return {"rows": 0}
    company, saga = batch.wps.third_company_id, ctx.saga.transaction_id
    rows = plan_users(
        _saved(ctx, USERS, batch),
        removed=planned_rows.removed(ctx.connection, USERS, transaction_id=saga),
        known=planned_rows.known_rows(ctx.connection, USERS, transaction_id=saga, third_company_id=company),
    )
    return _plan(ctx, USERS, rows)


def save_relations(ctx: StepContext) -> Mapping[str, Any]:
    """Plan the rows of memberships, and spread all planned rows over rounds."""
    batch = Batch.of(ctx)
    if batch is None:
        return {"rows": 0, "rounds": 0}
    places: dict[str, list[Content]] = {}
    for row in _saved(ctx, MEMBERSHIPS, batch):
        places.setdefault(row["uid"], []).append(row)
    planned = _plan(ctx, MEMBERSHIPS, plan_memberships(places))
    rounds = planned_rows.schedule(ctx.connection, transaction_id=ctx.saga.transaction_id)
    return {**planned, "rounds": rounds}


def _saved(ctx: StepContext, kind: str, batch: Batch) -> list[Content]:
    fetched = ctx.action_data(FETCH)
    staging.prefer_hash_joins(ctx.connection)
    return planned_rows.saved_rows(
        ctx.connection,
        kind,
        fetch=Fetch.recorded(ctx.saga.transaction_id, fetched),
        third_company_id=batch.wps.third_company_id,
        managers_read=bool(fetched["managers_read"]),
    )


def _plan(ctx: StepContext, kind: str, rows: list[Increment]) -> Mapping[str, Any]:
    return {"rows": planned_rows.plan(ctx.connection, kind, rows, transaction_id=ctx.saga.transaction_id)}


def delete_plan(kind: str) -> Any:
    """The compensation that deletes the planned rows of one kind."""

    def delete(ctx: CompensationContext) -> None:
        planned_rows.plan(ctx.connection, kind, (), transaction_id=ctx.saga.transaction_id)

    return delete


# notify_wps, confirm_increments


def notify_wps(ctx: StepContext) -> Mapping[str, Any]:
    """Publish the first round by one transaction, wait until WPS can see it, and call WPS."""
    batch = Batch.of(ctx)
    if batch is None:
        return {"rows": 0}
    publication = Publication(ctx, batch)
    publication.begin()
    return publication.tally.as_data()


def confirm_increments(ctx: StepContext) -> Mapping[str, Any] | Wait:
    """Follow the published rows until WPS has dealt with all of them, and publish the other rounds.

    While WPS is at work the step waits without a worker.
    """
    batch = Batch.of(ctx)
    if batch is None:
        return {"rows": 0}
    publication = Publication(ctx, batch)
    return publication.follow() or publication.tally.as_data()


# update_event_status


def update_event_status(ctx: StepContext) -> Mapping[str, Any]:
    """End the events: done, to be tried again after a pause, or dead; staging is deleted."""
    batch = Batch.of(ctx)
    if batch is None:
        return {"done": 0}
    services: SyncServices = ctx.services
    transaction_id = ctx.saga.transaction_id
    connection = ctx.connection
    repeat_at = claims.repeat_moment(
        connection,
        third_company_id=batch.wps.third_company_id,
        definitions=SNAPSHOT_SAGAS,
        step=NOTIFY,
        seconds=services.settings.repeat_seconds,
    )
    failed = touched.failures(connection, transaction_id=transaction_id)
    done, dead = claims.finish(
        connection,
        transaction_id=transaction_id,
        failed=failed,
        rules=retry_rules(services),
        repeat_at=repeat_at,
    )
    found = keep_conflicts(
        connection,
        fetch=Fetch.recorded(transaction_id, ctx.action_data(FETCH)),
        third_company_id=batch.wps.third_company_id,
    )
    remove_staged(connection, transaction_id=transaction_id)
    return {
        "conflicts": found,
        "done": done,
        "again": len(failed) - dead,
        "dead": dead,
        "repeat_at": repeat_at.isoformat() if repeat_at else None,
    }


INCREMENTAL_SYNC = SagaDefinition(
    NAME,
    (
        Step(CLAIM, claim_events, return_events, max_retries=FEW_RETRIES, time_limit=timedelta(minutes=5)),
        Step(
            FETCH,
            fetch_changes,
            delete_staged,
            depends_on=(CLAIM,),
            max_retries=FEW_RETRIES,
            time_limit=timedelta(hours=1),
        ),
        Step(
            SAVE_DEPARTMENTS,
            save_departments,
            delete_plan(DEPARTMENTS),
            depends_on=(FETCH,),
            max_retries=FEW_RETRIES,
        ),
        Step(
            SAVE_USERS,
            save_users,
            delete_plan(USERS),
            depends_on=(SAVE_DEPARTMENTS,),
            max_retries=FEW_RETRIES,
        ),
        Step(
            SAVE_RELATIONS,
            save_relations,
            delete_plan(MEMBERSHIPS),
            depends_on=(SAVE_USERS,),
            max_retries=FEW_RETRIES,
        ),
        Step(NOTIFY, notify_wps, depends_on=(SAVE_RELATIONS,), kind=StepKind.PIVOT),
        Step(
            CONFIRM,
            confirm_increments,
            depends_on=(NOTIFY,),
            kind=StepKind.RETRIABLE,
            time_limit=timedelta(hours=2),
            is_met=is_dealt_with,
        ),
        Step(
            UPDATE_STATUS,
            update_event_status,
            depends_on=(CONFIRM,),
            kind=StepKind.RETRIABLE,
            skippable=True,
        ),
    ),
)
"""claim → fetch → the three saves → notify (the pivot) → confirm → update."""
