"""The step that claims a batch of events, and how it gives them back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from nancalacc.errors import ConfigurationError
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.state import SagaStatus
from nancalacc.store import locks
from nancalacc.sync import claims
from nancalacc.sync.batch import NAME, BatchParams, retry_rules
from nancalacc.sync.claims import Tenant
from nancalacc.sync.services import SyncServices

log = logging.getLogger(__name__)


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
            settings = services.wps_settings(wps)
            found.append(Tenant(dingtalk, wps, settings.third_company_id, settings.platform_id))
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
