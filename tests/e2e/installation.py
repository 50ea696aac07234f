"""An Airflow of its own that handles events: its sandbox, its database, a listener."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from nancalacc.sandbox.organisation import Organisation
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.server import Sandbox, SandboxOptions, running_sandbox
from nancalacc.sandbox.stack import AirflowStack, StackSettings, connection_json

DAG, FULL = "incremental_sync", "full_sync"
CONFIRM = "confirm_increments"
LONG_ENOUGH = 180.0
"""Seconds for what takes ten on a machine that has nothing else to do."""


def until(condition: Callable[[], Any], *, seconds: float = LONG_ENOUGH) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


@dataclass(frozen=True)
class Installation:
    """A running Airflow, DingTalk and WPS, the database, and a listener."""

    stack: AirflowStack
    sandbox: Sandbox
    database_url: str

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            return connection.execute(query, values or None).fetchall()

    def execute(self, query: str) -> None:
        with psycopg.connect(self.database_url) as connection:
            connection.execute(query)

    def count(self, status: str) -> int:
        return self.rows("SELECT count(*) AS n FROM dingtalk_events WHERE status = %s", status)[0]["n"]

    def is_equal(self) -> bool:
        """Every event that DingTalk has told of is dealt with, and WPS is as DingTalk."""
        return (
            not self.sandbox.stream.outstanding
            and self.count("pending") + self.count("claimed") == 0
            and self.sandbox.compare().equal
        )

    def newest_run(self, *states: str) -> Any:
        return next((run for run in self.stack.api.runs(DAG) if run["state"] in states), None)

    def new_failure(self, before: set[str]) -> str | None:
        """A run that has failed, but for those that had before."""
        found = {run["dag_run_id"] for run in self.stack.api.runs(DAG) if run["state"] == "failed"}
        return next(iter(found - before), None)

    def failures(self) -> set[str]:
        return {run["dag_run_id"] for run in self.stack.api.runs(DAG) if run["state"] == "failed"}

    def waiting_run(self) -> str | None:
        """The run whose sensor waits for events, by its id."""
        run = self.newest_run("running")
        if run is None or self.tasks(run["dag_run_id"]).get("wait_for_events") != "deferred":
            return None
        return str(run["dag_run_id"])

    def tasks(self, run_id: str) -> dict[str, str | None]:
        return self.stack.api.task_states(DAG, run_id)

    def confirming_run(self, *, attempt: int = 1) -> str | None:
        """The run whose step waits for WPS without a worker, by its id."""
        run = self.newest_run("running")
        if run is None or self.tasks(run["dag_run_id"]).get(CONFIRM) != "deferred":
            return None
        is_there = self.step(run["dag_run_id"])["attempt"] == attempt
        return str(run["dag_run_id"]) if is_there else None

    def saga(self, run_id: str) -> dict[str, Any]:
        [saga] = self.rows("SELECT * FROM saga_transactions WHERE run_id = %s", run_id)
        return saga

    def step(self, run_id: str, name: str = CONFIRM) -> dict[str, Any]:
        query = "SELECT * FROM saga_steps WHERE transaction_id = %s AND step_name = %s"
        [step] = self.rows(query, self.saga(run_id)["transaction_id"], name)
        return step

    def events(self, run_id: str, event_type: str) -> list[str]:
        """The steps that have such an event, in order."""
        query = "SELECT step_id FROM saga_events WHERE transaction_id = %s AND event_type = %s ORDER BY id"
        found = self.rows(query, self.saga(run_id)["transaction_id"], event_type)
        return [str(row["step_id"]).partition(":")[2] for row in found]

    @contextmanager
    def wps(self, **rules: Any) -> Iterator[None]:
        """WPS behaves differently, as long as the block."""
        usual = self.sandbox.consumer.rules
        self.sandbox.consumer.set_rules(replace(usual, **rules))
        try:
            yield
        finally:
            self.sandbox.consumer.set_rules(usual)

    def sync_all(self) -> None:
        """Have the company synced as a whole, unless it has been."""
        api = self.stack.api
        if not self.rows("SELECT FROM known_users LIMIT 1"):
            assert api.wait_run(FULL, api.trigger(FULL), timeout=LONG_ENOUGH) == "success"


@contextmanager
def installed(
    postgres: Postgres,
    *,
    template: str,
    name: str,
    home: Path,
    organisation: Organisation,
    options: SandboxOptions,
    environment: Mapping[str, str],
    more_dags: Mapping[str, Path] | None = None,
) -> Iterator[Installation]:
    """Start everything, and wait until events would be handled."""
    database_url = postgres.create_database(f"nancalacc_{name}", template=template)
    with running_sandbox(organisation=organisation, database_url=database_url, options=options) as sandbox:
        settings = StackSettings(
            home=home,
            database_url=postgres.create_database(f"airflow_{name}"),
            connections={
                "nancalacc_db": database_url,
                "dingtalk_default": connection_json(sandbox.dingtalk_connection),
                "wps_default": connection_json(sandbox.wps_connection),
            },
            # The triggerer is to find it without the environment.
            stored_connections=frozenset({"nancalacc_db"}),
            more_dags=more_dags or {},
            environment={
                "NANCALACC_FULL_SYNC_SCHEDULE": "none",
                "NANCALACC_RECOVERY_SCHEDULE": "none",
                "NANCALACC_MAINTENANCE_SCHEDULE": "none",
                **environment,
            },
        )
        with AirflowStack(settings) as stack, (home / "listener.log").open("ab") as output:
            listener = subprocess.Popen(
                [sys.executable, "-m", "nancalacc", "listen"],
                env=dict(stack.environment) | {"AIRFLOW_CONN_NANCALACC_DB": database_url},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                until(lambda: sandbox.stream.connections == 1)
                for dag_id in (FULL, DAG):
                    stack.api.wait_for_dag(dag_id, timeout=LONG_ENOUGH)
                yield Installation(stack, sandbox, database_url)
            finally:
                listener.terminate()
                listener.wait(20)
