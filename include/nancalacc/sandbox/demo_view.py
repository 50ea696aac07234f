"""What the demo shows of a run: read from the saga tables, as anybody may."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

POLL_SECONDS = 0.3
COUNTED = ("departments", "users", "memberships", "rows")
FULL_TABLES = ("tb_las_department", "tb_las_user", "tb_las_department_user")
COLOURS = {
    "completed": "green",
    "in_progress": "cyan",
    "failed": "red",
    "compensating": "yellow",
    "compensated": "yellow",
}


@dataclass(frozen=True, slots=True)
class SagaRow:
    """The saga of a run."""

    transaction_id: str
    status: str
    progress: int
    task_id: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of it."""

    step_name: str
    status: str
    retry_count: int
    action_data: Mapping[str, Any] | None
    start_time: datetime | None
    end_time: datetime | None

    @property
    def seconds(self) -> str:
        """How long the step took, empty while it has not ended."""
        if self.start_time is None or self.end_time is None:
            return ""
        return f"{(self.end_time - self.start_time).total_seconds():.1f} s"

    @property
    def counts(self) -> str:
        """What the step counted, in words."""
        found = {name: (self.action_data or {}).get(name) for name in COUNTED}
        return ", ".join(f"{count:,} {name}" for name, count in found.items() if isinstance(count, int))


class SagaView:
    """The saga of one run of a DAG, read anew at every call."""

    def __init__(self, database_url: str, *, dag_id: str, run_id: str) -> None:
        self._url = database_url
        self._run = {"dag_id": dag_id, "run_id": run_id}

    def saga(self) -> SagaRow | None:
        """The saga, None before the run has begun."""
        with psycopg.connect(self._url) as connection:
            cursor = connection.cursor(row_factory=class_row(SagaRow))
            return cursor.execute(
                "SELECT transaction_id, status, progress, task_id, error_message FROM saga_transactions"
                " WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s",
                self._run,
            ).fetchone()

    def steps(self) -> list[StepRow]:
        """Its steps in order."""
        with psycopg.connect(self._url) as connection:
            cursor = connection.cursor(row_factory=class_row(StepRow))
            return cursor.execute(
                "SELECT step_name, steps.status, retry_count, action_data, steps.start_time, steps.end_time"
                " FROM saga_steps AS steps JOIN saga_transactions USING (transaction_id)"
                " WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s ORDER BY position",
                self._run,
            ).fetchall()

    def rows_written(self) -> dict[str, int]:
        """Rows of the saga's task id in the tables WPS reads."""
        saga = self.saga()
        with psycopg.connect(self._url) as connection:
            return {
                table: _count(connection, table=table, task_id=(saga.task_id or "") if saga else "")
                for table in FULL_TABLES
            }


def _count(connection: psycopg.Connection[Any], *, table: str, task_id: str) -> int:
    query = psycopg.sql.SQL("SELECT count(*) FROM {} WHERE task_id = %s").format(
        psycopg.sql.Identifier(table)
    )
    row = connection.execute(query, [task_id]).fetchone()
    return int(row[0]) if row else 0


def follow(view: SagaView, *, console: Console, ended: Callable[[], bool]) -> None:
    """Show the saga until `ended` says the run is over: redrawn on a terminal, else a line a change."""
    if not console.is_terminal:
        _follow_in_lines(view, console=console, ended=ended)
        return
    with Live(console=console, auto_refresh=False) as live:
        over = False
        while not over:
            over = ended()
            live.update(_picture(view), refresh=True)
            time.sleep(0 if over else POLL_SECONDS)


def _follow_in_lines(view: SagaView, *, console: Console, ended: Callable[[], bool]) -> None:
    told: dict[str, str] = {}
    over = False
    while not over:
        over = ended()
        saga = view.saga()
        for step in view.steps():
            if told.get(step.step_name, "pending") != step.status:
                told[step.step_name] = step.status
                progress = saga.progress if saga else 0
                console.print(
                    f"  {progress:3d} %  {step.step_name:<22} {step.status:<12} {step.counts}".rstrip()
                )
        time.sleep(0 if over else POLL_SECONDS)


def _picture(view: SagaView) -> RenderableType:
    saga = view.saga()
    if saga is None:
        return Text("  waiting for the run to begin")
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(f"  saga {saga.status}"),
        ProgressBar(total=100, completed=saga.progress, width=40),
        Text(f"{saga.progress} %"),
    )
    return Group(bar, steps_table(view.steps()))


def steps_table(steps: list[StepRow]) -> Table:
    """The steps with status, duration and counts."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for heading in ("step", "status", "time", "retries", "counted"):
        table.add_column(heading)
    for step in steps:
        table.add_row(
            step.step_name,
            Text(step.status, style=COLOURS.get(step.status, "dim")),
            step.seconds,
            str(step.retry_count or ""),
            step.counts,
        )
    return table
