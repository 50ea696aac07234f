"""What the API answers about WPS read back and about undos: ids, names of people and departments."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, field_validator

from nancalacc.sync.verdicts import Verdict
from nancalacc.web.schemas import Model, Moment


class What(StrEnum):
    """How an object differs.

    `foreign`: only in WPS, and never published by us, so a repair leaves it alone.
    """

    MISSING = "missing"
    EXTRA = "extra"
    CHANGED = "changed"
    FOREIGN = "foreign"


class Verification(Model):
    """WPS's directory, read back and compared. `counts`: objects by difference and kind, all of them.

    `queued`: objects that a repair queued; `dag_id`: which DAG looked.
    """

    id: int
    verdict: Verdict
    message: str
    counts: dict[str, dict[str, int]]
    queued: int
    dag_id: str
    started_at: Moment
    ended_at: Moment


class Difference(Model):
    """An object that differs: a department, a person, or with `did` a person's membership.

    `name`: as we know it, None for what is only in WPS. `fields`: what differs of one that is on both
    sides.
    """

    id: int
    kind: str
    key: str
    name: str | None
    did: str | None
    place_name: str | None
    what: What
    fields: list[str]

    @field_validator("fields", mode="before")
    @classmethod
    def listed(cls, value: str | None) -> list[str]:
        """The names, which the table keeps in one text."""
        return value.split(",") if value else []


class Differences(BaseModel):
    """The newest verification, None while there is none, and a page of what it found."""

    verification: Verification | None
    items: list[Difference]
    next_cursor: str | None


class Left(Model):
    """An object that an undo left as it is, and why."""

    kind: str
    key: str
    name: str | None
    reason: str


class LeftAlone(BaseModel):
    """A page of objects that an undo left as they are."""

    items: list[Left]
    next_cursor: str | None
