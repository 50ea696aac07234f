"""The console without Airflow: its app, a database, and a person with rights a test may change."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI, HTTPException

from console_rows import Rows
from nancalacc.config import Settings
from nancalacc.web.access import get_user
from nancalacc.web.app import create_app
from nancalacc.web.desk import Desk
from nancalacc.web.services import WebServices

SCRAPE_TOKEN = "scrape-token-of-the-tests"


Right = tuple[str, DagAccessEntity, str]
"""A method, on which things, of which DAG."""


@dataclass
class Rights:
    """What the person may do; by default everything. `only`: nothing but these rights."""

    hidden_dags: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=lambda: {"GET", "PUT", "POST", "DELETE"})
    denied: set[Right] = field(default_factory=set)
    only: set[Right] | None = None
    signed_in: bool = True

    async def person(self, request: Any, *, token: Any) -> SimpleAuthManagerUser:
        if not self.signed_in:
            raise HTTPException(401, "Not authenticated")
        return SimpleAuthManagerUser(username="ann", role="ADMIN")

    def may(self, request: Any, user: Any, *, method: str, entity: Any, dag_id: str) -> bool:
        right = (method, entity, dag_id)
        if self.only is not None:
            return right in self.only
        return method in self.methods and dag_id not in self.hidden_dags and right not in self.denied


@dataclass
class Airflow:
    """Stands for Airflow's own app: answers what a test tells it to, and remembers the calls."""

    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        import json

        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"].removeprefix("/api/v2")
        self.calls.append((scope["method"], path, json.loads(body) if body else None))
        status, content = self.answers.get((scope["method"], path), (404, {"detail": f"no {path}"}))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})


@pytest.fixture
def rows(database_url: str) -> Rows:
    return Rows(database_url)


@pytest.fixture
def rights() -> Rights:
    return Rights()


@pytest.fixture
def airflow_app() -> Airflow:
    return Airflow()


@pytest.fixture
def metrics_token() -> str:
    return SCRAPE_TOKEN


@pytest.fixture
async def app(database_url: str, rights: Rights, metrics_token: str) -> AsyncIterator[FastAPI]:
    desk = Desk(url=lambda: database_url, settings=lambda: Settings(metrics_token=metrics_token))
    services = WebServices(url=lambda: database_url)
    made = create_app(services, desk=desk, access=rights)
    made.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="ann", role="ADMIN")
    yield made
    desk.close()
    services.close()


@pytest.fixture
async def client(app: FastAPI, airflow_app: Airflow) -> AsyncIterator[httpx.AsyncClient]:
    """A browser of the same site that is signed in."""

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "nancalacc.airflow": airflow_app}, receive, send)

    transport = httpx.ASGITransport(app=mounted)
    headers = {"sec-fetch-site": "same-origin"}
    async with httpx.AsyncClient(transport=transport, base_url="http://console", headers=headers) as made:
        yield made
