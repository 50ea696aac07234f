"""What people read about an incident: which saga, which step, why, what was undone, where to look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nancalacc.store.incidents import Incident
from nancalacc.store.tables import IncidentKind

LONGEST_REASON = 600
REPETITION = "(May be a repetition: nobody knows whether the first message of this arrived.)"


@dataclass(frozen=True, slots=True)
class Message:
    """A title of one line, and a text in Markdown."""

    title: str
    text: str


def message_of(incident: Incident, *, console: str) -> Message:
    """The message about an incident; `console` is the address of what it is about."""
    title, lines = _TOLD[incident.kind](incident.facts)
    parts = [f"### {title}", *lines, f"[Open in the console]({console})"]
    if incident.perhaps_sent:
        parts.append(REPETITION)
    return Message(title=title, text="\n\n".join(parts))


def _rollback(facts: Mapping[str, Any]) -> tuple[str, Iterable[str]]:
    step = facts["failed_step"] or "an unknown step"
    return f"nancalacc: {facts['definition']} was undone, {step} failed", [
        _saga(facts),
        f"**Why:** {_quoted(facts['error'], step)}",
        f"**Undone:** {_steps(facts['undone'])}",
        "Nothing was published: WPS keeps the organisation it has. Retry when the reason is removed.",
    ]


def _stuck(facts: Mapping[str, Any]) -> tuple[str, Iterable[str]]:
    step = facts["failed_step"] or "an unknown step"
    way = (
        "It is published, or may be: the saga only goes forward."
        if facts["published"]
        else f"Nothing was published. **Undone so far:** {_steps(facts['undone'])}"
    )
    tries = facts["recovery_tries"]
    by = f", tried {tries} times by saga_recovery" if tries else ""
    return f"nancalacc: {facts['definition']} does not get on, {step} failed", [
        _saga(facts),
        f"**State:** {facts['status']}, for {_age(facts['age'])}{by}. It is tried again by itself.",
        f"**Why:** {_quoted(facts['recovery_error'] or facts['error'], step)}",
        way,
    ]


def _approval(facts: Mapping[str, Any]) -> tuple[str, Iterable[str]]:
    return f"nancalacc: {facts['definition']} waits for somebody to approve it", [
        _saga(facts),
        f"**Beyond the limits:** {_quoted('; '.join(facts['beyond'] or ()))}",
        f"Task {facts['checkpoint']} asks in Airflow, under Required Actions: approve or reject. No answer in"
        " time is a no.",
    ]


def _dead_events(facts: Mapping[str, Any]) -> tuple[str, Iterable[str]]:
    count = facts["count"]
    events = "1 event" if count == 1 else f"{count} events"
    types = ", ".join(f"{name} ({number})" for name, number in sorted(facts["types"].items()))
    return f"nancalacc: {events} of DingTalk given up", [
        f"**Types:** {types}",
        *(f"**Why** ({number}): {_quoted(reason)}" for reason, number in facts["reasons"]),
        "They wait for a decision: retry or drop them.",
    ]


def _drift(facts: Mapping[str, Any]) -> tuple[str, Iterable[str]]:
    state = (
        "stopped the sync by its thresholds"
        if facts["verdict"] == "stopped"
        else "differs from what it was given"
    )
    return f"nancalacc: WPS {state}", [
        _saga(facts),
        f"**Found:** {_quoted(facts['message'])}",
        "The log of that run names the objects. Start reconcile with repair to bring them to WPS.",
    ]


_TOLD = {
    IncidentKind.ROLLBACK: _rollback,
    IncidentKind.STUCK: _stuck,
    IncidentKind.APPROVAL: _approval,
    IncidentKind.DEAD_EVENTS: _dead_events,
    IncidentKind.DRIFT: _drift,
}


def _saga(facts: Mapping[str, Any]) -> str:
    company = f", company {facts['third_company_id']}" if facts["third_company_id"] else ""
    return f"**Saga:** {facts['transaction_id']}{company}, run {_plain(facts['run_id'])} of {facts['dag_id']}"


def _steps(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing, for nothing had been written"


def _quoted(text: str | None, step: str = "") -> str:
    told = _plain(text or "It did not finish").removeprefix(f"{step}: ")
    return told if len(told) <= LONGEST_REASON else f"{told[:LONGEST_REASON]} …"


def _plain(text: str) -> str:
    """Text of others in one line, that makes no link of its own."""
    return " ".join(text.split()).replace("](", "] (")


def _age(seconds: int) -> str:
    if seconds < 7200:
        return f"{max(1, seconds // 60)} min"
    return f"{seconds // 3600} h" if seconds < 172_800 else f"{seconds // 86_400} days"
