"""Airflow on this machine: the processes of one installation, started, watched and ended."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

import httpx
import psutil
from cryptography.fernet import Fernet

from nancalacc.config import ConnectionInfo
from nancalacc.errors import ConfigurationError
from nancalacc.sandbox.airflow_api import AirflowApi
from nancalacc.sandbox.postgres import free_port

log = logging.getLogger(__name__)

START_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.2
LOG_LINES_IN_ERROR = 15
LOCAL_BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"
PROJECT = Path(__file__).parents[3]


def connection_json(connection: ConnectionInfo, *, conn_type: str = "http") -> str:
    """A connection in the JSON form that AIRFLOW_CONN_* takes."""
    fields = {
        "conn_type": conn_type,
        "host": connection.host,
        "login": connection.login,
        "password": connection.password,
        "schema": connection.schema,
        "port": connection.port,
        "extra": dict(connection.extra),
    }
    return json.dumps({name: value for name, value in fields.items() if value})


class Component(StrEnum):
    """The long-running processes of Airflow."""

    API_SERVER = "api-server"
    DAG_PROCESSOR = "dag-processor"
    SCHEDULER = "scheduler"
    TRIGGERER = "triggerer"


ARGUMENTS: Mapping[Component, tuple[str, ...]] = {
    Component.API_SERVER: (),
    Component.DAG_PROCESSOR: (),
    Component.SCHEDULER: ("--skip-serve-logs",),
    Component.TRIGGERER: ("--skip-serve-logs",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """What an installation is made of.

    `home` receives configuration, logs and the users' passwords. `database_url` is Airflow's own
    database (`postgresql://…`). `connections` maps a connection id to the JSON or URL that
    AIRFLOW_CONN_* takes; those named in `stored_connections` go to Airflow's database instead of the
    environment.
    `more_dags` are further directories with DAG files, by the name of their bundle.
    `environment` is added last and wins. Components not listed are not started.
    """

    home: Path
    database_url: str = field(repr=False)
    connections: Mapping[str, str] = field(default_factory=dict, repr=False)
    stored_connections: frozenset[str] = frozenset()
    dags: Path = PROJECT / "dags"
    more_dags: Mapping[str, Path] = field(default_factory=dict)
    plugins: Path = PROJECT / "plugins"
    port: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    components: tuple[Component, ...] = tuple(Component)


class AirflowStack:
    """Airflow with LocalExecutor, on 127.0.0.1 only, as long as the `with` block.

    Every component has a session of its own, so that Ctrl-C reaches only the one who started the
    stack, and a log file in `home`. `admin`, `editor` and `viewer` are the users, with random passwords.
    Raises ConfigurationError with the end of the log when a component does not start.
    """

    def __init__(self, settings: StackSettings, *, report: Callable[[str], None] | None = None) -> None:
        self.home = settings.home
        self.port = settings.port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.passwords = {name: secrets.token_urlsafe(9) for name in ("admin", "editor", "viewer")}
        self._settings = settings
        self._report = report or (lambda text: log.info("%s", text))
        self._running: dict[Component, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._environment = self._make_environment()
        self.api = AirflowApi(self.base_url, username="admin", password=self.passwords["admin"])

    def __enter__(self) -> Self:
        try:
            self.start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of all components, for a command of one's own."""
        return self._environment

    def api_as(self, username: str) -> AirflowApi:
        """A client of the API as `admin`, `editor` or `viewer`; the caller closes it."""
        return AirflowApi(self.base_url, username=username, password=self.passwords[username])

    def start_all(self) -> None:
        """Create the database and start the components; returns when Airflow answers for all of them."""
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        password_file = Path(self._environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
        password_file.touch(mode=0o600)
        password_file.write_text(json.dumps(self.passwords))
        self._report("Airflow's database")
        self.command("db", "migrate")
        for conn_id in sorted(self._settings.stored_connections):
            text = self._settings.connections[conn_id]
            form = "--conn-json" if text.startswith("{") else "--conn-uri"
            self.command("connections", "add", conn_id, form, text)
        self._report("Airflow's components")
        # Tasks that start while the API server is away are killed, so the scheduler comes last.
        early = (Component.API_SERVER, Component.DAG_PROCESSOR)
        for component in early:
            if component in self._settings.components:
                self.start(component, wait=False)
        self.wait_healthy(Component.API_SERVER)
        for component in self._settings.components:
            if component not in early:
                self.start(component, wait=False)
        for component in self._settings.components:
            self.wait_healthy(component)

    def command(self, *arguments: str) -> str:
        """Run an `airflow` command to its end and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=dict(self._environment),
            cwd=self.home,
            start_new_session=True,
        )
        if done.returncode:
            raise ConfigurationError(f"airflow {arguments[0]} failed: {_tail(done.stdout + done.stderr)}")
        return done.stdout

    def start(self, component: Component, *, wait: bool = True) -> None:
        """Start a component that is not running."""
        if component in self._running:
            raise ConfigurationError(f"Airflow's {component} is running already")
        with self.log_file(component).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", component.value, *ARGUMENTS[component]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self._environment),
                cwd=self.home,
                start_new_session=True,
            )
        self._running[component] = process
        self._sessions.add(process.pid)
        if wait:
            self.wait_healthy(component)

    def stop(self, component: Component) -> None:
        """Ask a component to end, and wait for it."""
        self._end([component])

    def kill(self, component: Component) -> None:
        """End a component and everything it started at once, as if the machine had gone."""
        process = self._running.pop(component)
        _kill_session(process.pid)
        process.wait()

    def processes(self, component: Component) -> list[psutil.Process]:
        """The component's process and all that came of it, tasks included."""
        return _session(self._running[component].pid)

    def log_file(self, component: Component) -> Path:
        """Where a component writes what it prints."""
        return self.home / "logs" / f"{component}.log"

    def wait_healthy(self, component: Component, *, timeout: float = START_SECONDS) -> None:
        """Wait until the component answers or has reported its heart-beat since it was started."""
        process = self._running[component]
        started = psutil.Process(process.pid).create_time() if psutil.pid_exists(process.pid) else 0.0
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._running.pop(component)
                raise ConfigurationError(
                    f"Airflow's {component} ended with exit code {process.returncode}: "
                    f"{_tail(self.log_file(component).read_text(errors='replace'))}"
                )
            if self._is_healthy(component, since=started):
                return
            time.sleep(POLL_SECONDS)
        raise ConfigurationError(f"Airflow's {component} does not answer after {timeout:g} s")

    def close(self) -> None:
        """End all components, in the order that lets tasks finish reporting, and what they left."""
        self._end([component for component in reversed(Component) if component in self._running])
        for session in self._sessions:
            _kill_session(session)
        self._sessions.clear()
        self.api.close()

    def _end(self, components: list[Component]) -> None:
        processes = [self._running.pop(component) for component in components]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _kill_session(process.pid)
            process.wait()

    def _is_healthy(self, component: Component, *, since: float) -> bool:
        try:
            answer = httpx.get(f"{self.base_url}/api/v2/monitor/health", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        if answer.is_error:
            return False
        if component is Component.API_SERVER:
            return True
        name = component.value.replace("-", "_")
        heartbeat = (answer.json().get(name) or {}).get(f"latest_{name}_heartbeat")
        # A heart-beat from before a restart is that of the process before.
        return heartbeat is not None and datetime.fromisoformat(str(heartbeat)).timestamp() >= since

    def _make_environment(self) -> dict[str, str]:
        """What the components need of ours, and nothing that the caller's AIRFLOW__* would change."""
        home, settings = self.home, self._settings
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        bundles = [
            {"name": name, "classpath": LOCAL_BUNDLE, "kwargs": {"path": str(path)}}
            for name, path in {"dags-folder": settings.dags, **settings.more_dags}.items()
        ]
        airflow_database = settings.database_url.split("://", 1)[1]
        environment |= {
            "AIRFLOW_HOME": str(home),
            "PYTHONPATH": str(PROJECT / "include"),
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "127.0.0.1",
            "AIRFLOW__API__BASE_URL": self.base_url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(settings.dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.base_url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(settings.plugins),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,editor:user,viewer:viewer",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{airflow_database}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{airflow_database}",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs" / "tasks"),
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        for conn_id, text in settings.connections.items():
            if conn_id not in settings.stored_connections:
                environment[f"AIRFLOW_CONN_{conn_id.upper()}"] = text
        return {**environment, **settings.environment}


def _session(leader: int) -> list[psutil.Process]:
    """The processes of a session, its leader first if it still lives."""
    members = []
    for pid in sorted(psutil.pids(), key=lambda pid: pid != leader):
        with suppress(ProcessLookupError, psutil.NoSuchProcess, PermissionError):
            if os.getsid(pid) == leader:
                members.append(psutil.Process(pid))
    return members


def _kill_session(leader: int) -> None:
    for process in _session(leader):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def _tail(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " | ".join(lines[-LOG_LINES_IN_ERROR:]) or "it said nothing"
