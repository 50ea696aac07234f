"""What the demo says, without Airflow."""

import io
import socket
from collections.abc import Iterator

import psycopg
import pytest
from rich.console import Console

from nancalacc.errors import ConfigurationError
from nancalacc.sandbox import demo
from nancalacc.sandbox.demo_view import SagaView, follow


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_gives_one_line_that_names_it(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_PORT", str(taken_port))
    with pytest.raises(ConfigurationError, match=f"Port {taken_port} .* DEMO_PORT={taken_port + 1}"):
        demo.require_free_port(demo.demo_port())


@pytest.mark.parametrize("text", ["eighty", "80", "70000", "-1"])
def test_a_wrong_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_PORT", text)
    with pytest.raises(ConfigurationError, match=f"DEMO_PORT .* {text!r}"):
        demo.demo_port()


@pytest.fixture
def running_saga(database_url: str) -> str:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO saga_transactions (transaction_id, name, status, progress, dag_id, run_id, task_id)"
            " VALUES ('t', 'full_sync', 'in_progress', 50, 'full_sync', 'r', '20261123031500')"
        )
        connection.execute(
            "INSERT INTO saga_steps (step_id, transaction_id, step_name, status, position, action_data,"
            " start_time, end_time) VALUES"
            " ('t:fetch', 't', 'fetch', 'completed', 1, '{\"users\": 1250, \"pages\": 3}',"
            " '2026-01-01 00:00:00', '2026-01-01 00:00:02.5'),"
            " ('t:save', 't', 'save', 'in_progress', 2, NULL, '2026-01-01 00:00:03', NULL)"
        )
        connection.execute(
            "INSERT INTO tb_las_department (did, task_id, third_company_id, platform_id, name)"
            " VALUES ('1', '20261123031500', 'c', 'p', 'mine'), ('1', '20261122031500', 'c', 'p', 'old')"
        )
    return database_url


def test_a_run_is_followed_line_by_line_until_it_ends(running_saga: str) -> None:
    output = io.StringIO()
    view = SagaView(running_saga, dag_id="full_sync", run_id="r")
    asked = 0

    def ended() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            with psycopg.connect(running_saga) as connection:
                connection.execute("UPDATE saga_steps SET status = 'failed' WHERE step_name = 'save'")
        return asked == 2

    follow(view, console=Console(file=output, width=120), ended=ended)

    lines = [line.split() for line in output.getvalue().splitlines()]
    assert lines == [
        ["50", "%", "fetch", "completed", "1,250", "users"],
        ["50", "%", "save", "in_progress"],
        ["50", "%", "save", "failed"],
    ]


def test_a_terminal_shows_the_steps_with_time_and_counts(running_saga: str) -> None:
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True, color_system=None)

    follow(SagaView(running_saga, dag_id="full_sync", run_id="r"), console=console, ended=lambda: True)

    shown = output.getvalue()
    assert "saga in_progress" in shown
    assert "50 %" in shown
    assert "2.5 s" in shown
    assert "1,250 users" in shown


def test_only_rows_of_the_runs_own_task_id_are_counted(running_saga: str) -> None:
    view = SagaView(running_saga, dag_id="full_sync", run_id="r")
    assert view.rows_written()["tb_las_department"] == 1
    assert SagaView(running_saga, dag_id="full_sync", run_id="other").saga() is None
