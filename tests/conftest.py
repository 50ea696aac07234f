"""Fixtures shared by all tests.

One PostgreSQL server a session with a fresh database a test, and, for the tests that ask for it,
one running Airflow with a sandbox of DingTalk and WPS.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from databases import Databases
from nancalacc.config import ConnectionInfo
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.postgres import Postgres, free_port
from nancalacc.sandbox.server import Sandbox, SandboxOptions, running_sandbox
from nancalacc.sandbox.stack import AirflowStack, StackSettings, connection_json
from otlp import Receiver, receiving

TEST_DAGS = Path(__file__).parent / "e2e" / "dags"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests with the running Airflow come late, those with a browser last.

    Airflow, once started, takes a share of the processor, and Playwright keeps an event loop
    running in the main thread, beside which no asynchronous test can run.
    """
    marks = ("airflow", "browser")
    items.sort(key=lambda item: [item.get_closest_marker(mark) is not None for mark in reversed(marks)])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have recorded under the name `figures`, of whatever process."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == "figures" and report.when == "call":
                    terminalreporter.write_sep("-", report.nodeid)
                    terminalreporter.write_line(str(value))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: Postgres) -> str:
    """The name of a migrated database that nobody is connected to."""
    from nancalacc.store.migrate import upgrade

    upgrade(postgres.create_database("nancalacc_template"))
    return "nancalacc_template"


@pytest.fixture(scope="session")
def databases(postgres: Postgres, template_database: str) -> Databases:
    return Databases(postgres, template=template_database)


@pytest.fixture
def database_url(postgres: Postgres, databases: Databases) -> Iterator[str]:
    """The URL of a migrated, empty nancalacc database of this test's own."""
    name = databases.take()
    yield postgres.url(name)
    databases.give_back(name)


@pytest.fixture(scope="session")
def stack_database_url(postgres: Postgres, template_database: str) -> str:
    """The URL of the nancalacc database that the running Airflow and its sandbox use."""
    return postgres.create_database("nancalacc_stack", template=template_database)


@pytest.fixture(scope="session")
def stack_sandbox(stack_database_url: str) -> Iterator[Sandbox]:
    """DingTalk and WPS as the running Airflow sees them; call `reset` before use."""
    options = SandboxOptions(dingtalk=DingTalkRules(calls_per_second=0))
    with running_sandbox(database_url=stack_database_url, options=options) as sandbox:
        yield sandbox


def stack_connections(sandbox: Sandbox) -> dict[str, str]:
    """Pairs of connections: a good one, one of a second company, and ones that are wrong.

    Each WPS connection is of a company of its own, so that their runs do not refuse each other; but
    those that ask before they remove two people are the first one's. None takes HTTP callbacks.
    """
    dingtalk = _with(sandbox.dingtalk_connection, callback_token="", callback_aes_secret="")
    wps = sandbox.wps_connection
    nowhere = f"http://127.0.0.1:{free_port()}"
    dingtalks = {
        "default": dingtalk,
        "second": replace(dingtalk, extra={**dingtalk.extra, "root_dept_id": 100}),
        "wrong_secret": replace(dingtalk, password="wrong"),
        "away": replace(dingtalk, host=nowhere, extra={**dingtalk.extra, "api_host": nowhere}),
    }
    companies = {
        "default": wps,
        "asking": _with(wps, approval=True, limits={"users_removed": "1 100% 0"}),
        "hasty": _with(wps, approval=True, approval_seconds=1, limits={"users_removed": "1 100% 0"}),
        "second": _of_company(wps, "second"),
        "wrong_secret": _of_company(replace(wps, password="wrong"), "third"),
        "away": _of_company(replace(wps, host=nowhere), "fourth"),
    }
    return {
        **{f"dingtalk_{name}": connection_json(connection) for name, connection in dingtalks.items()},
        **{f"wps_{name}": connection_json(connection) for name, connection in companies.items()},
        "dingtalk_robot": connection_json(sandbox.robot_connection),
    }


def _with(connection: ConnectionInfo, **extra: object) -> ConnectionInfo:
    return replace(connection, extra={**connection.extra, **extra})


def _of_company(connection: ConnectionInfo, company: str) -> ConnectionInfo:
    return _with(connection, third_company_id=company, company_id=f"{company}-wps")


@pytest.fixture(scope="session")
def stack_spans() -> Iterator[Receiver]:
    """What the running Airflow exports to OpenTelemetry."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def stack(
    postgres: Postgres,
    stack_database_url: str,
    stack_sandbox: Sandbox,
    stack_spans: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AirflowStack]:
    """A running Airflow with our DAGs, our plugin and the DAGs of tests/e2e/dags."""
    settings = StackSettings(
        home=tmp_path_factory.mktemp("airflow"),
        database_url=postgres.create_database("airflow"),
        connections={"nancalacc_db": stack_database_url, **stack_connections(stack_sandbox)},
        more_dags={"tests": TEST_DAGS},
        environment={
            **stack_spans.environment,
            "NANCALACC_FULL_SYNC_SCHEDULE": "none",
            "NANCALACC_METRICS_TOKEN": "scrape-token-of-the-tests",
            "NANCALACC_NOTIFY_CONN_ID": "dingtalk_robot",
            "NANCALACC_RECOVERY_SCHEDULE": "none",
            "NANCALACC_MAINTENANCE_SCHEDULE": "none",
            "NANCALACC_RECONCILE_SCHEDULE": "none",
            "NANCALACC_HEARTBEAT_SECONDS": "1",
            "NANCALACC_STALE_SECONDS": "6",
            "NANCALACC_LOCK_WAIT_SECONDS": "30",
            "NANCALACC_BUSY_WAIT_SECONDS": "5",
            "NANCALACC_RETRY_DELAY_SECONDS": "0.2",
        },
    )
    with AirflowStack(settings) as running:
        yield running
