"""The app that the plugin mounts under /nancalacc on Airflow's API server."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum

from fastapi import FastAPI, Response
from pydantic import BaseModel

from nancalacc.errors import NancalaccError
from nancalacc.web.access import Access, AirflowAccess
from nancalacc.web.callback import callback_router
from nancalacc.web.console import add_console
from nancalacc.web.desk import Desk
from nancalacc.web.services import WebServices

log = logging.getLogger(__name__)

HEALTH_SECONDS = 5.0


class HealthStatus(StrEnum):
    """Whether the database answers and has the schema this version needs."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Health(BaseModel):
    """The answer of `GET /health`; it is public, so it says nothing else."""

    status: HealthStatus


def create_app(
    services: WebServices | None = None, *, desk: Desk | None = None, access: Access | None = None
) -> FastAPI:
    """Build the app; nothing is connected to before the first request."""
    used = services or WebServices()
    app = FastAPI(title="nancalacc", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(callback_router(used))
    add_console(app, desk=desk or Desk(), access=access or AirflowAccess())

    @app.get("/health", responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """Whether the database is reachable and its schema current; 503 otherwise."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await used.require_healthy()
        except TimeoutError:
            log.warning("Unhealthy: no answer of the database in %g s", HEALTH_SECONDS)
        except NancalaccError as error:
            log.warning("Unhealthy: %s", error)
        except Exception as error:  # noqa: BLE001 - secrets backends raise what they like, with secrets in it
            log.error("Unhealthy: %s", type(error).__name__)
        else:
            return Health(status=HealthStatus.HEALTHY)
        response.status_code = 503
        return Health(status=HealthStatus.UNHEALTHY)

    return app
