"""What observers see of a saga at work: spans for OpenTelemetry, and fields on every log line.

The trace of a saga has the saga's own id, so that whoever knows one finds the other. Each epoch is
one span in it, written when the epoch ends; the spans of steps and compensations, which other
processes wrote before, have named it as their parent. Where no SDK is configured all this costs
next to nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import structlog
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from nancalacc.errors import NancalaccError
from nancalacc.saga.execution import message_of
from nancalacc.saga.records import SagaRecord, StepRecord
from nancalacc.saga.storage import Locked, Storage

SCOPE = "nancalacc"


def named(transaction_id: str, **known: str | int | None) -> AbstractContextManager[None]:
    """Name the saga on every log line of the block, and what else is known: `step`, `epoch`, `attempt`."""
    fields = {name: value for name, value in known.items() if value is not None}
    return structlog.contextvars.bound_contextvars(transaction_id=transaction_id, **fields)


def named_attempt(saga: SagaRecord, step: StepRecord) -> AbstractContextManager[None]:
    """Name an attempt of a step on every log line of the block."""
    return named(saga.transaction_id, step=step.name, epoch=saga.epoch, attempt=step.attempt)


@contextmanager
def observed(kind: str, *, saga: SagaRecord, step: StepRecord) -> Iterator[None]:
    """Name what happens inside `kind` of this step of this saga (`step`, `compensation`)."""
    around = trace.get_current_span().get_span_context()
    with (
        named_attempt(saga, step),
        trace.get_tracer(SCOPE).start_as_current_span(
            f"{kind} {step.name}",
            context=trace.set_span_in_context(trace.NonRecordingSpan(context_of(saga))),
            links=[Link(around)] if around.is_valid else [],
            attributes=attributes_of(saga) | {"nancalacc.step": step.name, "nancalacc.attempt": step.attempt},
            # Their texts may hold data of people.
            record_exception=False,
            set_status_on_exception=False,
        ) as span,
    ):
        try:
            yield
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, message_of(error)))
            raise


@contextmanager
def ending(storage: Storage, transaction_id: str) -> Iterator[Locked]:
    """Lock a saga as `storage.open` does; the epoch that ends in the block becomes a span."""
    with storage.open(transaction_id) as locked:
        had_ended = locked.saga.status.ended
        yield locked
    tracer = trace.get_tracer(SCOPE)
    # Only the SDK's tracers have one: without an SDK there is nobody to tell.
    if locked.saga.status.ended and not had_ended and hasattr(tracer, "id_generator"):
        from nancalacc.saga.epoch_span import write

        write(tracer, _ended(storage, locked.saga))


def attributes_of(saga: SagaRecord) -> dict[str, str | int]:
    """What every span of the saga says about it."""
    return {
        "nancalacc.transaction_id": saga.transaction_id,
        "nancalacc.definition": saga.definition,
        "nancalacc.epoch": saga.epoch,
    }


def context_of(saga: SagaRecord) -> SpanContext:
    """The span of this epoch, as whoever knows the saga can name it."""
    digest = hashlib.sha256(f"{saga.transaction_id}:{saga.epoch}".encode()).digest()
    return SpanContext(
        trace_id=UUID(saga.transaction_id).int,
        span_id=int.from_bytes(digest[:8]),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _ended(storage: Storage, saga: SagaRecord) -> SagaRecord:
    """The saga with the end of its epoch: the database's, or ours when somebody has opened it again."""
    try:
        found = storage.get(saga.transaction_id)
    except NancalaccError:
        # What has ended has ended, whoever is told of it.
        found = None
    if found is not None and found[0].epoch == saga.epoch:
        return found[0]
    return replace(saga, end_time=datetime.now(tz=UTC).replace(tzinfo=None))
