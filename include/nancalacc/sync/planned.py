"""The checkpoint `plan_changes`: the plan is made, held against the limits, and approved if need be.

The steps behind it ask `require_plan` themselves, so that nothing is published without its plan,
whoever runs them and whatever Airflow shows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from nancalacc.errors import GuardError
from nancalacc.saga.checkpoint import Answer, Deciding, Looking, Question
from nancalacc.saga.state import EventType
from nancalacc.store.tables import plan_decisions
from nancalacc.sync import plan as plans
from nancalacc.sync import staging
from nancalacc.sync.breaches import Breach, beyond_wps, breaches, listed, wps_warning
from nancalacc.sync.company import FETCH, PLAN, SAVES, Company
from nancalacc.sync.plan import Plan
from nancalacc.sync.plan_text import question_body, short, summary_lines
from nancalacc.sync.staging import Fetch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan and what speaks against it; `is_approved`: a person has said yes to this very plan."""

    plan: Plan
    breaches: tuple[Breach, ...]
    is_approved: bool


def plan_changes(look: Looking) -> Question | None:
    """Write down what the sync will change, and hold it against the limits.

    Departments, people and memberships that were fetched are compared with what WPS was given
    last. Beyond a limit the run fails, or waits for a person where approval is switched on.
    """
    company = Company.of(look)
    judged = judge(look, company)
    plan = judged.plan
    transaction_id = look.saga.transaction_id
    for line in summary_lines(plan):
        log.info("Saga %s: %s", transaction_id, line)
    if beyond := beyond_wps(plan.counts):
        log.warning("Saga %s: %s", transaction_id, wps_warning(beyond))
    if company.params.dry_run:
        if judged.breaches:
            log.warning("Saga %s: a real run would be stopped: %s", transaction_id, listed(judged.breaches))
    elif judged.breaches and company.params.allow_mass_delete:
        log.warning("Saga %s: allowed by allow_mass_delete: %s", transaction_id, listed(judged.breaches))
    elif judged.breaches and not judged.is_approved:
        return _asked(look, company, judged)
    look.event(
        EventType.CHECKPOINT_PASSED,
        {
            **plan.as_data(),
            "beyond": [str(each) for each in judged.breaches],
            "allow_mass_delete": company.params.allow_mass_delete,
            "approved": judged.is_approved,
        },
    )
    return None


def _asked(look: Looking, company: Company, judged: Judged) -> Question:
    """What a person is asked; raises GuardError where nobody is to be asked."""
    plan = judged.plan
    if not company.wps.approval:
        raise _stopped(judged, company)
    look.event(
        EventType.APPROVAL_REQUESTED,
        {**plan.as_data(), "beyond": [str(each) for each in judged.breaches]},
    )
    return Question(
        key=plan.hash,
        subject=f"Publish to {company.wps.company_name}? Plan {short(plan)} is beyond the limits",
        body=question_body(plan, judged.breaches, transaction_id=look.saga.transaction_id),
        seconds=company.wps.approval_seconds,
    )


def decide(look: Deciding, key: str, answer: Answer) -> None:
    """Record what a person decided about the plan with this hash; raises GuardError for a no."""
    by = answer.by or "nobody"
    with look.transaction() as connection:
        connection.execute(
            insert(plan_decisions).values(
                transaction_id=look.saga.transaction_id,
                plan_hash=key,
                is_approved=answer.is_approved,
                decided_by=answer.by and answer.by[:250],
                reason=answer.reason,
            )
        )
        look.record(
            connection,
            EventType.APPROVED if answer.is_approved else EventType.REJECTED,
            {"hash": key, "user": answer.by, "reason": answer.reason},
        )
    if answer.is_approved:
        log.info("Saga %s: %s approved plan %s", look.saga.transaction_id, by, key[:12])
        return
    if answer.by is None:
        raise GuardError(f"Nobody decided about plan {key[:12]} in time, which counts as a no")
    raise GuardError(f"{by} rejected plan {key[:12]}" + (f": {answer.reason}" if answer.reason else ""))


def require_plan(ctx: Looking, company: Company) -> Plan:
    """The plan by which a step may go on; raises GuardError when it is beyond a limit and not allowed."""
    judged = judge(ctx, company)
    if judged.breaches and not company.params.allow_mass_delete and not judged.is_approved:
        raise _stopped(judged, company)
    return judged.plan


def judge(ctx: Looking, company: Company) -> Judged:
    """The plan of the present fetch, made if there is none yet, against limits and decisions."""
    fetched = ctx.action_data(FETCH)
    fetch = Fetch.recorded(ctx.saga.transaction_id, fetched)
    with ctx.transaction() as connection:
        plan = plans.find(connection, fetch=fetch)
        if plan is None:
            for kind in SAVES:
                staging.require(connection, kind, fetch=fetch, expected=int(fetched[kind]))
            plan = plans.make(
                connection,
                fetch=fetch,
                third_company_id=company.wps.third_company_id,
                managers_read=bool(fetched["managers_read"]),
            )
        found = breaches(plan, plans.subtrees(connection, fetch=fetch), limits=company.wps.limits)
        is_approved = bool(found) and _is_approved(connection, plan)
    return Judged(plan, found, is_approved)


def _is_approved(connection: Connection, plan: Plan) -> bool:
    """True when the latest decision about this plan is a yes."""
    table = plan_decisions
    latest = connection.execute(
        select(table.c.is_approved)
        .where(table.c.transaction_id == plan.fetch.transaction_id, table.c.plan_hash == plan.hash)
        .order_by(table.c.id.desc())
        .limit(1)
    ).scalar()
    return bool(latest)


def _stopped(judged: Judged, company: Company) -> GuardError:
    why = f"{listed(judged.breaches)}: nothing is published and nobody deleted"
    if company.wps.approval:
        return GuardError(
            f"{why}, because nobody has approved plan {short(judged.plan)}. To be asked, clear {PLAN} with"
            " its downstream tasks; or start a run with allow_mass_delete = true"
        )
    return GuardError(
        f"{why}. If this is meant, start a run with allow_mass_delete = true (with approval switched on,"
        " such a plan waits for a person instead)"
    )
