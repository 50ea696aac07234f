"""One company on a running Airflow: its DingTalk, its WPS, its tables."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from nancalacc.saga.definition import transaction_id_of
from nancalacc.sandbox.comparison import Comparison
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sandbox.server import Sandbox
from nancalacc.sandbox.stack import AirflowStack
from nancalacc.store.tables import metadata

DAG = "full_sync"
STEPS = [
    "validate_task",
    "fetch_dingtalk_data",
    "save_company_config",
    "save_departments",
    "save_users",
    "save_relations",
    "notify_wps",
    "update_task_status",
]
COMPENSATIONS = [f"compensation.{step}" for step in STEPS]
OWN_TABLES = ", ".join(sorted(metadata.tables))
SNAPSHOT_TABLES = ("tb_las_department", "tb_las_user", "tb_las_department_user")
WORKER_SECONDS = 30.0


def small_organisation() -> Organisation:
    """Two levels, six people, one of them in two departments, one in root."""
    organisation = Organisation(name="小公司")
    organisation.add_department("研发部", parent_id=1, dept_id=100)
    organisation.add_department("前端组", parent_id=100, dept_id=110)
    organisation.add_department("市场部", parent_id=1, dept_id=200)
    for number, places in enumerate([(1,), (100,), (100, 200), (110,), (200,), (200,)], start=1):
        organisation.add_user(
            User(
                userid=f"u{number}",
                name=f"员工{number}",
                mobile=f"1390000000{number}",
                placements=tuple(Placement(dept_id=place, order=number) for place in places),
                manager_userid="u2" if number > 2 else None,
                email=f"u{number}@example.com",
            )
        )
    return organisation


@dataclass(frozen=True)
class Company:
    """The company's two sides, its tables, and the Airflow that syncs them, by the runs of a DAG."""

    stack: AirflowStack
    sandbox: Sandbox
    database_url: str = field(repr=False)
    dag_id: str = DAG

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            return connection.execute(query, values or None).fetchall()

    def execute(self, query: str, *values: Any) -> None:
        with psycopg.connect(self.database_url) as connection:
            connection.execute(query, values or None)

    @contextmanager
    def broken(self, *tables: str) -> Iterator[None]:
        """Every insert into these tables fails for good."""
        with self._on_insert(tables, "RAISE EXCEPTION 'broken on purpose'"):
            yield

    @contextmanager
    def slow(self, table: str, *, seconds: float) -> Iterator[None]:
        """An insert into this table takes so long; the end of the block waits for one under way."""
        with self._on_insert((table,), f"PERFORM pg_sleep({seconds})"):
            yield

    @contextmanager
    def _on_insert(self, tables: tuple[str, ...], statement: str) -> Iterator[None]:
        self.execute(
            "CREATE OR REPLACE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {statement}; RETURN NULL; END $$"
        )
        for table in tables:
            self.execute(
                f"CREATE TRIGGER on_insert BEFORE INSERT ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION on_insert()"
            )
        try:
            yield
        finally:
            for table in tables:
                self.execute(f"DROP TRIGGER on_insert ON {table}")

    def trigger(self, **conf: Any) -> str:
        return self.stack.api.trigger(self.dag_id, conf=conf, run_id=f"run-{uuid.uuid4().hex[:8]}")

    def run(self, **conf: Any) -> str:
        """Trigger a run, wait for its end and return its id."""
        run_id = self.trigger(**conf)
        self.wait(run_id)
        return run_id

    def wait(self, run_id: str, *, timeout: float = 150) -> str:
        return self.stack.api.wait_run(self.dag_id, run_id, timeout=timeout)

    def state(self, run_id: str) -> str:
        return self.stack.api.run_state(self.dag_id, run_id)

    def tasks(self, run_id: str) -> dict[str, str | None]:
        return self.stack.api.task_states(self.dag_id, run_id)

    def clear(self, run_id: str, *tasks: str, only_failed: bool = False, downstream: bool = True) -> None:
        self.stack.api.clear(
            self.dag_id, run_id, task_ids=list(tasks) or None, only_failed=only_failed, downstream=downstream
        )

    def log(self, run_id: str, task_id: str) -> str:
        return self.stack.api.log(self.dag_id, run_id, task_id)

    def saga(self, run_id: str) -> dict[str, Any]:
        [row] = self.rows(
            "SELECT * FROM saga_transactions WHERE transaction_id = %s",
            transaction_id_of(dag_id=self.dag_id, run_id=run_id),
        )
        return row

    def steps(self, run_id: str) -> dict[str, dict[str, Any]]:
        found = self.rows(
            "SELECT * FROM saga_steps WHERE transaction_id = %s ORDER BY position",
            transaction_id_of(dag_id=self.dag_id, run_id=run_id),
        )
        return {row["step_name"]: row for row in found}

    def events(self, run_id: str) -> list[tuple[str, str]]:
        """Event type and step name ("" for the saga), in order."""
        found = self.rows(
            "SELECT event_type, step_id FROM saga_events WHERE transaction_id = %s ORDER BY id",
            transaction_id_of(dag_id=self.dag_id, run_id=run_id),
        )
        return [(row["event_type"], (row["step_id"] or ":").split(":")[1]) for row in found]

    def snapshot_rows(self, task_id: str) -> int:
        return sum(
            self.rows(f"SELECT count(*) AS n FROM {table} WHERE task_id = %s", task_id)[0]["n"]
            for table in SNAPSHOT_TABLES
        )

    def lock_holder(self) -> str | None:
        found = self.rows("SELECT holder FROM company_locks WHERE holder IS NOT NULL")
        return found[0]["holder"] if found else None

    def worker(self, run_id: str, step: str) -> psutil.Process:
        """The process that runs a step now, as the saga's own record names it."""
        deadline = time.monotonic() + WORKER_SECONDS
        while time.monotonic() < deadline:
            row = self.steps(run_id).get(step)
            if row is not None and row["status"] == "in_progress":
                return psutil.Process(int(row["worker"].split(":")[1]))
            time.sleep(0.1)
        raise AssertionError(f"{step} did not start")

    def wait_until_saving(self) -> None:
        """Wait until a slow insert is under way: its session holds a transaction."""
        for _ in range(300):
            if self.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
                return
            time.sleep(0.1)
        raise AssertionError("nothing is being saved")

    def wait_until_called(self, path: str, *, times: int = 1) -> None:
        """Wait until DingTalk or WPS has got a call of this path, or so many."""
        for _ in range(300):
            calls = self.sandbox.calls.counts()
            if sum(number for called, number in calls.items() if path in called) >= times:
                return
            time.sleep(0.1)
        raise AssertionError(f"{path} was not called")

    def silence(self, run_id: str, task: str) -> None:
        """Let Airflow find that nothing was heard of a task for an hour, instead of waiting for that."""
        self._in_airflow(
            "UPDATE task_instance SET last_heartbeat_at = last_heartbeat_at - interval '1 hour'"
            " WHERE run_id = %s AND task_id = %s",
            run_id,
            task,
        )

    def silence_scheduler(self) -> None:
        """Let the next scheduler find that nothing was heard of the last one for an hour."""
        self._in_airflow(
            "UPDATE job SET latest_heartbeat = latest_heartbeat - interval '1 hour'"
            " WHERE job_type = 'SchedulerJob'"
        )

    def age(self, run_id: str) -> None:
        """Let Airflow find that a run began a day ago, instead of waiting for that."""
        self._in_airflow(
            "UPDATE dag_run SET start_date = start_date - interval '1 day' WHERE dag_id = %s AND run_id = %s",
            self.dag_id,
            run_id,
        )

    def _in_airflow(self, statement: str, *values: Any) -> None:
        url = self.stack.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
        with psycopg.connect(url) as connection:
            connection.execute(statement, values or None)

    def compare(self, **options: Any) -> Comparison:
        assert self.sandbox.consumer.wait_idle(30)
        return self.sandbox.compare(**options)

    def relax_thresholds(self) -> None:
        rules = self.sandbox.consumer.rules
        self.sandbox.consumer.set_rules(
            replace(
                rules, thresholds=replace(rules.thresholds, users=10**6, departments=10**6, memberships=10**6)
            )
        )
