"""What it means that DingTalk refuses an object that a batch has asked about [dt 2.9, 4.1]."""

from __future__ import annotations

from enum import StrEnum

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.errors import ObjectError
from nancalacc.sync.scope import OUT_OF_SCOPE, ends_below_company


class Verdict(StrEnum):
    """What a refused object is for the batch."""

    OUTSIDE = "outside"
    """It is not below the root of the sync."""
    GONE = "gone"
    FAILED = "failed"
    """Nobody knows: the events that want it fail."""


class Refusals:
    """Judges refusals; the app's scope is asked for once, and only if one depends on it."""

    def __init__(self, client: DingTalkClient, *, root_dept_id: int) -> None:
        self._client = client
        self._root = root_dept_id
        self._ends_below_company: bool | None = None

    async def verdict(self, error: ObjectError, *, is_leaving: bool, is_stranger: bool) -> Verdict:
        """What a refused object is.

        `is_leaving`: an event says that it left or was removed; who has left may not be readable [dt 7].
        `is_stranger`: a department that no event names and WPS does not know, as one beyond the root is in
        which somebody is, too.
        """
        verdict = await self._by_code(error, is_stranger=is_stranger)
        return Verdict.GONE if is_leaving and verdict is Verdict.FAILED else verdict

    async def _by_code(self, error: ObjectError, *, is_stranger: bool) -> Verdict:
        if error.code in OUT_OF_SCOPE:
            # Whether the app still sees all there is below the root: otherwise it may be there.
            if self._ends_below_company is None:
                self._ends_below_company = await ends_below_company(self._client, root_dept_id=self._root)
            return Verdict.OUTSIDE if self._ends_below_company else Verdict.FAILED
        return Verdict.OUTSIDE if is_stranger else Verdict.FAILED
