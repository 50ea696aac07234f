"""The full sync: copies a whole organisation from DingTalk to WPS.

Read `FULL_SYNC` at the end first: eight steps, each action beside its compensation, and a checkpoint
between them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from nancalacc.saga.checkpoint import Checkpoint
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.definition import Action, Compensation, SagaDefinition, Step, StepKind
from nancalacc.saga.state import EventType
from nancalacc.sync import conflicts, known, publish, staging
from nancalacc.sync.breaches import beyond_wps, wps_warning
from nancalacc.sync.company import (
    DRY_RUN,
    FETCH,
    FETCH_LIMIT,
    NOTIFY,
    PLAN,
    SAVE_COMPANY,
    SAVE_DEPARTMENTS,
    SAVE_RELATIONS,
    SAVE_USERS,
    UPDATE_STATUS,
    VALIDATE,
    Company,
)
from nancalacc.sync.fetch import delete_staging, fetch_dingtalk_data
from nancalacc.sync.notify import notify_wps, unpublish
from nancalacc.sync.planned import decide, plan_changes, require_plan
from nancalacc.sync.scope import keep_scope
from nancalacc.sync.staging import Fetch
from nancalacc.sync.validate import cancel_task, validate_task

log = logging.getLogger(__name__)

# save_company_config


def save_company_config(ctx: StepContext) -> Mapping[str, Any]:
    """Tell WPS which tenant the rows belong to; raises ConfigurationError if company_id is another's."""
    company = Company.of(ctx)
    if company.params.dry_run:
        return DRY_RUN
    third_company_id = company.wps.third_company_id
    with ctx.transaction() as connection:
        before = publish.company_config(connection, third_company_id=third_company_id)
    ctx.remember({"before": before, "timezone": company.wps.timezone})
    require_plan(ctx, company)
    connection = ctx.connection
    publish.use_zone(connection, company.wps.timezone)
    written = publish.write_company_config(
        connection,
        third_company_id=third_company_id,
        company_id=company.wps.company_id,
        platform_id=company.wps.platform_id,
    )
    return {"rows": 1, "written": written}


def restore_company_config(ctx: CompensationContext) -> None:
    """The row is as it was before, if it is still as this saga wrote it."""
    written = (ctx.record.action_data or {}).get("written")
    if written is None or ctx.saga.third_company_id is None:
        return
    publish.use_zone(ctx.connection, str(ctx.data["timezone"]))
    publish.restore_company_config(
        ctx.connection,
        third_company_id=ctx.saga.third_company_id,
        before=ctx.data["before"],
        written=written,
    )


# save_departments, save_users, save_relations


def _save(kind: str) -> Action:
    """The action that turns one kind of staged rows into rows for WPS."""

    def save(ctx: StepContext) -> Mapping[str, Any]:
        company = Company.of(ctx)
        if company.params.dry_run:
            return DRY_RUN
        snapshot = company.snapshot(ctx)
        fetched = ctx.action_data(FETCH)
        fetch = Fetch.recorded(ctx.saga.transaction_id, fetched)
        ctx.remember({"task_id": snapshot.task_id, "third_company_id": snapshot.third_company_id})
        require_plan(ctx, company)
        connection = ctx.connection
        publish.use_zone(connection, company.wps.timezone)
        staging.prefer_hash_joins(connection)
        staging.require(connection, kind, fetch=fetch, expected=int(fetched[kind]))
        rows = publish.save(
            connection, kind, fetch=fetch, snapshot=snapshot, managers_read=bool(fetched["managers_read"])
        )
        log.info("Saga %s: saved %s %s", ctx.saga.transaction_id, rows, kind)
        return {"rows": rows, "fetch": fetch.as_data()}

    save.__doc__ = f"The {kind} that were read become rows for WPS, which it does not see yet."
    return save


def _remove(kind: str) -> Compensation:
    """The compensation that deletes one kind of rows of the task id."""

    def remove(ctx: CompensationContext) -> None:
        if "task_id" in ctx.data:
            publish.remove(
                ctx.connection,
                kind,
                task_id=ctx.data["task_id"],
                third_company_id=ctx.data["third_company_id"],
            )

    remove.__doc__ = f"The rows of {kind} with the task id are deleted."
    return remove


# update_task_status


def update_task_status(ctx: StepContext) -> Mapping[str, Any]:
    """The `task` row is completed and known state is what WPS has been given."""
    company = Company.of(ctx)
    fetched = ctx.action_data(FETCH)
    result = {"difference": fetched["difference"]}
    if company.params.dry_run:
        return {**DRY_RUN, **result}
    snapshot = company.snapshot(ctx)
    _warn_of_thresholds(ctx, fetched["difference"])
    connection = ctx.connection
    publish.use_zone(connection, company.wps.timezone)
    staging.prefer_hash_joins(connection)
    known.replace(
        connection,
        fetch=Fetch.recorded(ctx.saga.transaction_id, fetched),
        third_company_id=snapshot.third_company_id,
        task_id=snapshot.task_id,
    )
    if "evidence" in fetched:
        # Read from DingTalk, unlike the rows of an undo.
        result["conflicts"] = conflicts.replace(
            connection,
            fetch=Fetch.recorded(ctx.saga.transaction_id, fetched),
            third_company_id=snapshot.third_company_id,
        )
        keep_scope(
            connection,
            fetched["evidence"],
            third_company_id=snapshot.third_company_id,
            task_id=snapshot.task_id,
        )
    publish.complete_task(connection, task_id=snapshot.task_id)
    return {"rows": publish.count_rows(connection, snapshot=snapshot).as_data(), **result}


def _warn_of_thresholds(ctx: StepContext, difference: Mapping[str, Any]) -> None:
    beyond = beyond_wps(difference)
    if beyond:
        message = wps_warning(beyond)
        log.warning("Saga %s: %s", ctx.saga.transaction_id, message)
        ctx.event(EventType.WARNING, {"message": message, "removed": beyond})


FULL_SYNC = SagaDefinition(
    "full_sync",
    (
        Step(VALIDATE, validate_task, cancel_task),
        Step(FETCH, fetch_dingtalk_data, delete_staging, depends_on=(VALIDATE,), time_limit=FETCH_LIMIT),
        Step(
            SAVE_COMPANY,
            save_company_config,
            restore_company_config,
            depends_on=(FETCH,),
            skippable=True,
        ),
        Step(SAVE_DEPARTMENTS, _save("departments"), _remove("departments"), depends_on=(FETCH,)),
        Step(SAVE_USERS, _save("users"), _remove("users"), depends_on=(FETCH,)),
        Step(SAVE_RELATIONS, _save("memberships"), _remove("memberships"), depends_on=(FETCH,)),
        Step(
            NOTIFY,
            notify_wps,
            unpublish,
            depends_on=(SAVE_COMPANY, SAVE_DEPARTMENTS, SAVE_USERS, SAVE_RELATIONS),
            kind=StepKind.PIVOT,
        ),
        Step(
            UPDATE_STATUS,
            update_task_status,
            depends_on=(NOTIFY,),
            kind=StepKind.RETRIABLE,
            skippable=True,
        ),
    ),
    checkpoints=(
        Checkpoint(
            PLAN,
            plan_changes,
            decide,
            after=(FETCH,),
            before=(SAVE_COMPANY, SAVE_DEPARTMENTS, SAVE_USERS, SAVE_RELATIONS),
        ),
    ),
)
"""validate → fetch → (plan) → the four saves side by side → notify (the pivot) → update."""
