"""Writes into the saga tables what only Airflow sees: runs that start and end, hand marks.

Airflow calls a listener inside its own processes and, in the scheduler, inside its own
transactions. So the calling thread only copies a few texts into a queue; a daemon thread
resolves the connection and writes. Resolving a connection in the calling thread would use
Airflow's session in the middle of its work. A full queue drops records with a warning: the
saga itself does not depend on them.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

QUEUE_LENGTH = 1000
PRELOADED = (
    "nancalacc.orchestration.hooks",
    "nancalacc.orchestration.saga_tasks",
    "nancalacc.orchestration.sensors",
    "nancalacc.orchestration.verification",
    "nancalacc.sync.full",
    "nancalacc.sync.incremental",
)
"""What every task imports; a plugin that imported it itself would slow down the tasks of other DAGs."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Something that happened to a run or a task; `task_id` is empty for a run."""

    what: str
    dag_id: str
    run_id: str
    definition: str
    task_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


class SagaListener:
    """An Airflow listener for the runs of the registered saga definitions."""

    def __init__(self, definitions: Iterable[str]) -> None:
        self._definitions = tuple(definitions)
        self._queue: queue.Queue[Observation] = queue.Queue(maxsize=QUEUE_LENGTH)
        self._starting = threading.Lock()
        self._writer: threading.Thread | None = None

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """A long-running process starts: those it forks find loaded what a step needs.

        Loading it takes longer than most steps do. The process of a single task is not such a one.
        """
        if type(component).__name__ == "Job":
            for module in PRELOADED:
                import_module(module)

    @hookimpl
    def on_dag_run_running(self, dag_run: Any, msg: str) -> None:
        """A run started: its saga is to exist, pending, unless the run may find nothing to do."""
        self._observe("started", dag_run.dag_id, dag_run.run_id, data={"params": dict(dag_run.conf or {})})

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """A run ended well, or somebody said so."""
        self._observe("ended", dag_run.dag_id, dag_run.run_id, data={"state": "success", "message": msg})

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """A run failed, or somebody said so."""
        self._observe("ended", dag_run.dag_id, dag_run.run_id, data={"state": "failed", "message": msg})

    @hookimpl
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
        """A task succeeded; of interest only when a person said so."""
        self._task_marked(task_instance, state="success")

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
        """A task failed; of interest only when a person or the scheduler said so."""
        self._task_marked(task_instance, state="failed")

    def _task_marked(self, task_instance: Any, *, state: str) -> None:
        # Inside a task's own process its end is the engine's to record; only there is it this class.
        if type(task_instance).__name__ == "RuntimeTaskInstance":
            return
        self._observe(
            "marked",
            task_instance.dag_id,
            task_instance.run_id,
            task_id=task_instance.task_id,
            data={"state": state},
        )

    def _observe(
        self, what: str, dag_id: str, run_id: str, *, task_id: str = "", data: Mapping[str, Any]
    ) -> None:
        definition = next(
            (name for name in self._definitions if dag_id == name or dag_id.startswith(f"{name}__")), None
        )
        if definition is None:
            return
        try:
            self._queue.put_nowait(
                Observation(
                    what=what, dag_id=dag_id, run_id=run_id, definition=definition, task_id=task_id, data=data
                )
            )
        except queue.Full:
            log.warning("Saga records of %s are not written: the queue is full", dag_id)
            return
        self._start_writer()

    def _start_writer(self) -> None:
        # A fork copies this object, but not its thread: is_alive is False there.
        with self._starting:
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write_all, name="saga-listener", daemon=True)
                self._writer.start()

    def _write_all(self) -> None:
        while True:
            observation = self._queue.get()
            try:
                _write(observation)
            except Exception as error:  # noqa: BLE001 - Airflow must not notice
                log.warning(
                    "Saga record of %s %s (%s) is not written: %s",
                    observation.dag_id,
                    observation.run_id,
                    observation.what,
                    error if type(error).__module__.startswith("nancalacc") else type(error).__name__,
                )
            finally:
                self._queue.task_done()


def _write(observation: Observation) -> None:
    """Write one record; may raise whatever the database or the connection's lookup raises."""
    from nancalacc.orchestration.hooks import open_database
    from nancalacc.orchestration.registry import GATED, definition_of
    from nancalacc.saga.definition import transaction_id_of
    from nancalacc.saga.state import EventType
    from nancalacc.store.repository import SagaStore

    if observation.what == "started" and observation.definition in GATED:
        return
    definition = definition_of(observation.dag_id)
    transaction_id = transaction_id_of(dag_id=observation.dag_id, run_id=observation.run_id)
    with open_database() as database:
        store = SagaStore(database)
        if observation.what == "started":
            store.create(
                definition,
                transaction_id=transaction_id,
                dag_id=observation.dag_id,
                run_id=observation.run_id,
                params=observation.data["params"],
            )
        elif store.get(transaction_id) is not None:
            event = EventType.RUN_ENDED if observation.what == "ended" else EventType.TASK_MARKED
            step = observation.task_id if observation.task_id in {each.name for each in definition} else None
            store.append(
                transaction_id, [(event, step, {"task": observation.task_id} | dict(observation.data))]
            )
