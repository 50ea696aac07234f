"""The clients' `Transport` over the session of Airflow's HTTP provider."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from airflow.providers.http.hooks.http import AsyncHttpSession, HttpAsyncHook, SessionConfig
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from yarl import URL

from nancalacc.clients.transport import AnswerLostError, NotSentError, Response
from nancalacc.errors import ConfigurationError, IncompleteAnswerError

CONNECT_SECONDS = 10.0
LARGEST_ANSWER = 32 * 1024 * 1024
CHUNK = 64 * 1024
# Servers close idle connections after a while of their own; a call sent into one that is
# just being closed would have an unknown outcome, so ours are given up earlier.
KEEP_ALIVE_SECONDS = 4.0


class HookTransport:
    """A `Transport` over one aiohttp session and the provider's own request code.

    Nothing of the connection is added to a request: no Basic auth, no headers of `extra`,
    no retries, no redirects, no cookies, no proxy of the environment.
    """

    def __init__(self, hook: HttpAsyncHook, *, session: aiohttp.ClientSession) -> None:
        self._hook = hook
        self._session = session

    async def __call__(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
    ) -> Response:
        """Send one request; raises NotSentError, AnswerLostError or IncompleteAnswerError."""
        where = f"{method} {_shown(url)} (connection {self._hook.http_conn_id!r})"
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_SECONDS, timeout))

        async def request(target: str, **options: Any) -> aiohttp.ClientResponse:
            # As given: aiohttp would encode the URL anew, and signatures cover it.
            options |= {"data": body, "params": None, "timeout": limits, "allow_redirects": False}
            return await self._session.request(method, URL(target, encoded=True), **options)

        http = AsyncHttpSession(
            hook=self._hook, request=request, config=await self._hook.config(), method=method
        )
        # aiohttp's errors and tracebacks show URLs, in which DingTalk's tokens are: none is kept as a cause.
        try:
            with _call_span(method, url) as span:
                answer = await http.run(
                    endpoint=url, headers=dict(headers), extra_options={"check_response": False}
                )
                span.set_attribute("http.response.status_code", answer.status)
                async with answer:
                    content = await _bounded(answer, where=where)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSentError(f"{where}: no connection ({_reason(error)}); check the host") from None
        except aiohttp.InvalidURL:
            raise ConfigurationError(f"{where}: this is not a URL; check the host") from None
        except TimeoutError:
            raise AnswerLostError(f"{where}: no complete answer in {timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise AnswerLostError(f"{where}: the answer was lost ({_reason(error)})") from None
        return Response(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.headers.items()},
            body=content,
        )


class BareHttpHook(HttpAsyncHook):
    """The provider's hook without what it would send of its connection."""

    def __init__(self, http_conn_id: str) -> None:
        # Our clients know which calls may be repeated; the provider's retries do not.
        super().__init__(http_conn_id=http_conn_id, retry_limit=1)

    async def config(self) -> SessionConfig:
        """Empty: the provider would send login and password, and `extra` as headers."""
        return SessionConfig(base_url="")

    @asynccontextmanager
    async def transport(self) -> AsyncGenerator[HookTransport]:
        """A transport with a session of its own."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        ) as session:
            yield HookTransport(self, session=session)


async def _bounded(answer: aiohttp.ClientResponse, *, where: str) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK):
        content += chunk
        if len(content) > LARGEST_ANSWER:
            answer.close()
            raise IncompleteAnswerError(f"{where}: the answer is larger than {LARGEST_ANSWER >> 20} MB")
    return bytes(content)


@contextmanager
def _call_span(method: str, url: str) -> Iterator[Span]:
    """A span of OpenTelemetry for a call; without query and errors' texts, for tokens are in them."""
    parts = urlsplit(url)
    with trace.get_tracer("nancalacc").start_as_current_span(
        f"{method} {parts.path}",
        kind=SpanKind.CLIENT,
        attributes={
            "http.request.method": method,
            "server.address": parts.hostname or "",
            "url.path": parts.path,
        },
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _shown(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _reason(error: BaseException) -> str:
    """The kind of an error and the system's words for it, without the URL aiohttp adds."""
    system = getattr(error, "os_error", error)
    text = getattr(system, "strerror", None) if isinstance(system, OSError) else None
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
