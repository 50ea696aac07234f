"""The console: its API, its static page, and errors as people may see them."""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nancalacc.errors import ConfigurationError, IllegalTransitionError, NancalaccError, TransientError
from nancalacc.web.access import Access, get_user
from nancalacc.web.action_routes import action_router
from nancalacc.web.airflow_calls import AirflowRefusedError
from nancalacc.web.check_routes import check_router
from nancalacc.web.conflicts import conflicts_router
from nancalacc.web.desk import Desk
from nancalacc.web.health_routes import health_router
from nancalacc.web.inbox_routes import inbox_router
from nancalacc.web.metrics import metrics_router
from nancalacc.web.plan_routes import plan_router
from nancalacc.web.routes import read_router

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
SAFE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def add_console(app: FastAPI, *, desk: Desk, access: Access) -> None:
    """Add the console's routes to the app; each module of routes has one line here."""
    for router in (
        read_router,
        plan_router,
        check_router,
        health_router,
        inbox_router,
        conflicts_router,
        action_router,
        metrics_router,
    ):
        app.include_router(router(desk, access))
    _add_error_handlers(app)
    app.add_middleware(_SafeHeaders)

    @app.get("/openapi.json", include_in_schema=False, dependencies=[Depends(get_user)])
    async def openapi() -> JSONResponse:
        """The schema of this API."""
        return JSONResponse(app.openapi())

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        """The page; relative, so that it works below any path."""
        return RedirectResponse("console/", status_code=307)

    app.mount("/console", StaticFiles(directory=STATIC, html=True), name="console")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(NancalaccError)
    async def refused(request: Request, error: NancalaccError) -> JSONResponse:
        if isinstance(error, IllegalTransitionError):
            return _problem(409, str(error))
        if isinstance(error, TransientError | ConfigurationError):
            log.warning("%s %s: %s", request.method, request.url.path, error)
            return _problem(503, str(error))
        log.error("%s %s: %s", request.method, request.url.path, error)
        return _problem(500, str(error))

    @app.exception_handler(AirflowRefusedError)
    async def refused_by_airflow(request: Request, error: AirflowRefusedError) -> JSONResponse:
        status = error.status if error.status in {401, 403} else 409 if error.status < 500 else 503
        return _problem(status, str(error))


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)


class _SafeHeaders:
    """Tells browsers to run nothing but our own scripts, in no page but Airflow's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)
