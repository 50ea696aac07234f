"""What the API answers about plans: names of people and departments, and which fields change."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from nancalacc.web.schemas import Model, Moment


class Example(BaseModel):
    """One of the first changes of its sort."""

    kind: str
    sort: str
    uid: str | None
    did: str | None
    name: str | None


class Subtree(Model):
    """A department directly below the root, or the root itself, and what changes in it."""

    did: str
    name: str | None
    counts: dict[str, dict[str, int]]


class Decision(Model):
    """What somebody decided about a plan; nobody did when `decided_by` is null: the time was over."""

    plan_hash: str
    is_approved: bool
    decided_by: str | None
    reason: str | None
    decided_at: Moment


class Plan(BaseModel):
    """The latest plan of a saga. `counts`: known and changing objects by kind.

    `subtrees`: those in which most is removed or changed, of `every_subtree`.
    """

    hash: str
    epoch: int
    attempt: int
    created_at: Moment
    counts: dict[str, dict[str, int]]
    examples: list[Example]
    subtrees: list[Subtree]
    every_subtree: int
    decisions: list[Decision]


class PlanAnswer(BaseModel):
    """The plan of a saga, null while there is none."""

    plan: Plan | None


class Change(BaseModel):
    """A change. `place`: the department above a department, the main one of a person."""

    position: int
    kind: str
    action: str
    is_moved: bool
    is_disabled: bool
    uid: str | None
    did: str | None
    name: str | None
    old_name: str | None
    place: str | None
    place_name: str | None
    old_place: str | None
    old_place_name: str | None
    fields: list[str]
    subtree: str

    @classmethod
    def of(cls, change: dict[str, Any]) -> Change:
        """A change as the store gives it."""
        return cls(**change)


class Changes(BaseModel):
    """A page of changes; `next_cursor` asks for the next one."""

    items: list[Change]
    next_cursor: str | None
