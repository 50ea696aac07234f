"""The toy saga as a subject of the fault kit; its whole world is in its database."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from nancalacc.faultkit.boundaries import Trace
from nancalacc.faultkit.kit import FaultKit
from nancalacc.faultkit.subject import Ending, Scenario, Setup, Subject, rejected_at
from nancalacc.saga.state import SagaStatus
from toy_saga import DAG, TOY, Hook, ToyServices

ASKED, REJECTED = Scenario("forward, when asked"), rejected_at("review")
DOUBT = "INSERT INTO toy_doubts VALUES ('everything')"


def no_hook(point: str, context: Any) -> None:
    """Nothing happens on the way."""


def _toy(trace: Trace, *, url: str, hook: Hook) -> Subject:
    return Subject(TOY, ToyServices(url, hook, call=trace.call), dag_id=DAG)


def toy_setup(url: str, *, hook: Hook = no_hook) -> Setup:
    return partial(_toy, url=url, hook=hook)


class ToyWorld:
    """The rows of its steps, and what it has published."""

    def __init__(self, url: str) -> None:
        self._url = url

    def reset(self, scenario: Scenario) -> None:
        """The kit puts all tables back; in some scenarios there are doubts."""
        if scenario in {ASKED, REJECTED}:
            with psycopg.connect(self._url) as connection:
                connection.execute(DOUBT)

    def mend(self) -> None:
        """Nothing in it fails by itself."""

    def wrongs(self, ending: Ending) -> Sequence[str]:
        """An epoch that was undone left nothing; what an earlier one has published is its own."""
        saga = ending.saga
        is_completed = saga is not None and saga.status is SagaStatus.COMPLETED
        has_completed = any(event.event_type == "saga_completed" for event in ending.events)
        epoch = saga.epoch if saga is not None and has_completed else None
        of_epoch = "WHERE %(epoch)s::int IS NULL OR epoch = %(epoch)s"
        effects = self._rows(f"SELECT DISTINCT step FROM toy_effects {of_epoch}", epoch=epoch)
        published = self._rows(f"SELECT 1 FROM toy_published {of_epoch}", epoch=epoch)
        if is_completed:
            done = {name for name, step in ending.steps.items() if step.status == "completed"}
            missing = done - {row[0] for row in effects}
            wrongs = [f"nothing is there of {missing}"] * bool(missing)
            wrongs += ["nothing is there of what was published"] * (not published)
            return wrongs + ["nobody has agreed to what was published"] * (not self._is_agreed(ending))
        left = bool(effects or published)
        return [f"there are still {effects}, published {len(published)} times"] * left

    def _is_agreed(self, ending: Ending) -> bool:
        """Whether nobody doubts, or a person has said yes to what this epoch has fetched."""
        fetch = ending.steps["fetch"]
        key = f"{fetch.epoch}.{(fetch.action_data or {})['fetched_by']}"
        agreed = "SELECT 1 FROM toy_decisions WHERE key = %(key)s AND is_yes"
        return not self._rows("SELECT 1 FROM toy_doubts") or bool(self._rows(agreed, key=key))

    def _rows(self, query: str, **values: Any) -> list[Any]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(query.encode(), values).fetchall()


@contextmanager
def toy_kit(url: str) -> Iterator[FaultKit]:
    with FaultKit(url, toy_setup(url), ToyWorld(url), preload=[__name__]) as kit:
        yield kit
