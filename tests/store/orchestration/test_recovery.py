"""Recovery: who is left alone, who is finished, and what happens to those who cannot be."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from log_lines import Line
from nancalacc.errors import (
    ConfigurationError,
    DatabaseError,
    FencedError,
    IllegalTransitionError,
    TransientError,
)
from nancalacc.orchestration.recovery import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Environment,
    Recovery,
    Result,
    pause_after,
)
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.records import SagaRecord
from nancalacc.saga.state import SagaStatus
from nancalacc.saga.waiting import Wait, Waiting
from nancalacc.store.database import Database
from nancalacc.store.repository import SagaStore
from toy_saga import DAG, TOY, Toy, ToyServices, check_ended, together, toy

STALE_SECONDS = 1.0


class Runs:
    """What Airflow and the services are to a recovery."""

    def __init__(self, url: str) -> None:
        self.live: set[str] = set()
        self.services = ToyServices(url)
        self.definition: SagaDefinition = TOY
        self.now = 0.0

    def is_live(self, saga: SagaRecord) -> bool:
        return saga.run_id in self.live

    def definition_of(self, dag_id: str) -> SagaDefinition:
        if dag_id != DAG:
            raise ConfigurationError(f"DAG {dag_id!r} runs no saga of this package")
        return self.definition

    def clock(self) -> float:
        return self.now

    def recovery(self, saga: Toy, *, stale_seconds: float = STALE_SECONDS) -> Recovery:
        environment = Environment(
            is_live=self.is_live,
            definition_of=self.definition_of,
            services_of=lambda _: self.services,
            clock=self.clock,
        )
        return Recovery(saga.coordinator, saga.database, environment, stale_seconds=stale_seconds)


@pytest.fixture
def runs(toy_url: str) -> Runs:
    return Runs(toy_url)


def found(counts: dict[Result, int]) -> dict[str, int]:
    return {result.value: count for result, count in counts.items() if count}


def execute(saga: Toy, statement: str, **values: Any) -> None:
    with saga.database.transaction() as connection:
        connection.execute(text(statement), values)


def leave_at(saga: Toy, point: str) -> None:
    """Run the steps as far as a point at which the process dies, long enough ago."""

    def hook(reached: str, context: Any) -> None:
        if reached == point:
            raise KeyboardInterrupt

    saga.services.hook = hook
    with pytest.raises(KeyboardInterrupt):
        saga.run_until("finish")
    step = point.partition(":")[0]
    execute(
        saga,
        "UPDATE saga_steps SET status = 'in_progress', error_message = NULL, end_time = NULL,"
        " heartbeat_at = timezone('utc', now()) - interval '1 hour'"
        " WHERE transaction_id = :id AND step_name = :step",
        id=saga.id,
        step=step,
    )
    # Who is killed tells nobody.
    execute(
        saga,
        "DELETE FROM saga_events WHERE transaction_id = :id AND event_type = 'step_failed'",
        id=saga.id,
    )
    saga.services.hook = lambda point, context: None


def be_due(saga: Toy) -> None:
    execute(saga, "UPDATE saga_transactions SET recovery_at = timezone('utc', now()) - interval '1 second'")


def wait_of(saga: Toy) -> float:
    """Seconds until the next try."""
    [row] = saga.query(
        "SELECT extract(epoch FROM recovery_at - timezone('utc', clock_timestamp())) AS wait"
        " FROM saga_transactions WHERE transaction_id = :id",
        id=saga.id,
    )
    return float(row.wait)


@pytest.mark.parametrize(
    "point, status",
    [
        ("validate:written", SagaStatus.COMPENSATED),
        ("middle:written", SagaStatus.COMPENSATED),
        ("publish:before", SagaStatus.COMPENSATED),
        ("publish:intended", SagaStatus.COMPLETED),
        ("finish:before", SagaStatus.COMPLETED),
    ],
)
def test_a_saga_whose_run_is_over_is_finished_in_the_direction_of_its_pivot(
    saga: Toy, runs: Runs, point: str, status: SagaStatus
) -> None:
    leave_at(saga, point)
    assert found(runs.recovery(saga).recover()) == {"finished": 1}
    assert saga.saga.status is status
    assert (saga.saga.recovery_tries, saga.saga.recovery_at, saga.saga.recovery_error) == (1, None, None)
    check_ended(saga)
    assert found(runs.recovery(saga).recover()) == {}


def test_a_saga_left_in_the_middle_of_its_compensation_is_undone_to_the_end(saga: Toy, runs: Runs) -> None:
    leave_at(saga, "right:written")
    settlement = saga.settle()
    assert settlement.first is not None
    saga.compensate(settlement.first)
    assert found(runs.recovery(saga).recover()) == {"finished": 1}
    assert saga.saga.status is SagaStatus.COMPENSATED
    check_ended(saga)


def test_a_cancelled_saga_whose_compensation_failed_ends_cancelled(saga: Toy, runs: Runs) -> None:
    saga.run_until("fetch")

    def hook(point: str, context: Any) -> None:
        if point == "fetch:undo":
            raise TransientError("later")

    saga.services.hook = hook
    with pytest.raises(TransientError):
        saga.cancel()
    assert found(runs.recovery(saga).recover()) == {"finished": 1}
    assert saga.saga.status is SagaStatus.CANCELLED
    check_ended(saga)


def test_a_saga_of_which_nothing_ran_is_cancelled(saga: Toy, runs: Runs) -> None:
    assert found(runs.recovery(saga).recover()) == {"finished": 1}
    assert saga.saga.status is SagaStatus.CANCELLED
    assert saga.saga.error_message == "No step of it ever ran"


@pytest.mark.parametrize("point", ["middle:written", "publish:intended"])
def test_a_saga_of_a_live_run_is_reported_and_not_touched(
    saga: Toy, runs: Runs, point: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave_at(saga, point)
    runs.live = {saga.run_id}
    before = (saga.saga, saga.events)
    with caplog.at_level(logging.WARNING):
        assert found(runs.recovery(saga).recover()) == {"silent": 1}
    assert (saga.saga, saga.events) == before
    assert f"step {point.partition(':')[0]} has given no sign of life for 3600 s" in caplog.text
    assert f"run {saga.run_id} of DAG {DAG} is not over" in caplog.text


def test_a_live_run_between_two_steps_is_not_worth_a_warning(saga: Toy, runs: Runs) -> None:
    saga.run_until("fetch")
    runs.live = {saga.run_id}
    assert found(runs.recovery(saga).recover()) == {"live": 1}


def test_a_process_that_is_still_at_work_is_not_disturbed(saga: Toy, runs: Runs) -> None:
    leave_at(saga, "middle:written")
    execute(saga, "UPDATE saga_steps SET heartbeat_at = timezone('utc', now()) WHERE step_name = 'middle'")
    assert found(runs.recovery(saga).recover()) == {"at_work": 1}
    assert saga.saga.status is SagaStatus.IN_PROGRESS
    assert saga.saga.recovery_tries == 0


def test_a_sign_of_life_from_before_the_clock_went_back_counts_for_nothing(saga: Toy, runs: Runs) -> None:
    leave_at(saga, "middle:written")
    execute(saga, "UPDATE saga_steps SET heartbeat_at = timezone('utc', now()) + interval '1 hour'")
    assert found(runs.recovery(saga).recover()) == {"finished": 1}
    check_ended(saga)


def test_a_step_that_waits_is_left_alone_while_it_is_watched_and_finished_when_nobody_does(
    saga: Toy, runs: Runs
) -> None:
    saga.run_until("publish")
    saga.services.waits = [Wait(condition={"phone": "here"}, seconds=300)]
    waiting = saga.coordinator.run_step_or_wait(TOY, saga.id, "finish", services=saga.services, params={})
    assert isinstance(waiting, Waiting)
    recovery = runs.recovery(saga, stale_seconds=300)
    runs.live = {saga.run_id}
    assert found(recovery.recover()) == {"live": 1}
    runs.live = set()
    assert found(recovery.recover()) == {"at_work": 1}
    # Its run was marked as failed: Airflow takes the trigger away.
    saga.coordinator.watch(TOY, waiting).let_go()
    assert found(recovery.recover()) == {"finished": 1}
    assert saga.saga.status is SagaStatus.COMPLETED
    with pytest.raises(FencedError):
        saga.coordinator.resume_step(TOY, waiting, services=saga.services)
    check_ended(saga)


def test_sagas_of_no_dag_belong_to_others(saga: Toy, runs: Runs) -> None:
    execute(saga, "UPDATE saga_transactions SET dag_id = NULL")
    assert found(runs.recovery(saga).recover()) == {}
    assert runs.recovery(saga).recover_one(saga.id) is None
    assert saga.saga.status is SagaStatus.PENDING


@pytest.mark.parametrize("point", ["middle:written", "publish:intended"])
def test_what_cannot_be_finished_is_tried_again_after_growing_pauses(
    saga: Toy, runs: Runs, point: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave_at(saga, point)

    def hook(reached: str, context: Any) -> None:
        raise TransientError("WPS is away")

    runs.services.hook = hook
    recovery = runs.recovery(saga)
    for tries in (1, 2, 3):
        assert found(recovery.recover()) == {"failed": 1}
        assert saga.saga.recovery_tries == tries
        assert saga.saga.recovery_error == "WPS is away"
        assert wait_of(saga) == pytest.approx(pause_after(tries), abs=10)
        assert found(recovery.recover()) == {"waiting": 1}
        be_due(saga)
    assert f"Saga {saga.id}" in caplog.text
    assert "cannot be finished, try 3: WPS is away. It is tried again after 240 s" in caplog.text
    assert {record.levelname for record in caplog.records if "try 3" in record.message} >= {"ERROR"}

    runs.services.hook = lambda reached, context: None
    assert found(recovery.recover()) == {"finished": 1}
    assert (saga.saga.recovery_tries, saga.saga.recovery_at, saga.saga.recovery_error) == (4, None, None)
    check_ended(saga)


def test_pauses_double_and_stay_below_an_hour() -> None:
    pauses = [pause_after(tries) for tries in range(1, 10)]
    assert pauses[:4] == [FIRST_PAUSE_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert pauses[-1] == pause_after(10_000) == LONGEST_PAUSE_SECONDS


def test_a_saga_that_a_person_opens_again_starts_with_no_tries(saga: Toy, runs: Runs) -> None:
    leave_at(saga, "middle:written")

    def hook(point: str, context: Any) -> None:
        raise TransientError("not yet")

    runs.services.hook = hook
    runs.recovery(saga).recover()
    assert saga.conclude().status is SagaStatus.COMPENSATED
    assert (saga.saga.recovery_at, saga.saga.recovery_error) == (None, None)
    saga.run_until("finish")
    assert saga.saga.recovery_tries == 0


def test_the_errors_of_others_are_logged_but_not_written_down(
    saga: Toy, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    leave_at(saga, "middle:written")

    def hook(point: str, context: Any) -> None:
        raise ValueError("13900000001")

    runs.services.hook = hook
    assert found(runs.recovery(saga).recover()) == {"failed": 1}
    assert saga.saga.recovery_error == "ValueError (the task's log has the details)"
    assert "Traceback" in caplog.text


def test_a_saga_of_an_unknown_dag_is_reported_and_the_others_are_finished(
    saga: Toy, another: Any, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    execute(saga, "UPDATE saga_transactions SET dag_id = 'gone_dag'")
    other = another(run_id="run-2")
    assert found(runs.recovery(saga).recover()) == {"finished": 1, "failed": 1}
    assert other.saga.status is SagaStatus.CANCELLED
    assert "DAG 'gone_dag' runs no saga of this package" in (saga.saga.recovery_error or "")
    assert "gone_dag" in caplog.text


def test_a_saga_of_another_versions_steps_is_not_guessed_at(saga: Toy, runs: Runs) -> None:
    saga.run_until("fetch")
    runs.definition = SagaDefinition("toy", TOY.steps[:-1])
    assert found(runs.recovery(saga).recover()) == {"failed": 1}
    assert "has other steps" in (saga.saga.recovery_error or "")
    assert saga.saga.status is SagaStatus.IN_PROGRESS


def test_one_saga_is_tried_at_once_when_it_is_asked_for(saga: Toy, another: Any, runs: Runs) -> None:
    leave_at(saga, "middle:written")
    other = another(run_id="run-2")

    def hook(point: str, context: Any) -> None:
        raise TransientError("not yet")

    runs.services.hook = hook
    recovery = runs.recovery(saga)
    assert recovery.recover_one(saga.id) is Result.FAILED
    runs.services.hook = lambda point, context: None
    assert wait_of(saga) > 0
    assert recovery.recover_one(saga.id) is Result.FINISHED
    assert recovery.recover_one(saga.id) is None
    assert other.saga.status is SagaStatus.PENDING
    with pytest.raises(IllegalTransitionError, match="There is no saga"):
        recovery.recover_one("no-such-id")


def test_a_live_run_is_left_alone_also_when_its_saga_is_asked_for(saga: Toy, runs: Runs) -> None:
    saga.run_until("fetch")
    runs.live = {saga.run_id}
    assert runs.recovery(saga).recover_one(saga.id) is Result.LIVE
    assert saga.saga.status is SagaStatus.IN_PROGRESS


def test_the_longest_due_come_first_and_the_rest_is_left_to_the_next_run(another: Any, runs: Runs) -> None:
    sagas = [another(run_id=f"run-{number}") for number in range(5)]
    recovery = runs.recovery(sagas[0])
    assert found(recovery.recover(batch=2)) == {"finished": 2, "left": 3}
    assert [saga.saga.status.ended for saga in sagas] == [True, True, False, False, False]
    assert found(recovery.recover(batch=2)) == {"finished": 2, "left": 1}
    assert found(recovery.recover(batch=2)) == {"finished": 1}


def test_live_runs_and_hopeless_sagas_do_not_keep_others_from_their_turn(another: Any, runs: Runs) -> None:
    sagas = [another(run_id=f"run-{number}") for number in range(6)]
    runs.live = {saga.run_id for saga in sagas[:2]}
    execute(sagas[0], "UPDATE saga_transactions SET dag_id = 'gone' WHERE run_id IN ('run-2', 'run-3')")
    recovery = runs.recovery(sagas[0])
    assert found(recovery.recover(batch=2)) == {"live": 2, "failed": 2, "left": 2}
    assert found(recovery.recover(batch=2)) == {"live": 2, "finished": 2, "waiting": 2}


def test_no_saga_is_begun_after_the_time_of_a_run(another: Any, runs: Runs) -> None:
    sagas = [another(run_id=f"run-{number}") for number in range(3)]

    def is_live(saga: SagaRecord) -> bool:
        runs.now += 130
        return False

    runs.is_live = is_live  # type: ignore[method-assign]
    assert found(runs.recovery(sagas[0]).recover()) == {"finished": 2, "left": 1}


def test_two_recoveries_at_once_finish_every_saga_once(toy_url: str, runs: Runs) -> None:
    with ExitStack() as stack:
        sagas = [stack.enter_context(toy(toy_url, run_id=f"run-{number}")) for number in range(6)]
        for number, saga in enumerate(sagas):
            saga.services.task_id = None
            execute(saga, "UPDATE company_locks SET holder = NULL")
            leave_at(saga, ["middle:written", "publish:intended"][number % 2])
        recoveries = [runs.recovery(sagas[0]), runs.recovery(sagas[1])]
        counts = together(*(recovery.recover for recovery in recoveries))
        assert all(isinstance(each, dict) for each in counts), counts
        assert sum(each[Result.FINISHED] for each in counts) == len(sagas)
        for saga in sagas:
            assert saga.saga.recovery_tries == 1
            check_ended(saga)


def test_what_is_done_with_each_saga_is_a_group_of_its_own_in_the_log(
    saga: Toy, another: Callable[..., Toy], runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    sagas = {saga.id, another(run_id="run-2").id, another(run_id="run-3").id}
    caplog.set_level(logging.INFO)
    assert found(runs.recovery(saga).recover()) == {"finished": 3}
    groups: list[str] = []
    is_open = False
    for message in caplog.messages:
        if message.startswith("::group::"):
            assert not is_open, "a group within a group"
            groups.append(message.removeprefix("::group::Saga "))
            is_open = True
        elif message == "::endgroup::":
            is_open = False
        elif named := next((each for each in sagas if each in message), None):
            assert (is_open, groups[-1:]) == (True, [named]), message
    assert (is_open, sorted(groups)) == (False, sorted(sagas))


def test_a_saga_whose_recovery_was_killed_is_tried_again_when_its_time_is_over(saga: Toy, runs: Runs) -> None:
    leave_at(saga, "middle:written")

    def hook(point: str, context: Any) -> None:
        raise KeyboardInterrupt

    runs.services.hook = hook
    with pytest.raises(KeyboardInterrupt):
        runs.recovery(saga).recover()
    runs.services.hook = lambda point, context: None
    assert found(runs.recovery(saga).recover()) == {"waiting": 1}
    be_due(saga)
    assert found(runs.recovery(saga).recover()) == {"finished": 1}
    check_ended(saga)


def test_a_database_that_is_away_is_the_recoverys_own_failure(saga: Toy, runs: Runs) -> None:
    leave_at(saga, "middle:written")
    with Database("postgresql://nobody@127.0.0.1:9/none") as away:
        recovery = runs.recovery(saga)
        recovery._database = away
        with pytest.raises(DatabaseError):
            recovery.recover()


def test_a_saga_whose_row_is_locked_stops_no_other(saga: Toy, another: Any, runs: Runs, toy_url: str) -> None:
    other = another(run_id="run-2")
    with (
        psycopg.connect(toy_url) as holder,
        Database(toy_url) as impatient,
    ):
        holder.execute("SELECT 1 FROM saga_transactions WHERE run_id = 'run-1' FOR UPDATE")
        recovery = runs.recovery(saga)
        recovery._database = Impatient(impatient)  # type: ignore[assignment]
        assert found(recovery.recover()) == {"failed": 1, "finished": 1}
        holder.rollback()
    assert other.saga.status is SagaStatus.CANCELLED


class Impatient:
    """A database whose sessions wait for no lock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> Any:
        @contextmanager
        def impatient() -> Any:
            with self._database.transaction() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
                yield connection

        return impatient()


class WatchedStore(SagaStore):
    """Notes of each transaction how many sagas' rows it has locked."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.sagas: list[int] = []
        transaction = database.transaction

        @contextmanager
        def watched(*, name: str = "") -> Any:
            with transaction(name=name) as connection:
                yield connection
                # Whoever changes a row is its xmin, whoever locks it its xmax.
                mine = "IN (xmin::text, xmax::text)"
                statement = f"SELECT count(*) FROM saga_transactions WHERE pg_current_xact_id()::text {mine}"
                self.sagas.append(connection.execute(text(statement)).scalar_one())

        database.transaction = watched  # type: ignore[method-assign]


def test_no_transaction_of_a_recovery_locks_more_than_one_saga_or_waits_for_a_call(
    toy_url: str, runs: Runs
) -> None:
    with ExitStack() as stack:
        for number in range(4):
            saga = stack.enter_context(toy(toy_url, run_id=f"run-{number}", store=WatchedStore))
            execute(saga, "UPDATE company_locks SET holder = NULL")
            leave_at(saga, ["middle:written", "publish:intended"][number % 2])
        assert isinstance(saga.store, WatchedStore)
        saga.store.sagas.clear()
        open_during_calls: list[int] = []

        def hook(point: str, context: Any) -> None:
            if point == "publish:call":
                open_ = "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
                with psycopg.connect(toy_url) as watcher:
                    open_during_calls.append(len(watcher.execute(open_).fetchall()))

        runs.services.hook = hook
        assert found(runs.recovery(saga).recover()) == {"finished": 4}
        assert len(saga.store.sagas) > 20
        assert max(saga.store.sagas) == 1
        assert open_during_calls == [0, 0]


@pytest.mark.slow
def test_two_hundred_abandoned_sagas_are_finished_within_bounded_batches(
    toy_url: str, runs: Runs, record_property: Callable[[str, object], None]
) -> None:
    number_of_sagas = 200
    with ExitStack() as stack:
        first = stack.enter_context(toy(toy_url, run_id="run-0"))
        ids = []
        for number in range(number_of_sagas):
            with toy(toy_url, run_id=f"run-{number}") as saga:
                execute(saga, "UPDATE company_locks SET holder = NULL")
                leave_at(saga, ["middle:written", "publish:intended"][number % 2])
                ids.append(saga.id)
        recovery = runs.recovery(first)
        started = time.monotonic()
        rounds = 0
        while any(first.store.get(each)[0].status.ended is False for each in ids[-1:]):  # type: ignore[index]
            counts = recovery.recover(batch=50)
            assert counts[Result.FINISHED] == 50
            rounds += 1
        record_property("seconds", time.monotonic() - started)
    assert rounds == 4
    for number in (0, 1, 100, 199):
        with toy(toy_url, run_id=f"run-{number}") as saga:
            check_ended(saga)


def test_what_a_recovery_says_of_a_saga_names_it(saga: Toy, runs: Runs, lines: list[Line]):
    leave_at(saga, "left:before")
    runs.live = {saga.run_id}
    runs.recovery(saga).recover()
    runs.live = set()
    runs.recovery(saga).recover()
    runs.recovery(saga).recover_one(saga.id)
    named = {"transaction_id": saga.id, "epoch": 1}
    said = {
        "no sign of life": named | {"step": "left"},
        "which is over: try 1": named | {"step": "left"},
        f"Saga {saga.id} is compensated": named | {"step": "left"},
        "has ended or is of no DAG": named,
    }
    for words, fields in said.items():
        [line] = [line for line in lines if words in line.text]
        assert line.fields == fields, words
