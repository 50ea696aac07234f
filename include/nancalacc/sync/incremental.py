"""The incremental sync: applies a batch of DingTalk's contact events to WPS.

Read `INCREMENTAL_SYNC` at the end first: eight steps, each action beside its compensation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from nancalacc.errors import ConfigurationError
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.definition import SagaDefinition, Step, StepKind
from nancalacc.saga.state import SagaStatus
from nancalacc.saga.waiting import Wait
from nancalacc.store import locks
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
    BatchParams,
    retry_rules,
)
from nancalacc.sync.claims import Tenant
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

log = logging.getLogger(__name__)

FEW_RETRIES = 3
"""Others wait for a batch; its events come again with the next one."""


# claim_events


def claim_events(ctx: StepContext) -> Mapping[str, Any]:
    """Take the lock of the company that has waited longest, and its oldest events.

    Claims nothing when there is nothing to do (any more). Raises RefusedError for wrong parameters.
    """
    services: SyncServices = ctx.services
    params = BatchParams.of(ctx.saga.params)
    tenants = tenants_of(services, params.pairs(services.settings.companies))
    transaction_id = ctx.saga.transaction_id
    with ctx.transaction() as connection:
        claims.free_abandoned(connection)
        kept = claims.tenant_of(connection, tenants, transaction_id=transaction_id)
        due = [kept] if kept else claims.due_tenants(connection, tenants, definition=NAME)
    for tenant in due:
        size = _size(services, params, tenant.dingtalk_conn_id)
        with ctx.transaction() as connection:
            # First the saga's row, then the lock's: the order of everybody who gives a lock back.
            ctx.identify(connection, third_company_id=tenant.third_company_id, task_id=None)
            holder = locks.acquire(
                connection,
                third_company_id=tenant.third_company_id,
                transaction_id=transaction_id,
                after_waiting=True,
            )
            if holder is None:
                number = claims.claim(connection, tenant, transaction_id=transaction_id, size=size)
                if number:
                    return {
                        "events": number,
                        "third_company_id": tenant.third_company_id,
                        "dingtalk_conn_id": tenant.dingtalk_conn_id,
                        "wps_conn_id": tenant.wps_conn_id,
                    }
                locks.release(connection, transaction_id=transaction_id)
    return {"events": 0}


def _size(services: SyncServices, params: BatchParams, dingtalk_conn_id: str) -> int:
    try:
        calls_per_second = services.dingtalk_settings(dingtalk_conn_id).calls_per_second
    except ConfigurationError:
        # The next step says what is wrong with it.
        return params.size(services.settings, calls_per_second=1)
    return params.size(services.settings, calls_per_second=calls_per_second)


def tenants_of(services: SyncServices, pairs: tuple[tuple[str, str], ...]) -> list[Tenant]:
    """The companies of pairs of connections; one whose connection is wrong does not hold up the others.

    Raises ConfigurationError when none of them can be read.
    """
    found = []
    error: ConfigurationError | None = None
    for dingtalk, wps in pairs:
        try:
            found.append(Tenant(dingtalk, wps, services.wps_settings(wps).third_company_id))
        except ConfigurationError as failure:
            log.warning("The events of %s wait: %s", dingtalk, failure)
            error = failure
    if error is not None and not found:
        raise error
    return found


def return_events(ctx: CompensationContext) -> None:
    """The events are pending again: at once, after a pause, or in smaller batches, as the failure was."""
    services: SyncServices = ctx.services
    transaction_id = ctx.saga.transaction_id
    rules = retry_rules(services)
    if ctx.saga.goal == SagaStatus.CANCELLED.value:
        claims.give_back(ctx.connection, transaction_id=transaction_id)
    elif claims.PASSING & claims.failure_of(ctx.connection, transaction_id=transaction_id):
        claims.give_back_later(ctx.connection, transaction_id=transaction_id, rules=rules)
    else:
        error = ctx.saga.error_message or "The batch failed for an unknown reason"
        claims.halve(
            ctx.connection,
            transaction_id=transaction_id,
            rules=rules,
            error=error,
            largest=services.settings.batch_size,
        )


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
