"""Airflow hooks that give the DingTalk and WPS clients for a connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.dingtalk_robot import DingTalkRobot, RobotSettings
from nancalacc.clients.wps import WpsClient
from nancalacc.config import (
    DINGTALK_CONN_ID,
    WPS_CONN_ID,
    ConnectionInfo,
    DingTalkSettings,
    WpsSettings,
)
from nancalacc.errors import ConfigurationError
from nancalacc.orchestration.http_transport import BareHttpHook


def connection_info(connection: Connection, *, extra: Mapping[str, Any] | None = None) -> ConnectionInfo:
    """An Airflow connection without Airflow; `extra` is its extra where that was read already.

    The scheme is the one of `host`, otherwise of `schema` or of the connection type. Without
    any of them a host with a port of its own is taken as Airflow takes it, as http, and a
    host without one as https.
    """
    if extra is None:
        extra = connection.extra_dejson
    if not isinstance(extra, Mapping):
        raise ConfigurationError(f"Connection {connection.conn_id!r}: extra must be a JSON object")
    schema = (connection.schema or "").strip().lower()
    if not schema:
        is_plain = connection.conn_type == "http" and connection.port not in {None, 443}
        schema = "http" if is_plain else "https"
    return ConnectionInfo(
        conn_id=connection.conn_id,
        host=connection.host or "",
        schema=schema,
        port=connection.port,
        login=connection.login or "",
        password=connection.password or "",
        extra=extra,
    )


class _ConnectionHook(BareHttpHook):
    """A hook that reads its connection as ours."""

    def connection_info(self) -> ConnectionInfo:
        """The connection of this hook; raises ConfigurationError when there is none."""
        try:
            connection = self.get_connection(self.http_conn_id)
        except AirflowNotFoundException:
            self._missing()
        return connection_info(connection)

    async def connection_info_async(self) -> ConnectionInfo:
        """As `connection_info`, for an event loop."""
        try:
            connection = await get_async_connection(self.http_conn_id, hook=self)
        except AirflowNotFoundException:
            self._missing()
        return connection_info(connection, extra=await get_async_extra_dejson(connection))

    def _missing(self) -> NoReturn:
        conn_id = self.http_conn_id
        raise ConfigurationError(
            f"Connection {conn_id!r} is not defined or unreadable: add it under Admin, Connections"
            f" (type HTTP), or set the environment variable AIRFLOW_CONN_{conn_id.upper()}"
        ) from None


class DingTalkHook(_ConnectionHook):
    """Gives clients for a DingTalk connection (host, login = app key, password = app secret)."""

    default_conn_name = DINGTALK_CONN_ID

    def __init__(self, http_conn_id: str = DINGTALK_CONN_ID) -> None:
        super().__init__(http_conn_id)

    def settings(self) -> DingTalkSettings:
        """The checked connection; raises ConfigurationError naming what is wrong."""
        return DingTalkSettings.of(self.connection_info())

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[DingTalkClient]:
        """A client with a session of its own; raises ConfigurationError as `settings` does."""
        settings = DingTalkSettings.of(await self.connection_info_async())
        async with self.transport() as transport:
            yield DingTalkClient(settings, transport=transport)


class WpsHook(_ConnectionHook):
    """Gives clients for a WPS connection (host, login = client id, password = client secret)."""

    default_conn_name = WPS_CONN_ID

    def __init__(self, http_conn_id: str = WPS_CONN_ID) -> None:
        super().__init__(http_conn_id)

    def settings(self) -> WpsSettings:
        """The checked connection; raises ConfigurationError naming what is wrong."""
        return WpsSettings.of(self.connection_info())

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[WpsClient]:
        """A client with a session of its own; raises ConfigurationError as `settings` does."""
        settings = WpsSettings.of(await self.connection_info_async())
        async with self.transport() as transport:
            yield WpsClient(settings, transport=transport)


class RobotHook(_ConnectionHook):
    """Gives a DingTalk robot for a connection (host, password = access token)."""

    default_conn_name = "dingtalk_robot"

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[DingTalkRobot]:
        """A robot with a session of its own; raises ConfigurationError naming what is wrong."""
        settings = RobotSettings.of(await self.connection_info_async())
        async with self.transport() as transport:
            yield DingTalkRobot(settings, transport=transport)
