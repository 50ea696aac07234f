"""The step that reads what events name: the present state into staging, and what became of each object."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete, select, text

from nancalacc.config import AccountSource
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.state import EventType
from nancalacc.store.tables import staged_changes, staged_increments, staged_users
from nancalacc.sync import claims, clashes, conflicts, neighbours, publish, resolve, staging, touched
from nancalacc.sync.batch import Batch
from nancalacc.sync.changes import DEPARTMENTS, USERS, ChangeReading, Key, Place
from nancalacc.sync.conflicts import Conflict, Kind
from nancalacc.sync.findings import Findings, Reason
from nancalacc.sync.mapping import Mapper, unusable
from nancalacc.sync.services import SyncServices
from nancalacc.sync.staging import Fetch
from nancalacc.sync.touched import Change, Touched
from nancalacc.sync.warnings import warn_about_conflicts

log = logging.getLogger(__name__)

MANAGERS_WERE_READ = text("""
    SELECT EXISTS (
        SELECT FROM staged_users
        WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND manager IS NOT NULL
    ) OR EXISTS (
        SELECT FROM known_users
        WHERE third_company_id = :company AND (coalesce(leader, '') <> '' OR coalesce(manager, '') <> '')
    )
""")
UNKNOWN_LEADERS = text("""
    UPDATE staged_users s SET leader = ''
    FROM staged_users f
    LEFT JOIN known_users k ON k.third_company_id = :company AND k.uid = f.uid
    WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
        AND (f.transaction_id, f.epoch, f.attempt) = (:transaction_id, :epoch, :attempt)
        AND f.uid = s.uid
        AND coalesce(f.leader, CASE WHEN :managers_read THEN '' ELSE k.leader END, '') <> ''
        AND NOT EXISTS (
            SELECT FROM staged_users l
            WHERE (l.transaction_id, l.epoch, l.attempt) = (:transaction_id, :epoch, :attempt)
                AND l.rejected IS NULL AND l.uid = coalesce(f.leader, k.leader)
        )
        AND NOT EXISTS (
            SELECT FROM known_users l
            LEFT JOIN staged_changes c
                ON c.transaction_id = :transaction_id AND c.kind = 'users' AND c.key = l.uid
            WHERE l.third_company_id = :company AND l.uid = coalesce(f.leader, k.leader)
                AND c.action IS DISTINCT FROM 'remove'
        )
""")


def fetch_changes(ctx: StepContext) -> Mapping[str, Any]:
    """Read the present state of everything the batch concerns into staging.

    What cannot be read because of the object itself is recorded with the reason; anything else
    fails the step, and with it the batch.
    """
    batch = Batch.of(ctx)
    if batch is None:
        return {DEPARTMENTS: 0, USERS: 0}
    ctx.remember({"staged": True})
    with ctx.transaction() as connection:
        remove_staged(connection, transaction_id=ctx.saga.transaction_id)
        events = claims.claimed(connection, transaction_id=ctx.saga.transaction_id)
    return asyncio.run(_fetch(ctx, batch, events))


async def _fetch(ctx: StepContext, batch: Batch, events: list[claims.ClaimedEvent]) -> dict[str, Any]:
    services: SyncServices = ctx.services
    fetch = Fetch(ctx.saga.transaction_id, epoch=ctx.record.epoch, attempt=ctx.record.attempt)
    third_company_id = batch.wps.third_company_id
    mapper = Mapper(
        root_dept_id=batch.dingtalk.root_dept_id,
        account_source=batch.wps.account_source,
        phone_salt=batch.wps.phone_salt_secret,
        company=third_company_id,
        user_details=batch.dingtalk.user_details,
    )
    async with services.dingtalk(batch.dingtalk.conn_id) as client:
        reading = ChangeReading(ctx, client=client, mapper=mapper, third_company_id=third_company_id)
        await reading.read(events)
        evidence = {"calls": dict(client.calls), "throttled": client.throttled}
    findings = Findings()
    with ctx.transaction() as connection:
        undone = _maybe_put_back(connection, reading, events, mapper=mapper, batch=batch)
        found = _stage(
            connection, reading, mapper=mapper, fetch=fetch, batch=batch, findings=findings, undone=undone
        )
        managers_read = _resolve(connection, fetch=fetch, batch=batch, findings=findings)
        rejected = dict(
            connection.execute(
                select(staged_users.c.uid, staged_users.c.rejected).where(
                    fetch.of(staged_users), staged_users.c.rejected.is_not(None)
                )
            ).all()
        )
        for uid, reason in rejected.items():
            touched.mark(
                connection,
                Change.HELD if reason.startswith(Reason.USERID_NOT_DISTINCT) else Change.FAILED,
                transaction_id=fetch.transaction_id,
                kind=USERS,
                key=uid,
                reason=reason,
            )
        held = conflicts.summary(connection, fetch=fetch, third_company_id=third_company_id)
    failures = {each.key: each.reason for each in found if each.action is Change.FAILED} | rejected
    for key, reason in failures.items():
        ctx.event(EventType.RECORD_REJECTED, {"id": key, "reason": reason})
    for (dept_id, reason), number in reading.unusable.items():
        ctx.event(
            EventType.RECORD_REJECTED,
            {"id": "?", "reason": reason, "number": number, "department": mapper.did(dept_id)},
        )
    warn_about_conflicts(ctx, held)
    actions = Counter(f"{each.kind}_{each.action.value}" for each in found)
    log.info("Saga %s: %s events concern %s objects", fetch.transaction_id, len(events), len(found))
    return {
        DEPARTMENTS: len(reading.departments),
        USERS: len(reading.users),
        "actions": dict(sorted(actions.items())),
        "fetch": fetch.as_data(),
        "managers_read": managers_read,
        "adjusted": findings.as_data(),
        "conflicts": held,
        "evidence": evidence,
    }


def _maybe_put_back(
    connection: Connection,
    reading: ChangeReading,
    events: list[claims.ClaimedEvent],
    *,
    mapper: Mapper,
    batch: Batch,
) -> set[tuple[str, str]]:
    """Kind and key of what repeated events name and the newest snapshot that WPS has been given holds."""
    repeats = {event.id for event in events if event.is_repeat}
    named = {key for key, causes in reading.causes.items() if causes & repeats}
    company = batch.wps.third_company_id
    task_id = publish.newest_published(connection, third_company_id=company)
    if not named or task_id is None:
        return set()
    keys = {
        DEPARTMENTS: {mapper.did(int(object_id)) for kind, object_id in named if kind == DEPARTMENTS},
        USERS: {object_id for kind, object_id in named if kind == USERS},
    }
    return {
        (kind, key)
        for kind, wanted in keys.items()
        for key in publish.contained(connection, kind, wanted, task_id=task_id, third_company_id=company)
    }


def _stage(
    connection: Connection,
    reading: ChangeReading,
    *,
    mapper: Mapper,
    fetch: Fetch,
    batch: Batch,
    findings: Findings,
    undone: set[tuple[str, str]],
) -> list[Touched]:
    rows = staging.Batch()
    company = batch.wps.third_company_id
    dids = [mapper.did(dept_id) for dept_id in reading.departments]
    known_names = neighbours.known_names(connection, dids, third_company_id=company)
    known_uids = neighbours.known_uids(connection, reading.users, third_company_id=company)
    found: list[Touched] = []
    held: list[Conflict] = []

    def add(source: Key, key: str, action: Change, reason: str | None = None) -> None:
        found.append(Touched(source[0], key, action, sorted(reading.causes[source]), reason))

    def gone(kind: str, key: str, *, is_known: bool) -> Change:
        if is_known:
            return Change.REMOVE
        return Change.REMOVE_AGAIN if (kind, key) in undone else Change.NOTHING

    for source, reason in reading.failed.items():
        kind, object_id = source
        key = mapper.did(int(object_id)) if kind == DEPARTMENTS else object_id
        add(source, key, Change.FAILED, reason)
    for dept_id, record in reading.departments.items():
        source, did = (DEPARTMENTS, str(dept_id)), mapper.did(dept_id)
        if source in reading.failed:
            continue
        place = reading.place(dept_id)
        if place is Place.UNREADABLE:
            add(source, did, Change.FAILED, f"A department above department {dept_id} cannot be read")
        elif record is not None and place is Place.INSIDE:
            row = mapper.department(record)
            rows.departments.append(row)
            add(source, did, Change.SAVE)
        elif record is not None and place is Place.HELD:
            parent = reading.parent(dept_id)
            why = f"has the parent {parent} in DingTalk, which does not list it or leads to no root"
            if did in known_names:
                rows.departments.append(replace(mapper.department(record), pid=known_names[did][0]))
            add(source, did, Change.SAVE if did in known_names else Change.HELD, why)
            held.append(Conflict(Kind.PARENT, did, mapper.did(parent), f"{why}: it stays where WPS has it"))
        else:
            add(source, did, gone(DEPARTMENTS, did, is_known=did in known_names))
    for uid in reading.users:
        source = (USERS, uid)
        if source in reading.failed:
            continue
        unfit = unusable(uid) or reading.unreadable_place(uid)
        if unfit:
            add(source, uid, Change.FAILED, unfit)
            continue
        held_place = reading.held_place(uid)
        if held_place is not None:
            add(source, uid, Change.HELD, conflicts.NO_WAY)
            held.append(Conflict(Kind.PLACE, uid, mapper.did(held_place), conflicts.NO_WAY))
            continue
        present = reading.present(uid)
        if present is None:
            add(source, uid, gone(USERS, uid, is_known=uid in known_uids))
            continue
        record = dict(present.record)
        if not batch.dingtalk.user_details:
            # The full sync does not read it either.
            record.pop("manager_userid", None)
        memberships = list(mapper.memberships(record, dept_ids=present.dept_ids))
        order = next((each.order for each in memberships if each.main), None)
        person = mapper.person(record, dept_ids=present.dept_ids, order=order)
        for note in person.notes:
            findings.add(*note)
        rows.users.append(person)
        rows.memberships.extend(memberships)
        add(source, uid, Change.SAVE)
    staging.copy(connection, rows, fetch=fetch)
    conflicts.add(connection, held, fetch=fetch)
    touched.record(connection, found, transaction_id=fetch.transaction_id)
    return found


def _resolve(connection: Connection, *, fetch: Fetch, batch: Batch, findings: Findings) -> bool:
    """Apply the full sync's rules to what was read; returns whether managers can be read at all."""
    key = fetch.key() | {"company": batch.wps.third_company_id}
    resolve.reject_same_userids(connection, key)
    resolve.distinct_names(connection, key, findings=findings)
    if batch.wps.account_source is not AccountSource.USERID:
        resolve.distinct_accounts(connection, key, findings=findings)
    clashes.hold_back_contacts(connection, key, of_batch=True, findings=findings)
    managers_read = bool(connection.execute(MANAGERS_WERE_READ, key).scalar_one())
    connection.execute(UNKNOWN_LEADERS, key | {"managers_read": managers_read})
    return managers_read


def keep_conflicts(connection: Connection, *, fetch: Fetch, third_company_id: str) -> Mapping[str, int]:
    """Let the conflicts of everything the batch has dealt with be the present ones."""
    rows = connection.execute(
        select(staged_changes.c.kind, staged_changes.c.key).where(
            staged_changes.c.transaction_id == fetch.transaction_id,
            staged_changes.c.action != Change.FAILED.value,
        )
    ).all()
    return conflicts.replace(
        connection,
        fetch=fetch,
        third_company_id=third_company_id,
        people=[row.key for row in rows if row.kind == USERS],
        departments=[row.key for row in rows if row.kind == DEPARTMENTS],
    )


def delete_staged(ctx: CompensationContext) -> None:
    """Whatever was staged is deleted."""
    remove_staged(ctx.connection, transaction_id=ctx.saga.transaction_id)


def remove_staged(connection: Connection, *, transaction_id: str) -> None:
    """Delete everything staged by this saga."""
    staging.delete_all(connection, transaction_id=transaction_id)
    for table in (staged_changes, staged_increments):
        connection.execute(delete(table).where(table.c.transaction_id == transaction_id))
