"""The composition root: connections as Airflow knows them, turned into what the other rooms need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from nancalacc.config import DB_CONN_ID, Settings
from nancalacc.errors import ConfigurationError
from nancalacc.orchestration.http_hooks import DingTalkHook, WpsHook
from nancalacc.saga.coordinator import Coordinator
from nancalacc.store.database import Database
from nancalacc.store.migrate import require_current
from nancalacc.store.repository import SagaStore
from nancalacc.sync.services import RunInfo, SyncServices

NO_DATABASE = (
    f"Connection {DB_CONN_ID!r} is not defined: create it (type postgres) in Airflow, or set"
    f" AIRFLOW_CONN_{DB_CONN_ID.upper()}"
)


def database_url() -> str:
    """The URL of the nancalacc database; raises ConfigurationError when the connection is missing."""
    try:
        return _url_of(BaseHook.get_connection(DB_CONN_ID))
    except AirflowNotFoundException:
        raise ConfigurationError(NO_DATABASE) from None


async def database_url_async() -> str:
    """As `database_url`, for an event loop."""
    try:
        return _url_of(await get_async_connection(DB_CONN_ID))
    except AirflowNotFoundException:
        raise ConfigurationError(NO_DATABASE) from None


def _url_of(connection: Connection) -> str:
    if not connection.host or not connection.schema:
        raise ConfigurationError(f"Connection {DB_CONN_ID!r} needs a host and a database (schema)")
    url = PostgresHook(connection=connection).sqlalchemy_url
    return url.render_as_string(hide_password=False)


@contextmanager
def open_database() -> Iterator[Database]:
    """The nancalacc database, checked to have the schema this version needs."""
    with Database(database_url()) as database:
        with database.transaction() as connection:
            require_current(connection)
        yield database


def coordinator_over(database: Database) -> Coordinator:
    """The saga engine over a database that is open."""
    settings = Settings.from_env()
    return Coordinator(
        SagaStore(database),
        heartbeat_seconds=settings.heartbeat_seconds,
        stale_seconds=settings.stale_seconds,
    )


@contextmanager
def open_coordinator() -> Iterator[Coordinator]:
    """The saga engine over the nancalacc database."""
    with open_database() as database:
        yield coordinator_over(database)


def sync_services(*, run_id: str, start: datetime) -> SyncServices:
    """What the actions of a sync need, with connections resolved when they are first asked for."""
    return SyncServices(
        settings=Settings.from_env(),
        run=RunInfo(start=start, run_id=run_id),
        dingtalk_settings=lambda conn_id: DingTalkHook(conn_id).settings(),
        wps_settings=lambda conn_id: WpsHook(conn_id).settings(),
        dingtalk=lambda conn_id: DingTalkHook(conn_id).client(),
        wps=lambda conn_id: WpsHook(conn_id).client(),
    )
