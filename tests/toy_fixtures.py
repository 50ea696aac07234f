"""Fixtures of the toy saga, on a database that the tests of a directory share and each finds empty."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import text

from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database
from toy_saga import Toy, create_tables, toy

TABLES = (
    "saga_transactions",
    "company_locks",
    "toy_effects",
    "toy_published",
    "toy_people",
    "toy_doubts",
    "toy_decisions",
)


@pytest.fixture(scope="session")
def toy_database_url(postgres: Postgres, template_database: str) -> str:
    return postgres.create_database(f"nancalacc_toy_{uuid.uuid4().hex[:12]}", template=template_database)


@pytest.fixture(scope="session")
def toy_database(toy_database_url: str) -> Iterator[Database]:
    with Database(toy_database_url) as database:
        with database.transaction() as connection:
            create_tables(connection)
        yield database


@pytest.fixture
def toy_url(toy_database_url: str, toy_database: Database) -> str:
    with toy_database.transaction() as connection:
        connection.execute(text(";".join(f"DELETE FROM {table}" for table in TABLES)))
    return toy_database_url


@pytest.fixture
def another(toy_url: str) -> Iterator[Callable[..., Toy]]:
    """Makes further processes' view of a toy saga: same run unless told otherwise."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(toy(toy_url, **options))


@pytest.fixture
def saga(another: Callable[..., Toy]) -> Toy:
    return another()
