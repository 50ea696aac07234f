"""Where things are in Airflow: names of our DAGs, and paths of its pages below its base URL."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from nancalacc.config import Settings
from nancalacc.saga.records import SagaRecord
from nancalacc.web.schemas import Links

FULL_SYNC = "full_sync"
INCREMENTAL_SYNC = "incremental_sync"
RECOVERY = "saga_recovery"
UNDO_SYNC = "undo_sync"


def full_sync_dags(settings: Settings) -> Sequence[str]:
    """The DAGs of the full sync, one a company; the first company's has the plain name."""
    return [
        FULL_SYNC if number == 0 else f"{FULL_SYNC}__{wps}"
        for number, (_, wps) in enumerate(settings.companies)
    ]


def links(saga: SagaRecord) -> Links:
    """The pages of the saga's run and DAG."""
    return Links(run=_run(saga), dag=None if saga.dag_id is None else f"dags/{quote(saga.dag_id)}")


def task(saga: SagaRecord, step: str) -> str | None:
    """The page of a step's task: it shows the log."""
    run = _run(saga)
    return None if run is None else f"{run}/tasks/{quote(step)}"


def _run(saga: SagaRecord) -> str | None:
    if saga.dag_id is None or saga.run_id is None:
        return None
    return f"dags/{quote(saga.dag_id)}/runs/{quote(saga.run_id, safe='')}"
