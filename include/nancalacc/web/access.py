"""Who may do what: an Airflow login, Airflow's permissions, and writes from our own pages only."""

from __future__ import annotations

from typing import Annotated, Protocol
from urllib.parse import urlsplit

from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials

__all__ = ["Access", "AirflowAccess", "BaseUser", "DagAccessEntity", "get_user", "require_own_page"]


class Access(Protocol):
    """Who asks, and what they may do with a DAG."""

    async def person(self, request: Request, *, token: HTTPAuthorizationCredentials | None) -> BaseUser:
        """Who is signed in, by token or cookie; raises HTTPException 401 or 403 for nobody."""

    def may(
        self,
        request: Request,
        user: BaseUser,
        *,
        method: ResourceMethod,
        entity: DagAccessEntity,
        dag_id: str,
    ) -> bool:
        """True when Airflow would let the person do it; asks its database, so not for the event loop."""


class AirflowAccess:
    """Access as Airflow's own routes decide it."""

    async def person(self, request: Request, *, token: HTTPAuthorizationCredentials | None) -> BaseUser:
        """Who is signed in, by token or cookie; raises HTTPException 401 or 403 for nobody."""
        return await get_user(request, None, token)

    def may(
        self,
        request: Request,
        user: BaseUser,
        *,
        method: ResourceMethod,
        entity: DagAccessEntity,
        dag_id: str,
    ) -> bool:
        """True when Airflow would let the person do it; asks its database, so not for the event loop."""
        try:
            requires_access_dag(method, entity, dag_id)(request, user)
        except HTTPException as refused:
            if refused.status_code != 403:
                raise
            return False
        return True


def require_own_page(request: Request, _: Annotated[BaseUser, Depends(get_user)]) -> None:
    """Refuse a write that a page of another site may have sent with the person's cookie.

    A browser attaches the cookie by itself, a token only a program that knows it. Browsers say with
    every POST where it comes from, and only a script of an allowed origin can send JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "The body must be application/json")
    if request.headers.get("authorization"):
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site == "same-origin"
    else:
        origin = request.headers.get("origin", "")
        allowed = bool(origin) and urlsplit(origin).netloc == request.headers.get("host")
    if not allowed:
        raise HTTPException(403, "The request does not come from a page of this site")
