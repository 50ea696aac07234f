"""What the plugin mounts: an ASGI app that is built when somebody first asks it something.

The plugin is loaded into every process of Airflow, and only the API server serves requests:
nothing heavy may be imported here.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build() -> App:
    """The app itself."""
    from nancalacc.web.app import create_app

    return create_app()


class MountedApp:
    """The app under `/nancalacc`; tells it of the app it is mounted in, Airflow's own."""

    def __init__(self, build: Callable[[], App] = build) -> None:
        self._build = build
        self._building = threading.Lock()
        self._app: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        with self._building:
            if self._app is None:
                self._app = self._build()
        await self._app({**scope, "nancalacc.airflow": scope.get("app")}, receive, send)
