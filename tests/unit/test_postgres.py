"""The private PostgreSQL server of demo and tests."""

import os
import tempfile
from pathlib import Path

import psutil
import psycopg
import pytest

from nancalacc.errors import ConfigurationError
from nancalacc.sandbox import postgres as module
from nancalacc.sandbox.postgres import Postgres


def server_process(server: Postgres) -> psutil.Process:
    with psycopg.connect(server.url()) as connection:
        return psutil.Process(connection.info.backend_pid).parent()


def test_a_copy_of_a_template_has_its_tables_and_nothing_of_its_sibling(postgres: Postgres) -> None:
    with psycopg.connect(postgres.create_database("original")) as connection:
        connection.execute("CREATE TABLE things (name text)")
    first = postgres.create_database("first_copy", template="original")
    second = postgres.create_database("second_copy", template="original")
    with psycopg.connect(first) as connection:
        connection.execute("INSERT INTO things VALUES ('one')")

    with psycopg.connect(second) as connection:
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (0,)


def test_a_database_is_dropped_although_somebody_is_connected(postgres: Postgres) -> None:
    url = postgres.create_database("in_use")
    with psycopg.connect(url, autocommit=True) as connection:
        postgres.drop_database("in_use")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_it_wants_the_password_and_answers_in_utc(postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host="127.0.0.1", port=postgres.port, user=module.SUPERUSER, password="wrong")
    with psycopg.connect(postgres.url()) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_it_listens_on_the_loopback_interface_only(postgres: Postgres) -> None:
    listening = [c.laddr for c in server_process(postgres).net_connections() if c.status == "LISTEN"]
    assert listening
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_it_does_not_run_as_root_and_has_a_session_of_its_own(postgres: Postgres) -> None:
    process = server_process(postgres)
    assert process.uids().effective != 0
    assert os.getsid(process.pid) == process.pid


def test_nothing_is_left_after_the_block() -> None:
    with Postgres(durable=False) as server:
        process = server_process(server)
        with psycopg.connect(server.url()) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
            assert row is not None
            root = Path(row[0]).parent
    assert not process.is_running()
    assert not root.exists()


@pytest.mark.slow
def test_a_server_that_was_down_is_found_where_it_was_with_everything_in_it() -> None:
    with Postgres(durable=False) as server:
        url = server.create_database("kept")
        with psycopg.connect(url) as before:
            before.execute("CREATE TABLE things (name text)")
            before.commit()
            with server.down(), pytest.raises(psycopg.OperationalError):
                psycopg.connect(url)
            with pytest.raises(psycopg.OperationalError):
                before.execute("SELECT 1")
        with psycopg.connect(url) as after:
            assert after.execute("SELECT count(*) FROM things").fetchone() == (0,)


def test_a_server_that_dies_at_once_is_reported_with_what_it_said() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"PostgreSQL does not start .*max_connections"),
        Postgres(durable=False, max_connections=-1),
    ):
        pass


def test_when_the_port_was_taken_meanwhile_another_one_is_used(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_port = module.free_port
    ports = iter([postgres.port])
    monkeypatch.setattr(module, "free_port", lambda: next(ports, None) or find_port())

    with Postgres(durable=False) as server:
        assert server.port != postgres.port


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives the server to another user")
def test_programs_the_server_user_cannot_reach_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    can_run = module._can_run
    temporary = Path(tempfile.gettempdir())
    monkeypatch.setattr(
        module, "_can_run", lambda path, user: path.is_relative_to(temporary) and can_run(path, user)
    )

    with Postgres(durable=False) as server:
        assert Path(server_process(server).exe()).is_relative_to(temporary)
