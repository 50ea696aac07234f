"""A full sync as its tasks do it: each step in a process of its own, the sandbox in another.

Started as a program (`python tasks.py STEP RUN_ID`) it is such a process and prints what it found.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from nancalacc.sandbox.postgres import free_port

PROJECT = Path(__file__).parents[2]
START_SECONDS = 60.0
LONGEST_CALL_SECONDS = 300.0
STEPS = (
    "validate_task",
    "fetch_dingtalk_data",
    "save_company_config",
    "save_departments",
    "save_users",
    "save_relations",
    "notify_wps",
    "update_task_status",
)


@dataclass(frozen=True, slots=True)
class Done:
    """What a step took: seconds of its action, MiB at its peak and before it, its action_data."""

    seconds: float
    peak_mib: float
    base_mib: float
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class TaskProcesses:
    """Runs steps against a sandbox; `calls_per_second` and `user_details` are of the connection."""

    home: Path
    database_url: str = field(repr=False)
    sandbox_url: str
    calls_per_second: float = 0
    user_details: bool = True

    def run(self, run_id: str, *, to: str = STEPS[-1]) -> dict[str, Done]:
        """Run the steps of one saga up to `to`."""
        return {step: self._step(step, run_id) for step in STEPS[: STEPS.index(to) + 1]}

    def _step(self, step: str, run_id: str) -> Done:
        dingtalk = {
            "conn_type": "http",
            "host": self.sandbox_url,
            "login": "sandbox-app",
            "password": "sandbox-app-secret",
            "extra": {
                "api_host": self.sandbox_url,
                "calls_per_second": self.calls_per_second,
                "user_details": self.user_details,
            },
        }
        wps = {
            "conn_type": "http",
            "host": self.sandbox_url,
            "login": "sandbox-client",
            "password": "sandbox-client-secret",
            "extra": {
                "third_company_id": "sandbox",
                "platform_id": "dingtalk",
                "company_id": "sandbox-wps",
                "phone_salt_secret": "sandbox-salt",
            },
        }
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT / "include"),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW_CONN_NANCALACC_DB": self.database_url,
            "AIRFLOW_CONN_DINGTALK_DEFAULT": json.dumps(dingtalk),
            "AIRFLOW_CONN_WPS_DEFAULT": json.dumps(wps),
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, step, run_id],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return Done(**json.loads(done.stdout.strip().splitlines()[-1]))


@contextmanager
def sandbox_process(
    home: Path, *, people: int, departments: int, calls_per_second: int = 0, database_url: str = ""
) -> Iterator[str]:
    """A sandbox in a process of its own, with an organisation of that size; gives its URL.

    Without a database WPS accepts everything and does nothing.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (home / "sandbox.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nancalacc", "sandbox", "--port", str(port)],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(PROJECT / "include"),
                "SANDBOX_DATABASE_URL": database_url,
            },
            stdout=log,
            stderr=log,
        )
    try:
        with sandbox_client(url) as client:
            _wait_until_ready(client)
            client.patch(
                "/settings",
                json={
                    "dingtalk": {"calls_per_second": calls_per_second},
                    "consumer": {"paused": not database_url},
                },
            ).raise_for_status()
            size = {"people": people, "departments": departments}
            client.put("/dingtalk", json=size).raise_for_status()
            client.delete("/calls").raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait()


def sandbox_client(url: str) -> httpx.Client:
    """A client of the control API."""
    return httpx.Client(base_url=f"{url}/_sandbox", trust_env=False, timeout=LONGEST_CALL_SECONDS)


def call_times(url: str) -> dict[str, list[float]]:
    """When each path of the sandbox was called, in seconds of a clock of its own."""
    answer = httpx.get(f"{url}/_sandbox/calls", params={"timestamps": ""}, trust_env=False, timeout=60)
    times: dict[str, list[float]] = answer.raise_for_status().json()["timestamps"]
    return times


def _wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.get("/settings").raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def mib() -> float:
    """The most memory this process has had so far (Linux); ru_maxrss would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def run_step(step: str, run_id: str) -> Done:
    """What the task of a step does, without Airflow's part."""
    from nancalacc.orchestration.hooks import open_coordinator, sync_services
    from nancalacc.sync.full import FULL_SYNC

    with open_coordinator() as coordinator:
        transaction_id = coordinator.start(FULL_SYNC, dag_id="full_sync", run_id=run_id, params={})
        base, before = mib(), time.perf_counter()
        data = coordinator.run_step(
            FULL_SYNC,
            transaction_id,
            step,
            services=sync_services(run_id=run_id, start=datetime.now(UTC)),
            params={},
        )
        return Done(time.perf_counter() - before, mib(), base, dict(data))


if __name__ == "__main__":
    found = run_step(*sys.argv[1:])
    print(json.dumps({name: getattr(found, name) for name in Done.__slots__}, default=str))
