import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text

from nancalacc.errors import (
    ConfigurationError,
    DatabaseError,
    NancalaccError,
    SchemaError,
    StatementRefusedError,
)
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database, database_url
from toy_saga import Toy

PHONE = "13800000000"
INSERT_PERSON = text("INSERT INTO toy_people (phone) VALUES (:phone)")


def copy(connection: Connection, *rows: tuple[Any, ...]) -> None:
    cursor = connection.connection.cursor()
    with cursor, cursor.copy("COPY toy_people (phone, age) FROM STDIN") as target:
        for row in rows:
            target.write_row(row)


def insert_twice(connection: Connection) -> None:
    for _ in range(2):
        connection.execute(INSERT_PERSON, {"phone": PHONE})


def copy_twice(connection: Connection) -> None:
    copy(connection, (PHONE, 1), (PHONE, 2))


def copy_text_as_number(connection: Connection) -> None:
    copy(connection, ("1", PHONE + "x"))


def cast_to_number(connection: Connection) -> None:
    connection.execute(text("SELECT CAST(:value AS integer)"), {"value": PHONE + "x"})


def number_out_of_range(connection: Connection) -> None:
    connection.execute(text("SELECT CAST(:value AS integer)"), {"value": PHONE})


def raised_by_a_function(connection: Connection) -> None:
    connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no {PHONE}'; END $$"))


def not_json(connection: Connection) -> None:
    connection.execute(text("SELECT CAST(:value AS jsonb)"), {"value": f'{{"phone": {PHONE}'})


def date(connection: Connection) -> None:
    connection.execute(text("SELECT CAST(:value AS date)"), {"value": PHONE})


DISCLOSING = [
    insert_twice,
    copy_twice,
    copy_text_as_number,
    cast_to_number,
    number_out_of_range,
    raised_by_a_function,
    not_json,
    date,
]


@pytest.mark.parametrize("statement", DISCLOSING)
def test_no_error_tells_what_is_in_the_rows(
    toy_url: str, toy_database: Database, statement: Callable[[Connection], None]
) -> None:
    with pytest.raises(StatementRefusedError) as caught, toy_database.transaction() as connection:
        statement(connection)
    told = "".join(traceback.format_exception(caught.value))
    assert PHONE not in told.replace(statement.__name__, "")
    assert "SQLSTATE" in str(caught.value)


@pytest.mark.parametrize("statement", [insert_twice, copy_twice])
@pytest.mark.parametrize("where", ["completing", "own"])
def test_no_error_of_an_action_tells_what_is_in_the_rows(
    saga: Toy, statement: Callable[[Connection], None], where: str
) -> None:
    def hook(point: str, context: Any) -> None:
        if where == "completing":
            statement(context.connection)
        else:
            with context.transaction() as connection:
                statement(connection)

    saga.services.hook = hook
    with pytest.raises(NancalaccError) as caught:
        saga.run("validate")
    told = "".join(traceback.format_exception(caught.value)) + str([each.event_data for each in saga.events])
    assert PHONE not in told
    assert "toy_people_pkey" in (saga.steps["validate"].error_message or "")


def test_the_settings_of_a_session_are_the_engines(toy_database: Database) -> None:
    wanted = {
        "TimeZone": "UTC",
        "transaction_isolation": "read committed",
        "lock_timeout": "30s",
        "statement_timeout": "15min",
        "idle_in_transaction_session_timeout": "20s",
        "application_name": "nancalacc",
    }
    with toy_database.transaction() as connection:
        found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in wanted}
    assert found == wanted


def test_a_session_has_a_name_for_one_transaction(toy_database: Database) -> None:
    with toy_database.transaction(name="nancalacc step") as connection:
        assert connection.execute(text("SHOW application_name")).scalar_one() == "nancalacc step"
    with toy_database.transaction() as connection:
        assert connection.execute(text("SHOW application_name")).scalar_one() == "nancalacc"


def test_what_raises_is_rolled_back(toy_url: str, toy_database: Database) -> None:
    with pytest.raises(StatementRefusedError), toy_database.transaction() as connection:
        insert_twice(connection)
    with toy_database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM toy_people")).scalar_one() == 0


def test_a_transaction_knows_whether_it_has_written(toy_url: str, toy_database: Database) -> None:
    with toy_database.transaction() as connection:
        connection.execute(text("SELECT * FROM toy_people")).all()
        assert not toy_database.has_written(connection)
        connection.execute(INSERT_PERSON, {"phone": PHONE})
        assert toy_database.has_written(connection)


def test_only_the_sessions_of_that_name_are_ended(toy_database: Database) -> None:
    began = threading.Event()

    def hold() -> None:
        with toy_database.transaction(name="attempt 1.1") as connection:
            began.set()
            connection.execute(text("SELECT pg_sleep(60)"))

    with ThreadPoolExecutor(1) as executor:
        held = executor.submit(hold)
        assert began.wait(10)
        with toy_database.transaction(name="attempt 1.2") as connection:
            assert toy_database.terminate("attempt 1.", but="attempt 1.2") == 1
            assert isinstance(held.exception(10), DatabaseError)
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert toy_database.terminate("attempt") == 0


def test_a_database_that_is_not_there_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:secret-word@127.0.0.1:{taken.getsockname()[1]}/nothing"
        with (
            Database(url) as database,
            pytest.raises(DatabaseError, match=r"127\.0\.0\.1.*/nothing") as caught,
            database.transaction(),
        ):
            pass
    assert "secret-word" not in str(caught.value)


def test_a_missing_table_says_what_to_run(toy_database: Database) -> None:
    with (
        pytest.raises(SchemaError, match="python -m nancalacc db upgrade"),
        toy_database.transaction() as connection,
    ):
        connection.execute(text("SELECT * FROM nowhere"))


@pytest.mark.parametrize("url", ["mysql://somewhere/db", "not a url", ""])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        database_url(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_any_postgresql_url_is_understood(scheme: str) -> None:
    assert database_url(f"{scheme}://somewhere/db").drivername == "postgresql+psycopg"


def test_sessions_that_the_server_has_ended_are_replaced(toy_database: Database, postgres: Postgres) -> None:
    with toy_database.transaction() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with psycopg.connect(postgres.url(), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname LIKE 'nancalacc_toy%'"
        )
    with toy_database.transaction() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid
