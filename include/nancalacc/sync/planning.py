"""From the present state of objects to rows for WPS, and the order in which it must see them [wps 5.3, 9].

Pure functions. Each row has `later`: how many seconds after the first rows of its kind WPS is to see
it, because rows of one second may be applied in any order. A row holds the full present state of
its object, never a part of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from typing import Any

from nancalacc.sync.mapping import fold, suffixed
from nancalacc.sync.neighbours import name_suffix
from nancalacc.sync.resolve import account_suffix

DEPARTMENTS, USERS, MEMBERSHIPS = "departments", "users", "memberships"
KINDS = (DEPARTMENTS, USERS, MEMBERSHIPS)
"""In the order in which WPS applies them."""
REMOVE_DEPARTMENT = "dept_del"
MOST_ROWS = 900
"""Rows of one table that WPS has before it at a time; it reads at most 1000 [wps 9.1]."""
UNIQUE = {"account": "account_key", "phone": "phone_key", "email": "email_key"}
"""What WPS may refuse while somebody else has it, and the key by which it is told to be the same."""
LONGEST_DIDS = 5000
"""Width of the column `dids` [wps 5]."""

Content = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Increment:
    """A row for one of the increment tables; `is_last`: with it the object is as it is to be."""

    kind: str
    key: str
    update_type: str
    content: Content = field(repr=False)
    later: int = 0
    is_last: bool = True


def plan_departments(
    saved: Sequence[Content],
    *,
    removed: Collection[str],
    known: Mapping[str, Content],
    parents: Mapping[str, str | None],
) -> list[Increment]:
    """The rows of departments.

    `saved`: did, pid, name and order as WPS is to have them; `known`: the same as WPS has them, of
    saved and removed ones; `parents`: the pid of every department that WPS has.
    """
    taken = {(row["pid"], fold(row["name"])): did for did, row in known.items()}
    in_the_way = {
        holder
        for row in saved
        if (holder := taken.get((row["pid"], fold(row["name"])))) not in {None, row["did"]}
    }
    rows = [
        Increment(
            DEPARTMENTS,
            did,
            "dept_update",
            {**known[did], "name": suffixed(known[did]["name"], name_suffix(did))},
            is_last=False,
        )
        for did in sorted(filter(None, in_the_way))
    ]
    first = 1 if rows else 0
    moved = {
        row["did"]: row["pid"]
        for row in saved
        if row["did"] not in known or known[row["did"]]["pid"] != row["pid"]
    }
    above = {**parents, **{row["did"]: row["pid"] for row in saved}}
    rows += [
        Increment(
            DEPARTMENTS,
            row["did"],
            "dept_update" if row["did"] in known else "dept_add",
            row,
            later=first + sum(did in moved for did in _ancestors(row["did"], above)),
        )
        for row in saved
    ]
    depths = {did: sum(1 for _ in _ancestors(did, parents)) for did in removed}
    deepest = max(depths.values(), default=0)
    rows += [
        Increment(DEPARTMENTS, did, REMOVE_DEPARTMENT, known[did], later=deepest - depth)
        for did, depth in depths.items()
    ]
    return rows


def plan_users(
    saved: Sequence[Content], *, removed: Collection[str], known: Mapping[str, Content]
) -> list[Increment]:
    """The rows of people; `saved` and `known` as for departments, with the keys of UNIQUE."""
    in_the_way = _in_the_way(saved, known)
    rows = [
        Increment(USERS, uid, "user_update", _without(known[uid], in_the_way[uid]), is_last=False)
        for uid in sorted(in_the_way)
    ]
    first = 1 if rows else 0
    new = {row["uid"] for row in saved} - set(known)
    for row in saved:
        uid = row["uid"]
        update_type = "user_add" if uid in new else "user_update"
        if row["leader"] not in new:
            rows.append(Increment(USERS, uid, update_type, row, later=first))
            continue
        # The leader must be there first; two who lead each other are, this way, too.
        if uid in new:
            without = {**row, "leader": ""}
            rows.append(Increment(USERS, uid, update_type, without, later=first, is_last=False))
        rows.append(Increment(USERS, uid, "user_update", row, later=first + 1))
    led = any(known[row["uid"]]["leader"] in removed for row in saved if row["uid"] in known)
    rows += [
        Increment(USERS, uid, "user_del", known[uid], later=first + 1 if led else first) for uid in removed
    ]
    return rows


def _in_the_way(saved: Sequence[Content], known: Mapping[str, Content]) -> dict[str, set[str]]:
    """The people who have in WPS what somebody else is to get, and which fields that is."""
    taken = {
        (name, row[key]): uid
        for uid, row in known.items()
        for name, key in UNIQUE.items()
        if row.get(name) and row.get(key)
    }
    found: dict[str, set[str]] = {}
    for row in saved:
        for name, key in UNIQUE.items():
            holder = taken.get((name, row.get(key))) if row.get(name) else None
            if holder is not None and holder != row["uid"]:
                found.setdefault(holder, set()).add(name)
    return found


def _without(row: Content, fields: Collection[str]) -> Content:
    """The person without what is in the way; an account is never empty."""
    changed = dict.fromkeys(fields, "")
    if "account" in fields:
        changed["account"] = suffixed(row["account"], f"{account_suffix(row['uid'])}~")
    return {**row, **changed}


def plan_memberships(places: Mapping[str, Sequence[Content]]) -> list[Increment]:
    """The rows of memberships: each person's replace all the former ones, the main one first.

    `places`: uid, did, order and main of every membership, by uid.
    """
    rows = []
    for uid, memberships in places.items():
        ordered = sorted(memberships, key=lambda each: (-each["main"], each["did"]))
        fitting, rest = _fitting(ordered)
        main = ordered[0]
        content = {"uid": uid, "did": main["did"], "order": main["order"], "main": 1, "dids": fitting}
        rows.append(Increment(MEMBERSHIPS, uid, "user_dept_move", content, is_last=not rest))
        rows += [
            Increment(
                MEMBERSHIPS,
                uid,
                "user_dept_add",
                {"uid": uid, "did": each["did"], "order": each["order"], "main": 0, "dids": None},
                later=1,
                is_last=each is rest[-1],
            )
            for each in rest
        ]
    return rows


@dataclass(frozen=True, slots=True)
class Slot:
    """A planned row as far as its place among the others goes."""

    kind: str
    position: int
    key: str
    update_type: str
    later: int


def rounds_of(slots: Iterable[Slot]) -> dict[tuple[str, int], int]:
    """The round in which each row (kind, position) is published; a round follows when the last is confirmed.

    What a row needs is in the same or an earlier round: departments, then people, then their
    memberships. Departments go last, when everybody has left them.
    """
    found: dict[tuple[str, int], int] = {}
    by_kind: dict[str, list[Slot]] = {kind: [] for kind in KINDS}
    removals: list[Slot] = []
    for slot in sorted(slots, key=lambda each: (each.later, each.position)):
        (removals if slot.update_type == REMOVE_DEPARTMENT else by_kind[slot.kind]).append(slot)
    people: dict[str, int] = {}
    start = _fill(found, by_kind[DEPARTMENTS], earliest=lambda _: 0)
    _fill(found, by_kind[USERS], earliest=lambda _: start)
    for slot in by_kind[USERS]:
        people[slot.key] = max(people.get(slot.key, 0), found[slot.kind, slot.position])
    _fill(found, by_kind[MEMBERSHIPS], earliest=lambda slot: people.get(slot.key, start))
    last = max(found.values(), default=-1)
    _fill(found, removals, earliest=lambda _: last + 1)
    return found


def offsets_of(slots: Iterable[Slot]) -> dict[tuple[str, int], int]:
    """The seconds after the first by which WPS is to see each row of one round.

    A kind begins where the one before ends: WPS's window may close between any two seconds.
    """
    found: dict[tuple[str, int], int] = {}
    waiting = list(slots)
    base = 0
    for kind in KINDS:
        chosen = [each for each in waiting if each.kind == kind]
        numbers = count(base)
        seconds = {later: next(numbers) for later in sorted({each.later for each in chosen})}
        found.update({(kind, each.position): seconds[each.later] for each in chosen})
        base = max(seconds.values(), default=base)
    return found


def _fill(
    found: dict[tuple[str, int], int], slots: Sequence[Slot], *, earliest: Callable[[Slot], int]
) -> int:
    """Give each row of one table the first round with room; returns the last round used, at least 0.

    The rows of one object keep their order.
    """
    sizes: Counter[int] = Counter()
    for slot in sorted(slots, key=earliest):
        number = earliest(slot)
        while sizes[number] >= MOST_ROWS:
            number += 1
        sizes[number] += 1
        found[slot.kind, slot.position] = number
    return max(sizes, default=0)


def _ancestors(did: str, parents: Mapping[str, str | None]) -> Iterable[str]:
    seen = {did}
    above = parents.get(did)
    while above is not None and above not in seen:
        seen.add(above)
        yield above
        above = parents.get(above)


def _fitting(memberships: Sequence[Content]) -> tuple[str, Sequence[Content]]:
    """The first memberships as JSON that fits its column, and the others."""
    entries = [_entry(each) for each in memberships]
    ends = accumulate(len(entry) + 1 for entry in entries)
    fitting = sum(end + 1 <= LONGEST_DIDS for end in ends)
    return f"[{','.join(entries[:fitting])}]", memberships[fitting:]


def _entry(membership: Content) -> str:
    return json.dumps({"did": membership["did"], "order": membership["order"]}, separators=(",", ":"))
