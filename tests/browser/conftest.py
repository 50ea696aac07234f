"""The console in a headless Chromium; what the page writes to its console fails the test."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from playwright.sync_api import Browser, Page, expect, sync_playwright

from console_rows import Rows
from e2e.conftest import company
from nancalacc.config import Settings
from nancalacc.web.access import get_user
from nancalacc.web.app import create_app
from nancalacc.web.desk import Desk
from nancalacc.web.services import WebServices

__all__ = ["company"]

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PATIENCE = 60_000
"""Milliseconds for what takes one second on a machine that has nothing else to do."""
ROOT = "/some/path"
"""The page must work wherever Airflow is served."""


@dataclass
class Site:
    """The console on a port, below a path, with data and a stand-in of Airflow's own API."""

    rows: Rows
    methods: set[str] = field(default_factory=lambda: {"GET", "PUT", "POST", "DELETE"})
    signed_in: bool = True
    calls: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def console(self) -> str:
        return f"http://127.0.0.1:{self.port}{ROOT}/nancalacc/console/"

    async def person(self, request: Any, *, token: Any) -> SimpleAuthManagerUser:
        return SimpleAuthManagerUser(username="ann", role="ADMIN")

    def may(self, request: Any, user: Any, *, method: str, entity: Any, dag_id: str) -> bool:
        return method in self.methods

    async def airflow(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(f"{scope['method']} {scope['path']}")
        content = b'{"state": "failed", "task_instances": [{"task_id": "save_users"}]}'
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"There is no {CHROMIUM}: install Debian's chromium, or name another by CHROMIUM")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what it complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def opened(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """A page in a fresh profile; fails the test when the page wrote an error or a warning."""
    options = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", "timezone_id": "UTC"}
    context = chromium.new_context(**(options | getattr(request, "param", {})))
    found = Opened(context.new_page())
    found.page.set_default_timeout(PATIENCE)

    def written(message: Any) -> None:
        if message.type in {"error", "warning"}:
            found.complaints.append(f"{message.type}: {message.text} ({message.location['url']})")

    def thrown(error: Any) -> None:
        found.complaints.append(f"exception: {error.stack or error}")

    found.page.on("console", written)
    found.page.on("pageerror", thrown)
    yield found
    context.close()
    assert found.complaints == []


@pytest.fixture
def site(database_url: str, opened: Opened) -> Iterator[Site]:
    from fastapi import HTTPException

    made = Site(Rows(database_url))
    desk = Desk(url=lambda: database_url, settings=Settings)
    services = WebServices(url=lambda: database_url)
    app = create_app(services, desk=desk, access=made)

    def person() -> SimpleAuthManagerUser:
        if not made.signed_in:
            raise HTTPException(401, "Not authenticated")
        return SimpleAuthManagerUser(username="ann", role="ADMIN")

    app.dependency_overrides[get_user] = person

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        below = scope | {"root_path": f"{ROOT}/nancalacc", "nancalacc.airflow": made.airflow}
        await app(below, receive, send)

    server = uvicorn.Server(uvicorn.Config(mounted, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    made.port = server.servers[0].sockets[0].getsockname()[1]
    assert httpx.get(made.console, trust_env=False).status_code == 200
    yield made
    # It asks every few seconds, and would complain that nobody answers any more.
    opened.page.goto("about:blank")
    server.should_exit = True
    thread.join()
    desk.close()
    services.close()


def forget_airflows_complaints(opened: Opened) -> None:
    """What Airflow's own pages write to the console is not ours; ours comes from below `/nancalacc`.

    Chromium says at our address what it thinks of the frame in which Airflow puts every plugin.
    """
    opened.complaints = [
        each for each in opened.complaints if "/nancalacc/" in each and "allow-same-origin" not in each
    ]


@pytest.fixture
def page(opened: Opened) -> Page:
    return opened.page


@pytest.fixture
def picture(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Takes a picture of the page; CONSOLE_PICTURES names a directory that keeps it."""
    kept = os.environ.get("CONSOLE_PICTURES")

    def take(name: str, *, full_page: bool = True) -> Path:
        path = (Path(kept) if kept else tmp_path) / f"{name}.png"
        page.screenshot(path=path, full_page=full_page)
        return path

    return take
