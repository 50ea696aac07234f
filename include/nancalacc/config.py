"""Settings: the process's own (environment) and those of a pair of connections."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from nancalacc import environment
from nancalacc.errors import ConfigurationError
from nancalacc.limits import Limits

E = TypeVar("E", bound=StrEnum)

DB_CONN_ID = "nancalacc_db"
DINGTALK_CONN_ID = "dingtalk_default"
WPS_CONN_ID = "wps_default"
APPROVAL_SECONDS = 43_200.0
"""How long a plan waits for a person: over night, but not until the next night's sync."""
LIMIT_VARIABLE = "NANCALACC_LIMIT_"
DINGTALK_ROBOT = "nancalacc.orchestration.notifiers.DingTalkRobotNotifier"
TOO_LONG_FOR_THE_TABLES = {"third_company_id": 20, "company_id": 20, "platform_id": 60}


class AccountSource(StrEnum):
    """Where the login name of a WPS account comes from."""

    USERID = "userid"
    JOB_NUMBER = "job_number"
    EMAIL = "email"
    MOBILE = "mobile"


class Signature(StrEnum):
    """How calls to WPS are signed in addition to the bearer token [wps 2]."""

    KSO1 = "kso1"
    WPS4 = "wps4"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """What an Airflow connection says, without Airflow."""

    conn_id: str
    host: str = ""
    schema: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def base_url(self) -> str:
        """The base URL without a trailing slash; raises ConfigurationError if it is none."""
        if not self.host.strip():
            raise ConfigurationError(
                f"Connection {self.conn_id!r} has no host: set it to the base URL, for example https://example.com"
            )
        return self.url(self.host, "host", port=self.port)

    def url(self, text: str, name: str, *, port: int | None = None) -> str:
        """A base URL without a trailing slash; raises ConfigurationError that names it if it is none."""
        url = text.strip()
        if "://" not in url:
            url = f"{self.schema or 'https'}://{url}"
        url = url.rstrip("/")
        try:
            parts = urlsplit(url)
            own_port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"Connection {self.conn_id!r}: {name} is not a URL ({error})") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", url):
            raise ConfigurationError(
                f"Connection {self.conn_id!r}: {name} must be a URL that starts with http:// or https://"
            )
        if port and own_port is None:
            url = f"{parts.scheme}://{parts.netloc}:{port}{parts.path}"
        return url

    def text(self, key: str, default: str | None = None) -> str:
        """A text of `extra`; raises ConfigurationError when it is missing and has no default."""
        value = self.extra.get(key)
        if value is None or value == "":
            if default is None:
                raise ConfigurationError(f"Connection {self.conn_id!r}: extra lacks {key!r}")
            return default
        return str(value)

    def number(self, key: str, default: float, *, least: float = 0) -> float:
        """A finite number of `extra`; raises ConfigurationError when it is none or too small."""
        value = self.extra.get(key)
        if value is None or value == "":
            return default
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not least <= number < math.inf:
            raise ConfigurationError(
                f"Connection {self.conn_id!r}: extra {key!r} must be a number of at least {least:g}"
            )
        return number

    def whole(self, key: str, default: int, *, least: int = 0) -> int:
        """As `number`, and without a fraction."""
        number = self.number(key, default, least=least)
        if number != int(number):
            raise ConfigurationError(f"Connection {self.conn_id!r}: extra {key!r} must be a whole number")
        return int(number)

    def choice(self, key: str, default: E) -> E:
        """A value of an enum from `extra`; raises ConfigurationError for any other text."""
        kind = type(default)
        value = self.text(key, default.value)
        try:
            return kind(value)
        except ValueError:
            allowed = ", ".join(member.value for member in kind)
            raise ConfigurationError(
                f"Connection {self.conn_id!r}: extra {key!r} is {value!r}, allowed: {allowed}"
            ) from None

    def flag(self, key: str, *, default: bool) -> bool:
        """A true/false of `extra` (a JSON boolean or the words true and false)."""
        value = str(self.extra.get(key, default)).lower()
        if value not in {"true", "false"}:
            raise ConfigurationError(f"Connection {self.conn_id!r}: extra {key!r} must be true or false")
        return value == "true"

    def unknown_extra(self, settings: type[DingTalkSettings | WpsSettings]) -> list[str]:
        """The keys of `extra` that such settings do not read: misspelt, or meant for somebody else."""
        return sorted(set(self.extra) - settings.EXTRA)

    def credentials(self) -> tuple[str, str]:
        """Login and password; raises ConfigurationError when one is missing."""
        if not self.login or not self.password:
            raise ConfigurationError(f"Connection {self.conn_id!r} needs both a login and a password")
        return self.login, self.password


@dataclass(frozen=True, slots=True)
class DingTalkSettings:
    """A DingTalk app: where it is and how it may be called [dt 0, 1, 4.3]."""

    conn_id: str
    base_url: str
    api_url: str
    app_key: str
    app_secret: str = field(repr=False)
    calls_per_second: float = 15
    root_dept_id: int = 1
    user_details: bool = True
    callback_token: str = field(default="", repr=False)
    callback_aes_secret: str = field(default="", repr=False)
    callback_owner_key: str = ""

    EXTRA: ClassVar = frozenset(
        {
            "api_host",
            "calls_per_second",
            "root_dept_id",
            "user_details",
            "callback_token",
            "callback_aes_secret",
            "callback_owner_key",
        }
    )

    @classmethod
    def of(cls, connection: ConnectionInfo) -> DingTalkSettings:
        """Read and check a connection; raises ConfigurationError naming what is wrong.

        `calls_per_second` 0 means no limit of our own; `callback_owner_key` is the app key unless said
        otherwise: callbacks registered by API name the corpId [dt 6].
        """
        app_key, app_secret = connection.credentials()
        base_url = connection.base_url
        is_public = urlsplit(base_url).hostname == "oapi.dingtalk.com"
        api_host = connection.text("api_host", "https://api.dingtalk.com" if is_public else base_url)
        return cls(
            conn_id=connection.conn_id,
            base_url=base_url,
            api_url=connection.url(api_host, "extra 'api_host'"),
            app_key=app_key,
            app_secret=app_secret,
            calls_per_second=connection.number("calls_per_second", 15),
            root_dept_id=connection.whole("root_dept_id", 1, least=1),
            user_details=connection.flag("user_details", default=True),
            callback_token=connection.text("callback_token", ""),
            callback_aes_secret=connection.text("callback_aes_secret", ""),
            callback_owner_key=connection.text("callback_owner_key", app_key),
        )


@dataclass(frozen=True, slots=True)
class WpsSettings:
    """A WPS 365 tenant: where it is, how calls are signed, how rows are written [wps 1-5]."""

    conn_id: str
    base_url: str
    client_id: str
    client_secret: str = field(repr=False)
    third_company_id: str
    platform_id: str
    company_id: str
    company_name: str
    phone_salt_secret: str = field(repr=False)
    prefix: str = "/openapi"
    signature: Signature = Signature.KSO1
    account_source: AccountSource = AccountSource.USERID
    timezone: str = "Asia/Shanghai"
    reads_per_second: float = 20
    limits: Limits = field(default_factory=Limits)
    approval: bool = False
    approval_seconds: float = APPROVAL_SECONDS

    EXTRA: ClassVar = frozenset(
        {
            "prefix",
            "signature",
            "third_company_id",
            "platform_id",
            "company_id",
            "company_name",
            "phone_salt_secret",
            "account_source",
            "timezone",
            "reads_per_second",
            "limits",
            "approval",
            "approval_seconds",
        }
    )

    @classmethod
    def of(cls, connection: ConnectionInfo) -> WpsSettings:
        """Read and check a connection; raises ConfigurationError naming what is wrong.

        `reads_per_second` limits the reads of one API of the directory; 0 means no limit of our own.
        What it does not say about limits and approval the environment does.
        """
        client_id, client_secret = connection.credentials()
        zone = connection.text("timezone", "Asia/Shanghai")
        if not environment.is_zone(zone):
            raise ConfigurationError(
                f"Connection {connection.conn_id!r}: extra 'timezone' is not a known zone: {zone!r}"
            )
        for key, limit in TOO_LONG_FOR_THE_TABLES.items():
            if len(connection.text(key)) > limit:
                raise ConfigurationError(
                    f"Connection {connection.conn_id!r}: extra {key!r} is longer than {limit} characters"
                )
        if not re.fullmatch(r"[^,\s]+", connection.text("platform_id")):
            raise ConfigurationError(
                f"Connection {connection.conn_id!r}: extra 'platform_id' must not hold commas or blanks"
            )
        prefix = connection.text("prefix", "/openapi").strip("/")
        return cls(
            conn_id=connection.conn_id,
            base_url=connection.base_url,
            client_id=client_id,
            client_secret=client_secret,
            third_company_id=connection.text("third_company_id"),
            platform_id=connection.text("platform_id"),
            company_id=connection.text("company_id"),
            company_name=connection.text("company_name", connection.text("company_id")),
            phone_salt_secret=connection.text("phone_salt_secret"),
            prefix=f"/{prefix}" if prefix else "",
            signature=connection.choice("signature", Signature.KSO1),
            account_source=connection.choice("account_source", AccountSource.USERID),
            timezone=zone,
            reads_per_second=connection.number("reads_per_second", 20),
            limits=_limits(connection),
            approval=connection.flag("approval", default=environment.flag("NANCALACC_APPROVAL")),
            approval_seconds=connection.number(
                "approval_seconds",
                environment.number("NANCALACC_APPROVAL_SECONDS", APPROVAL_SECONDS, least=1),
                least=1,
            ),
        )


def _limits(connection: ConnectionInfo) -> Limits:
    own = connection.extra.get("limits") or {}
    if not isinstance(own, Mapping):
        raise ConfigurationError(
            f"Connection {connection.conn_id!r}: extra 'limits' must be an object with limits by name"
        )
    general = {
        variable.removeprefix(LIMIT_VARIABLE).lower(): text
        for variable, text in os.environ.items()
        if variable.startswith(LIMIT_VARIABLE) and text
    }
    return (
        Limits()
        .changed(general, where=f"Environment variables {LIMIT_VARIABLE}*")
        .changed(own, where=f"Connection {connection.conn_id!r}")
    )


@dataclass(frozen=True, slots=True)
class Retention:
    """How long `saga_maintenance` keeps what is over: days, and snapshots of each company."""

    events_days: int = 90
    sagas_days: int = 365
    snapshots: int = 3
    staging_days: int = 1
    plans_days: int = 30
    inbox_days: int = 30

    @classmethod
    def from_env(cls) -> Retention:
        """Read the environment; raises ConfigurationError naming the variable that is wrong."""
        return cls(
            events_days=environment.count("NANCALACC_KEEP_EVENTS_DAYS", 90),
            sagas_days=environment.count("NANCALACC_KEEP_SAGAS_DAYS", 365),
            snapshots=environment.count("NANCALACC_KEEP_SNAPSHOTS", 3),
            staging_days=environment.count("NANCALACC_KEEP_STAGING_DAYS", 1),
            plans_days=environment.count("NANCALACC_KEEP_PLANS_DAYS", 30),
            inbox_days=environment.count("NANCALACC_KEEP_INBOX_DAYS", 30),
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process reads from NANCALACC_* environment variables; each has a working default."""

    companies: tuple[tuple[str, str], ...] = ((DINGTALK_CONN_ID, WPS_CONN_ID),)
    full_sync_schedule: str | None = "10 2 * * *"
    recovery_schedule: str | None = "*/5 * * * *"
    maintenance_schedule: str | None = "40 3 * * *"
    reconcile_schedule: str | None = "25 5 * * *"
    schedule_timezone: str = "Asia/Shanghai"
    heartbeat_seconds: float = 5
    stale_seconds: float = 30
    lock_wait_seconds: float = 600
    busy_wait_seconds: float = 600
    retry_delay_seconds: float = 10
    resume_seconds: float = 900
    batch_size: int = 500
    backlog_batch_size: int = 5000
    event_attempts: int = 5
    event_pause_seconds: float = 10
    idle_seconds: float = 300
    poll_seconds: float = 0.5
    confirm_seconds: float = 300
    renotify_seconds: float = 20
    repeat_seconds: float = 1800
    verify_seconds: float | None = 0
    metrics_token: str = field(default="", repr=False)
    notify_conn_id: str = ""
    notifier: str = DINGTALK_ROBOT
    retention: Retention = Retention()

    @classmethod
    def from_env(cls) -> Settings:
        """Read the environment; raises ConfigurationError naming the variable that is wrong."""
        heartbeat_seconds = environment.number("NANCALACC_HEARTBEAT_SECONDS", 5, least=0.1)
        stale_seconds = environment.number("NANCALACC_STALE_SECONDS", 30, least=0.1)
        if stale_seconds < 2 * heartbeat_seconds:
            raise ConfigurationError(
                f"Environment variable NANCALACC_STALE_SECONDS ({stale_seconds:g}) must be at least twice"
                f" NANCALACC_HEARTBEAT_SECONDS ({heartbeat_seconds:g}): a live step would count as dead"
            )
        return cls(
            companies=environment.pairs("NANCALACC_COMPANIES", f"{DINGTALK_CONN_ID}:{WPS_CONN_ID}"),
            full_sync_schedule=environment.schedule("NANCALACC_FULL_SYNC_SCHEDULE", "10 2 * * *"),
            recovery_schedule=environment.schedule("NANCALACC_RECOVERY_SCHEDULE", "*/5 * * * *"),
            maintenance_schedule=environment.schedule("NANCALACC_MAINTENANCE_SCHEDULE", "40 3 * * *"),
            reconcile_schedule=environment.schedule("NANCALACC_RECONCILE_SCHEDULE", "25 5 * * *"),
            schedule_timezone=environment.zone("NANCALACC_SCHEDULE_TIMEZONE", "Asia/Shanghai"),
            heartbeat_seconds=heartbeat_seconds,
            stale_seconds=stale_seconds,
            lock_wait_seconds=environment.number("NANCALACC_LOCK_WAIT_SECONDS", 600),
            busy_wait_seconds=environment.number("NANCALACC_BUSY_WAIT_SECONDS", 600),
            retry_delay_seconds=environment.number("NANCALACC_RETRY_DELAY_SECONDS", 10),
            resume_seconds=environment.number("NANCALACC_RESUME_SECONDS", 900),
            metrics_token=os.environ.get("NANCALACC_METRICS_TOKEN", ""),
            notify_conn_id=os.environ.get("NANCALACC_NOTIFY_CONN_ID", ""),
            notifier=os.environ.get("NANCALACC_NOTIFIER") or DINGTALK_ROBOT,
            batch_size=(batch_size := environment.count("NANCALACC_BATCH_SIZE", 500)),
            # Who sets only the former means it.
            backlog_batch_size=environment.count(
                "NANCALACC_BACKLOG_BATCH_SIZE",
                batch_size if os.environ.get("NANCALACC_BATCH_SIZE") else 5000,
            ),
            event_attempts=environment.count("NANCALACC_EVENT_ATTEMPTS", 5),
            event_pause_seconds=environment.number("NANCALACC_EVENT_PAUSE_SECONDS", 10),
            idle_seconds=environment.number("NANCALACC_IDLE_SECONDS", 300),
            poll_seconds=environment.number("NANCALACC_POLL_SECONDS", 0.5, least=0.1),
            confirm_seconds=environment.number("NANCALACC_CONFIRM_SECONDS", 300),
            renotify_seconds=environment.number("NANCALACC_RENOTIFY_SECONDS", 20),
            repeat_seconds=environment.number("NANCALACC_REPEAT_SECONDS", 1800),
            verify_seconds=environment.number_or_none("NANCALACC_VERIFY_SECONDS", 0),
            retention=Retention.from_env(),
        )
