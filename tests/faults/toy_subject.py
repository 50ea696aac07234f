"""The toy saga as a subject of the fault kit; its whole world is in its database."""

from collections.abc import Sequence
from functools import partial

import psycopg

from nancalacc.faultkit.boundaries import Trace
from nancalacc.faultkit.subject import Ending, Scenario, Setup, Subject
from nancalacc.saga.state import SagaStatus
from toy_saga import DAG, TOY, ToyServices


def _toy(trace: Trace, *, url: str) -> Subject:
    return Subject(TOY, ToyServices(url, call=trace.call), dag_id=DAG)


def toy_setup(url: str) -> Setup:
    return partial(_toy, url=url)


class ToyWorld:
    """The rows of its steps, and what it has published."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def reset(self, scenario: Scenario) -> None:
        """The kit puts all tables back."""

    def mend(self) -> None:
        """Nothing in it fails by itself."""

    def wrongs(self, ending: Ending) -> Sequence[str]:
        effects = self._connection.execute("SELECT step, count(*) FROM toy_effects GROUP BY step").fetchall()
        published = self._connection.execute("SELECT count(*) FROM toy_published").fetchall()[0][0]
        if ending.saga is not None and ending.saga.status is SagaStatus.COMPLETED:
            done = {name for name, step in ending.steps.items() if step.status == "completed"}
            missing = done - {step for step, _ in effects}
            return [f"nothing is there of {missing}"] if missing or not published else []
        return [f"there are still {effects}, published {published} times"] if effects or published else []
