"""What the actions of a sync need from outside; the composition root builds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.wps import WpsClient
from nancalacc.config import DingTalkSettings, Settings, WpsSettings


def utc_now() -> datetime:
    """The present time, aware."""
    return datetime.now(tz=UTC)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run that carries the saga; `start` is aware."""

    start: datetime
    run_id: str


@dataclass(frozen=True, slots=True)
class SyncServices:
    """Settings and clients by connection id, without Airflow.

    The settings functions raise ConfigurationError for a connection that is missing or wrong;
    the client functions open one HTTP session for the length of the `async with` block.
    """

    settings: Settings
    run: RunInfo
    dingtalk_settings: Callable[[str], DingTalkSettings]
    wps_settings: Callable[[str], WpsSettings]
    dingtalk: Callable[[str], AbstractAsyncContextManager[DingTalkClient]]
    wps: Callable[[str], AbstractAsyncContextManager[WpsClient]]
    now: Callable[[], datetime] = utc_now
    sleep: Callable[[float], None] = time.sleep
