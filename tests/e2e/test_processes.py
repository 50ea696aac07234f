"""Task processes that are killed, or suspended and thought dead, in the middle of a save."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from e2e.company import DAG, Company

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

SAVING_SECONDS = 5.0
WAKING_SECONDS = 3.0
HANGING_SECONDS = 40


@contextmanager
def suspended(task: psutil.Process) -> Iterator[list[psutil.Process]]:
    """The process of a task and the one that watches over it, both stopped, as on a frozen machine."""
    processes = [task, task.parent()]
    with ExitStack() as stack:
        for process in reversed(processes):
            stack.callback(_resume, process)
            process.suspend()
        yield processes


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def wake(processes: list[psutil.Process]) -> None:
    """Let the task try to go on before anybody can tell it to end, and wait for its end."""
    task, watcher = processes
    task.resume()
    time.sleep(WAKING_SECONDS)
    watcher.resume()
    with suppress(psutil.NoSuchProcess):
        task.wait(timeout=60)


def test_a_killed_save_is_retried_and_completes(company: Company):
    with company.slow("tb_las_user", seconds=SAVING_SECONDS):
        run_id = company.trigger()
        company.wait_until_saving()
        company.worker(run_id, "save_users").kill()
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.steps(run_id)["save_users"]["retry_count"] >= 1
    assert ("step_retried", "save_users") in company.events(run_id)
    assert company.compare().equal


def test_a_killed_notify_is_retried_and_completes(company: Company):
    company.sandbox.faults.add("hang", path="full/sync", seconds=HANGING_SECONDS, times=1)
    run_id = company.trigger()
    company.wait_until_called("full/sync")
    company.worker(run_id, "notify_wps").kill()
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.steps(run_id)["notify_wps"]["retry_count"] >= 1
    assert company.compare().equal


def test_a_suspended_save_that_holds_a_transaction_does_not_block_its_retry(company: Company):
    with company.slow("tb_las_user", seconds=SAVING_SECONDS), ExitStack() as stack:
        run_id = company.trigger()
        company.wait_until_saving()
        processes = stack.enter_context(suspended(company.worker(run_id, "save_users")))
        company.silence(run_id, "save_users")
        frozen = stack.pop_all()
    with frozen:
        company.wait(run_id)
        assert company.state(run_id) == "success"
        assert company.steps(run_id)["save_users"]["retry_count"] == 1
        saga = company.saga(run_id)
        rows = company.snapshot_rows(saga["task_id"])
        wake(processes)

    assert company.saga(run_id) == saga
    assert company.snapshot_rows(saga["task_id"]) == rows
    assert company.compare().equal


def test_a_process_that_wakes_after_compensation_cannot_write(company: Company):
    with company.slow("tb_las_user", seconds=SAVING_SECONDS), ExitStack() as stack:
        run_id = company.trigger()
        company.wait_until_saving()
        processes = stack.enter_context(suspended(company.worker(run_id, "save_users")))
        company.stack.api.set_task_state(DAG, run_id, "save_users", state="failed")
        frozen = stack.pop_all()
    with frozen:
        company.wait(run_id)
        assert company.state(run_id) == "failed"
        saga = company.saga(run_id)
        assert saga["status"] == "compensated"
        assert company.snapshot_rows(saga["task_id"]) == 0
        wake(processes)

    assert company.saga(run_id) == saga
    assert company.snapshot_rows(saga["task_id"]) == 0
    assert company.lock_holder() is None
