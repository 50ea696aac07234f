"""What observers see of a step at work: a span for OpenTelemetry, and fields on every log line.

The trace of a saga has the saga's own id, so that whoever knows one finds the other; each epoch
is one parent in it. Where no SDK is configured a span costs next to nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from nancalacc.saga.execution import message_of
from nancalacc.saga.records import SagaRecord, StepRecord


@contextmanager
def observed(kind: str, *, saga: SagaRecord, step: StepRecord) -> Iterator[None]:
    """Name what happens inside `kind` of this step of this saga (`step`, `compensation`)."""
    fields: dict[str, str | int] = {
        "transaction_id": saga.transaction_id,
        "step": step.name,
        "epoch": saga.epoch,
        "attempt": step.attempt,
    }
    around = trace.get_current_span().get_span_context()
    with (
        structlog.contextvars.bound_contextvars(**fields),
        trace.get_tracer("nancalacc").start_as_current_span(
            f"{kind} {step.name}",
            context=_epoch_of(saga),
            links=[Link(around)] if around.is_valid else [],
            attributes={f"nancalacc.{name}": value for name, value in fields.items()}
            | {"nancalacc.definition": saga.definition},
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


def _epoch_of(saga: SagaRecord) -> Context:
    """The context in which the spans of this epoch have their common parent."""
    digest = hashlib.sha256(f"{saga.transaction_id}:{saga.epoch}".encode()).digest()
    parent = SpanContext(
        trace_id=UUID(saga.transaction_id).int,
        span_id=int.from_bytes(digest[:8]),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent))
