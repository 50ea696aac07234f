"""The step that reads the organisation: into staging, made distinct, and guarded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from nancalacc.errors import IncompleteAnswerError
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.state import EventType
from nancalacc.sync import budget, conflicts, evidence, known, resolve, resuming, staging
from nancalacc.sync.company import FETCH, SAVES, VALIDATE, Company
from nancalacc.sync.findings import Reason
from nancalacc.sync.mapping import Mapper
from nancalacc.sync.reading import Reading
from nancalacc.sync.scope import FormerScope, check_scope, former_scope
from nancalacc.sync.services import SyncServices
from nancalacc.sync.staging import Counts, Fetch
from nancalacc.sync.warnings import warn_about

log = logging.getLogger(__name__)

MOST_EVENTS = 100
NAMED_REJECTIONS = 20


def fetch_dingtalk_data(ctx: StepContext) -> Mapping[str, Any]:
    """Read the whole organisation into staging and check it against itself and known state.

    Goes on from what an earlier attempt has proven, if that was interrupted only a while ago. Raises
    IncompleteAnswerError when something is missing or contradictory.
    """
    company = Company.of(ctx)
    services: SyncServices = ctx.services
    fetch = Fetch(ctx.saga.transaction_id, epoch=ctx.record.epoch, attempt=ctx.record.attempt)
    settings = resuming.settings_of(company.dingtalk, company.wps)
    ctx.remember({"staged": True})
    with ctx.transaction() as connection:
        former = resuming.take_over(
            connection, fetch=fetch, settings=settings, seconds=services.settings.resume_seconds
        )
        scope = former_scope(connection, third_company_id=company.wps.third_company_id)
    if former is not None:
        log.info("Saga %s: goes on from what attempt %s has proven complete", fetch.transaction_id, former)
    return asyncio.run(_fetch(ctx, company, fetch, settings=settings, former=former, scope=scope))


async def _fetch(
    ctx: StepContext,
    company: Company,
    fetch: Fetch,
    *,
    settings: str,
    former: int | None,
    scope: FormerScope | None,
) -> dict[str, Any]:
    services: SyncServices = ctx.services
    started = time.monotonic()
    third_company_id = company.wps.third_company_id
    mapper = Mapper(
        root_dept_id=company.dingtalk.root_dept_id,
        account_source=company.wps.account_source,
        phone_salt=company.wps.phone_salt_secret,
        company=third_company_id,
        user_details=company.dingtalk.user_details,
    )
    async with services.dingtalk(company.params.dingtalk_conn_id) as client:
        reading = Reading(
            ctx,
            client=client,
            mapper=mapper,
            fetch=fetch,
            third_company_id=third_company_id,
            settings=settings,
        )
        await reading.read()
        # Once more: it may have been narrowed while the pages were read.
        scopes = await check_scope(
            client,
            settings=company.dingtalk,
            former=scope,
            may_be_narrower=company.params.allow_mass_delete,
        )
    # What is resolved here stays only if the step completes: a retry goes on from what was read.
    connection = ctx.connection
    staging.prefer_hash_joins(connection)
    managers_read = resolve.managers_were_read(
        connection,
        fetch=fetch,
        third_company_id=third_company_id,
        all_asked=company.dingtalk.user_details
        and not reading.findings.counts[Reason.DETAILS_NOT_READ]
        and not (scope and scope.lost_fields(scopes)),
    )
    resolve.resolve(
        connection,
        fetch=fetch,
        third_company_id=third_company_id,
        account_source=company.wps.account_source,
        managers_read=managers_read,
        findings=reading.findings,
    )
    counts = staging.count(connection, fetch=fetch)
    rejected = staging.count(connection, fetch=fetch, rejected=True)
    if counts.departments <= 1 and not counts.users and not rejected.users:
        raise IncompleteAnswerError(
            f"DingTalk shows neither departments nor people below department {mapper.root_dept_id}:"
            " nothing is saved, because everybody would be deleted. Check the app's permissions"
        )
    reasons = resolve.rejections_by_reason(connection, fetch=fetch)
    rejections = resolve.rejected_people(connection, fetch=fetch, limit=MOST_EVENTS)
    differences = {
        kind: known.difference(
            connection, kind, fetch=fetch, third_company_id=third_company_id, managers_read=managers_read
        )
        for kind in SAVES
    }
    proof = evidence.summary(connection, fetch=fetch)
    held = conflicts.summary(connection, fetch=fetch, third_company_id=third_company_id)
    unread = known.unread_fields(connection, fetch=fetch, third_company_id=third_company_id)
    _report_rejections(ctx, rejections, rejected=rejected)
    warnings = warn_about(ctx, proof=proof, held=held, unread=unread, scopes=scopes, former=scope)
    seconds = max(time.monotonic() - started, reading.age_seconds)
    spent = budget.compared(ctx.action_data(VALIDATE).get("call_plan"), calls=client.calls, seconds=seconds)
    _report_budget(ctx, spent)
    return {
        **counts.as_data(),
        "fetch": fetch.as_data(),
        "root_dept_id": mapper.root_dept_id,
        "collect_cost_ms": max(1, round(seconds * 1000)),
        "managers_read": managers_read,
        "rejected": {
            **rejected.as_data(),
            "reasons": reasons,
            "examples": [{"id": uid, "reason": reason} for uid, reason in rejections[:NAMED_REJECTIONS]],
        },
        "adjusted": reading.findings.as_data(),
        "ignored": dict(reading.ignored),
        "conflicts": held,
        "difference": {kind: each.as_data() for kind, each in differences.items()},
        "evidence": {
            **proof,
            **reading.calls(),
            "authed_dept": list(scopes.departments),
            "user_fields": list(scopes.user_fields),
            "resumed_from_attempt": former,
            "warnings": warnings,
        },
        "budget": spent,
        "dry_run": company.params.dry_run,
    }


def _report_budget(ctx: StepContext, spent: Mapping[str, Any]) -> None:
    happened, planned = spent["happened"], spent["planned"] or {}
    log.info(
        "Saga %s: %s calls in %.0f s; planned were %s in %s s",
        ctx.saga.transaction_id,
        happened["total"],
        happened["seconds"],
        planned.get("total", "none"),
        planned.get("expected_seconds"),
    )
    if budget.is_much_longer(spent):
        message = (
            f"Reading DingTalk took {happened['seconds']:.0f} s instead of about"
            f" {planned['expected_seconds']:.0f} s: it slows calls down, or the network does"
        )
        ctx.event(EventType.WARNING, {"message": message})


def _report_rejections(ctx: StepContext, rejections: list[tuple[str, str]], *, rejected: Counts) -> None:
    for uid, reason in rejections:
        ctx.event(EventType.RECORD_REJECTED, {"id": uid, "reason": reason})
    if rejected.users > len(rejections):
        ctx.event(EventType.RECORD_REJECTED, {"more": rejected.users - len(rejections)})
    if rejected.users:
        log.warning(
            "Saga %s: %s people cannot be written to WPS; action_data of %s says why",
            ctx.saga.transaction_id,
            rejected.users,
            FETCH,
        )


def delete_staging(ctx: CompensationContext) -> None:
    """Whatever was staged is deleted."""
    staging.delete_all(ctx.connection, transaction_id=ctx.saga.transaction_id)
