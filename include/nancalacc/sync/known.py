"""Known state: what WPS has been given last, by company.

It tells what a sync changes, and holds the values of fields that cannot be read this time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Table,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    text,
)

from nancalacc.store.tables import (
    known_departments,
    known_memberships,
    known_users,
)
from nancalacc.sync import phone_columns
from nancalacc.sync.phone_columns import PHONES
from nancalacc.sync.staging import TABLES, Fetch

KNOWN: dict[str, Table] = {
    "departments": known_departments,
    "users": known_users,
    "memberships": known_memberships,
}
KEYS: dict[str, tuple[str, ...]] = {"departments": ("did",), "users": ("uid",), "memberships": ("uid", "did")}
OPTIONAL = ("avatar", "email", "title", "work_place", "employer", "phone", "telephone")

Columns = Mapping[str, ColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """What a snapshot changes against known state, of one kind of object."""

    known: int
    added: int
    changed: int
    removed: int

    def as_data(self) -> dict[str, int]:
        """The counts for action_data."""
        return {"known": self.known, "added": self.added, "changed": self.changed, "removed": self.removed}


def to_write(kind: str, *, staged: Any, known: Any, managers_read: bool) -> Columns:
    """The columns of a staged row as WPS is to have them: what was not read is carried over.

    `staged` and `known` are the tables or aliases of them, joined by the object's key.
    """
    s, k = staged.c, known.c
    match kind:
        case "departments":
            return {
                "did": s.did,
                "pid": s.pid,
                "name": s.name,
                "order": func.coalesce(s.order, k.order, 0),
            }
        case "memberships":
            return {
                "uid": s.uid,
                "did": s.did,
                "order": func.coalesce(s.order, k.order, 0),
                "main": s.main,
            }
    same_home = case((k.def_did == s.def_did, k.def_did_order))
    return {
        "uid": s.uid,
        "account": s.account,
        "nick_name": func.coalesce(s.nick_name, k.nick_name, s.uid),
        "def_did": s.def_did,
        "def_did_order": func.coalesce(s.def_did_order, same_home, 0),
        "leader": func.coalesce(s.leader, literal("") if managers_read else k.leader),
        "employment_status": func.coalesce(s.employment_status, k.employment_status, "active"),
        **{name: func.coalesce(s[name], k[name]) for name in OPTIONAL},
    }


def same_object(kind: str, *, staged: Any, known: Any, third_company_id: str) -> ColumnElement[bool]:
    """The join of a staged row with the known one of the same object."""
    return and_(
        known.c.third_company_id == third_company_id, *(known.c[key] == staged.c[key] for key in KEYS[kind])
    )


def differing(
    kind: str, columns: Columns, *, rows: FromClause, known: FromClause
) -> dict[str, ColumnElement[bool]]:
    """For each column but the keys whether it says something else than is known."""
    return {
        name: phone_columns.differs(name, value, rows=rows, known=known)
        if name in PHONES
        else value.is_distinct_from(known.c[name])
        for name, value in columns.items()
        if name not in KEYS[kind]
    }


def difference(
    connection: Connection, kind: str, *, fetch: Fetch, third_company_id: str, managers_read: bool
) -> Difference:
    """What the accepted rows of a fetch change against known state."""
    staged_table, known_table = TABLES[kind], KNOWN[kind]
    staged = select(staged_table).where(fetch.accepted(staged_table)).subquery("s")
    known = select(known_table).where(known_table.c.third_company_id == third_company_id).subquery("k")
    columns = to_write(kind, staged=staged, known=known, managers_read=managers_read)
    key = KEYS[kind][0]
    in_both = and_(staged.c[key].is_not(None), known.c[key].is_not(None))
    changed = or_(*differing(kind, columns, rows=staged, known=known).values())
    on = and_(*(known.c[name] == staged.c[name] for name in KEYS[kind]))
    row = connection.execute(
        select(
            func.count(known.c[key]),
            func.count().filter(known.c[key].is_(None)),
            func.count().filter(and_(in_both, changed)),
            func.count().filter(staged.c[key].is_(None)),
        ).select_from(staged.join(known, on, full=True))
    ).one()
    return Difference(known=row[0], added=row[1], changed=row[2], removed=row[3])


def missing(
    connection: Connection, kind: str, *, fetch: Fetch, third_company_id: str, limit: int, after: str = ""
) -> list[str]:
    """Known ids (did or uid) of which the fetch read nothing at all, not even a rejected record.

    In order of the id, from the first one that comes after `after`.
    """
    known, staged, key = KNOWN[kind], TABLES[kind], KEYS[kind][0]
    was_read = exists().where(fetch.of(staged), staged.c[key] == known.c[key])
    return list(
        connection.execute(
            select(known.c[key])
            .where(known.c.third_company_id == third_company_id, known.c[key] > after, ~was_read)
            .order_by(known.c[key])
            .limit(limit)
        ).scalars()
    )


def unread_fields(connection: Connection, *, fetch: Fetch, third_company_id: str) -> list[str]:
    """Fields of people that WPS has values of and of which this fetch read nobody's."""
    staged, table = TABLES["users"], KNOWN["users"]
    has_value = exists().where(fetch.accepted(staged))
    was_read = connection.execute(
        select(*(func.count(staged.c[name]).label(name) for name in OPTIONAL)).where(fetch.accepted(staged))
    ).one()
    has_known = connection.execute(
        select(*(func.count(func.nullif(table.c[name], "")).label(name) for name in OPTIONAL)).where(
            table.c.third_company_id == third_company_id, has_value
        )
    ).one()
    return [name for name, read, has in zip(OPTIONAL, was_read, has_known, strict=True) if has and not read]


# A key that was not computed this time holds as long as the value does.
PHONE_KEY, EMAIL_KEY = (
    f"coalesce(excluded.{name}_key,"
    f" CASE WHEN k.{name} IS NOT DISTINCT FROM excluded.{name} THEN k.{name}_key END)"
    for name in ("phone", "email")
)
REPLACE = {
    "departments": text("""
        INSERT INTO known_departments AS k
            (third_company_id, did, pid, name, name_key, "order", task_id)
        SELECT d.third_company_id, d.did, d.pid, d.name, s.name_key, d."order", d.task_id
        FROM tb_las_department d
        LEFT JOIN staged_departments s
            ON (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt) AND s.did = d.did
        WHERE d.task_id = :task_id AND d.third_company_id = :company AND d.pid <> '-1'
        ON CONFLICT (third_company_id, did) DO UPDATE SET
            pid = excluded.pid, name = excluded.name, name_key = excluded.name_key,
            "order" = excluded."order", task_id = excluded.task_id, updated_at = excluded.updated_at
        WHERE (k.pid, k.name, k.name_key, k."order")
            IS DISTINCT FROM (excluded.pid, excluded.name, excluded.name_key, excluded."order")
    """),
    "users": text(f"""
        INSERT INTO known_users AS k (
            third_company_id, uid, uid_key, account, account_key, nick_name, def_did, def_did_order, avatar,
            email, title, work_place, leader, manager, employer, employment_status, phone, telephone,
            phone_key, email_key, task_id
        )
        SELECT u.third_company_id, u.uid, coalesce(s.uid_key, lower(u.uid)), u.account,
            coalesce(s.account_key, lower(u.account)), u.nick_name, u.def_did, u.def_did_order, u.avatar,
            u.email, u.title, u.work_place, u.leader, s.manager, u.employer, u.employment_status, u.phone,
            u.telephone, s.phone_key, s.email_key, u.task_id
        FROM tb_las_user u
        LEFT JOIN staged_users s
            ON (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.uid = u.uid AND s.rejected IS NULL
        WHERE u.task_id = :task_id AND u.third_company_id = :company
        ON CONFLICT (third_company_id, uid) DO UPDATE SET
            uid_key = excluded.uid_key, account = excluded.account, account_key = excluded.account_key,
            nick_name = excluded.nick_name, def_did = excluded.def_did,
            def_did_order = excluded.def_did_order, avatar = excluded.avatar, email = excluded.email,
            title = excluded.title, work_place = excluded.work_place, leader = excluded.leader,
            manager = coalesce(excluded.manager, k.manager), employer = excluded.employer,
            employment_status = excluded.employment_status,
            phone = excluded.phone, telephone = excluded.telephone,
            phone_key = {PHONE_KEY}, email_key = {EMAIL_KEY}, task_id = excluded.task_id,
            updated_at = excluded.updated_at
        WHERE (
            k.uid_key, k.account, k.account_key, k.nick_name, k.def_did, k.def_did_order, k.avatar, k.email,
            k.title, k.work_place, k.leader, k.manager, k.employer, k.employment_status, k.phone,
            k.telephone, k.phone_key, k.email_key
        ) IS DISTINCT FROM (
            excluded.uid_key, excluded.account, excluded.account_key, excluded.nick_name, excluded.def_did,
            excluded.def_did_order, excluded.avatar, excluded.email, excluded.title, excluded.work_place,
            excluded.leader, coalesce(excluded.manager, k.manager), excluded.employer,
            excluded.employment_status, excluded.phone, excluded.telephone, {PHONE_KEY}, {EMAIL_KEY}
        )
    """),  # noqa: S608 - constants
    "memberships": text("""
        INSERT INTO known_memberships AS k (third_company_id, uid, did, "order", main, leader, task_id)
        SELECT m.third_company_id, m.uid, m.did, m."order", m.main, s.leader, m.task_id
        FROM tb_las_department_user m
        LEFT JOIN staged_memberships s
            ON (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.uid = m.uid AND s.did = m.did AND s.rejected IS NULL
        WHERE m.task_id = :task_id AND m.third_company_id = :company
        ON CONFLICT (third_company_id, uid, did) DO UPDATE SET
            "order" = excluded."order", main = excluded.main, leader = coalesce(excluded.leader, k.leader),
            task_id = excluded.task_id, updated_at = excluded.updated_at
        WHERE (k."order", k.main, k.leader)
            IS DISTINCT FROM (excluded."order", excluded.main, coalesce(excluded.leader, k.leader))
    """),
}
"""Staging gives the keys of comparison, which the tables of WPS do not have."""

FORGET = {
    "departments": text("""
        DELETE FROM known_departments k WHERE k.third_company_id = :company AND NOT EXISTS (
            SELECT FROM tb_las_department d
            WHERE d.task_id = :task_id AND d.third_company_id = :company AND d.did = k.did AND d.pid <> '-1')
    """),
    "users": text("""
        DELETE FROM known_users k WHERE k.third_company_id = :company AND NOT EXISTS (
            SELECT FROM tb_las_user u
            WHERE u.task_id = :task_id AND u.third_company_id = :company AND u.uid = k.uid)
    """),
    "memberships": text("""
        DELETE FROM known_memberships k WHERE k.third_company_id = :company AND NOT EXISTS (
            SELECT FROM tb_las_department_user m
            WHERE m.task_id = :task_id AND m.third_company_id = :company
                AND m.uid = k.uid AND m.did = k.did)
    """),
}


def replace(connection: Connection, *, fetch: Fetch, third_company_id: str, task_id: str) -> None:
    """Make known state what the saved rows of this task id say; unchanged rows are left alone."""
    values = fetch.key() | {"company": third_company_id, "task_id": task_id}
    for kind in KNOWN:
        connection.execute(FORGET[kind], {"company": third_company_id, "task_id": task_id})
        connection.execute(REPLACE[kind], values)
