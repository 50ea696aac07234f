"""The call plan of a full sync: how many calls DingTalk will get, and how long they take [dt 4.3].

Made before anything is read, from what the last completed sync counted; held against what happened
afterwards. The first sync from a root has nothing to go by: its plan says only how much fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, text

from nancalacc.clients.dingtalk import DEPARTMENT_PATH, LISTSUB_PATH, USER_LIST_PATH, USER_PATH
from nancalacc.config import DingTalkSettings
from nancalacc.errors import RefusedError

ADDRESS_CALLS, ADDRESS_SECONDS = 10_000, 20
"""More calls of one IP address in so many seconds, over all APIs, and DingTalk blocks it for 5 minutes."""
MUCH_LONGER = 2.0
"""A sync that takes so many times as long as planned is worth a word, unless it is quick anyway."""
LEAST_SECONDS = 60.0
LAST = text("""
    SELECT t.transaction_id, s.action_data
    FROM saga_transactions t
    JOIN saga_steps s ON s.transaction_id = t.transaction_id AND s.step_name = :step
    WHERE t.third_company_id = :company AND t.definition = :definition AND t.status = 'completed'
        AND t.transaction_id <> :own AND s.status = 'completed' AND s.action_data ? 'collect_cost_ms'
        AND s.action_data->>'root_dept_id' = :root
    ORDER BY t.end_time DESC LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class CallPlan:
    """Calls by API, the seconds they take at least at the permitted rate, and those expected.

    `rate` is the limit of calls per second for each API, 0: none. `basis` names the sync whose counts
    these are; empty for a first sync.
    """

    rate: float
    limit_seconds: float
    calls: Mapping[str, int] = field(default_factory=dict)
    least_seconds: float = 0
    expected_seconds: float | None = None
    basis: str = ""

    @property
    def total(self) -> int:
        """The calls of all APIs."""
        return sum(self.calls.values())

    @property
    def may_be_blocked(self) -> bool:
        """Whether nothing keeps the calls below what one IP address may send."""
        permitted = ADDRESS_CALLS / ADDRESS_SECONDS
        return self.total > ADDRESS_CALLS and (not self.rate or self.rate * len(self.calls) > permitted)

    def as_data(self) -> dict[str, Any]:
        """For action_data."""
        return {
            "calls": dict(self.calls),
            "total": self.total,
            "calls_per_second": self.rate,
            "least_seconds": round(self.least_seconds, 1),
            "expected_seconds": None if self.expected_seconds is None else round(self.expected_seconds, 1),
            "limit_seconds": self.limit_seconds,
            "basis": self.basis,
        }

    def __str__(self) -> str:
        """One line for the log."""
        if not self.basis:
            rate = f"{self.rate:g} calls per second of each API" if self.rate else "no limit of calls"
            return f"Call plan: no earlier sync to go by; {rate}, {self.limit_seconds:.0f} s at most"
        calls = ", ".join(f"{number} {path}" for path, number in self.calls.items())
        expected = self.least_seconds if self.expected_seconds is None else self.expected_seconds
        return (
            f"Call plan: {self.total} calls ({calls}), about {expected:.0f} s, {self.limit_seconds:.0f} s at"
            f" most; by the counts of saga {self.basis}"
        )


def plan_calls(
    last: Mapping[str, Any] | None, *, settings: DingTalkSettings, limit: timedelta, basis: str = ""
) -> CallPlan:
    """The plan by what the last fetch recorded; without one an empty plan.

    Departments are read twice each (their record and what is below them, side by side), then the
    pages of their members, then people singly if the connection says so.
    """
    rate, limit_seconds = settings.calls_per_second, limit.total_seconds()
    if not last:
        return CallPlan(rate=rate, limit_seconds=limit_seconds)
    departments = int(last.get("departments", 0))
    pages = int((last.get("evidence") or {}).get("pages", departments))
    users = int(last.get("users", 0)) + int((last.get("rejected") or {}).get("users", 0))
    calls = {DEPARTMENT_PATH: departments, LISTSUB_PATH: departments, USER_LIST_PATH: pages}
    if settings.user_details:
        calls[USER_PATH] = users
    in_turn = sum(number for path, number in calls.items() if path != LISTSUB_PATH)
    total = sum(calls.values())
    least = in_turn / rate if rate else 0.0
    least = max(least, (total - ADDRESS_CALLS) * ADDRESS_SECONDS / ADDRESS_CALLS)
    took = float(last.get("collect_cost_ms", 0)) / 1000
    made = sum(int(number) for number in ((last.get("evidence") or {}).get("calls") or {}).values())
    expected = max(least, took * total / made) if made else least
    return CallPlan(rate, limit_seconds, calls, max(0.0, least), expected, basis)


def last_plan(
    connection: Connection,
    *,
    third_company_id: str,
    transaction_id: str,
    definition: str,
    step: str,
    settings: DingTalkSettings,
    limit: timedelta,
) -> CallPlan:
    """The plan by the last completed sync of the company from the same root, dry runs included."""
    row = connection.execute(
        LAST,
        {
            "company": third_company_id,
            "own": transaction_id,
            "definition": definition,
            "step": step,
            "root": str(settings.root_dept_id),
        },
    ).one_or_none()
    if row is None:
        return plan_calls(None, settings=settings, limit=limit)
    return plan_calls(row.action_data, settings=settings, limit=limit, basis=row.transaction_id)


def require_time(plan: CallPlan, *, settings: DingTalkSettings) -> None:
    """Raise RefusedError when the calls cannot be made before the time limit, saying what to change."""
    if plan.least_seconds <= plan.limit_seconds:
        return
    needed = math.ceil(plan.least_seconds * plan.rate / plan.limit_seconds) if plan.rate else 0
    advice = []
    if needed:
        advice.append(f"raise 'calls_per_second' to {needed} if DingTalk permits your app that many")
    if settings.user_details:
        advice.append("set 'user_details' to false (people are then not read singly: no managers)")
    advice.append("divide the company by 'root_dept_id'")
    raise RefusedError(
        f"This sync needs about {plan.total} calls of DingTalk, which take {plan.least_seconds:.0f} s at"
        f" {plan.rate:g} calls per second; the step is ended after {plan.limit_seconds:.0f} s, so it is not"
        f" begun. In the extra of connection {settings.conn_id!r}: {', or '.join(advice)}"
    )


def compared(plan: Mapping[str, Any] | None, *, calls: Mapping[str, int], seconds: float) -> dict[str, Any]:
    """What was planned beside what happened, for action_data."""
    happened = {"calls": dict(calls), "total": sum(calls.values()), "seconds": round(seconds, 1)}
    return {"planned": dict(plan) if plan else None, "happened": happened}


def is_much_longer(budget: Mapping[str, Any]) -> bool:
    """Whether it took far longer than was expected of it."""
    expected: float | None = (budget["planned"] or {}).get("expected_seconds")
    return expected is not None and bool(
        expected and budget["happened"]["seconds"] > max(LEAST_SECONDS, MUCH_LONGER * expected)
    )
