"""A plan in words: lines of a log, and the request that a person approves or rejects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nancalacc.sync.breaches import NAMED, Breach, beyond_wps, wps_warning
from nancalacc.sync.plan import SORTS, Plan

SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:/@])")
"""What means something in Markdown, or makes a link of a text."""


def short(plan: Plan) -> str:
    """The beginning of the plan's hash, by which people tell plans apart."""
    return plan.hash[:12]


def summary_lines(plan: Plan) -> Iterator[str]:
    """The plan for a log: counts, and the ids of the first objects of each sort."""
    if plan.is_empty:
        yield f"plan {short(plan)}: nothing changes"
        return
    yield f"plan {short(plan)}"
    for kind, counts in plan.counts.items():
        parts = [f"{counts[sort]} {sort}" for sort in SORTS if counts[sort]]
        if not parts:
            continue
        yield f"{kind}: {', '.join(parts)} (known: {counts['known']})"
        for sort in SORTS:
            ids = [_id(each) for each in plan.examples if (each["kind"], each["sort"]) == (kind, sort)]
            if ids:
                more = ", …" if counts[sort] > len(ids) else ""
                yield f"{kind} {sort}: {', '.join(ids)}{more}"


def question_body(plan: Plan, breaches: Sequence[Breach], *, transaction_id: str) -> str:
    """The plan for a person who is to approve or reject it, in Markdown."""
    lines = ["This sync would take away more than the limits allow:", ""]
    lines += [f"- {_plain(str(breach))}" for breach in breaches[: 2 * NAMED]]
    if len(breaches) > 2 * NAMED:
        lines.append(f"- and {len(breaches) - 2 * NAMED} more")
    lines += ["", f"| | known | {' | '.join(SORTS)} |", f"|---|{'---|' * (len(SORTS) + 1)}"]
    for kind, counts in plan.counts.items():
        lines.append(f"| {kind} | {counts['known']} | {' | '.join(str(counts[sort]) for sort in SORTS)} |")
    lines.append("")
    for kind, sort in (("departments", "removed"), ("users", "removed"), ("users", "disabled")):
        named = [each for each in plan.examples if (each["kind"], each["sort"]) == (kind, sort)]
        if named:
            lines.append(f"- {kind} {sort}: {', '.join(_plain(_named(each)) for each in named)} …")
    if beyond := beyond_wps(plan.counts):
        lines += ["", _plain(wps_warning(beyond))]
    lines += [
        "",
        f"[Every change of plan {plan.hash[:12]}](nancalacc/console/?saga={transaction_id})",
        "",
        "**Approve** publishes exactly this plan. **Reject**, or no answer in time, undoes the run.",
    ]
    return "\n".join(lines)


def _id(example: Mapping[str, Any]) -> str:
    if example["kind"] == "memberships":
        return f"{example['uid']} in {example['did']}"
    return str(example["uid"] or example["did"])


def _named(example: Mapping[str, Any]) -> str:
    return f"{example['name']} ({_id(example)})" if example["name"] else _id(example)


def _plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
