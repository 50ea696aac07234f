"""The span of a whole epoch, written when it has ended: the parent that its steps have named.

No process sees an epoch from its beginning to its end, so the span is put together from the
saga's record. Needs OpenTelemetry's SDK; imported only where that is configured.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode

from nancalacc.saga.records import SagaRecord
from nancalacc.saga.telemetry import attributes_of, context_of


class _Given(RandomIdGenerator):
    """Gives the ids that the steps have named."""

    def __init__(self, context: SpanContext) -> None:
        self._context = context

    def generate_trace_id(self) -> int:
        return self._context.trace_id

    def generate_span_id(self) -> int:
        return self._context.span_id


def write(tracer: trace.Tracer, saga: SagaRecord) -> None:
    """Export the span of the epoch that has ended, where a step of it would be; by the SDK's tracers only."""
    context, name = context_of(saga), f"saga {saga.definition}"
    if not isinstance(tracer, Tracer):
        return
    as_a_step = trace.set_span_in_context(NonRecordingSpan(context))
    wanted = tracer.sampler.should_sample(as_a_step, context.trace_id, name)
    if wanted.decision is not Decision.RECORD_AND_SAMPLE:
        return
    # All tracers of a name are one object: this one is ours alone.
    own = copy(tracer)
    own.id_generator, own.sampler = _Given(context), ALWAYS_ON
    about = {"status": saga.status.value, "dag_id": saga.dag_id, "run_id": saga.run_id}
    span = own.start_span(
        name,
        context=Context(),
        start_time=_nanoseconds(saga.start_time),
        attributes=attributes_of(saga) | {f"nancalacc.{key}": value for key, value in about.items() if value},
    )
    if saga.failed_step:
        span.set_status(Status(StatusCode.ERROR, saga.error_message))
    span.end(_nanoseconds(saga.end_time))


def _nanoseconds(moment: datetime | None) -> int | None:
    """Since 1970, of a moment in UTC without zone."""
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1_000_000) * 1000
