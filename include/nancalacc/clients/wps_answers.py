"""What an answer of WPS means: done, refused, busy, unknown [wps 1, 3, 4].

WPS answers in two shapes: ecisaccountsync with string codes ("200" is success), the
gateway and v7 with numbers (0 is success). Either may come for any call, so codes are
compared as text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from nancalacc.clients.auth import Token
from nancalacc.clients.transport import Response
from nancalacc.errors import (
    BusyError,
    CallRefusedError,
    ConfigurationError,
    IncompleteAnswerError,
    NancalaccError,
    RateLimitedError,
    TransientError,
    UnknownOutcomeError,
)

ACCEPTED_CODES = {"200", "0"}
RUNNING = re.compile(r"执行中|正在|进行中|同步中|already running|is running|in progress", re.IGNORECASE)
NEVER_ABOUT_A_RUNNING_SYNC = {"400", "401", "403"}
# The component itself repeats calls answered with these two [wps 4].
PASSING_CODES = {"400000005", "50000001"}
# Request time-out, too early: client errors by number, but the same call may do later.
PASSING_STATUSES = {408, 425}
LIMITED, UNAUTHORISED = 429, 401
DEFAULT_TOKEN_SECONDS = 7200.0
WHAT_TO_DO = {
    "3xx": "it redirects elsewhere, check host of the connection (http or https?)",
    "401": "check login and password of the connection",
    "403": "check the app's permissions, extra 'signature' and the clock of this machine",
    "404": "check host and extra 'prefix' of the connection",
}
# ASCII: Chinese is written without blanks, and no token.
TOKEN_LIKE = re.compile(r"[\w+/=.-]{24,}|(?<!\d)1\d{10}(?!\d)", re.ASCII)
TEXT_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer taken apart; `values` is None for what is not a JSON object, `code` "" for none."""

    status: int
    code: str
    words: tuple[str, ...]
    values: dict[str, Any] | None

    @property
    def text(self) -> str:
        """The other side's words for messages: they may quote what they were given."""
        return TOKEN_LIKE.sub("…", ": ".join(self.words))[:TEXT_LIMIT].strip()

    @property
    def is_about_a_running_sync(self) -> bool:
        """Whether it says, without having accepted the call, that an earlier sync is at work."""
        if self.code in ACCEPTED_CODES | NEVER_ABOUT_A_RUNNING_SYNC:
            return False
        return self.code == "505" or any(RUNNING.search(each) for each in self.words)

    @property
    def told(self) -> str:
        """What came, for messages."""
        if self.values is None:
            return f"HTTP {self.status} without a readable JSON object"
        code = f"code {self.code}" if self.code else "no code"
        text = self.text
        return f"HTTP {self.status}, {code}" + (f" ({text})" if text else "")


def read_answer(response: Response) -> Answer:
    """Take an answer apart, whatever it is."""
    try:
        values = json.loads(response.body)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        return Answer(status=response.status, code="", words=(), values=None)
    code = values.get("code")
    known = isinstance(code, int | str) and not isinstance(code, bool)
    words = [str(values.get("msg") or values.get("error") or ""), values.get("detail")]
    return Answer(
        status=response.status,
        code=str(code).strip() if known else "",
        words=tuple(each for each in words if isinstance(each, str) and each),
        values=values,
    )


def is_unauthorised(response: Response) -> bool:
    """Whether the access token was refused, in either shape."""
    answer = read_answer(response)
    return answer.status == UNAUTHORISED or _family(answer.code) == "401"


def check_sync(response: Response, *, call: str, conn_id: str) -> None:
    """Return if ecisaccountsync accepted the call.

    Raises CallRefusedError for a definite refusal, BusyError when a sync is running or
    the gateway limits calls, UnknownOutcomeError for whatever leaves it open: an error page
    without a code of WPS may come from something that only kept the answer back.
    """
    answer = read_answer(response)
    if answer.is_about_a_running_sync:
        raise BusyError(f"{call}: WPS is at work on an earlier sync ({answer.told})")
    if LIMITED in (answer.status, _number(_family(answer.code))):
        raise BusyError(f"{call}: WPS takes no more calls for the moment ({answer.told})")
    if answer.status >= 500 or answer.status in PASSING_STATUSES or answer.code in PASSING_CODES:
        raise UnknownOutcomeError(f"{call}: {answer.told}; WPS may have begun the sync")
    if answer.status >= 400 and answer.status != UNAUTHORISED and answer.code in {"", *ACCEPTED_CODES}:
        advice = _advice(str(answer.status), conn_id=conn_id)
        raise UnknownOutcomeError(f"{call}: {answer.told}{advice}; WPS may have begun the sync")
    if answer.status >= 300 or answer.code == "500" or _family(answer.code).startswith("4"):
        raise _refused(answer, call=call, conn_id=conn_id)
    if answer.code not in ACCEPTED_CODES:
        raise UnknownOutcomeError(f"{call}: {answer.told}, expected code 200; WPS may have begun the sync")


def check_read(response: Response, *, call: str, conn_id: str) -> Any:
    """The `data` of a v7 answer.

    Raises CallRefusedError when repeating cannot help, another TransientError when it
    can, IncompleteAnswerError for a cut off or foreign body.
    """
    answer = read_answer(response)
    if LIMITED in (answer.status, _number(_family(answer.code))):
        raise RateLimitedError(f"{call}: {answer.told}", retry_after=_retry_after(response))
    if answer.status >= 500 or answer.status in PASSING_STATUSES or answer.code in PASSING_CODES:
        raise TransientError(f"{call}: {answer.told}")
    if answer.status >= 300 or _family(answer.code).startswith("4"):
        raise _refused(answer, call=call, conn_id=conn_id)
    if answer.values is None or not answer.code:
        raise IncompleteAnswerError(f"{call}: {answer.told}, expected an object with code and data")
    if answer.code != "0":
        raise TransientError(f"{call}: {answer.told}")
    return answer.values.get("data")


def read_token(response: Response, *, conn_id: str) -> Token:
    """The token of an answer to `POST /oauth2/token` [wps 1].

    Raises ConfigurationError when the app is refused, TransientError otherwise.
    """
    answer = read_answer(response)
    call = f"WPS token (connection {conn_id!r})"
    if LIMITED in (answer.status, _number(_family(answer.code))):
        raise RateLimitedError(f"{call}: {answer.told}", retry_after=_retry_after(response))
    if answer.status >= 500 or answer.status in PASSING_STATUSES or answer.code in PASSING_CODES:
        raise TransientError(f"{call}: {answer.told}")
    value = answer.values.get("access_token") if answer.values else None
    if answer.status < 300 and isinstance(value, str) and value:
        return Token(value=value, expires_in=_seconds((answer.values or {}).get("expires_in")))
    if answer.status < 300 and answer.code in {"", "0"}:
        raise IncompleteAnswerError(f"{call}: {answer.told}, expected an access_token")
    raise ConfigurationError(
        f"{call}: {answer.told}. Check login (client id), password (client secret), host and extra 'prefix'"
    )


def _refused(answer: Answer, *, call: str, conn_id: str) -> NancalaccError:
    kind = _family(answer.code) if answer.code not in {"", *ACCEPTED_CODES} else str(answer.status)
    advice = _advice("3xx" if 300 <= answer.status < 400 else kind, conn_id=conn_id)
    return CallRefusedError(
        f"{call}: WPS refused the call, {answer.told}{advice}", code=answer.code or str(answer.status)
    )


def _advice(kind: str, *, conn_id: str) -> str:
    advice = WHAT_TO_DO.get(kind)
    return f": {advice} (connection {conn_id!r})" if advice else ""


def _family(code: str) -> str:
    """The first three digits of a gateway code such as 400000201, a short code as it is."""
    return code[:3] if code.isdigit() and len(code) > 3 else code


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _retry_after(response: Response) -> float:
    """Seconds of `Retry-After`; a date or nonsense counts as one second."""
    return float(_number(response.headers.get("retry-after", "").strip()) or 1)


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        seconds = 0.0
    return seconds if seconds > 0 else DEFAULT_TOKEN_SECONDS
