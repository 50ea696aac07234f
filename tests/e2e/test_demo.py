"""`make demo` and `make demo-failure`, from nothing to the result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nancalacc.sandbox.postgres import free_port

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[2]
START_SECONDS = 120.0


def start_demo(home: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "nancalacc.sandbox.demo", f"--home={home}", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT / "include"),
            "DEMO_PORT": str(free_port()),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_demo_ends_with_the_same_organisation_on_both_sides(tmp_path: Path) -> None:
    with start_demo(tmp_path / "demo", DEMO_EXIT="1") as demo:
        said, _ = demo.communicate()

    assert demo.returncode == 0, said
    assert "Run success, saga completed" in said
    assert "memberships: the same as DingTalk" in said


def test_the_failing_demo_is_compensated_and_repaired_by_a_clear(tmp_path: Path) -> None:
    with start_demo(tmp_path / "demo", "--failure", DEMO_EXIT="1") as demo:
        said, _ = demo.communicate()

    assert demo.returncode == 0, said
    assert said.index("Run failed, saga compensated") < said.index("Run success, saga completed")
    assert "memberships: the same as DingTalk" in said


def test_ctrl_c_while_starting_leaves_no_process(tmp_path: Path) -> None:
    with start_demo(tmp_path / "demo") as demo:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and not (tmp_path / "demo" / "logs" / "scheduler.log").exists():
            time.sleep(0.2)
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate()

    assert demo.returncode == 130, said
    assert children
    assert [child for child in children if child.is_running()] == []
