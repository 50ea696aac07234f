"""A robot of a DingTalk group, as strict as the real one about token, signature and time.

Facts: https://open.dingtalk.com/document/robots/customize-robot-security-settings.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

ROBOT_PATH = "/robot/send"
OLDEST_SECONDS = 3600
A_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class RobotRules:
    """What a test may change: how many messages a minute the robot takes (0: any number)."""

    messages_per_minute: int = 20


class RobotRefusalError(Exception):
    """An answer with an error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Robot:
    """Keeps the messages it took; `clock` is the time of day in seconds."""

    def __init__(
        self,
        *,
        access_token: str,
        sign_secret: str,
        rules: RobotRules | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules or RobotRules()
        self._access_token = access_token
        self._sign_secret = sign_secret
        self._clock = clock
        self._lock = threading.Lock()
        self._messages: list[dict[str, str]] = []
        self._taken: deque[float] = deque()

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was written into the group: `title` and `text` of each."""
        with self._lock:
            return [dict(message) for message in self._messages]

    def reset(self, rules: RobotRules) -> None:
        """Forget all messages."""
        with self._lock:
            self.rules = rules
            self._messages.clear()
            self._taken.clear()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a call of the webhook; errors come with HTTP 200, as DingTalk's do."""
        try:
            if request.method != "POST":
                raise RobotRefusalError(43002, "require POST")
            message = _message(request.headers.get("Content-Type", ""), await request.read())
            self._take(request.query, message)
        except RobotRefusalError as error:
            return web.json_response({"errcode": error.code, "errmsg": str(error)})
        return web.json_response({"errcode": 0, "errmsg": "ok"})

    def _take(self, query: Mapping[str, str], message: dict[str, str]) -> None:
        token = query.get("access_token", "")
        if not token:
            raise RobotRefusalError(400101, "access_token is empty")
        if not hmac.compare_digest(token, self._access_token):
            raise RobotRefusalError(300005, "token is not exist")
        self._check_signature(query)
        with self._lock:
            now = self._clock()
            while self._taken and self._taken[0] <= now - A_MINUTE:
                self._taken.popleft()
            if self.rules.messages_per_minute and len(self._taken) >= self.rules.messages_per_minute:
                raise RobotRefusalError(130101, "send too fast, exceed 20 times per minute")
            self._taken.append(now)
            self._messages.append(message)

    def _check_signature(self, query: Mapping[str, str]) -> None:
        timestamp = query.get("timestamp", "")
        if not timestamp.isdecimal() or abs(self._clock() - int(timestamp) / 1000) > OLDEST_SECONDS:
            raise RobotRefusalError(310000, "invalid timestamp")
        signed = f"{timestamp}\n{self._sign_secret}".encode()
        digest = hmac.new(self._sign_secret.encode(), signed, hashlib.sha256).digest()
        if not hmac.compare_digest(query.get("sign", ""), base64.b64encode(digest).decode()):
            raise RobotRefusalError(310000, "sign not match")


def _message(content_type: str, body: bytes) -> dict[str, str]:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise RobotRefusalError(43004, "require application/json")
    try:
        values: Any = json.loads(body)
        kind = values["msgtype"]
        content = values[kind]
        title, text = content["title"], content["text"]
    except (ValueError, KeyError, TypeError):
        raise RobotRefusalError(40035, "invalid parameter") from None
    if kind != "markdown" or not (isinstance(title, str) and isinstance(text, str) and title and text):
        raise RobotRefusalError(40035, "invalid parameter")
    if len(body) > 20_000:
        raise RobotRefusalError(460101, "message too long, exceed 20000 bytes")
    return {"title": title, "text": text}
