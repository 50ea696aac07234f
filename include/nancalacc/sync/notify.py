"""The pivot: the instant from which WPS may take the snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from nancalacc.errors import GuardError
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.state import PivotState
from nancalacc.sync import publish
from nancalacc.sync.asking import ask
from nancalacc.sync.company import DRY_RUN, FETCH, SAVES, Company
from nancalacc.sync.plan import Plan, hash_of_snapshot
from nancalacc.sync.plan_text import short
from nancalacc.sync.planned import require_plan
from nancalacc.sync.publish import Snapshot
from nancalacc.sync.services import SyncServices
from nancalacc.sync.staging import Counts

LONGEST_PAUSE_SECONDS = 60.0


def notify_wps(ctx: StepContext) -> Mapping[str, Any]:
    """Publish: insert the root row with its intent, then ask WPS until it has accepted.

    Before the root row GuardError stops the sync; after it only a definite refusal of every
    call lets the saga go back.
    """
    company = Company.of(ctx)
    if company.params.dry_run:
        return DRY_RUN
    snapshot = company.snapshot(ctx)
    fetched = ctx.action_data(FETCH)
    ctx.remember({"task_id": snapshot.task_id, "third_company_id": snapshot.third_company_id})
    # Once it may be published, the saga only goes forward.
    is_open = ctx.record.pivot_state is not PivotState.INTENDED
    plan = require_plan(ctx, company) if is_open else None
    with ctx.transaction(intend=True) as connection:
        publish.use_zone(connection, company.wps.timezone)
        _guard_snapshot(ctx, snapshot, fetched)
        _guard_counts(publish.count_rows(connection, snapshot=snapshot), fetched)
        _guard_newest(snapshot, connection)
        if plan is not None:
            _guard_plan(plan, snapshot, connection)
        publish.insert_root(connection, snapshot=snapshot, company_name=company.wps.company_name)
    calls = asyncio.run(_publish(ctx, company, snapshot, collect_cost_ms=int(fetched["collect_cost_ms"])))
    services: SyncServices = ctx.services
    return {
        "task_id": snapshot.task_id,
        "plan": plan and plan.hash,
        "calls": calls,
        "accepted_at": services.now().isoformat(),
    }


def _guard_snapshot(ctx: StepContext, snapshot: Snapshot, fetched: Mapping[str, Any]) -> None:
    for name in SAVES.values():
        saved = ctx.action_data(name).get("fetch")
        if saved != fetched["fetch"]:
            raise GuardError(
                f"{name} saved fetch {saved}, the present one is {fetched['fetch']}: task id"
                f" {snapshot.task_id} is not published. Clear {FETCH} with its downstream tasks"
            )


def _guard_counts(found: Counts, fetched: Mapping[str, Any]) -> None:
    expected = {kind: fetched[kind] for kind in SAVES}
    if found.as_data() != expected:
        raise GuardError(
            f"The tables hold {found.as_data()}, fetched and not rejected were {expected}: nothing is"
            f" published. Clear {FETCH} with its downstream tasks"
        )


def _guard_newest(snapshot: Snapshot, connection: Connection) -> None:
    newest = publish.newest_published(connection, third_company_id=snapshot.third_company_id)
    if newest is not None and newest > snapshot.task_id:
        raise GuardError(
            f"Company {snapshot.third_company_id} has a newer sync, {newest}: task id {snapshot.task_id} is"
            " not published, because it would undo that. Start a new run"
        )


def _guard_plan(plan: Plan, snapshot: Snapshot, connection: Connection) -> None:
    found = hash_of_snapshot(connection, snapshot=snapshot, fetch=plan.fetch)
    if found != plan.hash:
        raise GuardError(
            f"The saved rows are no longer those of plan {short(plan)}: task id {snapshot.task_id} is not"
            f" published. Clear {FETCH} with its downstream tasks"
        )


async def _publish(ctx: StepContext, company: Company, snapshot: Snapshot, *, collect_cost_ms: int) -> int:
    """Call full/sync until it is accepted; returns the number of calls.

    Repeating it is safe: WPS knows the job by its task id. A refusal proves that nothing was
    published only when no earlier call can have been accepted.
    """
    services: SyncServices = ctx.services
    async with services.wps(company.params.wps_conn_id) as client:
        return await ask(
            ctx,
            lambda: client.full_sync(task_id=snapshot.task_id, collect_cost_ms=collect_cost_ms),
            longest_pause=LONGEST_PAUSE_SECONDS,
            on_refusal=ctx.refused,
        )


def unpublish(ctx: CompensationContext) -> None:
    """WPS refused every call: the root row goes, and with it every way to take this task id."""
    if "task_id" in ctx.data:
        publish.remove_root(
            ctx.connection, task_id=ctx.data["task_id"], third_company_id=ctx.data["third_company_id"]
        )
