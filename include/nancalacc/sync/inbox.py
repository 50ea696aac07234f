"""The inbox: DingTalk's events as they arrive, kept until a batch has dealt with them [design 6].

Events are notifications [dt 7]: of their content only types, ids of objects and times are kept,
for a batch reads the objects themselves anew. Every delivery can be stored, whatever it holds,
because one that could not be would be delivered again for ever: what is unreadable is stored
dead, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.postgresql import insert

from nancalacc.store.tables import EventStatus, dingtalk_events

USER_TYPES = frozenset({"user_add_org", "user_modify_org", "user_active_org", "user_leave_org"})
DEPARTMENT_TYPES = frozenset({"org_dept_create", "org_dept_modify", "org_dept_remove"})
LEAVING_TYPES = frozenset({"user_leave_org", "org_dept_remove"})
CHECK_URL = "check_url"
"""The type with which DingTalk tries out a callback address [dt 6]."""

USER_KEYS = ("userid", "useridlist")
DIFFERENCES = "diffinfo"
DEPARTMENT_KEYS = ("deptid", "deptidlist")
TIME_KEYS = ("timestamp", "eventtime")
TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
DEPARTMENT_ID = re.compile(r"[0-9]{1,18}")
LONGEST_ID = 128
SHORT_AND_DURABLE = text("""
SELECT set_config('lock_timeout', '4s', true),
       set_config('statement_timeout', '10s', true),
       set_config('synchronous_commit',
                  coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
""")


@dataclass(frozen=True, slots=True)
class Company:
    """A pair of connections: where a company's events come from, and where they go."""

    dingtalk_conn_id: str
    wps_conn_id: str


@dataclass(frozen=True, slots=True)
class InboxEvent:
    """One event; `event_id` is DingTalk's, or a hash where there is none.

    `object_ids` are userids or department ids as texts, without repetitions; `born_at` is aware.
    `status` is the one it is stored with: pending, done for a type that concerns nobody, dead for
    what cannot be read. `error` says why, or which part of it was not usable.
    """

    event_id: str
    event_type: str
    corp_id: str = ""
    object_ids: tuple[str, ...] = ()
    born_at: datetime | None = None
    status: EventStatus = EventStatus.PENDING
    error: str = ""


class _UnreadableError(Exception):
    """The content is not what its type says; the text is the reason, without any content."""


def read_frame(headers: Mapping[str, Any], data: object) -> InboxEvent:
    """The event of a Stream frame [dt 5.2]: its headers, and its `data` (JSON text or object)."""
    head = _folded(headers)
    values, reason = _values(data)
    return _event(
        raw_type=_first(head, "eventtype") or _first(values, "eventtype"),
        given_id=_first(head, "eventid") or _first(values, "eventid"),
        corp_id=_first(head, "eventcorpid") or _first(values, "corpid"),
        born=_first(head, "eventborntime") or _first(values, *TIME_KEYS),
        sent=_first(head, "time") or _first(head, "messageid"),
        values=values,
        reason=reason,
        raw=data,
    )


def read_plaintext(plaintext: bytes, *, sent: str) -> InboxEvent:
    """The event of a decrypted callback [dt 6.1]; `sent` tells deliveries without id and time apart."""
    values, reason = _values(plaintext)
    return _event(
        raw_type=_first(values, "eventtype"),
        given_id=_first(values, "eventid") or _first(values, "bizid"),
        corp_id=_first(values, "corpid", "eventcorpid"),
        born=_first(values, "eventborntime", *TIME_KEYS),
        sent=sent,
        values=values,
        reason=reason,
        raw=plaintext,
    )


def store(
    connection: Connection, events: Iterable[InboxEvent], *, companies: Sequence[Company]
) -> set[InboxEvent]:
    """Put events into the inbox of each company, and return those that were new to one.

    Storing an event again changes nothing. Two transactions that store the same events do not
    block each other for good, as both do it in the order of the ids. The transaction should hold
    nothing else: its time-outs become short.
    """
    found = {event.event_id: event for event in events}
    rows = [
        {
            "dingtalk_conn_id": company.dingtalk_conn_id,
            "wps_conn_id": company.wps_conn_id,
            "event_id": event.event_id,
            "event_type": event.event_type,
            "corp_id": event.corp_id or None,
            "object_ids": list(event.object_ids),
            "born_at": event.born_at.astimezone(UTC).replace(tzinfo=None) if event.born_at else None,
            "status": event.status.value,
            "error": event.error or None,
        }
        for company in sorted(set(companies), key=lambda pair: (pair.dingtalk_conn_id, pair.wps_conn_id))
        for _, event in sorted(found.items())
    ]
    if not rows:
        return set()
    # DingTalk forgets an event that is confirmed: it must outlive a crash whatever the server's settings.
    # It delivers again what is not confirmed: nothing is won by waiting long.
    connection.execute(SHORT_AND_DURABLE)
    statement = insert(dingtalk_events).on_conflict_do_nothing().returning(dingtalk_events.c.event_id)
    return {found[event_id] for event_id in connection.execute(statement, rows).scalars()}


def require_working(connection: Connection) -> None:
    """Raise what the database raises unless the inbox answers soon."""
    connection.execute(SHORT_AND_DURABLE)
    connection.execute(select(dingtalk_events.c.id).limit(1))


def _event(
    *,
    raw_type: str,
    given_id: str,
    corp_id: str,
    born: str,
    sent: str,
    values: Mapping[str, Any],
    reason: str,
    raw: object,
) -> InboxEvent:
    event_type = raw_type if TYPE.fullmatch(raw_type) else ""
    object_ids: tuple[str, ...] = ()
    status, error = EventStatus.PENDING, ""
    try:
        if reason:
            raise _UnreadableError(reason)
        if not event_type:
            raise _UnreadableError("it names no event type")
        if event_type in USER_TYPES:
            given = _given(values, USER_KEYS) or _changed_people(values)
            object_ids, error = _ids(given, is_id=_is_userid, what="userid")
        elif event_type in DEPARTMENT_TYPES:
            given = _given(values, DEPARTMENT_KEYS)
            object_ids, error = _ids(given, is_id=_is_department_id, what="department id")
        else:
            status = EventStatus.DONE
    except _UnreadableError as unreadable:
        status, error = EventStatus.DEAD, f"Unreadable: {unreadable}"
    usable_id = given_id if len(given_id) <= LONGEST_ID and given_id.isprintable() else ""
    return InboxEvent(
        event_id=usable_id or _hash(event_type, given_id, object_ids or _content(raw), born or sent),
        event_type=event_type,
        corp_id=corp_id if len(corp_id) <= LONGEST_ID and corp_id.isprintable() else "",
        object_ids=object_ids,
        born_at=_moment(born),
        status=status,
        error=error,
    )


def _values(data: object) -> tuple[Mapping[str, Any], str]:
    """The content with keys in lower case, or why it is none."""
    if isinstance(data, str | bytes):
        try:
            # Given bytes, the parser would take them for UTF-16 when they begin like that.
            content = data.decode() if isinstance(data, bytes) else data
            data = json.loads(content) if content.strip() else {}
        except UnicodeDecodeError:
            return {}, "it is not UTF-8"
        # Python's parser gives up on deep nesting with an error of its own.
        except (ValueError, RecursionError):
            return {}, "it is not JSON"
    if data is None:
        return {}, ""
    return (_folded(data), "") if isinstance(data, dict) else ({}, "it is not a JSON object")


def _folded(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {str(key).lower(): value for key, value in values.items()}


def _first(values: Mapping[str, Any], *keys: str) -> str:
    """The first of these values that is a text or a number, as text without surrounding blanks."""
    for key in keys:
        found = _text(values.get(key))
        if found:
            return found
    return ""


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _given(values: Mapping[str, Any], keys: Iterable[str]) -> list[Any]:
    """What stands under the first of these keys that is not empty, as a list."""
    found: Any = next((values[key] for key in keys if values.get(key) not in (None, "", [])), [])
    return found if isinstance(found, list) else [found]


def _changed_people(values: Mapping[str, Any]) -> list[Any]:
    """The userids in `diffInfo`, an object or a list of such [dt 7]."""
    people = [_folded(each) for each in _given(values, (DIFFERENCES,)) if isinstance(each, dict)]
    return [each["userid"] for each in people if "userid" in each]


def _ids(given: Sequence[Any], *, is_id: Callable[[str], bool], what: str) -> tuple[tuple[str, ...], str]:
    """The ids an event names, and what to say about those that are none."""
    if not given:
        raise _UnreadableError(f"it names no {what}")
    listed = [_text(value) for value in given]
    usable = [value for value in listed if is_id(value)]
    left_out = len(listed) - len(usable)
    if not usable:
        raise _UnreadableError(f"none of its {left_out} entries is a {what}")
    error = f"{left_out} of {len(listed)} entries are no {what} and were left out" if left_out else ""
    return tuple(dict.fromkeys(usable)), error


def _is_department_id(value: str) -> bool:
    return DEPARTMENT_ID.fullmatch(value) is not None and int(value) > 0


def _is_userid(value: str) -> bool:
    return 0 < len(value) <= LONGEST_ID and value.isprintable()


def _moment(milliseconds: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _content(raw: object) -> bytes:
    """What tells one unreadable or recorded event from another."""
    if isinstance(raw, bytes):
        return raw
    shown = raw if isinstance(raw, str) else repr(raw)
    return shown.encode(errors="surrogatepass")


def _hash(*parts: object) -> str:
    # Without a time the same change a year later would count as a repetition: hence `born or sent`.
    return "sha256:" + hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()
