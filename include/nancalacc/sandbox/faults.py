"""Faults to order: rules that decide which call goes wrong, and how."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiohttp import web

BUSY_MESSAGE = "已有同步任务在执行中"
HTML_PAGE = "<html><head><title>502 Bad Gateway</title></head><body>gateway</body></html>"
PUNISHED = {"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": "sandbox"}


class Family(StrEnum):
    """The three kinds of error shape [dt 0] [wps 3]."""

    OLD = "old"
    NEW = "new"
    WPS = "wps"


class FaultKind(StrEnum):
    """What a fault does to a call; the first group replaces the answer, the second changes it."""

    ERRCODE = "errcode"
    SUB_CODE = "sub_code"
    HTTP = "http"
    QPS = "qps"
    HTML = "html"
    PUNISH = "punish"
    GATEWAY = "gateway"
    BUSY = "busy"
    HANG = "hang"
    DROP = "drop"
    VANISH = "vanish"

    DELAY = "delay"
    TRUNCATE = "truncate"
    LOSE_PAGE = "lose_page"
    OMIT_HAS_MORE = "omit_has_more"
    FEWER = "fewer"
    REPEAT_CURSOR = "repeat_cursor"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule: which calls (path substring, values of query or body), how often, what happens.

    `after` matching calls pass first, then `times` are hit (None: every one). `code` and `text`
    fill the answer, `status` is its HTTP status (0: the usual one of the kind), `seconds` is the
    time of hang and delay. With `after_effect` the call has its effect and only the answer is lost.
    """

    kind: FaultKind
    path: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    after: int = 0
    times: int | None = 1
    code: str = ""
    text: str = ""
    status: int = 0
    seconds: float = 0
    after_effect: bool = False

    def matches(self, path: str, *, values: Mapping[str, Any]) -> bool:
        """Whether the rule speaks about this call."""
        return self.path in path and all(
            str(values.get(key)) == str(value) for key, value in self.body.items()
        )


class Faults:
    """The rules in force, with their counts; safe to change from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[tuple[Fault, list[int]]] = []

    def add(self, kind: FaultKind | str, **details: Any) -> Fault:
        """Add a rule, for example `add("errcode", path="user/list", code="-1", times=2)`."""
        fault = Fault(kind=FaultKind(kind), **details)
        self.put(fault)
        return fault

    def put(self, fault: Fault) -> None:
        """Add a rule behind the ones in force."""
        with self._lock:
            self._rules.append((fault, [0]))

    def clear(self) -> None:
        """Forget every rule."""
        with self._lock:
            self._rules.clear()

    def in_force(self) -> list[tuple[Fault, int]]:
        """Every rule with the number of calls it matched so far."""
        with self._lock:
            return [(fault, seen[0]) for fault, seen in self._rules]

    def take(self, path: str, *, values: Mapping[str, Any]) -> Fault | None:
        """Count the call for every rule that matches; the first one that is due applies."""
        with self._lock:
            hit: Fault | None = None
            for fault, seen in self._rules:
                if not fault.matches(path, values=values):
                    continue
                seen[0] += 1
                due = seen[0] > fault.after and (fault.times is None or seen[0] <= fault.after + fault.times)
                hit = hit or (fault if due else None)
            return hit


async def faulty_answer(
    fault: Fault,
    *,
    request: web.Request,
    values: Mapping[str, Any],
    family: Family,
    answer: Callable[[], Awaitable[web.Response]],
) -> web.Response:
    """Answer a call the way the fault says; `answer` makes the true answer, with its effect."""
    if fault.kind is FaultKind.DELAY:
        await asyncio.sleep(fault.seconds)
        return await answer()
    change = CHANGES.get(fault.kind)
    if change is not None:
        return _changed(await answer(), change=change, values=values)
    if fault.kind is FaultKind.TRUNCATE:
        response = await answer()
        body = bytes(response.body or b"")  # type: ignore[arg-type]
        return web.Response(
            body=body[: len(body) // 2], status=response.status, content_type="application/json"
        )
    if fault.after_effect:
        await answer()
    if fault.kind in {FaultKind.HANG, FaultKind.DROP}:
        await asyncio.sleep(fault.seconds)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    return _replaced(fault, family=family, path=request.path)


def _replaced(fault: Fault, *, family: Family, path: str) -> web.Response:
    text = fault.text
    match fault.kind:
        case FaultKind.HTTP:
            return web.Response(text=text or "sandbox fault", status=fault.status or 500)
        case FaultKind.HTML:
            return web.Response(text=text or HTML_PAGE, status=fault.status or 200, content_type="text/html")
        case FaultKind.PUNISH:
            return web.json_response(PUNISHED, status=fault.status or 200)
        case FaultKind.QPS:
            code = fault.code or "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"
            return web.json_response(
                {"code": code, "message": text or "slow down", "requestid": "sandbox"}, status=403
            )
        case FaultKind.GATEWAY:
            status = fault.status or 400
            return web.json_response(
                {"code": int(fault.code or 400000201), "msg": text, "detail": {"client_status": status}},
                status=status,
            )
        case FaultKind.BUSY:
            return web.json_response({"code": fault.code or "500", "msg": text or BUSY_MESSAGE})
        case FaultKind.SUB_CODE:
            return web.json_response(wrapped_error(fault.code, text or "sandbox fault"))
        case FaultKind.VANISH:
            code = "60121" if "/user/get" in path else "60003"
            return web.json_response(
                {"errcode": int(code), "errmsg": text or "gone", "request_id": "sandbox"}
            )
    if family is Family.OLD:
        return web.json_response(
            {"errcode": int(fault.code or -1), "errmsg": text or "系统繁忙", "request_id": "sandbox"}
        )
    if family is Family.NEW:
        body = {"code": fault.code or "systemError", "message": text, "requestid": "sandbox"}
        return web.json_response(body, status=fault.status or 400)
    return web.json_response(
        {"code": fault.code or "500", "msg": text or "sandbox fault"}, status=fault.status or 200
    )


def wrapped_error(code: str, text: str) -> dict[str, Any]:
    """An error of the gateway of the old family: 88 around the real code [dt 3]."""
    return {
        "errcode": 88,
        "errmsg": f"ding talk error[subcode={code},submsg={text}]",
        "sub_code": code,
        "sub_msg": text,
        "request_id": "sandbox",
    }


Change = Callable[[dict[str, Any], Mapping[str, Any]], None]


def _changed(response: web.Response, *, change: Change, values: Mapping[str, Any]) -> web.Response:
    payload = json.loads(response.text or "{}")
    change(payload, values)
    return web.json_response(payload, status=response.status)


def _page(payload: dict[str, Any]) -> dict[str, Any]:
    inner = payload.get("result", payload.get("data"))
    return inner if isinstance(inner, dict) else payload


def _lose_page(payload: dict[str, Any], _values: Mapping[str, Any]) -> None:
    page = _page(payload)
    if "has_more" in page:
        page["has_more"] = False
    page.pop("next_cursor", None)
    page.pop("next_page_token", None)


def _omit_has_more(payload: dict[str, Any], _values: Mapping[str, Any]) -> None:
    page = _page(payload)
    page.pop("has_more", None)
    page.pop("next_cursor", None)


def _fewer(payload: dict[str, Any], _values: Mapping[str, Any]) -> None:
    page = _page(payload)
    for key, value in page.items():
        if isinstance(value, list):
            page[key] = value[: len(value) // 2]


def _repeat_cursor(payload: dict[str, Any], values: Mapping[str, Any]) -> None:
    page = _page(payload)
    if "list" in page:
        page["has_more"] = True
        page["next_cursor"] = values.get("cursor", 0)
    else:
        page["next_page_token"] = values.get("page_token", "repeated")


def _empty(payload: dict[str, Any], _values: Mapping[str, Any]) -> None:
    page = _page(payload)
    for key, value in page.items():
        if isinstance(value, list):
            page[key] = []
    _lose_page(payload, _values)


CHANGES: Mapping[FaultKind, Change] = {
    FaultKind.LOSE_PAGE: _lose_page,
    FaultKind.OMIT_HAS_MORE: _omit_has_more,
    FaultKind.FEWER: _fewer,
    FaultKind.REPEAT_CURSOR: _repeat_cursor,
    FaultKind.EMPTY: _empty,
}
