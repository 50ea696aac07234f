"""A process that is killed in the middle of publishing a batch: the rows are there once or not at all."""

import signal
from dataclasses import asdict
from typing import Any

import pytest

from nancalacc.saga.state import SagaStatus
from store.sync.batch_process import DEATHS, Task
from store.sync.batches import Batches

pytestmark = pytest.mark.slow


@pytest.fixture
def batches(sync) -> Batches:
    sync.complete()
    return Batches(sync)


def kill(batches: Batches, run_id: str, dies: str) -> None:
    sync = batches.sync
    url = sync.database._url.render_as_string(hide_password=False)
    task = Task(
        database_url=url,
        dingtalk=asdict(sync.company.dingtalk),
        wps=asdict(sync.company.wps),
        run_id=run_id,
        dies=dies,
    )
    assert task.run() == -signal.SIGKILL
    # Its last sign of life was long ago.
    sync.execute("UPDATE saga_steps SET heartbeat_at = heartbeat_at - interval '1 hour'")


def rows(batches: Batches) -> dict[str, list[Any]]:
    return {
        table: [(row.uid, row.update_type, row.status) for row in found]
        for table, found in batches.published().items()
        if found
    }


@pytest.mark.parametrize("dies", DEATHS)
@pytest.mark.parametrize("who", ["a retry", "a recovery"])
def test_a_batch_killed_while_it_publishes_is_ended_by_another_process(batches, dies: str, who: str):
    batches.sync.sandbox.organisation.modify_user("u07", name="改名")
    batches.event("user_modify_org", "u07")
    kill(batches, "killed", dies)
    is_published = dies != "before the rows are committed"
    attempts = 0
    assert bool(rows(batches)) is is_published

    run = batches.start("killed")
    if who == "a retry":
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        assert run.records["notify_wps"].attempt == 2
    elif is_published:
        assert run.settle() is SagaStatus.COMPLETED
    else:
        assert run.settle() is SagaStatus.COMPENSATED
        assert batches.count("pending") == 1
        # Nobody knows why the process died, and the only event of its batch may be the reason.
        attempts = 1
        batches.run()
    assert batches.difference() == ()
    assert rows(batches) == {
        "tb_las_user_increment": [("u07", "user_update", 1)],
        "tb_las_department_user_increment": [("u07", "user_dept_move", 1)],
    }
    [event] = batches.events()
    assert (event.status, event.attempts) == ("done", attempts)
