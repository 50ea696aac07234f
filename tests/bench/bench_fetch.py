"""How fast an organisation is read from DingTalk, without a limit and within one [design 9].

The whole step is measured, staging and resolving included, against a sandbox in another process.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.targets import at_least, at_most
from bench.tasks import TaskProcesses, call_times, sandbox_process
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.migrate import upgrade

pytestmark = [pytest.mark.bench, pytest.mark.slow]

PEOPLE, DEPARTMENTS = 10_000, 330
"""A call for each person, three for each department: 11 000 calls."""
TARGET_SECONDS = 30.0
FEW_PEOPLE, FEW_DEPARTMENTS = 600, 20
CALLS_PER_SECOND = 20
TARGET_SHARE = 0.9
USER_PATH = "/topapi/v2/user/get"
FETCH = "fetch_dingtalk_data"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres(durable=True) as server:
        yield server


def test_without_a_limit(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.create_database("fetch_unlimited")
    upgrade(url)
    with sandbox_process(tmp_path, people=PEOPLE, departments=DEPARTMENTS) as sandbox:
        done = TaskProcesses(tmp_path, url, sandbox).run("unlimited", to=FETCH)[FETCH]
    calls = sum(done.data["evidence"]["calls"].values())
    assert done.data["users"] == PEOPLE
    print(
        f"\nfetch of {PEOPLE} people in {DEPARTMENTS} departments without a limit: {calls} calls in"
        f" {done.seconds:.1f} s, {calls / done.seconds:.0f} a second"
        f" ({at_most(done.seconds, TARGET_SECONDS, ' s')})"
    )


def test_within_the_permitted_rate(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.create_database("fetch_limited")
    upgrade(url)
    with sandbox_process(
        tmp_path, people=FEW_PEOPLE, departments=FEW_DEPARTMENTS, calls_per_second=CALLS_PER_SECOND
    ) as sandbox:
        tasks = TaskProcesses(tmp_path, url, sandbox, calls_per_second=CALLS_PER_SECOND)
        done = tasks.run("limited", to=FETCH)[FETCH]
        times = call_times(sandbox)[USER_PATH]
    assert done.data["users"] == FEW_PEOPLE
    # The calls of the first second are those a window that has not filled yet lets through at once.
    share = len(times[CALLS_PER_SECOND:]) / (times[-1] - times[0]) / CALLS_PER_SECOND
    print(
        f"\nfetch within {CALLS_PER_SECOND} calls a second: {share:.0%} of the permitted rate over"
        f" {len(times)} calls ({at_least(100 * share, 100 * TARGET_SHARE, ' %')}); refused for their rate:"
        f" {done.data['evidence']['throttled']}, people lost: {FEW_PEOPLE - done.data['users']};"
        f" the whole step {done.seconds:.1f} s"
    )
