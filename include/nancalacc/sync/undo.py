"""Undoing a sync: brings WPS back to the state before it, as a saga of its own.

Read `UNDO_SYNC` at the end first: the steps of a full sync, but for where the rows come from. What was
changed after the undone sync is left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from nancalacc.errors import GuardError
from nancalacc.saga.context import StepContext
from nancalacc.saga.definition import SagaDefinition, Step
from nancalacc.saga.state import EventType
from nancalacc.sync import former, known, resolve, staging
from nancalacc.sync.company import FETCH, SAVES, VALIDATE, Company
from nancalacc.sync.fetch import delete_staging
from nancalacc.sync.findings import Findings
from nancalacc.sync.former import Undone
from nancalacc.sync.full import FULL_SYNC
from nancalacc.sync.params import UNDO_SYNC as NAME
from nancalacc.sync.params import UndoParams
from nancalacc.sync.staging import Counts, Fetch
from nancalacc.sync.validate import cancel_task, reserve

log = logging.getLogger(__name__)


def validate_undo(ctx: StepContext) -> Mapping[str, Any]:
    """Check that the sync can be undone; take the company's lock and a task id of its own.

    Raises RefusedError when it cannot, with the reason.
    """
    company = Company.of(ctx)
    _undone(ctx, company)
    return reserve(ctx, company)


def stage_former_state(ctx: StepContext) -> Mapping[str, Any]:
    """Stage what WPS is to have: the state before the undone sync, but for what was changed since.

    DingTalk is not asked. Raises GuardError when there is nothing (left) to undo, or when everything
    would be removed and nobody said that it may.
    """
    company = Company.of(ctx)
    fetch = Fetch(ctx.saga.transaction_id, epoch=ctx.record.epoch, attempt=ctx.record.attempt)
    third_company_id = company.wps.third_company_id
    started = time.monotonic()
    ctx.remember({"staged": True})
    undone = _undone(ctx, company)
    if undone.is_first and not company.params.allow_mass_delete:
        raise GuardError(
            f"Sync {undone.task_id} was the first of company {third_company_id}: undoing it removes from WPS"
            " everybody and everything it added. If this is meant, start a run with allow_mass_delete = true"
        )
    findings = Findings()
    with ctx.transaction() as connection:
        staging.delete_all(connection, transaction_id=fetch.transaction_id)
        staging.prefer_hash_joins(connection)
        restored, left = former.stage(
            connection, undone, fetch=fetch, phone_salt=company.wps.phone_salt_secret
        )
        resolve.empty_unknown_leaders(
            connection,
            fetch.key() | {"company": third_company_id},
            managers_read=False,
            findings=findings,
        )
        counts = staging.count(connection, fetch=fetch)
        differences = {
            kind: known.difference(
                connection, kind, fetch=fetch, third_company_id=third_company_id, managers_read=False
            )
            for kind in SAVES
        }
        examples = former.examples(connection, transaction_id=fetch.transaction_id)
    if not sum(restored.values()):
        raise GuardError(
            f"There is nothing to undo: WPS has nothing any more that sync {undone.task_id} changed"
            + (f"; {sum(left.values())} objects were changed since and are left alone" if left else "")
        )
    _report(ctx, left)
    return {
        **counts.as_data(),
        "fetch": fetch.as_data(),
        "collect_cost_ms": max(1, round((time.monotonic() - started) * 1000)),
        "managers_read": False,
        "rejected": Counts(0, 0, 0).as_data(),
        "adjusted": findings.as_data(),
        "difference": {kind: each.as_data() for kind, each in differences.items()},
        "undo": {
            **undone.as_data(),
            "restored": restored,
            "left_alone": left,
            "examples": examples,
        },
        "dry_run": company.params.dry_run,
    }


def _undone(ctx: StepContext, company: Company) -> Undone:
    assert isinstance(company.params, UndoParams)  # noqa: S101 - by the saga's definition
    with ctx.transaction() as connection:
        return former.find(
            connection,
            company.params.transaction_id or "",
            third_company_id=company.wps.third_company_id,
            platform_id=company.wps.platform_id,
        )


def _report(ctx: StepContext, left: Mapping[str, int]) -> None:
    if not left:
        return
    listed = ", ".join(f"{number} {former.REASONS[reason]}" for reason, number in left.items())
    message = (
        f"Left alone as they are: {listed}. This saga's page in the console (Browse, nancalacc) names them"
    )
    log.warning("Saga %s: %s", ctx.saga.transaction_id, message)
    ctx.event(EventType.WARNING, {"message": message, "left_alone": dict(left)})


UNDO_SYNC = SagaDefinition(
    NAME,
    (
        Step(VALIDATE, validate_undo, cancel_task),
        Step(
            FETCH,
            stage_former_state,
            delete_staging,
            depends_on=(VALIDATE,),
            time_limit=timedelta(hours=1),
        ),
        *(step for step in FULL_SYNC if step.name not in {VALIDATE, FETCH}),
    ),
    checkpoints=FULL_SYNC.checkpoints,
)
"""The same steps, so that whoever reads sagas knows them; the second one reads snapshots, not DingTalk."""
