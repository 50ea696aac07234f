"""Sagas for the console to show, written as the engine would have left them."""

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from nancalacc.saga.definition import SagaDefinition, transaction_id_of
from nancalacc.sync.full import FULL_SYNC

STEPS = [step.name for step in FULL_SYNC]


@dataclass
class Rows:
    """Writes rows into the tables of a nancalacc database."""

    url: str
    made: list[str] = field(default_factory=list)

    def execute(self, query: str, *values: Any) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(query, values or None)

    def value(self, query: str, *values: Any) -> Any:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query, values or None).fetchone()
        return row[0] if row else None

    def saga(
        self,
        run_id: str,
        *,
        status: str = "completed",
        done: int = len(STEPS),
        failed: str | None = None,
        error: str | None = None,
        dag_id: str | None = None,
        name: str | None = None,
        company: str = "tenant-1",
        task_id: str | None = None,
        pivot: str | None = None,
        running: str | None = None,
        definition: SagaDefinition = FULL_SYNC,
    ) -> str:
        """A saga whose first `done` steps are done; `failed` failed, and what was done is undone if so."""
        dag = dag_id or definition.name
        steps = [step.name for step in definition]
        transaction_id = transaction_id_of(dag_id=dag, run_id=run_id)
        undone = status in {"compensated", "cancelled"}
        with psycopg.connect(self.url) as connection:
            connection.execute(
                """
                INSERT INTO saga_transactions (transaction_id, name, definition, dag_id, run_id, status,
                    epoch, progress, failed_step, error_message, third_company_id, task_id, params, end_time)
                VALUES (%s, %s, %s, %s, %s, %s, 1, %s, %s, %s, %s, %s, '{}',
                    CASE WHEN %s THEN timezone('utc', now()) END)
                """,
                (
                    transaction_id,
                    name or f"{dag} {run_id}",
                    definition.name,
                    dag,
                    run_id,
                    status,
                    0 if undone else 100 * done // len(steps),
                    failed,
                    error,
                    company,
                    task_id,
                    status in {"completed", "compensated", "cancelled"},
                ),
            )
            for position, step in enumerate(steps, start=1):
                state = "completed" if position <= done else "pending"
                if undone and position <= done:
                    state = "compensated"
                if step == failed:
                    state = "failed"
                if step == running:
                    state = "in_progress"
                connection.execute(
                    """
                    INSERT INTO saga_steps (step_id, transaction_id, step_name, position, status, epoch,
                        attempt, action_data, error_message, pivot_state, start_time, end_time)
                    VALUES (%s, %s, %s, %s, %s, 1, %s, %s, %s, %s,
                        CASE WHEN %s THEN timezone('utc', now()) - interval '20 s' END,
                        CASE WHEN %s THEN timezone('utc', now()) - interval '10 s' END)
                    """,
                    (
                        f"{transaction_id}:{step}",
                        transaction_id,
                        step,
                        position,
                        state,
                        int(state != "pending"),
                        Jsonb({"rows": {"users": 12}}) if state == "completed" else None,
                        error if step == failed else None,
                        pivot if step == "notify_wps" else None,
                        state != "pending",
                        state != "pending",
                    ),
                )
                if state != "pending":
                    self._event(connection, transaction_id, step, "step_started", seconds=20)
                if state not in {"pending", "in_progress"}:
                    kind = "step_failed" if state == "failed" else "step_completed"
                    self._event(connection, transaction_id, step, kind, seconds=10)
        self.made.append(transaction_id)
        return transaction_id

    def history(self, run_id: str, *, error: str) -> str:
        """A saga that failed in save_users after a retry, and was compensated, with all its events."""
        transaction_id = self.saga(run_id, status="compensated", done=4, failed="save_users", error=error)
        self.execute("DELETE FROM saga_events WHERE transaction_id = %s", transaction_id)
        told: list[tuple[str | None, str, float]] = [(None, "saga_started", 60)]
        for number, step in enumerate(STEPS[:4]):
            told += [(step, "step_started", 58 - 6 * number), (step, "step_completed", 53 - 6 * number)]
        told += [("save_users", "step_started", 35), ("save_users", "step_failed", 30)]
        told += [("save_users", "step_retried", 26), ("save_users", "step_started", 26)]
        told += [("save_users", "step_failed", 20), (None, "saga_failed", 20)]
        told += [(None, "compensation_started", 18)]
        for number, step in enumerate(reversed(STEPS[:4])):
            told += [
                (step, "compensation_started", 16 - 3 * number),
                (step, "compensation_completed", 14.5 - 3 * number),
            ]
        told += [(None, "compensation_completed", 4)]
        with psycopg.connect(self.url) as connection:
            for step, kind, seconds in told:
                data = {"error": error} if kind in {"step_failed", "saga_failed"} else {}
                self._event(connection, transaction_id, step, kind, seconds=seconds, **data)
            connection.execute(
                "UPDATE saga_transactions SET start_time = timezone('utc', now()) - interval '60 s'"
                " WHERE transaction_id = %s",
                (transaction_id,),
            )
        return transaction_id

    def _event(
        self,
        connection: psycopg.Connection[Any],
        transaction_id: str,
        step: str | None,
        kind: str,
        *,
        seconds: float,
        **data: Any,
    ) -> None:
        """An event of so many seconds ago."""
        connection.execute(
            "INSERT INTO saga_events (transaction_id, step_id, event_type, event_data, created_at)"
            " VALUES (%s, %s, %s, %s, timezone('utc', now()) - make_interval(secs => %s))",
            (transaction_id, step and f"{transaction_id}:{step}", kind, Jsonb({"epoch": 1} | data), seconds),
        )

    def conflict(
        self,
        kind: str,
        key: str,
        *,
        other: str | None = "other",
        company: str = "tenant-1",
        saga: str = "gone",
    ) -> None:
        """Something that is held back at present."""
        self.execute(
            "INSERT INTO conflicts (third_company_id, kind, key, other, reason, transaction_id)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            company,
            kind,
            key,
            other,
            f"has the {kind} of {other}: it is left empty in WPS",
            saga,
        )

    def verification(
        self,
        transaction_id: str | None,
        verdict: str,
        *differences: tuple[str, str, str | None, str, str | None],
        company: str = "tenant-1",
        has_ended: bool = True,
    ) -> int:
        """What WPS showed when it was read back: (kind, key, did, what, fields); returns the row's id."""
        counts: dict[str, dict[str, int]] = {}
        for kind, _, _, what, _ in differences:
            counts.setdefault(what, {}).setdefault(kind, 0)
            counts[what][kind] += 1
        found: int = self.value(
            "INSERT INTO verifications (third_company_id, transaction_id, dag_id, run_id, verdict, message,"
            " counts, looks, ended_at) VALUES (%s, %s, 'reconcile', 'r', %s, %s, %s, 1,"
            " CASE WHEN %s THEN timezone('utc', clock_timestamp()) END) RETURNING id",
            company,
            transaction_id,
            verdict,
            f"WPS is {verdict}",
            Jsonb(counts),
            has_ended,
        )
        for difference in differences:
            self.execute(
                "INSERT INTO verification_differences (verification_id, kind, key, did, what, fields)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                found,
                *difference,
            )
        if transaction_id is not None and has_ended:
            self.execute(
                "INSERT INTO saga_events (transaction_id, event_type, event_data)"
                " VALUES (%s, 'verification', %s)",
                transaction_id,
                Jsonb({"verdict": verdict, "message": f"WPS is {verdict}", "counts": counts}),
            )
        return found

    def known(self, company: str = "tenant-1") -> None:
        """The names by which a department and two people are known."""
        self.execute(
            "INSERT INTO known_departments (third_company_id, did, pid, name, task_id)"
            " VALUES (%s, '200', '1', '市场部', 't') ON CONFLICT DO NOTHING",
            company,
        )
        self.execute(
            "INSERT INTO known_users (third_company_id, uid, uid_key, account, account_key, nick_name, phone,"
            " task_id) SELECT %s, id, id, id, id, name, 'a secret number', 't'"
            " FROM (VALUES ('u1', '员工一'), ('u2', '员工二')) AS people (id, name)",
            company,
        )

    def inbox_event(
        self, event_id: str, *, status: str = "dead", error: str | None = "60011: no access"
    ) -> int:
        """An event in the inbox; returns its row's id."""
        found: int = self.value(
            "INSERT INTO dingtalk_events (dingtalk_conn_id, wps_conn_id, event_id, event_type, object_ids,"
            " status, attempts, error) VALUES ('dingtalk_default', 'wps_default', %s, 'user_modify_org',"
            " '[\"u1\"]', %s, 5, %s) RETURNING id",
            event_id,
            status,
            error,
        )
        return found

    def listener(self, conn_id: str, *, is_connected: bool = True, silence: float = 0) -> None:
        """A listener that was last seen so many seconds ago."""
        self.execute(
            "INSERT INTO listeners (listener, dingtalk_conn_id, is_connected, seen_at)"
            " VALUES (%s, %s, %s, timezone('utc', now()) - make_interval(secs => %s))",
            f"host:{silence:g}",
            conn_id,
            is_connected,
            silence,
        )
