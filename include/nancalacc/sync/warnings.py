"""What a complete fetch still has to tell: in the log, in the saga's events and in its action_data."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nancalacc.clients.dingtalk import Scopes
from nancalacc.saga.context import StepContext
from nancalacc.saga.state import EventType
from nancalacc.sync.scope import FormerScope

log = logging.getLogger(__name__)


def warn_about(
    ctx: StepContext,
    *,
    proof: Mapping[str, Any],
    held: Mapping[str, Any],
    unread: list[str],
    scopes: Scopes,
    former: FormerScope | None,
) -> list[str]:
    """Tell of what looks wrong but makes nothing unsafe; returns the messages."""
    return _warn(ctx, _messages(proof, held, unread, scopes, former))


def warn_about_conflicts(ctx: StepContext, held: Mapping[str, Any]) -> None:
    """Tell of new conflicts."""
    _warn(ctx, _of_conflicts(held))


def _warn(ctx: StepContext, found: Iterable[str]) -> list[str]:
    messages = list(found)
    for message in messages:
        log.warning("Saga %s: %s", ctx.saga.transaction_id, message)
        ctx.event(EventType.WARNING, {"message": message})
    return messages


def _messages(
    proof: Mapping[str, Any],
    held: Mapping[str, Any],
    unread: list[str],
    scopes: Scopes,
    former: FormerScope | None,
) -> Iterator[str]:
    counts = proof["counts"]
    if counts["short"]:
        yield (
            f"DingTalk reports more members than it listed for {counts['short']} departments, for example"
            f" {counts['examples']}: the app may not see everybody. Who WPS has of them and was not listed"
            " has been asked about one by one"
        )
    if proof["cursors_went_back"]:
        yield (
            f"The cursors of {proof['cursors_went_back']} departments went back on their way to the last"
            " page, which no page was read twice for"
        )
    if unread:
        yield (
            f"Nobody's {', '.join(unread)} could be read: WPS keeps the values it has. Check the app's"
            " permissions in DingTalk's console"
        )
    lost = former.lost_fields(scopes) if former else []
    if lost:
        yield (
            f"DingTalk grants less than at the last completed sync: {', '.join(lost)} are no longer among"
            " auth_user_field. WPS keeps the values it has"
        )
    yield from _of_conflicts(held)


def _of_conflicts(held: Mapping[str, Any]) -> Iterator[str]:
    if held["new"]:
        named = "; ".join(f"{each['kind']} of {each['key']}" for each in held["examples"][:3])
        yield (
            f"{sum(held['present'].values())} conflicts, {held['new']} of them new, are held back and"
            f" released when they are gone, for example {named}: the console lists them"
        )
