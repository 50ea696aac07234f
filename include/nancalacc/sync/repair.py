"""Repairs drift by increments: known state becomes what WPS shows, and the inbox gets the objects.

Known state is what WPS has. Where WPS shows something else, known state is wrong, and as long as it is
no sync writes a row: so it is corrected first. Then the objects are queued like events of DingTalk,
and `incremental_sync` reads each of them anew and writes what differs. What is only in WPS is
touched only if this company once published it: it may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text, update

from nancalacc.config import DingTalkSettings, WpsSettings
from nancalacc.store import locks
from nancalacc.store.tables import verifications
from nancalacc.sync import inbox, known
from nancalacc.sync.inbox import DEPARTMENT_ID, LONGEST_ID, Company, InboxEvent
from nancalacc.sync.mapping import ROOT_DID
from nancalacc.sync.verify import IN_MOTION, Look

SOURCE = "repair"
"""Stands in known state for the task id of a full sync."""


@dataclass(frozen=True, slots=True)
class Repair:
    """How many objects were queued, how many were left alone, and why nothing was done if so."""

    queued: int = 0
    left: int = 0
    refused: str = ""


def repair(connection: Connection, seen: Look, *, wps: WpsSettings, dingtalk: DingTalkSettings) -> Repair:
    """Queue what a look found to differ; its copy of the directory must still be there.

    All in this one transaction, which no saga of the company can get in between: either known state
    is corrected and the objects are queued, or nothing has happened. Refuses while a sync of the
    company is on its way, and when more would be removed than a full sync may remove without a word.
    """
    values = {"id": seen.verification_id, "company": seen.third_company_id, "source": SOURCE}
    holder = locks.hold(connection, third_company_id=seen.third_company_id)
    if holder is not None:
        return Repair(refused=f"run {holder.run_id!r} of DAG {holder.dag_id!r} is at work on this company")
    since = connection.execute(STARTED, values).scalar_one()
    if connection.execute(IN_MOTION, values | {"own": None, "since": since}).scalar_one():
        return Repair(refused="a sync of this company ended while WPS was read: reconcile again")
    left = connection.execute(MARK_FOREIGN, values).rowcount
    for kind in ("departments", "users"):
        removed = connection.execute(EXTRA, values | {"kind": kind}).scalar_one()
        size = connection.execute(SIZE[kind], values).scalar_one()
        allowed = wps.limits.by_name[f"{kind}_removed"].allowed(size)
        if removed > allowed:
            return Repair(
                refused=f"{removed} {kind} are only in WPS, the limit is {allowed}: if they are to go, run a"
                " full sync with allow_mass_delete"
            )
    objects = list(connection.execute(OBJECTS, values))
    for statement in CORRECT:
        connection.execute(statement, values)
    events = list(_events(objects, verification_id=seen.verification_id, root=dingtalk.root_dept_id))
    left += len(objects) - len(events)
    connection.execute(
        update(verifications)
        .where(verifications.c.id == seen.verification_id)
        .values(queued=len(events), counts={**seen.differences.as_data(), "left": left})
    )
    inbox.store(connection, events, companies=[Company(dingtalk.conn_id, wps.conn_id)])
    return Repair(queued=len(events), left=left)


def _events(objects: list[Any], *, verification_id: int, root: int) -> Iterator[InboxEvent]:
    """An event for each object, of the type by which DingTalk tells of a change."""
    for number, row in enumerate(objects):
        key = str(root) if row.kind == "departments" and row.key == ROOT_DID else row.key
        if row.kind == "departments" and DEPARTMENT_ID.fullmatch(key):
            event_type = "org_dept_modify"
        elif row.kind == "users" and len(key) <= LONGEST_ID:
            event_type = "user_modify_org"
        else:
            continue
        yield InboxEvent(f"{SOURCE}:{verification_id}:{number}", event_type, object_ids=(key,))


STARTED = text("SELECT started_at FROM verifications WHERE id = :id")
MARK_FOREIGN = text("""
    UPDATE verification_differences d SET what = 'foreign'
    WHERE d.verification_id = :id AND d.what = 'extra' AND d.kind <> 'memberships'
    AND (d.kind, d.key) NOT IN (
        SELECT 'departments', did FROM tb_las_department WHERE third_company_id = :company
        UNION ALL
        SELECT 'departments', did FROM tb_las_department_increment WHERE third_company_id = :company
        UNION ALL
        SELECT 'users', uid FROM tb_las_user WHERE third_company_id = :company
        UNION ALL
        SELECT 'users', uid FROM tb_las_user_increment WHERE third_company_id = :company
    )
""")
EXTRA = text("""
    SELECT count(*) FROM verification_differences
    WHERE verification_id = :id AND kind = :kind AND what = 'extra'
""")
SIZE = {
    kind: text(f"SELECT count(*) FROM {table.name} WHERE third_company_id = :company")  # noqa: S608
    for kind, table in known.KNOWN.items()
}
OBJECTS = text("""
    SELECT DISTINCT kind, key FROM (
        SELECT kind, key FROM verification_differences
        WHERE verification_id = :id AND kind <> 'memberships' AND what <> 'foreign'
        UNION ALL
        SELECT 'users', key FROM verification_differences
        WHERE verification_id = :id AND kind = 'memberships'
        UNION ALL
        SELECT 'users', m.uid FROM verification_differences d
        JOIN known_memberships m ON m.third_company_id = :company AND m.did = d.key
        WHERE d.verification_id = :id AND d.kind = 'departments' AND d.what = 'missing'
    ) wanted ORDER BY kind, key
""")
"""With what is missing all members of a missing department: WPS cannot have them there."""

FOUND = (
    "d.verification_id = :id AND k.third_company_id = :company"
    " AND d.kind = '{kind}' AND d.what = '{what}' AND d.key = k.{key}"
)


def _where(kind: str, what: str, key: str) -> str:
    return FOUND.format(kind=kind, what=what, key=key)


CORRECT = tuple(
    text(statement)
    for statement in (
        # Gone from WPS, and with departments and people the memberships.
        "DELETE FROM known_memberships k USING verification_differences d"  # noqa: S608
        f" WHERE {_where('departments', 'missing', 'did')}",
        "DELETE FROM known_memberships k USING verification_differences d"  # noqa: S608
        f" WHERE {_where('users', 'missing', 'uid')}",
        "DELETE FROM known_memberships k USING verification_differences d"  # noqa: S608
        f" WHERE {_where('memberships', 'missing', 'uid')} AND d.did = k.did",
        "DELETE FROM known_departments k USING verification_differences d"  # noqa: S608
        f" WHERE {_where('departments', 'missing', 'did')}",
        "DELETE FROM known_users k USING verification_differences d"  # noqa: S608
        f" WHERE {_where('users', 'missing', 'uid')}",
        # Other than known.
        "UPDATE known_departments k SET pid = p.did, name = coalesce(s.name, k.name),"  # noqa: S608
        " name_key = coalesce(s.name_key, k.name_key), task_id = :source"
        " FROM verification_differences d, directory_departments s"
        " LEFT JOIN directory_departments p ON p.verification_id = :id AND p.wps_id = s.parent_wps_id"
        f" WHERE {_where('departments', 'changed', 'did')} AND s.verification_id = :id AND s.did = k.did",
        "UPDATE known_users k SET account = coalesce(s.account, k.account),"  # noqa: S608
        " account_key = coalesce(s.account_key, k.account_key),"
        " nick_name = coalesce(s.nick_name, k.nick_name), task_id = :source"
        " FROM verification_differences d, directory_users s"
        f" WHERE {_where('users', 'changed', 'uid')} AND s.verification_id = :id AND s.uid = k.uid",
        # There although not known.
        """
        INSERT INTO known_departments (third_company_id, did, pid, name, name_key, "order", task_id)
        SELECT :company, s.did, p.did, coalesce(s.name, s.did), coalesce(s.name_key, s.did), 0, :source
        FROM verification_differences d
        JOIN directory_departments s ON s.verification_id = :id AND s.did = d.key
        LEFT JOIN directory_departments p ON p.verification_id = :id AND p.wps_id = s.parent_wps_id
        WHERE d.verification_id = :id AND d.kind = 'departments' AND d.what = 'extra'
        ON CONFLICT DO NOTHING
        """,
        """
        INSERT INTO known_users (
            third_company_id, uid, uid_key, account, account_key, nick_name, employment_status, task_id)
        SELECT :company, s.uid, s.uid_key, coalesce(s.account, s.uid), coalesce(s.account_key, s.uid_key),
            coalesce(s.nick_name, s.uid), 'active', :source
        FROM verification_differences d JOIN directory_users s ON s.verification_id = :id AND s.uid = d.key
        WHERE d.verification_id = :id AND d.kind = 'users' AND d.what = 'extra'
        ON CONFLICT DO NOTHING
        """,
        """
        INSERT INTO known_memberships (third_company_id, uid, did, "order", main, task_id)
        SELECT :company, d.key, d.did, 0, 0, :source FROM verification_differences d
        WHERE d.verification_id = :id AND d.kind = 'memberships' AND d.what = 'extra'
        ON CONFLICT DO NOTHING
        """,
        # Who is in a department that is to go is read with it.
        """
        INSERT INTO known_memberships (third_company_id, uid, did, "order", main, task_id)
        SELECT DISTINCT :company, u.uid, s.did, 0, 0, :source
        FROM directory_memberships m
        JOIN directory_users u ON u.verification_id = :id AND u.wps_id = m.wps_id
        JOIN directory_departments s ON s.verification_id = :id AND s.wps_id = m.wps_dept_id
        JOIN known_users ku ON ku.third_company_id = :company AND ku.uid = u.uid
        JOIN known_departments kd ON kd.third_company_id = :company AND kd.did = s.did
        WHERE m.verification_id = :id AND (ku.task_id = :source OR kd.task_id = :source)
        ON CONFLICT DO NOTHING
        """,
    )
)
