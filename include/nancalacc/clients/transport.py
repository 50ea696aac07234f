"""How clients send HTTP requests, whoever carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nancalacc.errors import TransientError


class NotSentError(TransientError):
    """The request never reached the other side (no connection): it cannot have had any effect."""


class AnswerLostError(TransientError):
    """The request was sent, but no complete answer came: it may have had its effect."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer of whatever status; header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Transport(Protocol):
    """Sends one request, without retries, redirects or authentication of its own.

    `url` is sent exactly as given (signatures cover it). Raises NotSentError or
    AnswerLostError, with messages that hold neither the query (tokens) nor any body,
    IncompleteAnswerError for an answer that is too large, and ConfigurationError for something
    that is not a URL.
    """

    async def __call__(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None, timeout: float
    ) -> Response:
        """Send and return the answer; `timeout` is in seconds for the whole exchange."""
