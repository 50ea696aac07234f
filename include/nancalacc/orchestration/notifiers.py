"""An Airflow notifier that writes into a DingTalk group; any DAG may use it.

Incidents are told by the notifier that NANCALACC_NOTIFIER names: this one, or another that takes
`conn_id`, `title` and `text`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from airflow.sdk import BaseNotifier

from nancalacc.errors import ConfigurationError


class DingTalkRobotNotifier(BaseNotifier):
    """Sends a Markdown message to the group of a DingTalk robot; title and text are templates.

    `conn_id`: an HTTP connection, host = https://oapi.dingtalk.com, password = the webhook's access
    token, extra `{"sign_secret": "SEC…"}` for a robot that checks signatures.
    """

    template_fields: Sequence[str] = ("title", "text")

    def __init__(self, *, conn_id: str, title: str, text: str) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.title = title
        self.text = text

    async def async_notify(self, context: Any) -> None:
        """Send it, from an event loop."""
        from nancalacc.orchestration.http_hooks import RobotHook

        async with RobotHook(self.conn_id).client() as robot:
            await robot.send(title=self.title, text=self.text)

    def notify(self, context: Any) -> None:
        """Send it; raises CallRefusedError, TransientError or ConfigurationError when it did not arrive."""
        asyncio.run(self.async_notify(context))


def notifier_class(path: str) -> Any:
    """The notifier of this import path; raises ConfigurationError when there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not (isinstance(found, type) and issubclass(found, BaseNotifier)):
        raise ConfigurationError(
            f"Environment variable NANCALACC_NOTIFIER must be the import path of an Airflow notifier,"
            f" which {path!r} is not"
        )
    return found
