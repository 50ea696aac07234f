"""Incremental syncs without Airflow: events in the inbox, batches step by step as the tasks run them."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from nancalacc.saga.definition import transaction_id_of
from nancalacc.saga.state import SagaStatus
from nancalacc.sync.inbox import Company, InboxEvent, store
from nancalacc.sync.incremental import INCREMENTAL_SYNC

DAG = "incremental_sync"


class Batches:
    """The inbox of the company of a FullSync, and runs that drain it."""

    def __init__(self, sync: Any) -> None:
        self.sync = sync
        self.company = Company(sync.company.dingtalk.conn_id, sync.company.wps.conn_id)
        self.numbers = itertools.count(1)
        self.runs = itertools.count(1)
        sync.settings = replace(
            sync.settings, poll_seconds=0.05, renotify_seconds=2, confirm_seconds=20, event_pause_seconds=0
        )

    def event(self, event_type: str, *object_ids: Any, event_id: str = "", company: Any = None) -> bool:
        """Store an event; False when it was there already."""
        event = InboxEvent(
            event_id=event_id or f"event-{next(self.numbers)}",
            event_type=event_type,
            object_ids=tuple(map(str, object_ids)),
            born_at=datetime.now(tz=UTC),
        )
        with self.sync.database.transaction() as connection:
            return bool(store(connection, [event], companies=[company or self.company]))

    def observe(self) -> None:
        """Let every change of the organisation become an event from now on."""

        def tell(event_type: str, data: Mapping[str, Any]) -> None:
            self.event(event_type, *data.get("userId", data.get("deptId", ())))

        self.sync.sandbox.organisation.observer = tell

    def start(self, run_id: str = "", **params: Any) -> "BatchRun":
        return BatchRun(self, run_id or f"batch_{next(self.runs)}", params)

    def run(self, **params: Any) -> "BatchRun":
        """Run a batch to its end, which must be completed."""
        run = self.start(**params)
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        return run

    def drain(self) -> int:
        """Run batches until nothing is pending; returns their number."""
        number = 0
        while self.count("pending"):
            self.run()
            number += 1
        return number

    def count(self, status: str) -> int:
        return self.sync.value("SELECT count(*) FROM dingtalk_events WHERE status = :status", status=status)

    def events(self) -> list[Any]:
        return self.sync.rows("SELECT * FROM dingtalk_events ORDER BY id")

    def difference(self) -> tuple[str, ...]:
        """How WPS differs from DingTalk."""
        assert self.sync.sandbox.consumer.wait_idle()
        return self.sync.sandbox.compare().differences

    def published(self) -> dict[str, list[Any]]:
        """The rows of the three increment tables in the order of their seconds."""
        return {
            table: self.sync.rows(f"SELECT * FROM {table} ORDER BY sync_time, id")
            for table in (
                "tb_las_department_increment",
                "tb_las_user_increment",
                "tb_las_department_user_increment",
            )
        }


class BatchRun:
    """One run of the DAG."""

    def __init__(self, batches: Batches, run_id: str, params: Mapping[str, Any]) -> None:
        self.sync = batches.sync
        self.params = params
        self.services = replace(
            self.sync.services(run_id, datetime.now(tz=UTC)), settings=self.sync.settings, sleep=time.sleep
        )
        self.transaction_id = transaction_id_of(dag_id=DAG, run_id=run_id)
        self.sync.coordinator.start(INCREMENTAL_SYNC, dag_id=DAG, run_id=run_id, params=params)

    def step(self, name: str) -> Mapping[str, Any]:
        return self.sync.coordinator.run_step(
            INCREMENTAL_SYNC, self.transaction_id, name, services=self.services, params=self.params
        )

    def steps(self, *, to: str = "update_event_status") -> Mapping[str, Any]:
        data: Mapping[str, Any] = {}
        for step in INCREMENTAL_SYNC:
            data = self.step(step.name)
            if step.name == to:
                break
        return data

    def fail(self, step: str, error: Exception) -> SagaStatus:
        """A step has failed for good: settle what follows."""
        self.sync.coordinator.fail(self.transaction_id, step=step, error=str(error))
        return self.settle()

    def settle(self) -> SagaStatus:
        return self.sync.coordinator.conclude(
            INCREMENTAL_SYNC, self.transaction_id, services=self.services
        ).status

    def cancel(self) -> None:
        self.sync.coordinator.cancel(
            INCREMENTAL_SYNC, self.transaction_id, services=self.services, reason="by a person"
        )

    def skip(self, step: str) -> None:
        self.sync.coordinator.skip_step(INCREMENTAL_SYNC, self.transaction_id, step, reason="by a person")

    @property
    def saga(self) -> Any:
        return self.sync.coordinator.get(self.transaction_id)[0]

    @property
    def records(self) -> dict[str, Any]:
        return {record.name: record for record in self.sync.coordinator.get(self.transaction_id)[1]}

    @property
    def events(self) -> list[tuple[str, Any]]:
        return [
            (each.event_type, each.event_data) for each in self.sync.coordinator.events(self.transaction_id)
        ]
