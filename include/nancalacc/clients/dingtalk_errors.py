"""What an answer of DingTalk means, and what to do about it [dt 3, 4]."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nancalacc.clients.transport import Response
from nancalacc.errors import (
    CallRefusedError,
    ConfigurationError,
    IncompleteAnswerError,
    NancalaccError,
    ObjectError,
    ObjectNotFoundError,
    RateLimitedError,
    TransientError,
)

BLOCK_SECONDS = 300.0
"""How long DingTalk blocks an address [dt 4.3]."""
OK = "0"
WRONG_PLACE = {301, 302, 303, 307, 308, 401, 404, 405, 407}
"""HTTP statuses by which something else answers than DingTalk: redirects, log-ins, proxies, other sites."""
BLOCK_STATUSES = {403, 418, 429}


class TokenRefusedError(TransientError):
    """The token is invalid or expired: get another one and repeat the call once."""


class AddressBlockedError(RateLimitedError):
    """DingTalk blocks this IP address for all APIs."""


class Action(StrEnum):
    """What to do about a code."""

    RETRY = "retry"
    SLOW_DOWN = "slow_down"
    BLOCKED = "blocked"
    NEW_TOKEN = "new_token"  # noqa: S105
    OBJECT = "object"
    OBJECT_GONE = "object_gone"
    CONFIGURE = "configure"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Rule:
    """The meaning of a code, what a person should do, and the pause in seconds before the next try."""

    action: Action
    meaning: str
    remedy: str = ""
    pause: float = 1.0


@dataclass(frozen=True, slots=True)
class Call:
    """What messages say about a call: the connection, the API path and the object asked for."""

    conn_id: str
    path: str
    subject: str = ""

    def __str__(self) -> str:
        about = f" for {self.subject}" if self.subject else ""
        return f"DingTalk call {self.path}{about} (connection {self.conn_id!r})"


CHECK_CREDENTIALS = "set login and password of the connection to the app's key and secret"
GRANT_PERMISSION = "grant it to the app in the DingTalk developer console (权限管理)"
ALLOW_ADDRESS = "add the outgoing IP address to the app's whitelist in the DingTalk developer console"
WIDEN_SCOPE = "widen the app's scope in the DingTalk developer console (权限管理)"
REPORT = "this is a fault of the program: report it with the request id"

RULES: Mapping[str, Rule] = {
    "-1": Rule(Action.RETRY, "system busy"),
    "400001": Rule(Action.RETRY, "system error"),
    "22": Rule(Action.REFUSED, "unknown API", "check the host of the connection"),
    "404": Rule(Action.REFUSED, "the path does not exist", "check the host of the connection"),
    "40000": Rule(Action.REFUSED, "the token is blank", REPORT),
    "41001": Rule(Action.REFUSED, "the token is missing", REPORT),
    "40035": Rule(Action.REFUSED, "bad or missing parameter", REPORT),
    "40078": Rule(Action.REFUSED, "the login code is unknown or used"),
    "90020": Rule(Action.REFUSED, "the organisation's monthly quota of calls is spent", "buy quota, or wait"),
    "40001": Rule(Action.NEW_TOKEN, "invalid token"),
    "40014": Rule(Action.NEW_TOKEN, "invalid token"),
    "42001": Rule(Action.NEW_TOKEN, "expired token"),
    "InvalidAuthentication": Rule(Action.NEW_TOKEN, "invalid or expired token"),
    "40089": Rule(Action.CONFIGURE, "wrong app key or app secret", CHECK_CREDENTIALS),
    "40096": Rule(Action.CONFIGURE, "wrong app key or app secret", CHECK_CREDENTIALS),
    "invalidClientIdOrSecret": Rule(Action.CONFIGURE, "wrong app key or app secret", CHECK_CREDENTIALS),
    "AuthenticationFailed.MissingParameter": Rule(Action.REFUSED, "the token is missing", REPORT),
    "33001": Rule(Action.CONFIGURE, "the token belongs to another organisation", CHECK_CREDENTIALS),
    "400043": Rule(Action.CONFIGURE, "unknown organisation", CHECK_CREDENTIALS),
    "70001": Rule(Action.CONFIGURE, "the organisation is dissolved", CHECK_CREDENTIALS),
    "43007": Rule(Action.CONFIGURE, "the app is not authorised", GRANT_PERMISSION),
    "60011": Rule(Action.CONFIGURE, "no permission for this API", GRANT_PERMISSION),
    "Forbidden.AccessDenied.AccessTokenPermissionDenied": Rule(
        Action.CONFIGURE, "no permission for this API", GRANT_PERMISSION
    ),
    "60020": Rule(Action.CONFIGURE, "this server's IP address is not allowed", ALLOW_ADDRESS),
    "Forbidden.AccessDenied.IpNotInWhiteList": Rule(
        Action.CONFIGURE, "this server's IP address is not allowed", ALLOW_ADDRESS
    ),
    "33012": Rule(Action.OBJECT, "invalid userid"),
    "40003": Rule(Action.OBJECT, "invalid userid"),
    "40009": Rule(Action.OBJECT, "invalid department id"),
    "400002": Rule(Action.OBJECT, "invalid parameter"),
    "50002": Rule(Action.OBJECT, "the user is outside the app's scope", WIDEN_SCOPE),
    "50004": Rule(Action.OBJECT, "the department is outside the app's scope", WIDEN_SCOPE),
    "60004": Rule(Action.OBJECT, "the parent department does not exist"),
    "60120": Rule(Action.OBJECT, "the user is disabled"),
    "60003": Rule(Action.OBJECT_GONE, "the department does not exist"),
    "60111": Rule(Action.OBJECT_GONE, "the user does not exist"),
    "60121": Rule(Action.OBJECT_GONE, "the user does not exist"),
    "45009": Rule(Action.SLOW_DOWN, "too many calls"),
    "90001": Rule(Action.BLOCKED, "all APIs are closed to this server for some minutes"),
    "90002": Rule(Action.SLOW_DOWN, "too many calls of this API by everybody"),
    **{
        str(code): Rule(Action.SLOW_DOWN, "too many calls of the organisation")
        for code in (*range(90003, 90015), 90017, 90019)
    },
    "90018": Rule(Action.SLOW_DOWN, "too many calls of this API by this app", "lower calls_per_second"),
    "Forbidden.AccessDenied.ApiCountLimitForOrg": Rule(
        Action.REFUSED, "the organisation's monthly quota of calls is spent", "buy quota, or wait"
    ),
    "qps.exceed.limit": Rule(Action.SLOW_DOWN, "too many calls"),
    "request.overlimit": Rule(Action.SLOW_DOWN, "too many calls"),
}
PER_SECOND = Rule(Action.SLOW_DOWN, "too many calls per second", "lower calls_per_second")
PER_MINUTE = Rule(Action.SLOW_DOWN, "too many calls per minute", "lower calls_per_second", pause=15)

SUBCODE = re.compile(r"\[subcode=([^,\]\s]+)")
SENSITIVE = re.compile(r"\S+@\S+|(?=[\w-]*\d)[\w-]{12,}|\d{7,}", re.ASCII)
LONGEST_TEXT = 300


def read_answer(response: Response, *, call: Call) -> dict[str, Any]:
    """Return the payload of a successful answer of either family; raise what any other one means.

    TokenRefusedError, RateLimitedError (AddressBlockedError when all APIs are closed), TransientError
    (also for unknown codes), IncompleteAnswerError, ObjectError, ObjectNotFoundError,
    ConfigurationError, CallRefusedError. The old family answers errors with HTTP 200.
    """
    payload = _payload(response, call=call)
    if "punish" in payload:
        raise _blocked(call)
    code = cause_of(payload)
    if response.status < 300 and (code == OK or (not code and _is_new_family(call))):
        return payload
    if not code and response.status < 300:
        raise IncompleteAnswerError(f"{call}: the answer has no errcode")
    raise error_of(code, response=response, payload=payload, call=call)


def cause_of(payload: Mapping[str, Any]) -> str:
    """The real code of an answer, "0" for success, "" when there is none [dt 3]."""
    errcode = _code(payload.get("errcode"))
    if errcode == OK:
        return OK
    sub_code = _code(payload.get("sub_code"))
    if sub_code:
        return sub_code
    found = SUBCODE.search(str(payload.get("errmsg", "")))
    return found.group(1) if found else errcode or _code(payload.get("code"))


def rule_of(code: str) -> Rule | None:
    """What a code means; None when it is unknown.

    Limits of the new family come as 403 like missing permissions, with a code for each dimension.
    """
    if "QpsLimit" in code:
        return PER_SECOND
    if "QpmLimit" in code:
        return PER_MINUTE
    return RULES.get(code)


def error_of(code: str, *, response: Response, payload: Mapping[str, Any], call: Call) -> NancalaccError:
    """The error for an answer that is none of success; the message says what to do."""
    rule = rule_of(code)
    if rule is None:
        return _unknown(code, response=response, payload=payload, call=call)
    message = f"{call}: code {code}, {rule.meaning}{_details(payload)}"
    if rule.remedy:
        message = f"{message}; {rule.remedy}"
    match rule.action:
        case Action.RETRY:
            return TransientError(message)
        case Action.SLOW_DOWN:
            return RateLimitedError(message, retry_after=max(rule.pause, _retry_after(response)))
        case Action.BLOCKED:
            return _blocked(call)
        case Action.NEW_TOKEN:
            return TokenRefusedError(message)
        case Action.OBJECT:
            return ObjectError(message, code=code)
        case Action.OBJECT_GONE:
            return ObjectNotFoundError(message, code=code)
        case Action.CONFIGURE:
            return ConfigurationError(message)
        case Action.REFUSED:
            return CallRefusedError(message, code=code)


def _unknown(code: str, *, response: Response, payload: Mapping[str, Any], call: Call) -> NancalaccError:
    what = f"unknown code {code}" if code else "no code"
    message = f"{call}: HTTP {response.status}, {what}{_details(payload)}"
    if response.status == 429:
        return RateLimitedError(message, retry_after=max(1.0, _retry_after(response)))
    if response.status in WRONG_PLACE:
        return _misplaced(response, call=call)
    # All our calls of DingTalk are reads: repeating one does no harm, and most unknown codes are passing.
    return TransientError(message)


def _payload(response: Response, *, call: Call) -> dict[str, Any]:
    try:
        payload = json.loads(response.body)
    except ValueError:
        raise _unreadable(response, call=call) from None
    if not isinstance(payload, dict):
        if response.status >= 500:
            raise TransientError(f"{call}: HTTP {response.status}")
        raise IncompleteAnswerError(f"{call}: the answer is not a JSON object")
    return payload


def _unreadable(response: Response, *, call: Call) -> NancalaccError:
    status = response.status
    if status >= 500:
        return TransientError(f"{call}: HTTP {status}")
    if status in WRONG_PLACE:
        return _misplaced(response, call=call)
    if response.body.lstrip().startswith(b"<"):
        if status < 300 or status in BLOCK_STATUSES:
            return _blocked(call)
        return TransientError(f"{call}: HTTP {status} with a page in place of an answer")
    if status == 429:
        return RateLimitedError(f"{call}: HTTP 429", retry_after=max(1.0, _retry_after(response)))
    return IncompleteAnswerError(
        f"{call}: HTTP {status}, the answer is not JSON or cut off after {len(response.body)} bytes"
    )


def _misplaced(response: Response, *, call: Call) -> ConfigurationError:
    return ConfigurationError(
        f"{call}: HTTP {response.status} without a DingTalk code; check host and api_host, and proxies"
    )


def _blocked(call: Call) -> AddressBlockedError:
    return AddressBlockedError(
        f"{call}: DingTalk blocks this IP address for all APIs (too many calls in 20 s);"
        f" no calls for {BLOCK_SECONDS:.0f} s",
        retry_after=BLOCK_SECONDS,
    )


def _is_new_family(call: Call) -> bool:
    return call.path.startswith("v1.0/")


def _code(value: object) -> str:
    return "" if value is None or isinstance(value, bool | dict | list) else str(value).strip()


def _details(payload: Mapping[str, Any]) -> str:
    text = str(payload.get("sub_msg") or payload.get("errmsg") or payload.get("message") or "")
    request_id = str(payload.get("request_id") or payload.get("requestid") or "")
    parts = [f' "{masked(text)}"'] if text else []
    if request_id:
        parts.append(f" [request {request_id[:64]}]")
    return "".join(parts)


def masked(text: str) -> str:
    """A text of the other side without what may be a token, a phone number or a mail address."""
    return SENSITIVE.sub("***", text)[:LONGEST_TEXT]


def _retry_after(response: Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return 0.0
