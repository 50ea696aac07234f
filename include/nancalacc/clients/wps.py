"""The WPS 365 client: publishing a sync and reading the directory [wps 1-4]."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from nancalacc.clients.auth import Token, TokenCache
from nancalacc.clients.rate_limit import RateLimiter
from nancalacc.clients.signatures import FORM, JSON, http_date, signature_headers
from nancalacc.clients.transport import AnswerLostError, Response, Transport
from nancalacc.clients.wps_answers import check_read, check_sync, is_unauthorised, read_token
from nancalacc.config import WpsSettings
from nancalacc.errors import IncompleteAnswerError, RateLimitedError, TransientError, UnknownOutcomeError

log = logging.getLogger(__name__)

CALL_SECONDS = 30.0
READ_ATTEMPTS = 5
PROBE_SECONDS = 5.0
"""How long an answer may take to the first call of a kind that not every installation answers."""
LONGEST_PAUSE_SECONDS = 60.0
PAGE_SIZE = 50
BACK_OFF = wait_random_exponential(multiplier=0.5, max=10)
PRESENT_STATUSES = ("active", "notactive", "disabled")


def _pause(state: RetryCallState) -> float:
    """Seconds until a read is repeated: the usual back-off, or what WPS asks for if that is longer."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, RateLimitedError) else 0.0
    return max(BACK_OFF(state), min(asked, LONGEST_PAUSE_SECONDS))


class WpsClient:
    """Calls of one WPS tenant; one instance belongs to one event loop.

    Reads are repeated on errors that pass; publishing calls never are, so that the
    caller decides with what it knows. `clock` is monotonic seconds, `now` an aware time. `reads`
    counts the reads that were sent, repeated ones included.
    """

    def __init__(
        self,
        settings: WpsSettings,
        *,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._now = now
        self._sleep = sleep
        self._tokens = TokenCache(self._fetch_token, clock=clock)
        self._limiter = RateLimiter(settings.reads_per_second, clock=clock, sleep=sleep)
        self.reads = 0

    async def full_sync(self, *, task_id: str, collect_cost_ms: int) -> None:
        """Ask WPS to take over the snapshot of `task_id`; returns when WPS accepted it [wps 3.1].

        `collect_cost_ms` is what collecting took; WPS refuses 0, so at least 1 is sent.
        Raises as `increment_sync` does.
        """
        await self._publish(
            "full/sync",
            {
                "task_id": task_id,
                "third_company_id": self._settings.third_company_id,
                "collect_cost": max(1, collect_cost_ms),
            },
        )

    async def increment_sync(self) -> None:
        """Ask WPS to read the increment tables; returns when WPS accepted it [wps 3.2].

        Raises CallRefusedError when WPS definitely did nothing, BusyError when it is at
        work on an earlier request, UnknownOutcomeError when it may have begun, and any
        other TransientError (NotSentError above all) when the call was not sent.
        """
        await self._publish("increment/sync", {"third_company_id": self._settings.third_company_id})

    async def root_department(self, *, probe: bool = False) -> dict[str, Any]:
        """The root DEPT record [wps 4]; `probe`: not repeated, and given up soon."""
        found = await self._read("/v7/depts/root", probe=probe)
        if not isinstance(found, dict):
            raise IncompleteAnswerError("WPS GET /v7/depts/root: the answer holds no department")
        return found

    def department_children(self, dept_id: str) -> AsyncIterator[dict[str, Any]]:
        """The DEPT records right below a department (`dept_id` is WPS's own id) [wps 4]."""
        return self._pages(f"/v7/depts/{quote(dept_id, safe='')}/children", ())

    def users(
        self, *, statuses: Sequence[str] = PRESENT_STATUSES, with_dept: bool = True, probe: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """The USER records of the company that have one of `statuses` [wps 4].

        `probe`: the first page is not asked for again, and given up soon.
        """
        query = [("status", status) for status in statuses]
        query.append(("with_dept", "true" if with_dept else "false"))
        return self._pages("/v7/users", query, probe=probe)

    async def _pages(
        self, path: str, query: Sequence[tuple[str, str]], *, probe: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        token, seen = "", set[str]()
        while True:
            page = [*query, ("page_size", str(PAGE_SIZE)), *([("page_token", token)] if token else [])]
            data = await self._read(f"{path}?{urlencode(page)}", probe=probe and not token)
            items = data.get("items") if isinstance(data, dict) else None
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise IncompleteAnswerError(f"WPS GET {path}: page {len(seen) + 1} has no list of records")
            for item in items:
                yield item
            token = str(data.get("next_page_token") or "")
            if not token:
                return
            if token in seen:
                raise IncompleteAnswerError(
                    f"WPS GET {path}: page {len(seen) + 1} leads back to an earlier one"
                )
            seen.add(token)

    async def _read(self, uri: str, *, probe: bool = False) -> Any:
        """The `data` of a v7 read; repeats what is expected to pass, unless it only probes."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(1 if probe else READ_ATTEMPTS),
            wait=_pause,
            sleep=self._sleep,
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        path = uri.partition("?")[0]
        call = f"WPS GET {path}"
        seconds = PROBE_SECONDS if probe else CALL_SECONDS
        async for attempt in attempts:
            with attempt:
                # One lane for the pages of all departments: WPS limits an API, not an address.
                async with self._limiter.slot(path.rpartition("/")[2]):
                    self.reads += 1
                    answer = await self._send("GET", uri, timeout=seconds)
                return check_read(answer, call=call, conn_id=self._settings.conn_id)
        raise AssertionError("tenacity raises the last error")

    async def _publish(self, name: str, values: Mapping[str, object]) -> None:
        uri = f"/v7/ecisaccountsync/{name}"
        call = f"WPS POST {uri}"
        try:
            answer = await self._send("POST", uri, json.dumps(values, separators=(",", ":")).encode())
        except (AnswerLostError, IncompleteAnswerError) as error:
            raise UnknownOutcomeError(f"{call}: {error}; WPS may have begun the sync") from error
        check_sync(answer, call=call, conn_id=self._settings.conn_id)
        log.info("%s: accepted", call)

    async def _send(
        self, method: str, uri: str, body: bytes | None = None, *, timeout: float | None = None
    ) -> Response:
        """One signed call; an expired token is renewed once. Raises as the transport does."""
        timeout = timeout or CALL_SECONDS
        token = await self._token()
        answer = await self._send_signed(method, uri, body, token=token, timeout=timeout)
        if is_unauthorised(answer):
            self._tokens.drop(token)
            log.info("WPS %s %s: the token was refused, fetching a new one", method, uri.partition("?")[0])
            answer = await self._send_signed(method, uri, body, token=await self._token(), timeout=timeout)
        return answer

    async def _token(self) -> str:
        try:
            return await self._tokens.get()
        except (AnswerLostError, IncompleteAnswerError) as error:
            # Nothing is open about the call itself: without a token it is not sent.
            raise TransientError(f"WPS token: {error}") from error

    async def _send_signed(
        self, method: str, uri: str, body: bytes | None, *, token: str, timeout: float
    ) -> Response:
        headers = signature_headers(
            self._settings.signature,
            client_id=self._settings.client_id,
            client_secret=self._settings.client_secret,
            method=method,
            uri=uri,
            content_type=JSON,
            date=http_date(self._now()),
            body=body,
        )
        return await self._transport(
            method,
            f"{self._settings.base_url}{self._settings.prefix}{uri}",
            headers={"Content-Type": JSON, "Authorization": f"Bearer {token}", **headers},
            body=body,
            timeout=timeout,
        )

    async def _fetch_token(self) -> Token:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret,
        }
        answer = await self._transport(
            "POST",
            f"{self._settings.base_url}{self._settings.prefix}/oauth2/token",
            headers={"Content-Type": FORM},
            body=urlencode(form).encode(),
            timeout=CALL_SECONDS,
        )
        return read_token(answer, conn_id=self._settings.conn_id)
