"""What `python -m nancalacc check` tests: each check returns what it found, or raises what is wrong."""

from __future__ import annotations

import asyncio

from nancalacc.clients.dingtalk_robot import RobotSettings
from nancalacc.config import DINGTALK_ROBOT, ConnectionInfo, DingTalkSettings, Settings, WpsSettings
from nancalacc.orchestration.hooks import database_url
from nancalacc.orchestration.http_hooks import DingTalkHook, RobotHook, WpsHook
from nancalacc.orchestration.notifiers import notifier_class
from nancalacc.store.database import Database
from nancalacc.store.migrate import expected_revision, require_current


def check_database() -> str:
    """The database answers and has the schema this version needs."""
    with Database(database_url()) as database, database.transaction() as connection:
        require_current(connection)
        return f"{database.where}, schema revision {expected_revision()}"


def check_dingtalk(conn_id: str) -> str:
    """The app key and secret are right and the root department can be read."""
    hook = DingTalkHook(conn_id)
    settings = hook.settings()
    not_read = _not_read(hook.connection_info(), DingTalkSettings)

    async def read() -> str:
        async with hook.client() as client:
            scopes = await client.scopes()
            root = await client.department(settings.root_dept_id)
            return (
                f"{settings.base_url}, root department {settings.root_dept_id} ({root.get('name', '')}),"
                f" departments in scope: {', '.join(map(str, scopes.departments)) or 'none'}"
                f"{not_read}"
            )

    return asyncio.run(read())


def check_wps(conn_id: str) -> str:
    """The client id and secret are right and signed calls are accepted."""
    hook = WpsHook(conn_id)
    settings = hook.settings()
    not_read = _not_read(hook.connection_info(), WpsSettings)

    async def read() -> str:
        async with hook.client() as client:
            root = await client.root_department()
            return f"{settings.base_url}{settings.prefix}, root department {root.get('name', '')}{not_read}"

    return asyncio.run(read())


def check_notifier(settings: Settings) -> str:
    """The notifier exists and its connection is complete; nothing is sent, so nobody is alarmed."""
    notifier_class(settings.notifier)
    connection = RobotHook(settings.notify_conn_id).connection_info()
    if settings.notifier != DINGTALK_ROBOT:
        return f"for {settings.notifier}; no message was sent"
    robot = RobotSettings.of(connection)
    signed = "signed" if robot.sign_secret else "not signed: extra has no 'sign_secret'"
    return f"{robot.base_url}, {signed}; no message was sent"


def _not_read(connection: ConnectionInfo, settings: type[DingTalkSettings | WpsSettings]) -> str:
    """What a person should know of keys in `extra` that may be misspelt."""
    unknown = connection.unknown_extra(settings)
    return f"; extra has what is not read: {', '.join(unknown)}" if unknown else ""
