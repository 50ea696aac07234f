"""Which events a batch takes, and how it gives them back or ends them [design 6].

An event is claimed by a saga. One whose saga has ended without ending it is free again, so that
none gets stuck, whoever died.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from nancalacc.saga.state import EventType, SagaStatus, StepStatus
from nancalacc.store import locks
from nancalacc.store.tables import (
    EventStatus,
    dingtalk_events,
    saga_events,
    saga_steps,
    saga_transactions,
    tb_company_cfg,
)
from nancalacc.sync.publish import platforms_of

UTC_NOW = func.timezone("utc", func.clock_timestamp(), type_=TIMESTAMP())
ENDED = [status.value for status in SagaStatus if status.ended]
LONGEST_PAUSE_SECONDS = 600.0
PASSING = frozenset({"TransientError", "ConfigurationError"})
"""Errors that say nothing against the events of the batch."""

events = dingtalk_events


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose events: the pair of connections, and the ids of the company and its source in WPS's tables."""

    dingtalk_conn_id: str
    wps_conn_id: str
    third_company_id: str
    platform_id: str


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An event of a batch; `is_repeat`: it was done once, and a full job may have undone it."""

    id: int
    event_type: str
    object_ids: tuple[str, ...]
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often the error of an object is accepted, and the first pause in seconds; each next one doubles."""

    attempts: int
    first_pause: float


def due_tenants(connection: Connection, tenants: Iterable[Tenant], *, definition: str) -> list[Tenant]:
    """Those with events that may be handled now; who was served least recently comes first.

    Not those whose lock is taken or awaited, and not those that WPS does not know yet, or not under
    this platform: the next full sync makes them known, and reads everything anyway.
    """
    found: list[tuple[datetime, datetime, Tenant]] = []
    for tenant in tenants:
        oldest: datetime | None = connection.execute(
            select(func.min(_moment())).where(_due(tenant))
        ).scalar_one()
        if (
            oldest is not None
            and is_configured(connection, tenant)
            and locks.is_free(connection, third_company_id=tenant.third_company_id)
        ):
            served = connection.execute(
                select(func.max(saga_transactions.c.start_time)).where(
                    saga_transactions.c.third_company_id == tenant.third_company_id,
                    saga_transactions.c.definition == definition,
                )
            ).scalar_one()
            found.append((served or datetime.min, oldest, tenant))  # noqa: DTZ901 - UTC without zone, as stored
    return [tenant for _, _, tenant in sorted(found, key=lambda each: each[:2])]


def is_configured(connection: Connection, tenant: Tenant) -> bool:
    """Whether WPS knows the company and reads rows of its platform: a foreign one may stall it [wps 9.9]."""
    platforms = connection.execute(
        select(tb_company_cfg.c.platform_ids).where(
            tb_company_cfg.c.third_company_id == tenant.third_company_id, tb_company_cfg.c.status == 1
        )
    ).scalar_one_or_none()
    return platforms is not None and tenant.platform_id in platforms_of(platforms)


def tenant_of(connection: Connection, tenants: Iterable[Tenant], *, transaction_id: str) -> Tenant | None:
    """Whose events the saga has already, taken by an attempt that did not live to say so."""
    row = connection.execute(
        select(events.c.dingtalk_conn_id, events.c.wps_conn_id).where(_of_saga(transaction_id)).limit(1)
    ).one_or_none()
    pair = None if row is None else tuple(row)
    return next((each for each in tenants if (each.dingtalk_conn_id, each.wps_conn_id) == pair), None)


def claim(connection: Connection, tenant: Tenant, *, transaction_id: str, size: int) -> int:
    """Take the oldest due events for this saga, at most `size`; returns their number.

    What an earlier attempt has taken is kept, and nothing added to it. Events of a batch that failed
    for an unknown reason are taken apart from others, and fewer of them at a time, until the one that
    is the reason is alone.
    """
    kept = len(claimed(connection, transaction_id=transaction_id))
    if kept:
        return kept
    first = connection.execute(
        select(events.c.batch_limit).where(_due(tenant)).order_by(_moment(), events.c.id).limit(1)
    ).one_or_none()
    if first is None:
        return 0
    limit = size if first.batch_limit is None else min(size, first.batch_limit)
    chosen = (
        select(events.c.id)
        .where(_due(tenant), events.c.batch_limit.is_not_distinct_from(first.batch_limit))
        .order_by(_moment(), events.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        # As a subquery it may be asked once for each row, and skip those that it has locked before.
        .cte("chosen")
    )
    return connection.execute(
        update(events)
        .where(events.c.id == chosen.c.id)
        .values(status=EventStatus.CLAIMED.value, transaction_id=transaction_id, repeat_at=null())
    ).rowcount


def free_abandoned(connection: Connection) -> int:
    """Make events pending again whose saga has ended or is gone; returns their number."""
    lives = exists().where(
        saga_transactions.c.transaction_id == events.c.transaction_id,
        saga_transactions.c.status.not_in(ENDED),
    )
    return connection.execute(
        update(events)
        .where(events.c.status == EventStatus.CLAIMED.value, ~lives)
        .values(status=EventStatus.PENDING.value, transaction_id=null(), next_attempt_at=UTC_NOW)
    ).rowcount


def claimed(connection: Connection, *, transaction_id: str) -> list[ClaimedEvent]:
    """The events of a saga."""
    rows = connection.execute(
        select(events.c.id, events.c.event_type, events.c.object_ids, events.c.handled_at)
        .where(_of_saga(transaction_id))
        .order_by(events.c.id)
    )
    return [
        ClaimedEvent(row.id, row.event_type, tuple(map(str, row.object_ids)), row.handled_at is not None)
        for row in rows
    ]


def failure_of(connection: Connection, *, transaction_id: str) -> frozenset[str]:
    """The classes of the error by which a step of the saga failed last; none when it left no trace."""
    row = connection.execute(
        select(saga_events.c.event_data)
        .where(
            saga_events.c.transaction_id == transaction_id,
            saga_events.c.event_type == EventType.STEP_FAILED.value,
        )
        .order_by(saga_events.c.id.desc())
        .limit(1)
    ).one_or_none()
    return frozenset((row.event_data or {}).get("kinds", ()) if row else ())


def give_back(connection: Connection, *, transaction_id: str) -> int:
    """Make the events of a saga pending, as if it had never had them."""
    return _release(connection, transaction_id, next_attempt_at=UTC_NOW)


def give_back_later(connection: Connection, *, transaction_id: str, rules: RetryRules) -> int:
    """The batch failed for a reason that will pass: the same events again after a growing pause."""
    return _release(
        connection,
        transaction_id,
        returns=events.c.returns + 1,
        next_attempt_at=_after(events.c.returns, rules),
    )


def halve(connection: Connection, *, transaction_id: str, rules: RetryRules, error: str, largest: int) -> int:
    """The batch failed for an unknown reason: half of it next time; a single event has made an attempt.

    `largest`: no part has more events, so that what is found to be whole does not wait for long.
    """
    number = connection.execute(
        select(func.count()).select_from(events).where(_of_saga(transaction_id))
    ).scalar_one()
    if number == 1:
        [event_id] = connection.execute(select(events.c.id).where(_of_saga(transaction_id))).scalars()
        _fail(connection, {event_id: error}, rules=rules)
        return 1
    part = min((number + 1) // 2, largest)
    return _release(connection, transaction_id, batch_limit=part, next_attempt_at=UTC_NOW)


def finish(
    connection: Connection,
    *,
    transaction_id: str,
    failed: Mapping[int, str],
    rules: RetryRules,
    repeat_at: datetime | None,
) -> tuple[int, int]:
    """End the events of a saga; returns how many are done, and how many of the failed ones are dead.

    `failed`: reasons by event; such an event is tried again after a pause, or given up. The others
    are done, and handled once more at `repeat_at` if that is given.
    """
    dead = _fail(connection, failed, rules=rules)
    was_tried = or_(events.c.attempts > 0, events.c.returns > 0)
    done = connection.execute(
        update(events)
        .where(_of_saga(transaction_id))
        .values(
            status=EventStatus.DONE.value,
            handled_at=UTC_NOW,
            repeat_at=repeat_at,
            returns=0,
            batch_limit=null(),
            # What the inbox noted about a part that was not usable stays true.
            error=case((was_tried, null()), else_=events.c.error),
        )
    ).rowcount
    return done, dead


def repeat_moment(
    connection: Connection, *, third_company_id: str, definitions: Collection[str], step: str, seconds: float
) -> datetime | None:
    """When an event handled now is to be handled once more; None when WPS cannot undo it any more.

    WPS may run a full job up to `seconds` after it has accepted it in `step` of a saga of one of
    `definitions`, and the job knows nothing of what was changed since [design 6].
    """
    accepted = cast(saga_steps.c.action_data["accepted_at"].astext, TIMESTAMP(timezone=True))
    until = func.timezone("utc", func.max(accepted)) + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    moment: datetime | None = connection.execute(
        select(case((until > UTC_NOW, until)))
        .select_from(
            saga_steps.join(
                saga_transactions, saga_steps.c.transaction_id == saga_transactions.c.transaction_id
            )
        )
        .where(
            saga_transactions.c.third_company_id == third_company_id,
            saga_transactions.c.definition.in_(definitions),
            saga_steps.c.step_name == step,
            saga_steps.c.status == StepStatus.COMPLETED.value,
        )
    ).scalar_one()
    return moment


def _due(tenant: Tenant) -> ColumnElement[bool]:
    return and_(
        events.c.dingtalk_conn_id == tenant.dingtalk_conn_id,
        events.c.wps_conn_id == tenant.wps_conn_id,
        or_(
            and_(events.c.status == EventStatus.PENDING.value, events.c.next_attempt_at <= UTC_NOW),
            and_(events.c.status == EventStatus.DONE.value, events.c.repeat_at <= UTC_NOW),
        ),
    )


def _moment() -> ColumnElement[datetime]:
    """Since when an event has been due."""
    return case(
        (events.c.status == EventStatus.PENDING.value, events.c.next_attempt_at), else_=events.c.repeat_at
    )


def _of_saga(transaction_id: str) -> ColumnElement[bool]:
    return and_(events.c.transaction_id == transaction_id, events.c.status == EventStatus.CLAIMED.value)


def _release(connection: Connection, transaction_id: str, **values: Any) -> int:
    return connection.execute(
        update(events)
        .where(_of_saga(transaction_id))
        .values(status=EventStatus.PENDING.value, transaction_id=null(), **values)
    ).rowcount


def _fail(connection: Connection, failed: Mapping[int, str], *, rules: RetryRules) -> int:
    """Count an attempt of each event; returns how many have had their last."""
    if not failed:
        return 0
    is_last = events.c.attempts + 1 >= rules.attempts
    rows: Sequence[Mapping[str, Any]] = [
        {"event": event, "reason": reason} for event, reason in sorted(failed.items())
    ]
    connection.execute(
        update(events)
        .where(events.c.id == bindparam("event"))
        .values(
            status=case((is_last, EventStatus.DEAD.value), else_=EventStatus.PENDING.value),
            attempts=events.c.attempts + 1,
            next_attempt_at=_after(events.c.attempts, rules),
            transaction_id=null(),
            error=bindparam("reason"),
            returns=0,
            batch_limit=null(),
            handled_at=case((is_last, UTC_NOW), else_=null()),
        ),
        rows,
    )
    return connection.execute(
        select(func.count())
        .select_from(events)
        .where(events.c.id.in_(list(failed)), events.c.status == EventStatus.DEAD.value)
    ).scalar_one()


def _after(times: Any, rules: RetryRules) -> ColumnElement[datetime]:
    """The present time and a pause that doubles each time, up to ten minutes."""
    seconds = func.least(rules.first_pause * func.power(2, func.least(times, 16)), LONGEST_PAUSE_SECONDS)
    return UTC_NOW + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
