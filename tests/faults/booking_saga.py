"""A saga as a user might write it, the example of docs/faultkit.md: rooms are booked, then paid for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import text

from nancalacc.faultkit.boundaries import Trace
from nancalacc.faultkit.kit import FaultKit
from nancalacc.faultkit.subject import Ending, Scenario, Subject
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.definition import SagaDefinition, Step, StepKind
from nancalacc.saga.state import SagaStatus

TABLES = "CREATE TABLE bookings (saga text); CREATE TABLE payments (saga text, key text UNIQUE)"


@dataclass(frozen=True)
class Services:
    """`pay` is the call of another system: it commits there, whatever becomes of our transaction."""

    url: str
    call: Callable[[str], AbstractContextManager[None]]

    def pay(self, saga: str) -> None:
        with self.call("pay"), psycopg.connect(self.url) as elsewhere:
            elsewhere.execute("INSERT INTO payments VALUES (%s, %s) ON CONFLICT DO NOTHING", (saga, saga))


def book(ctx: StepContext) -> Mapping[str, Any]:
    statement = text("INSERT INTO bookings VALUES (:saga)")
    ctx.connection.execute(statement, {"saga": ctx.saga.transaction_id})
    return {}


def cancel_booking(ctx: CompensationContext) -> None:
    statement = text("DELETE FROM bookings WHERE saga = :saga")
    ctx.connection.execute(statement, {"saga": ctx.saga.transaction_id})


def pay(ctx: StepContext) -> Mapping[str, Any]:
    with ctx.transaction(intend=True):
        """From here on the money may be gone."""
    ctx.services.pay(ctx.saga.transaction_id)
    return {}


def pay_without_intent(ctx: StepContext) -> Mapping[str, Any]:
    """What one must not do: a process killed behind the call leaves a payment that nobody knows of."""
    ctx.services.pay(ctx.saga.transaction_id)
    return {}


def forget(ctx: CompensationContext) -> None:
    """What one must not do, either."""


def booking(*, cancel: Any = cancel_booking, payment: Any = pay) -> SagaDefinition:
    return SagaDefinition(
        "booking",
        (
            Step("book", book, cancel),
            Step("pay", payment, depends_on=("book",), kind=StepKind.PIVOT),
        ),
    )


def _subject(trace: Trace, *, url: str, parts: Mapping[str, Any]) -> Subject:
    return Subject(booking(**parts), Services(url, trace.call), dag_id="booking")


class Hotel:
    """Its world: a booking that is paid for, or neither."""

    def __init__(self, url: str) -> None:
        self._url = url

    def reset(self, scenario: Scenario) -> None:
        """Everything is in the database, which the kit puts back."""

    def mend(self) -> None:
        """Nothing in it breaks."""

    def wrongs(self, ending: Ending) -> Sequence[str]:
        with psycopg.connect(self._url) as connection:
            query = "SELECT (SELECT count(*) FROM bookings), (SELECT count(*) FROM payments)"
            [found] = connection.execute(query).fetchall()
        is_completed = ending.saga is not None and ending.saga.status is SagaStatus.COMPLETED
        expected = (1, 1) if is_completed else (0, 0)
        return [] if found == expected else [f"bookings and payments are {found}, expected {expected}"]


@contextmanager
def booking_kit(url: str, **parts: Any) -> Iterator[FaultKit]:
    """The kit over the saga; `parts` are put in the place of its own."""
    with psycopg.connect(url) as connection:
        connection.execute(TABLES)
    with FaultKit(url, partial(_subject, url=url, parts=parts), Hotel(url), preload=[__name__]) as kit:
        yield kit
