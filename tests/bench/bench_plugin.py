"""What the plugin adds to the start of every process of Airflow, task processes of other DAGs included."""

import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from bench.targets import at_most

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ROUNDS = 9
MOST_MS = 50
LOAD = """
import sys, time
sys.path.insert(0, sys.argv[1])
# What Airflow itself has imported when a task starts.
import airflow.plugins_manager, airflow.sdk, airflow.sdk.execution_time.task_runner
before = set(sys.modules)
begin = time.perf_counter()
import nancalacc_plugin
print(1000 * (time.perf_counter() - begin), "fastapi" in sys.modules, *sorted(set(sys.modules) - before))
"""


def test_what_the_plugin_adds_to_the_start_of_a_task() -> None:
    taken = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOAD, str(PLUGINS)],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": "/nonexistent"},
        )
        milliseconds, has_fastapi, *loaded = done.stdout.splitlines()[-1].split()
        taken.append(float(milliseconds))
        assert has_fastapi == "False"
    median = statistics.median(taken)
    print(
        f"\nloading the plugin: {median:.1f} ms (median of {ROUNDS}; {at_most(median, MOST_MS, ' ms')}),"
        f" {len(loaded)} modules"
    )
