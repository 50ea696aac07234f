"""A fresh company for each test on the running Airflow."""

from collections.abc import Iterator

import pytest

from e2e.company import DAG, OWN_TABLES, Company, small_organisation
from nancalacc.sandbox.server import Sandbox
from nancalacc.sandbox.stack import AirflowStack


@pytest.fixture
def company(stack: AirflowStack, stack_sandbox: Sandbox, stack_database_url: str) -> Iterator[Company]:
    """A company that has never been synced."""
    stack_sandbox.reset(organisation=small_organisation())
    found = Company(stack=stack, sandbox=stack_sandbox, database_url=stack_database_url)
    found.execute(f"TRUNCATE {OWN_TABLES} RESTART IDENTITY CASCADE")
    stack.api.wait_for_dag(DAG)
    yield found
    stack_sandbox.faults.clear()
