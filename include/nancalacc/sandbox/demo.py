"""`make demo`: the whole system on this machine, with a full sync to look at."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from nancalacc.errors import ConfigurationError, NancalaccError
from nancalacc.sandbox.airflow_api import FINISHED
from nancalacc.sandbox.demo_view import SagaView, follow, steps_table
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.server import Sandbox, SandboxOptions, running_sandbox
from nancalacc.sandbox.stack import PROJECT, AirflowStack, StackSettings, connection_json
from nancalacc.store.migrate import upgrade

DAG_ID = "full_sync"
DEFAULT_PORT = 8080
CALLS_PER_SECOND = 100
RUN_SECONDS = 600.0
APPLY_SECONDS = 60.0
REFUSAL = "the sandbox was told to refuse"


class Demo:
    """The running system: PostgreSQL, the sandbox of DingTalk and WPS, and Airflow.

    Everything it starts ends with the `with` block. Raises ConfigurationError when the port is
    taken or a part does not start.
    """

    def __init__(self, *, port: int, home: Path, console: Console) -> None:
        self._port = port
        self._home = home
        self._console = console
        self._stack = ExitStack()

    def __enter__(self) -> Demo:
        require_free_port(self._port)
        shutil.rmtree(self._home, ignore_errors=True)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything that was started."""
        # A second Ctrl-C must not leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._console.print("Stopping")
        self._stack.close()

    def _start(self) -> None:
        self._say("PostgreSQL")
        postgres = self._stack.enter_context(Postgres())
        self.database_url = postgres.create_database("nancalacc")
        upgrade(self.database_url)
        self._say("DingTalk and WPS (sandbox)")
        options = SandboxOptions(dingtalk=DingTalkRules(calls_per_second=CALLS_PER_SECOND))
        self.sandbox: Sandbox = self._stack.enter_context(
            running_sandbox(database_url=self.database_url, options=options)
        )
        settings = StackSettings(
            home=self._home,
            database_url=postgres.create_database("airflow"),
            port=self._port,
            connections={
                "nancalacc_db": self.database_url,
                "dingtalk_default": connection_json(self.sandbox.dingtalk_connection),
                "wps_default": connection_json(self.sandbox.wps_connection),
            },
            environment={"NANCALACC_FULL_SYNC_SCHEDULE": "none", "NANCALACC_RETRY_DELAY_SECONDS": "2"},
        )
        self.airflow = self._stack.enter_context(AirflowStack(settings, report=self._say))
        self.airflow.api.wait_for_dag(DAG_ID)

    def _say(self, text: str) -> None:
        self._console.print(f"Starting {text}")

    def full_sync(self, *, run_id: str) -> bool:
        """Trigger a full sync, show it until it ends, and say whether the run succeeded."""
        self._console.print(f"\n[bold]Full sync[/bold] {run_id}")
        self.airflow.api.trigger(DAG_ID, run_id=run_id)
        return self.show(run_id)

    def clear_failed(self, *, run_id: str, task_id: str) -> bool:
        """Clear a failed task with what lies downstream, show the run until it ends."""
        self._console.print(f"\n[bold]Clearing[/bold] {task_id} of {run_id}, with downstream")
        self.airflow.api.clear(DAG_ID, run_id, task_ids=[task_id], downstream=True)
        return self.show(run_id)

    def show(self, run_id: str) -> bool:
        """Show a run until it ends, then its result; true when Airflow calls it a success."""
        view = SagaView(self.database_url, dag_id=DAG_ID, run_id=run_id)
        deadline = time.monotonic() + RUN_SECONDS

        def ended() -> bool:
            if time.monotonic() > deadline:
                states = self.airflow.api.task_states(DAG_ID, run_id)
                raise NancalaccError(f"The run has not ended after {RUN_SECONDS:g} s; its tasks: {states}")
            return self.airflow.api.run_state(DAG_ID, run_id) in FINISHED

        follow(view, console=self._console, ended=ended)
        state = self.airflow.api.run_state(DAG_ID, run_id)
        saga = view.saga()
        if not self._console.is_terminal:
            self._console.print(steps_table(view.steps()))
        status = saga.status if saga else "never begun"
        self._console.print(f"Run {state}, saga {status}")
        if saga is not None and saga.error_message and state != "success":
            self._console.print(Text(saga.error_message, style="red"), soft_wrap=True)
        written = ", ".join(f"{count:,} in {table}" for table, count in view.rows_written().items())
        self._console.print(f"Rows WPS can read: {written}", soft_wrap=True)
        return state == "success"

    def same_in_wps(self) -> bool:
        """Wait until WPS has worked through what was published, and compare both organisations."""
        deadline = time.monotonic() + APPLY_SECONDS
        found = self.sandbox.compare()
        while not found.equal and time.monotonic() < deadline:
            time.sleep(0.5)
            found = self.sandbox.compare()
        counts = found.counts
        self._console.print(
            f"WPS has {counts['departments']:,} of {counts['departments_expected']:,} departments,"
            f" {counts['users']:,} of {counts['users_expected']:,} users,"
            f" {counts['memberships']:,} of {counts['memberships_expected']:,} memberships:"
            f" {'the same as DingTalk' if found.equal else 'NOT the same as DingTalk'}",
            soft_wrap=True,
        )
        for difference in found.differences:
            self._console.print(Text(f"  {difference}", style="red"), soft_wrap=True)
        return found.equal

    def succeed(self) -> bool:
        """The ordinary demonstration: one full sync."""
        return self.full_sync(run_id="demo") and self.same_in_wps()

    def fail_and_repair(self) -> bool:
        """A full sync that WPS refuses, its compensation, and the clear that repairs it."""
        self.sandbox.faults.add("errcode", path="full/sync", code="403", text=REFUSAL, times=None)
        if self.full_sync(run_id="demo-failure"):
            self._console.print("The run should have failed")
            return False
        self.sandbox.faults.clear()
        self._console.print("\nWPS accepts again: the fault is removed")
        repaired = self.clear_failed(run_id="demo-failure", task_id="notify_wps")
        return repaired and self.same_in_wps()

    def explain(self) -> None:
        """Say where everything is."""
        url = self.airflow.base_url
        self._console.print(
            f"\n[bold]Airflow[/bold]     {url}  (admin / {self.airflow.passwords['admin']})\n"
            f"Read only   viewer / {self.airflow.passwords['viewer']}\n"
            f"Trigger     {url}/dags/{DAG_ID}: Trigger opens the form; or in another terminal:\n"
            f"  TOKEN=$(curl -s {url}/auth/token -H 'Content-Type: application/json'"
            f' -d \'{{"username": "admin", "password": "{self.airflow.passwords["admin"]}"}}\''
            " | python3 -c \"import json, sys; print(json.load(sys.stdin)['access_token'])\")\n"
            f'  curl -s {url}/api/v2/dags/{DAG_ID}/dagRuns -H "Authorization: Bearer $TOKEN"'
            " -H 'Content-Type: application/json'"
            ' -d \'{"logical_date": null, "conf": {"dry_run": true}}\'\n'
            f"Sandbox     {self.sandbox.url}/_sandbox\n"
            f"Database    {self.database_url}\n"
            f"Logs        {self._home / 'logs'}",
            soft_wrap=True,
            highlight=False,
        )


def require_free_port(port: int) -> None:
    """Raise ConfigurationError when something listens on the port already."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigurationError(
                f"Port {port} of 127.0.0.1 is taken: choose another one, for example DEMO_PORT={port + 1}"
            ) from None


def demo_port() -> int:
    """The port from DEMO_PORT; raises ConfigurationError unless it is one."""
    text = os.environ.get("DEMO_PORT") or str(DEFAULT_PORT)
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise ConfigurationError(f"DEMO_PORT must be a port between 1024 and 65535, not {text!r}")
    return int(text)


def _terminated(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit code says whether the result is the expected one."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--failure", action="store_true", help="a sync that fails, and its repair")
    parser.add_argument("--home", type=Path, default=PROJECT / ".demo", help="where Airflow keeps its files")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    try:
        with Demo(port=demo_port(), home=options.home, console=console) as demo:
            good = demo.fail_and_repair() if options.failure else demo.succeed()
            demo.explain()
            if os.environ.get("DEMO_EXIT") != "1":
                console.print("\nCtrl-C stops everything")
                with suppress(KeyboardInterrupt):
                    signal.pause()
            return 0 if good else 1
    except NancalaccError as error:
        console.print(Text(str(error), style="red"), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
