"""WPS's sync component: takes jobs, reads the tables by its own rules, writes back status and msg."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from nancalacc.errors import BusyError, ConfigurationError, FatalError, NancalaccError, ObjectError
from nancalacc.sandbox.directory import Directory
from nancalacc.sandbox.faults import BUSY_MESSAGE
from nancalacc.sandbox.increments import DEPARTMENTS, MEMBERSHIPS, USERS, Increments, Readings
from nancalacc.sandbox.rows import Row
from nancalacc.sandbox.snapshot import Snapshot, SnapshotResult, ThresholdError, Thresholds

log = logging.getLogger(__name__)

FIRST_WATERMARK = datetime(2024, 7, 1)  # noqa: DTZ001 - local time, as the tables hold it
ROWS_PER_WINDOW = 1000
CONNECT_SECONDS, CONNECT_ATTEMPTS = 10, 12
MESSAGE_LENGTH = 2000
KEPT_RUNS = 200
REJECTED_MESSAGE = "同步失败: rejected by the sandbox's rules"


class JobState(IntEnum):
    """States of a full job, WPS's numbers [wps 3.1]."""

    WAITING = 10
    RUNNING = 50
    DONE = 100
    CANCELLED = -10
    STOPPED = -50
    FAILED = -100


class ErrorStrategy(StrEnum):
    """What a failed increment row does to its run [wps 5.3]."""

    SKIP = "skip"
    INTERRUPT = "interrupt"


@dataclass(frozen=True, slots=True)
class ConsumerRules:
    """What a test may change about the component; times in seconds.

    `full_delay` and `increment_delay` lie between acceptance and start (the real one takes up to a
    minute for a full job), `run_time` is added to every run. `full_sync_enabled` False: a full sync
    is accepted and nothing runs. `paused`: accepted work waits. `increment_every`: the component's
    own increments.
    """

    full_delay: float = 0.2
    increment_delay: float = 0.1
    run_time: float = 0
    increment_every: float = 600
    paused: bool = False
    full_sync_enabled: bool = True
    schedule_configured: bool = True
    rename_duplicates: bool = False
    error_strategy: ErrorStrategy = ErrorStrategy.SKIP
    timezone: str = "Asia/Shanghai"
    rejected: frozenset[str] = frozenset()
    thresholds: Thresholds = field(default_factory=Thresholds)
    readings: Readings = field(default_factory=Readings)


@dataclass(slots=True)
class Job:
    """One full job."""

    third_company_id: str
    task_id: str
    collect_cost: float
    due: float = field(repr=False)
    state: JobState = JobState.WAITING
    message: str = ""
    result: SnapshotResult = field(default_factory=SnapshotResult)


@dataclass(slots=True)
class Run:
    """One increment run over the window [start, end) of local time."""

    third_company_id: str
    start: datetime
    end: datetime
    applied: int = 0
    failed: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A row of tb_company_cfg with status 1."""

    third_company_id: str
    company_id: str
    platform_ids: tuple[str, ...]


class Consumer:
    """Jobs and increments of all companies of one database, one at a time, in a thread of its own.

    Without a database `third_company_id` counts as the only tenant and every table is empty.
    """

    def __init__(
        self,
        *,
        database_url: str | None,
        third_company_id: str,
        salt: str,
        rules: ConsumerRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules or ConsumerRules()
        self.directories: dict[str, Directory] = {}
        self.jobs: list[Job] = []
        self.runs: deque[Run] = deque(maxlen=KEPT_RUNS)
        self._database_url = None if database_url is None else database_url.replace("+psycopg", "", 1)
        self._third_company_id = third_company_id
        self._salt = salt
        self._clock = clock
        self._watermarks: dict[str, datetime] = {}
        self._increments: dict[str, float] = {}
        self._busy: set[str] = set()
        self._next_automatic = clock() + self.rules.increment_every
        self._changed = threading.Condition()
        self._working = threading.RLock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread that runs what was accepted."""
        self._thread = threading.Thread(target=self._work, name="sandbox-consumer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the present run and end the thread."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def reset(self) -> None:
        """Forget directories, jobs, runs and watermarks; rows in the tables stay."""
        with self._working, self._changed:
            self.directories.clear()
            self.jobs.clear()
            self.runs.clear()
            self._watermarks.clear()
            self._increments.clear()

    def set_rules(self, rules: ConsumerRules) -> None:
        """Change the rules; what is due under them runs at once."""
        with self._changed:
            self.rules = rules
            self._next_automatic = self._clock() + rules.increment_every
            self._changed.notify_all()

    def directory(self, third_company_id: str = "") -> Directory:
        """The directory of a company (the sandbox's own one without an id)."""
        return self.directories.setdefault(third_company_id or self._third_company_id, Directory())

    def full_sync(self, third_company_id: str, *, task_id: str, collect_cost: float) -> Job | None:
        """Accept a full job, cancelling older waiting ones; None when full syncs are switched off.

        Raises ConfigurationError when the tenant is not known.
        """
        self._tenant(third_company_id)
        if not self.rules.full_sync_enabled:
            return None
        with self._changed:
            for older in self.jobs:
                if older.third_company_id == third_company_id and older.state is JobState.WAITING:
                    older.state = JobState.CANCELLED
            job = Job(third_company_id, task_id, collect_cost, self._clock() + self.rules.full_delay)
            self.jobs.append(job)
            self._changed.notify_all()
        return job

    def increment_sync(self, third_company_id: str) -> None:
        """Start an increment run, which holds the company's lock until it ends.

        Raises ConfigurationError without a tenant or a schedule, BusyError while the lock is held.
        """
        self._tenant(third_company_id)
        if not self.rules.schedule_configured:
            raise ConfigurationError("未配置同步计划")
        with self._changed:
            if third_company_id in self._busy or third_company_id in self._increments:
                raise BusyError(BUSY_MESSAGE)
            self._increments[third_company_id] = self._clock() + self.rules.increment_delay
            self._changed.notify_all()

    def run_now(self) -> None:
        """Run everything accepted, at once and in the calling thread, paused or not."""
        with self._working:
            while (work := self._take(at_once=True)) is not None:
                self._run(work)

    def run_increments(self, third_company_id: str = "") -> Run:
        """Run the increments of a company now, in the calling thread, and return what came of it."""
        with self._working:
            return self._run_increments(third_company_id or self._third_company_id)

    def idle(self) -> bool:
        """Whether nothing is waiting or running."""
        with self._changed:
            waiting = any(job.state in {JobState.WAITING, JobState.RUNNING} for job in self.jobs)
            return not (waiting or self._increments or self._busy)

    def wait_idle(self, seconds: float = 30) -> bool:
        """Wait until nothing is waiting or running; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(self.idle, timeout=seconds)

    def _work(self) -> None:
        while not self._closed.is_set():
            with self._working:
                work = self._take()
                if work is not None:
                    self._run(work)
            if work is None:
                with self._changed:
                    if not self._closed.is_set():
                        self._changed.wait(self._pause())

    def _pause(self) -> float:
        """Seconds until something is due; new work wakes the thread earlier."""
        if self.rules.paused:
            return 1
        due = [job.due for job in self.jobs if job.state is JobState.WAITING]
        return max(0.01, min([*due, *self._increments.values(), self._next_automatic]) - self._clock())

    def _take(self, *, at_once: bool = False) -> Job | str | None:
        """The next full job or company of increments that is due, its lock taken."""
        with self._changed:
            now = self._clock()
            if self.rules.paused and not at_once:
                return None
            if now >= self._next_automatic:
                self._next_automatic = now + self.rules.increment_every
                for company in self.directories:
                    self._increments.setdefault(company, now)
            waiting: list[tuple[float, Job | str]] = [
                (job.due, job) for job in self.jobs if job.state is JobState.WAITING
            ]
            waiting += [(due, company) for company, due in self._increments.items()]
            if not waiting:
                return None
            due, work = min(waiting, key=lambda entry: entry[0])
            if due > now and not at_once:
                return None
            if isinstance(work, Job):
                work.state = JobState.RUNNING
                self._busy.add(work.third_company_id)
            else:
                del self._increments[work]
                self._busy.add(work)
            return work

    def _run(self, work: Job | str) -> None:
        company = work.third_company_id if isinstance(work, Job) else work
        try:
            self._closed.wait(self.rules.run_time)
            if isinstance(work, Job):
                self._run_full(work)
            else:
                self._run_increments(work)
        finally:
            with self._changed:
                self._busy.discard(company)
                self._changed.notify_all()

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Row]]:
        if self._database_url is None:
            raise ConfigurationError("The sandbox has no database")
        with _connected(self._database_url) as connection:
            connection.execute("SELECT set_config('TimeZone', %s, false)", [self.rules.timezone])
            connection.commit()
            yield connection

    def _tenant(self, third_company_id: str) -> Tenant:
        if self._database_url is None:
            if third_company_id != self._third_company_id:
                raise ConfigurationError("租户不存在")
            return Tenant(third_company_id, "", ())
        with self._connection() as connection:
            row = connection.execute(
                "SELECT company_id, platform_ids FROM tb_company_cfg"
                " WHERE third_company_id = %s AND status = 1",
                [third_company_id],
            ).fetchone()
        if row is None:
            raise ConfigurationError("租户不存在")
        platforms = tuple(part.strip() for part in row["platform_ids"].split(","))
        return Tenant(third_company_id, row["company_id"], platforms)

    def _run_full(self, job: Job) -> None:
        try:
            if self._database_url is not None:
                self._apply_snapshot(job)
            job.state = JobState.DONE
        except ThresholdError as error:
            job.message, job.state = str(error), JobState.STOPPED
        except (NancalaccError, psycopg.Error) as error:
            job.message, job.state = str(error), JobState.FAILED
        log.info("Full job %s of %s: state %s %s", job.task_id, job.third_company_id, job.state, job.message)

    def _apply_snapshot(self, job: Job) -> None:
        tenant = self._tenant(job.third_company_id)
        with self._connection() as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            snapshot = Snapshot(
                self.directory(job.third_company_id),
                departments=self._selected(connection, table="tb_las_department", job=job, tenant=tenant),
                users=self._selected(connection, table="tb_las_user", job=job, tenant=tenant),
                memberships=self._selected(
                    connection, table="tb_las_department_user", job=job, tenant=tenant
                ),
                salt=self._salt,
                rename_duplicates=self.rules.rename_duplicates,
            )
            job.result = snapshot.result
            snapshot.apply(thresholds=self.rules.thresholds)

    def _selected(
        self, connection: psycopg.Connection[Row], *, table: str, job: Job, tenant: Tenant
    ) -> Iterator[Row]:
        """Stream the rows of the job; a cursor of the server keeps the memory small."""
        query = sql.SQL(
            "SELECT * FROM {} WHERE task_id = %s AND third_company_id = %s"
            " AND platform_id = ANY(%s) AND check_type = 1 ORDER BY id"
        ).format(sql.Identifier(table))
        with connection.cursor(name=f"read_{table}") as cursor:
            cursor.itersize = 2000
            cursor.execute(query, [job.task_id, job.third_company_id, list(tenant.platform_ids)])
            yield from cursor

    def _run_increments(self, company: str) -> Run:
        start = self._watermarks.get(company, FIRST_WATERMARK)
        run = Run(company, start, start)
        if self._database_url is not None:
            try:
                self._apply_window(run)
                self._watermarks[company] = run.end
            except (NancalaccError, psycopg.Error) as error:
                run.error = str(error)
        self.runs.append(run)
        log.info("Increments of %s: %s applied, %s failed %s", company, run.applied, run.failed, run.error)
        return run

    def _apply_window(self, run: Run) -> None:
        tenant = self._tenant(run.third_company_id)
        with self._connection() as connection:
            row = connection.execute(
                "SELECT date_trunc('second', clock_timestamp())::timestamp AS now"
            ).fetchone()
            run.end = row["now"] if row else run.start
            connection.commit()
            windows = {
                table: self._window(connection, table=table, run=run)
                for table in (DEPARTMENTS, USERS, MEMBERSHIPS)
            }
            increments = Increments(
                self.directory(run.third_company_id),
                salt=self._salt,
                readings=self.rules.readings,
                rename_duplicates=self.rules.rename_duplicates,
            )
            for table, rows in windows.items():
                for row in rows:
                    self._apply_row(
                        connection, row=row, table=table, run=run, tenant=tenant, increments=increments
                    )
                    connection.commit()

    def _window(self, connection: psycopg.Connection[Row], *, table: str, run: Run) -> Sequence[Row]:
        """The rows of one table; ties come in reverse, since their order is nobody's promise."""
        query = sql.SQL(
            "SELECT * FROM {} WHERE third_company_id = %s AND status <= 0"
            " AND sync_time >= %s AND sync_time < %s ORDER BY sync_time, id DESC LIMIT {}"
        ).format(sql.Identifier(table), sql.Literal(ROWS_PER_WINDOW))
        return connection.execute(query, [run.third_company_id, run.start, run.end]).fetchall()

    def _apply_row(
        self,
        connection: psycopg.Connection[Row],
        *,
        row: Row,
        table: str,
        run: Run,
        tenant: Tenant,
        increments: Increments,
    ) -> None:
        if row["platform_id"] not in tenant.platform_ids:
            raise FatalError(f"Row {row['id']} of {table}: foreign platform_id {row['platform_id']!r}")
        status, message = 1, "success"
        try:
            if self.rules.rejected & {row.get("uid"), row["did"] if table == DEPARTMENTS else None}:
                raise ObjectError(REJECTED_MESSAGE)
            increments.apply(row, table=table)
        except ObjectError as error:
            status, message = -1, str(error)[:MESSAGE_LENGTH]
        query = sql.SQL("UPDATE {} SET status = %s, msg = %s WHERE id = %s").format(sql.Identifier(table))
        connection.execute(query, [status, message, row["id"]])
        if status == 1:
            run.applied += 1
            return
        run.failed += 1
        if self.rules.error_strategy is ErrorStrategy.INTERRUPT:
            connection.commit()
            raise FatalError(f"Row {row['id']} of {table}: {message}")


@retry(
    retry=retry_if_exception_type(psycopg.errors.ConnectionTimeout),
    stop=stop_after_attempt(CONNECT_ATTEMPTS),
    reraise=True,
)
def _connected(url: str) -> psycopg.Connection[Row]:
    """A connection; one that is not made in time is tried again, else a job would fail for it."""
    return psycopg.connect(url, row_factory=dict_row, connect_timeout=CONNECT_SECONDS)
