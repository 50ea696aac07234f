"""How many events a second a listener commits and confirms, gateway and listener in a process each."""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench.targets import at_least
from nancalacc.sandbox.postgres import Postgres, free_port
from nancalacc.store.migrate import upgrade

pytestmark = [pytest.mark.bench, pytest.mark.slow]

INCLUDE = Path(__file__).parents[2] / "include"
EVENTS, ROUNDS = 10_000, 3
TARGET_PER_SECOND = 2_000


class Gateway:
    """The control API of a sandbox that runs in another process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def events(self, body: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}/_sandbox/events", data=content) as answer:
            return json.load(answer)

    def wait(self, key: str, value: int) -> None:
        while True:
            try:
                if self.events()[key] == value:
                    return
            except OSError:
                pass
            time.sleep(0.05)


@pytest.fixture
def database_url() -> Iterator[str]:
    """A database that writes to disk, as in production."""
    with Postgres(durable=True) as server:
        url = server.create_database("intake")
        upgrade(url)
        yield url


@pytest.fixture
def gateway(database_url: str, tmp_path: Path) -> Iterator[Gateway]:
    port = free_port()
    found = Gateway(port)
    connection = {
        "conn_type": "http",
        "host": found.url,
        "login": "sandbox-app",
        "password": "sandbox-app-secret",
        "extra": {"api_host": found.url},
    }
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(INCLUDE),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_NANCALACC_DB": database_url,
        "AIRFLOW_CONN_DINGTALK_DEFAULT": json.dumps(connection),
    }
    with (tmp_path / "log").open("wb") as log:
        running = [
            subprocess.Popen([sys.executable, "-m", "nancalacc", *command], env=environment, stderr=log)
            for command in (["sandbox", "--port", str(port)], ["listen"])
        ]
    try:
        found.wait("connections", 1)
        yield found
    finally:
        for process in running[::-1]:
            process.terminate()
            process.wait(20)


def test_events_that_a_listener_commits_in_a_second(gateway: Gateway, database_url: str) -> None:
    rates = []
    with psycopg.connect(database_url, autocommit=True) as inbox:
        for _ in range(ROUNDS):
            inbox.execute("TRUNCATE dingtalk_events")
            started = time.monotonic()
            gateway.events(
                [{"type": "user_add_org", "data": {"userId": [f"u{number}"]}} for number in range(EVENTS)]
            )
            gateway.wait("outstanding", 0)
            rates.append(EVENTS / (time.monotonic() - started))
            row = inbox.execute("SELECT count(*) FROM dingtalk_events").fetchone()
            assert row == (EVENTS,)
    rate = statistics.median(rates)
    print(f"\nintake: {rate:,.0f} events/s committed and confirmed ({at_least(rate, TARGET_PER_SECOND)})")
