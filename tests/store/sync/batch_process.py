"""A batch in a process of its own, which dies in the middle of notify_wps.

Started as a program (`python -m store.sync.batch_process JSON`) with what `Task` holds.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nancalacc.config import ConnectionInfo
from nancalacc.sync import confirm, increments

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Task:
    """What the process needs; `dies`: where it ends itself by SIGKILL."""

    database_url: str
    dingtalk: dict[str, Any]
    wps: dict[str, Any]
    run_id: str
    dies: str

    def run(self) -> int:
        """Start the process and wait for its end; returns its exit code."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "store.sync.batch_process", json.dumps(asdict(self))],
            env=dict(os.environ) | {"PYTHONPATH": f"{ROOT / 'include'}:{ROOT / 'tests'}"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        print(done.stderr[-3000:])
        return done.returncode


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def then_die(function: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any, **options: Any) -> Any:
        function(*arguments, **options)
        die()

    return both


def then_die_async(function: Callable[..., Any]) -> Callable[..., Any]:
    async def both(*arguments: Any, **options: Any) -> Any:
        await function(*arguments, **options)
        die()

    return both


DEATHS: dict[str, Callable[[], None]] = {
    "before the rows are committed": lambda: setattr(
        increments, "publish_round", then_die(increments.publish_round)
    ),
    "before the call": lambda: setattr(confirm.Publication, "_notify", die),
    "before the answer is written down": lambda: setattr(
        confirm.Publication, "_call", then_die_async(confirm.Publication._call)
    ),
}


def main(task: Task) -> None:
    from store.sync.batches import Batches, BatchRun
    from store.sync.conftest import FullSync

    connections = SimpleNamespace(
        dingtalk_connection=ConnectionInfo(**task.dingtalk), wps_connection=ConnectionInfo(**task.wps)
    )
    batches = Batches(FullSync(task.database_url, connections))
    DEATHS[task.dies]()
    BatchRun(batches, task.run_id, {}).steps(to="notify_wps")


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])))
