"""WPS's open platform: token, signatures, ecisaccountsync and the v7 reads [wps 1-4]."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs

import psycopg
from aiohttp import web

from nancalacc.config import Signature
from nancalacc.errors import BusyError, ConfigurationError
from nancalacc.sandbox.consumer import Consumer
from nancalacc.sandbox.directory import (
    ADMINISTRATOR_ID,
    ROOT_DID,
    Directory,
    DirectoryDepartment,
    DirectoryUser,
)

GATEWAY_PATH = re.compile(r"(/openapi|/graph|/o/[^/]+)(/.+)")
STATUSES = {"active", "notactive", "disabled", "dimission"}
FORM = "application/x-www-form-urlencoded"
CREATED = 1_700_000_000
BRIEF_FIELDS = (
    "id",
    "user_name",
    "login_name",
    "avatar",
    "email",
    "ex_user_id",
    "phone",
    "role",
    "status",
    "ctime",
)
ADMINISTRATOR = DirectoryUser(
    id=ADMINISTRATOR_ID,
    uid="",
    account="administrator",
    nick_name="管理员",
    main=ROOT_DID,
    memberships={ROOT_DID: 0},
    employment_status="active",
)


@dataclass(frozen=True, slots=True)
class WpsRules:
    """What a test may change about the gateway; times in seconds."""

    signature: Signature = Signature.KSO1
    token_lifetime: float = 7200
    clock_skew: float = 900


class GatewayError(Exception):
    """An answer in the v7 error shape: an HTTP status and an int code [wps 4]."""

    def __init__(self, status: int, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or status * 1_000_000 + 201


class SyncError(Exception):
    """An answer of ecisaccountsync: HTTP 200 and a string code [wps 3]."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Wps:
    """The API of one WPS company over its consumer and directory."""

    def __init__(
        self,
        consumer: Consumer,
        *,
        client_id: str,
        client_secret: str,
        rules: WpsRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.consumer = consumer
        self.rules = rules or WpsRules()
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._tokens: dict[str, float] = {}

    def expire_tokens(self) -> None:
        """Let every token end now."""
        self._tokens.clear()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one call below /openapi (or /graph, /o/{cid})."""
        body = await request.read()
        matched = GATEWAY_PATH.fullmatch(request.path)
        path = matched[2] if matched else ""
        try:
            if path == "/oauth2/token":
                return web.json_response(self._token(request, body=body))
            self._check_bearer(request)
            self._check_signature(request, body=body)
            if path.startswith("/v7/ecisaccountsync/"):
                return web.json_response(await self._sync(request.method, path=path, body=body))
            data = self._read(request, path=path, body=body)
        except SyncError as error:
            return web.json_response({"code": error.code, "msg": str(error)})
        except GatewayError as error:
            return web.json_response(
                {"code": error.code, "msg": str(error), "detail": {"client_status": error.status}},
                status=error.status,
            )
        return web.json_response({"code": 0, "msg": "", "data": data})

    def _token(self, request: web.Request, *, body: bytes) -> dict[str, Any]:
        if request.method != "POST" or request.content_type != FORM:
            raise GatewayError(400, f"the token needs a POST of {FORM}")
        form = {key: values[0] for key, values in parse_qs(body.decode(errors="replace")).items()}
        if form.get("grant_type") != "client_credentials":
            raise GatewayError(400, "unsupported grant_type")
        given = f"{form.get('client_id')}\n{form.get('client_secret')}".encode()
        if not hmac.compare_digest(given, f"{self._client_id}\n{self._client_secret}".encode()):
            raise GatewayError(401, "invalid client")
        token = secrets.token_urlsafe(24)
        self._tokens[token] = self._clock() + self.rules.token_lifetime
        return {"access_token": token, "expires_in": int(self.rules.token_lifetime), "token_type": "bearer"}

    def _check_bearer(self, request: web.Request) -> None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or self._tokens.get(token, 0) <= self._clock():
            raise GatewayError(401, "invalid access_token")

    def _check_signature(self, request: web.Request, *, body: bytes) -> None:
        if self.rules.signature is Signature.NONE:
            return
        names = {
            Signature.KSO1: ("KSO-1", "X-Kso-Date", "X-Kso-Authorization"),
            Signature.WPS4: ("WPS-4", "Wps-Docs-Date", "Wps-Docs-Authorization"),
        }
        scheme, date_header, signature_header = names[self.rules.signature]
        date = request.headers.get(date_header, "")
        if not self._is_recent(date):
            raise GatewayError(403, f"{date_header} is missing or too far from now")
        matched = GATEWAY_PATH.fullmatch(request.raw_path.partition("?")[0])
        uri = (matched[2] if matched else "") + request.raw_path.removeprefix(
            request.raw_path.partition("?")[0]
        )
        content_type = request.headers.get("Content-Type", "")
        hashed = body
        if scheme == "WPS-4" and content_type.partition(";")[0] not in {"application/json", FORM}:
            hashed = b""
        wanted = sign(
            scheme,
            secret=self._client_secret,
            method=request.method,
            uri=uri,
            content_type=content_type,
            date=date,
            body=hashed,
        )
        given = request.headers.get(signature_header, "")
        if not hmac.compare_digest(given.encode(), f"{scheme} {self._client_id}:{wanted}".encode()):
            raise GatewayError(403, f"{signature_header} does not match the request")

    def _is_recent(self, date: str) -> bool:
        try:
            moment = parsedate_to_datetime(date)
        except ValueError:
            return False
        if not date.endswith("GMT"):
            return False
        aware = moment.replace(tzinfo=UTC)
        return abs((datetime.now(UTC) - aware).total_seconds()) <= self.rules.clock_skew

    async def _sync(self, method: str, *, path: str, body: bytes) -> dict[str, Any]:
        values = _object(body)
        if method != "POST" or values is None:
            raise SyncError("400", "bad parameter")
        company = values.get("third_company_id")
        if not isinstance(company, str) or not company:
            raise SyncError("400", "third_company_id is empty")
        try:
            if path == "/v7/ecisaccountsync/full/sync":
                task_id, cost = _full_parameters(values)
                await asyncio.to_thread(self.consumer.full_sync, company, task_id=task_id, collect_cost=cost)
            elif path == "/v7/ecisaccountsync/increment/sync":
                await asyncio.to_thread(self.consumer.increment_sync, company)
            else:
                raise GatewayError(404, "no such path")
        except (ConfigurationError, BusyError) as error:
            raise SyncError("500", str(error)) from None
        except psycopg.Error:
            raise SyncError("500", "database error") from None
        return {"code": "200", "msg": "success"}

    @property
    def directory(self) -> Directory:
        """The directory the v7 reads show."""
        return self.consumer.directory()

    def _read(self, request: web.Request, *, path: str, body: bytes) -> Any:
        segments = path.removeprefix("/v7/").split("/") if path.startswith("/v7/") else []
        match (request.method, *segments):
            case ("GET", "depts", "root"):
                return self._dept(self.directory.root)
            case ("GET", "depts", dept_id, "children"):
                return self._children(dept_id, request=request)
            case ("GET", "depts", dept_id, "members"):
                members = self.directory.members(self._department(dept_id).did)
                return _page(request, items=members, shown=self._user)
            case ("POST", "depts", "batch_read"):
                wanted = set(_ids(body, name="dept_ids"))
                return {"items": [self._dept(found) for found in self._departments() if found.id in wanted]}
            case ("POST", "depts", "by_ex_dept_ids"):
                dids = _ids(body, name="ex_dept_ids")
                found_departments = [self.directory.department(did) for did in dids]
                return {"items": [self._dept(found) for found in found_departments if found is not None]}
            case ("POST", "users", "by_ex_user_ids"):
                statuses = _statuses(_object(body) or {})
                found_users = [self.directory.user(uid) for uid in _ids(body, name="ex_user_ids")]
                items = [
                    self._user(user) for user in found_users if user and user.employment_status in statuses
                ]
                return {"items": [{name: item[name] for name in BRIEF_FIELDS} for item in items]}
            case ("POST", "users", "batch_read"):
                values = _object(body) or {}
                statuses, wanted = _statuses(values), set(_ids(body, name="user_ids"))
                chosen = [user for user in self._users(statuses) if user.id in wanted]
                return {
                    "items": [self._user(user, with_dept=values.get("with_dept") is True) for user in chosen]
                }
            case ("GET", "users"):
                return self._user_page(request)
            case ("GET", "users", user_id):
                return self._user(self._user_of(user_id), with_dept=_flag(request, "with_dept"))
            case ("GET", "users", user_id, "depts"):
                return {"items": self._user_departments(self._user_of(user_id))}
        raise GatewayError(404, "no such path")

    def _departments(self) -> list[DirectoryDepartment]:
        return list(self.directory.departments.values())

    def _department(self, dept_id: str) -> DirectoryDepartment:
        for found in self._departments():
            if found.id == dept_id:
                return found
        raise GatewayError(404, "department not found")

    def _users(self, statuses: set[str]) -> list[DirectoryUser]:
        users = [ADMINISTRATOR, *list(self.directory.users.values())]
        return [user for user in users if user.employment_status in statuses]

    def _user_of(self, user_id: str) -> DirectoryUser:
        for user in self._users(STATUSES):
            if user.id == user_id:
                return user
        raise GatewayError(404, "user not found")

    def _children(self, dept_id: str, *, request: web.Request) -> dict[str, Any]:
        found = self.directory.children(self._department(dept_id).did)
        if _flag(request, "recursive"):
            for department in found:
                found.extend(self.directory.children(department.did))
        return _page(request, items=found, shown=self._dept)

    def _user_page(self, request: web.Request) -> dict[str, Any]:
        statuses = _statuses({"status": request.query.getall("status", [])})
        with_dept = _flag(request, "with_dept")
        return _page(
            request, items=self._users(statuses), shown=lambda user: self._user(user, with_dept=with_dept)
        )

    def _dept(self, department: DirectoryDepartment) -> dict[str, Any]:
        parent = self.directory.department(department.pid) if department.did != ROOT_DID else None
        return {
            "id": department.id,
            "name": department.name,
            "parent_id": parent.id if parent else "0",
            "abs_path": self.directory.path(department),
            "ex_dept_id": department.did,
            "source": "buildin" if department.did == ROOT_DID else "sync",
            "order": department.order,
            "ctime": CREATED,
            "leaders": [],
        }

    def _user(self, user: DirectoryUser, *, with_dept: bool = False) -> dict[str, Any]:
        leader = self.directory.user(user.leader) if user.leader else None
        answer: dict[str, Any] = {
            "id": user.id,
            "user_name": user.nick_name,
            "login_name": user.account,
            "avatar": user.avatar,
            "email": user.email,
            "phone": user.phone,
            "telephone": user.telephone,
            "gender": user.gender,
            "title": user.title,
            "work_place": user.work_place,
            "employee_id": user.employer,
            "employment_status": user.employment_status,
            "employment_type": user.employment_type,
            "ex_user_id": user.uid,
            "leader_id": leader.id if leader else "",
            "role": "super_admin" if user.id == ADMINISTRATOR_ID else "user",
            "source": "buildin" if user.id == ADMINISTRATOR_ID else "sync",
            "status": user.employment_status,
            "type": "",
            "ctime": CREATED,
        }
        if with_dept:
            answer["depts"] = [
                {"abs_path": place["abs_path"], "dept_id": place["id"], "name": place["name"]}
                for place in self._user_departments(user)
            ]
        return answer

    def _user_departments(self, user: DirectoryUser) -> list[dict[str, Any]]:
        items = []
        for did, order in user.memberships.items():
            found = self.directory.department(did)
            if found is not None:
                shown = self._dept(replace(found, order=order))
                items.append({key: value for key, value in shown.items() if key not in {"leaders", "source"}})
        return items


def sign(
    scheme: str, *, secret: str, method: str, uri: str, content_type: str, date: str, body: bytes
) -> str:
    """The signature of a request as lowercase hex [wps 2]; `uri` is path and query without gateway prefix."""
    body_hash = hashlib.sha256(body).hexdigest() if body else ""
    message = f"{scheme}{method}{uri}{content_type}{date}{body_hash}"
    return hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()


def _full_parameters(values: Mapping[str, Any]) -> tuple[str, float]:
    task_id, cost = values.get("task_id"), values.get("collect_cost")
    if not isinstance(task_id, str) or not re.fullmatch(r"[0-9]{14}", task_id):
        raise SyncError("400", "task_id is not yyyyMMddHHmmss")
    try:
        datetime.strptime(task_id, "%Y%m%d%H%M%S")  # noqa: DTZ007 - only the form matters
    except ValueError:
        raise SyncError("400", "task_id is not yyyyMMddHHmmss") from None
    if not isinstance(cost, int | float) or isinstance(cost, bool) or cost == 0:
        raise SyncError("400", "collect_cost not number type")
    return task_id, cost


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        values = json.loads(body)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _ids(body: bytes, *, name: str) -> Sequence[str]:
    ids = (_object(body) or {}).get(name)
    if not isinstance(ids, list) or len(ids) > 100 or not all(isinstance(item, str) for item in ids):
        raise GatewayError(400, f"{name} must be a list of at most 100 strings")
    return ids


def _statuses(values: Mapping[str, Any]) -> set[str]:
    status = values.get("status")
    if not isinstance(status, list) or not status or not set(status) <= STATUSES:
        raise GatewayError(400, f"status is required: a list of {sorted(STATUSES)}")
    return set(status)


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "false")
    if value not in {"true", "false"}:
        raise GatewayError(400, f"{name} must be true or false")
    return value == "true"


def _page(
    request: web.Request, *, items: Sequence[Any], shown: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    size = request.query.get("page_size", "10")
    if not size.isascii() or not size.isdigit() or not 1 <= int(size) <= 50:
        raise GatewayError(400, "page_size must be from 1 to 50")
    token = request.query.get("page_token", "")
    try:
        start = int(base64.b64decode(token, validate=True)) if token else 0
    except (ValueError, binascii.Error):
        raise GatewayError(400, "page_token is not one of ours") from None
    end = start + int(size)
    page: dict[str, Any] = {
        "items": [shown(item) for item in items[start:end]],
        "next_page_token": base64.b64encode(str(end).encode()).decode() if end < len(items) else "",
    }
    if _flag(request, "with_total"):
        page["total"] = len(items)
    return page
