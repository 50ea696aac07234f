"""Whether the memory of a task process grows with the organisation [design 9].

Every step of a full sync runs in a process of its own. People are read from the pages only, to keep
200 000 calls out of the measurement; their details go through batches of a fixed size.
"""

from pathlib import Path

import pytest

from bench.targets import at_most
from bench.tasks import STEPS, Done, TaskProcesses, sandbox_process
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.migrate import upgrade

pytestmark = [pytest.mark.bench, pytest.mark.slow]

SIZES = ((10_000, 250), (200_000, 5_000))
"""People and departments."""
TARGET = 1.3


def full_sync(home: Path, *, people: int, departments: int) -> dict[str, Done]:
    home.mkdir()
    with (
        Postgres(durable=True) as server,
        sandbox_process(home, people=people, departments=departments) as sandbox,
    ):
        url = server.create_database("memory")
        upgrade(url)
        done = TaskProcesses(home, url, sandbox, user_details=False).run("memory")
    assert done["fetch_dingtalk_data"].data["users"] == people
    return done


def test_memory_of_task_processes(tmp_path: Path) -> None:
    small, large = (
        full_sync(tmp_path / str(people), people=people, departments=departments)
        for people, departments in SIZES
    )
    (few, _), (many, _) = SIZES
    print(f"\npeak memory of the task process of each step, {few} and {many} people:")
    for step in STEPS:
        before, after = small[step], large[step]
        growth = after.peak_mib / before.peak_mib
        print(
            f"  {step:22} {before.peak_mib:4.0f} and {after.peak_mib:4.0f} MiB,"
            f" {growth:.2f} times ({at_most(growth, TARGET)});"
            f" of it {before.base_mib:.0f} MiB before the action; {after.seconds:.1f} s with {many}"
        )
