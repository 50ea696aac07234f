"""The first step of a full sync: may it run, for whom, under which task id."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from nancalacc.clients.dingtalk import Scopes
from nancalacc.errors import RefusedError
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.state import EventType
from nancalacc.store import locks
from nancalacc.sync import budget, publish
from nancalacc.sync.budget import CallPlan
from nancalacc.sync.company import FETCH, FETCH_LIMIT, Company
from nancalacc.sync.params import TASK_ID_FORMAT
from nancalacc.sync.scope import FormerScope, check_scope, former_scope
from nancalacc.sync.services import SyncServices

log = logging.getLogger(__name__)

LOCK_POLL_SECONDS = 1.0
FARTHEST_AHEAD = timedelta(days=1)
"""How far ahead of the present a task_name may be."""


def validate_task(ctx: StepContext) -> Mapping[str, Any]:
    """Check parameters, connections, scope and the number of calls; take the company's lock and a task id.

    The task id stays the same on every retry. Raises RefusedError when another full sync of the
    company is running, naming its run, or when reading would take longer than it may.
    """
    services: SyncServices = ctx.services
    company = Company.of(ctx)
    with ctx.transaction() as connection:
        former = former_scope(connection, third_company_id=company.wps.third_company_id)
    authed = asyncio.run(_read_scope(services, company, former)).departments
    plan = _plan_calls(ctx, company)
    return {
        **reserve(ctx, company),
        "root_dept_id": company.dingtalk.root_dept_id,
        "authed_dept": list(authed),
        "call_plan": plan.as_data(),
    }


def reserve(ctx: StepContext, company: Company) -> dict[str, Any]:
    """Take the company's lock and a task id; returns both, and how far the increments were by then.

    While the saga has the lock no increment of its company is written: what is published by then
    came before it, everything else comes after it. Raises RefusedError for a task_name far ahead.
    """
    _require_near(ctx, company)
    ctx.remember({"timezone": company.wps.timezone, "writes_task": not company.params.dry_run})
    _lock(ctx, company)
    with ctx.transaction() as connection:
        publish.use_zone(connection, company.wps.timezone)
        task_id = _choose_task_id(ctx, company, connection=connection)
        publish.remove_root(connection, task_id=task_id, third_company_id=company.wps.third_company_id)
        ctx.identify(connection, third_company_id=company.wps.third_company_id, task_id=task_id)
        marks = publish.newest_increments(connection)
    return {
        "task_id": task_id,
        "third_company_id": company.wps.third_company_id,
        "dry_run": company.params.dry_run,
        "increments": marks,
    }


def _plan_calls(ctx: StepContext, company: Company) -> CallPlan:
    """What the fetch will ask of DingTalk; raises RefusedError when it could not end in time."""
    with ctx.transaction() as connection:
        plan = budget.last_plan(
            connection,
            third_company_id=company.wps.third_company_id,
            transaction_id=ctx.saga.transaction_id,
            definition=ctx.saga.definition,
            step=FETCH,
            settings=company.dingtalk,
            limit=FETCH_LIMIT,
        )
    budget.require_time(plan, settings=company.dingtalk)
    log.info("Saga %s: %s", ctx.saga.transaction_id, plan)
    if plan.may_be_blocked:
        ctx.event(
            EventType.WARNING,
            {
                "message": f"{plan.total} calls, and 'calls_per_second' of connection"
                f" {company.dingtalk.conn_id!r} does not keep them below the {budget.ADDRESS_CALLS} in"
                f" {budget.ADDRESS_SECONDS} s above which DingTalk blocks an IP address for 5 minutes"
            },
        )
    return plan


def cancel_task(ctx: CompensationContext) -> None:
    """The `task` row of the undone sync is cancelled."""
    if ctx.saga.task_id is None or not ctx.data.get("writes_task"):
        return
    publish.use_zone(ctx.connection, str(ctx.data["timezone"]))
    publish.cancel_task(ctx.connection, task_id=ctx.saga.task_id)


async def _read_scope(services: SyncServices, company: Company, former: FormerScope | None) -> Scopes:
    async with services.dingtalk(company.params.dingtalk_conn_id) as client:
        return await check_scope(
            client,
            settings=company.dingtalk,
            former=former,
            may_be_narrower=company.params.allow_mass_delete,
        )


def _lock(ctx: StepContext, company: Company) -> None:
    """Take the company's lock; wait, bounded, for a batch of events to end."""
    services: SyncServices = ctx.services
    third_company_id = company.wps.third_company_id
    deadline = time.monotonic() + services.settings.lock_wait_seconds
    while True:
        with ctx.transaction() as connection:
            # First the saga's row, then the lock's: the order of everybody who gives a lock back.
            ctx.identify(connection, third_company_id=third_company_id, task_id=ctx.saga.task_id)
            holder = locks.acquire(
                connection, third_company_id=third_company_id, transaction_id=ctx.saga.transaction_id
            )
            if holder is None:
                return
            is_snapshot = holder.definition in publish.SNAPSHOT_SAGAS
            if not is_snapshot:
                locks.wait(
                    connection, third_company_id=third_company_id, transaction_id=ctx.saga.transaction_id
                )
        if is_snapshot or time.monotonic() >= deadline:
            kind = f"A saga of {holder.definition}"
            if holder.definition == ctx.saga.definition:
                kind = f"Another {holder.definition.replace('_', ' ')}"
            raise RefusedError(
                f"{kind} of company {third_company_id} is running: run {holder.run_id!r} of DAG"
                f" {holder.dag_id!r} (saga {holder.transaction_id}) has its lock. Start this one again when"
                " that has ended"
            )
        services.sleep(LOCK_POLL_SECONDS)
        ctx.check()


def _choose_task_id(ctx: StepContext, company: Company, *, connection: Any) -> str:
    """The task id of this saga: free over all companies and newer than what WPS has.

    Keeps the saga's own on a retry. Without dry_run its `task` row is in progress afterwards.
    """
    services: SyncServices = ctx.services
    saga = ctx.saga
    fixed = company.params.task_name
    newest = publish.newest_published(connection, third_company_id=company.wps.third_company_id)
    if fixed is not None and newest is not None and newest > fixed:
        raise RefusedError(
            f"Parameter 'task_name' {fixed!r} is older than the newest sync of company"
            f" {company.wps.third_company_id}, {newest!r}: use null or a later time"
        )
    start = services.run.start.astimezone(ZoneInfo(company.wps.timezone)).strftime(TASK_ID_FORMAT)
    candidate = fixed or saga.task_id or start
    if fixed is None and newest is not None:
        candidate = max(candidate, _next(newest))
    description = (
        f"{saga.definition} of {company.wps.third_company_id}, run {saga.run_id} ({saga.transaction_id})"
    )
    while not _claim(ctx, company, connection=connection, task_id=candidate, description=description):
        if fixed is not None:
            raise RefusedError(f"Parameter 'task_name' {fixed!r} is already used: use null or another time")
        candidate = _next(candidate)
    if saga.task_id not in {None, candidate} and not company.params.dry_run:
        publish.cancel_task(connection, task_id=str(saga.task_id))
    return candidate


def _require_near(ctx: StepContext, company: Company) -> None:
    """Every later sync has a later task id: after one that is far ahead, all would be."""
    services: SyncServices = ctx.services
    fixed, zone = company.params.task_name, company.wps.timezone
    latest = (services.now() + FARTHEST_AHEAD).astimezone(ZoneInfo(zone)).strftime(TASK_ID_FORMAT)
    if fixed is not None and fixed > latest:
        raise RefusedError(
            f"Parameter 'task_name' {fixed!r} is more than a day ahead, and all later syncs would have to be"
            f" later still: use null, or a time in {zone} until {latest!r}"
        )


def _claim(ctx: StepContext, company: Company, *, connection: Any, task_id: str, description: str) -> bool:
    if publish.task_id_is_taken(
        connection, task_id=task_id, transaction_id=ctx.saga.transaction_id, description=description
    ):
        return False
    if company.params.dry_run:
        return True
    return publish.claim_task(connection, task_id=task_id, description=description)


def _next(task_id: str) -> str:
    """The task id one second later; raises RefusedError when there is none."""
    try:
        moment = datetime.strptime(task_id, TASK_ID_FORMAT)  # noqa: DTZ007 - a local time without zone
        return (moment + timedelta(seconds=1)).strftime(TASK_ID_FORMAT)
    except (ValueError, OverflowError):
        raise RefusedError(
            f"No task id can follow {task_id!r}, the newest in tb_las_department and saga_transactions: it is"
            " no date and time as yyyyMMddHHmmss, or the last one there is. Delete its root row (pid '-1')"
            " from tb_las_department, and set task_id of its saga to null, if it has one"
        ) from None
