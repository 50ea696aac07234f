"""What had to be left out or altered on the way from DingTalk to WPS, counted and explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

EXAMPLES = 20
"""How many findings are named; the others are only counted."""


class Reason(StrEnum):
    """Why a record was rejected or altered."""

    NO_USERID = "no_userid"
    """Rejected: the record has no userid."""
    USERID_TOO_LONG = "userid_too_long"
    """Rejected: the userid is longer than the column."""
    USERID_NOT_DISTINCT = "userid_not_distinct"
    """Rejected: the userid equals another one without case and accents [wps 9.8]."""
    ACCOUNT_NOT_DISTINCT = "account_not_distinct"
    """The account equals another one without case and accents: it got a suffix from the userid."""
    ACCOUNT_FROM_USERID = "account_from_userid"
    """The account source is empty for this person: the userid is the account."""
    NAME_NOT_DISTINCT = "name_not_distinct"
    """A department's name equals a sibling's: it got a suffix from the id [wps 9.4]."""
    NAME_MISSING = "name_missing"
    """The name is empty: the id takes its place."""
    VALUE_CUT = "value_cut"
    """A value is longer than its column and was cut."""
    VALUE_DROPPED = "value_dropped"
    """A value is longer than its column and useless when cut: it was left empty."""
    ORDER_CLAMPED = "order_clamped"
    """An order is beyond 32 bit and was set to the nearest value within."""
    MOBILE_NOT_DISTINCT = "mobile_not_distinct"
    """The mobile number is somebody else's too: left empty."""
    EMAIL_NOT_DISTINCT = "email_not_distinct"
    """The e-mail address is somebody else's too: left empty."""
    LEADER_UNKNOWN = "leader_unknown"
    """The manager is not among the people who are synced: left empty [wps 9.7]."""
    MOVED_WHILE_READING = "moved_while_reading"
    """The pages contradicted each other about a person, whose present state was read again."""
    DETAILS_NOT_READ = "details_not_read"
    """user/get refused this person: what only it tells was not read."""
    LEFT_WHILE_READING = "left_while_reading"
    """A person was listed and then no longer there."""


@dataclass(slots=True)
class Findings:
    """Counts by reason and the first examples; ids only, never a phone number or an address."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, reason: Reason, key: str) -> None:
        """Count one finding about the object with this id."""
        self.add_many(reason, (key,), number=1)

    def add_many(self, reason: Reason, keys: Iterable[str], *, number: int) -> None:
        """Count `number` findings of which some ids are given."""
        if not number:
            return
        self.counts[reason.value] += number
        for key in keys:
            if len(self.examples) >= EXAMPLES:
                return
            self.examples.append({"id": key, "reason": reason.value})

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add findings that were stored as `as_data` gives them."""
        self.counts.update(data.get("reasons", {}))
        self.examples.extend(data.get("examples", [])[: EXAMPLES - len(self.examples)])

    def as_data(self) -> dict[str, Any]:
        """The findings for action_data."""
        return {"reasons": dict(sorted(self.counts.items())), "examples": list(self.examples)}
