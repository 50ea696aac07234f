"""Messages to a DingTalk robot: signed as it wants them, and what its answers mean."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from nancalacc.clients.dingtalk_robot import DingTalkRobot, RobotSettings, signature_of
from nancalacc.clients.transport import NotSentError, Response
from nancalacc.config import ConnectionInfo
from nancalacc.errors import (
    CallRefusedError,
    ConfigurationError,
    NancalaccError,
    RateLimitedError,
    TransientError,
    UnknownOutcomeError,
)
from nancalacc.orchestration.http_transport import BareHttpHook
from nancalacc.sandbox.organisation import Organisation
from nancalacc.sandbox.robot import RobotRules
from nancalacc.sandbox.server import Sandbox

SECRET = "this is secret"


def test_the_signature_is_dingtalks() -> None:
    # printf '1577262236757\nthis is secret' | openssl dgst -sha256 -hmac 'this is secret' -binary | base64
    assert signature_of(SECRET, timestamp=1577262236757) == "hmPWwU+7lVdm3ZZz0r9tSfx0L4Q26jWOZr9+Gs6EZQM="


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(organisation=Organisation()) as running:
        yield running


async def send(sandbox: Sandbox, *, settings: RobotSettings | None = None, late: float = 0) -> None:
    used = settings or RobotSettings.of(sandbox.robot_connection)
    async with BareHttpHook("robot").transport() as transport:
        robot = DingTalkRobot(used, transport=transport, now=lambda: time.time() - late)
        await robot.send(title="标题 & 1", text="### 标题 & 1\n\nwhy + what")


async def test_a_message_arrives_as_it_was_written(sandbox: Sandbox) -> None:
    await send(sandbox)
    assert sandbox.robot.messages == [{"title": "标题 & 1", "text": "### 标题 & 1\n\nwhy + what"}]


@pytest.mark.parametrize(
    "change, late, said",
    [
        ({"access_token": "wrong"}, 0, "access token is wrong"),
        ({"sign_secret": "SECwrong"}, 0, "sign_secret"),
        ({"sign_secret": ""}, 0, "sign_secret"),
        ({}, 3700, "the clock of this machine"),
        ({}, -3700, "the clock of this machine"),
    ],
    ids=["token", "secret", "unsigned", "old", "of the future"],
)
async def test_what_the_robot_refuses_is_told_with_what_to_check_and_without_secrets(
    sandbox: Sandbox, change: dict[str, Any], late: float, said: str
) -> None:
    settings = replace(RobotSettings.of(sandbox.robot_connection), **change)
    with pytest.raises(CallRefusedError, match=said) as refused:
        await send(sandbox, settings=settings, late=late)
    assert sandbox.robot.messages == []
    for secret in ("sandbox-robot", "SECsandbox", "SECwrong", "sign="):
        assert secret not in str(refused.value)
        assert secret not in repr(settings)


async def test_too_many_messages_are_for_later(sandbox: Sandbox) -> None:
    sandbox.robot.rules = RobotRules(messages_per_minute=2)
    await send(sandbox)
    await send(sandbox)
    with pytest.raises(RateLimitedError):
        await send(sandbox)
    assert len(sandbox.robot.messages) == 2


async def test_a_robot_out_of_reach_has_got_nothing(sandbox: Sandbox) -> None:
    settings = replace(RobotSettings.of(sandbox.robot_connection), base_url="http://127.0.0.1:1")
    with pytest.raises(NotSentError) as lost:
        await send(sandbox, settings=settings)
    assert "sandbox-robot" not in str(lost.value)


@pytest.mark.parametrize(
    "status, body, error",
    [
        (200, b'{"errcode": 0, "errmsg": "ok"}', None),
        (200, b'{"errcode": "0"}', None),
        (200, b'{"errcode": -1, "errmsg": "system busy"}', TransientError),
        (200, b'{"errcode": 410100, "errmsg": "send too fast"}', RateLimitedError),
        (200, b'{"errcode": 300005, "errmsg": "token is not exist"}', CallRefusedError),
        (200, b'{"errcode": 424242, "errmsg": "something new"}', CallRefusedError),
        (200, b"<html>", UnknownOutcomeError),
        (200, b"[1]", UnknownOutcomeError),
        (502, b"bad gateway", UnknownOutcomeError),
        (404, b"not found", CallRefusedError),
    ],
)
async def test_what_an_answer_means(status: int, body: bytes, error: type[NancalaccError] | None) -> None:
    async def transport(method: str, url: str, **_: Any) -> Response:
        return Response(status=status, headers={}, body=body)

    robot = DingTalkRobot(
        RobotSettings(conn_id="robot", base_url="http://x", access_token="t"), transport=transport
    )
    if error is None:
        await robot.send(title="a", text="b")
    else:
        with pytest.raises(error) as raised:
            await robot.send(title="a", text="b")
        assert type(raised.value) is error


async def test_a_robot_without_a_secret_is_called_without_a_signature_and_long_texts_are_cut() -> None:
    sent: list[tuple[str, bytes]] = []

    async def transport(method: str, url: str, *, body: bytes, **_: Any) -> Response:
        sent.append((url, body))
        return Response(status=200, headers={}, body=b'{"errcode": 0}')

    settings = RobotSettings(conn_id="robot", base_url="http://x", access_token="t")
    await DingTalkRobot(settings, transport=transport).send(title="a", text="字" * 10_000)
    [(url, body)] = sent
    assert url == "http://x/robot/send?access_token=t"
    assert len(body) < 20_000
    assert json.loads(body)["markdown"]["text"].startswith("字字")


def test_a_connection_without_a_token_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="access token as its password"):
        RobotSettings.of(ConnectionInfo(conn_id="robot", host="https://oapi.dingtalk.com"))
