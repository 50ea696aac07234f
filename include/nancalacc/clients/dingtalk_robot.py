"""A robot in a DingTalk group, which writes what is sent to its webhook.

Facts: https://open.dingtalk.com/document/orgapp/custom-robot-access and
https://open.dingtalk.com/document/robots/customize-robot-security-settings.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from nancalacc.clients.transport import Transport
from nancalacc.config import ConnectionInfo
from nancalacc.errors import (
    CallRefusedError,
    ConfigurationError,
    RateLimitedError,
    TransientError,
    UnknownOutcomeError,
)

CALL_SECONDS = 10.0
LARGEST_BYTES = 20_000
TOO_MANY = {130101, 410100}
BUSY = {-1, 430101}
HINTS = {
    300005: "the access token is wrong: it is the connection's password",
    310000: "the robot's security settings refuse it: check 'sign_secret' in the connection's extra, the"
    " clock of this machine, and the robot's keywords and addresses",
    400013: "the group does not exist any more",
    400101: "the access token is missing: it is the connection's password",
    400102: "the robot is switched off",
}


@dataclass(frozen=True, slots=True)
class RobotSettings:
    """Where a robot's webhook is, and its secrets."""

    conn_id: str
    base_url: str
    access_token: str = field(repr=False)
    sign_secret: str = field(default="", repr=False)
    path: str = "/robot/send"

    @classmethod
    def of(cls, connection: ConnectionInfo) -> RobotSettings:
        """Read and check a connection; raises ConfigurationError naming what is wrong."""
        if not connection.password:
            raise ConfigurationError(
                f"Connection {connection.conn_id!r} needs the robot's access token as its password"
            )
        return cls(
            conn_id=connection.conn_id,
            base_url=connection.base_url,
            access_token=connection.password,
            sign_secret=connection.text("sign_secret", ""),
        )


def signature_of(secret: str, *, timestamp: int) -> str:
    """How a call is signed; `timestamp` is in milliseconds."""
    digest = hmac.new(secret.encode(), f"{timestamp}\n{secret}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


class DingTalkRobot:
    """Sends messages through one webhook; `now` is the time in seconds."""

    def __init__(
        self, settings: RobotSettings, *, transport: Transport, now: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._now = now

    async def send(self, *, title: str, text: str) -> None:
        """Write a message in Markdown into the group.

        Raises CallRefusedError when the robot refuses it, RateLimitedError and other TransientErrors when
        it did not arrive, UnknownOutcomeError or AnswerLostError when it may have.
        """
        settings = self._settings
        query = {"access_token": settings.access_token}
        if settings.sign_secret:
            timestamp = int(self._now() * 1000)
            sign = signature_of(settings.sign_secret, timestamp=timestamp)
            query |= {"timestamp": str(timestamp), "sign": sign}
        cut = text.encode()[: LARGEST_BYTES - 2000].decode(errors="ignore")
        message = {"msgtype": "markdown", "markdown": {"title": title, "text": cut}}
        answer = await self._transport(
            "POST",
            f"{settings.base_url}{settings.path}?{urlencode(query)}",
            headers={"Content-Type": "application/json"},
            body=json.dumps(message, ensure_ascii=False).encode(),
            timeout=CALL_SECONDS,
        )
        self._check(answer.status, answer.body)

    def _check(self, status: int, body: bytes) -> None:
        robot = f"The DingTalk robot (connection {self._settings.conn_id!r})"
        try:
            told = json.loads(body)
            code, words = int(told["errcode"]), str(told.get("errmsg", ""))
        except (ValueError, KeyError, TypeError):
            if 400 <= status < 500:
                raise CallRefusedError(f"{robot} refuses the call: HTTP {status}", code=str(status)) from None
            raise UnknownOutcomeError(f"{robot} answers HTTP {status} without an errcode") from None
        if code == 0:
            return
        if code in TOO_MANY:
            raise RateLimitedError(f"{robot} takes no more messages for now ({code})", retry_after=60)
        if code in BUSY:
            raise TransientError(f"{robot} is busy ({code})")
        raise CallRefusedError(f"{robot} refuses ({code}): {HINTS.get(code, words[:200])}", code=str(code))
