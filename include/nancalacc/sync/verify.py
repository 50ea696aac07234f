"""Whether WPS has what it was given: reads its directory back and gives a verdict.

Nothing here changes WPS or known state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, text, update

from nancalacc.config import WpsSettings
from nancalacc.errors import DatabaseError, NancalaccError, SchemaError
from nancalacc.saga.state import EventType
from nancalacc.store.database import Database
from nancalacc.store.repository import SagaStore
from nancalacc.store.tables import UTC_NOW, known_departments, known_users, verifications
from nancalacc.sync import directory, drift
from nancalacc.sync.directory import DirectoryCopy
from nancalacc.sync.drift import Differences
from nancalacc.sync.services import SyncServices
from nancalacc.sync.verdicts import Publication, Verdict, judge

log = logging.getLogger(__name__)

NAMED = 20
"""Differences that are named in the log and in the saga's event."""
LEFTOVER = text("""
    SELECT id FROM verifications
    WHERE third_company_id = :company AND id <> :id
        AND started_at < timezone('utc', clock_timestamp()) - interval '1 day'
    ORDER BY id DESC LIMIT 10
""")
NEWEST = text("""
    SELECT t.transaction_id, t.task_id, u.status = 'completed' AS is_known,
        extract(epoch FROM clock_timestamp() - CAST(n.action_data->>'accepted_at' AS timestamptz)) AS age,
        u.action_data->'difference' AS difference
    FROM saga_transactions t
    JOIN saga_steps n ON n.transaction_id = t.transaction_id AND n.step_name = 'notify_wps'
        AND n.status = 'completed' AND n.action_data ? 'accepted_at'
    JOIN saga_steps u ON u.transaction_id = t.transaction_id AND u.step_name = 'update_task_status'
    WHERE t.third_company_id = :company AND t.task_id IS NOT NULL
    ORDER BY t.task_id DESC LIMIT 1
""")
IN_MOTION = text("""
    SELECT EXISTS (
        SELECT FROM saga_transactions t
        JOIN saga_steps n ON n.transaction_id = t.transaction_id AND n.step_name = 'notify_wps'
        WHERE t.third_company_id = :company AND t.transaction_id IS DISTINCT FROM :own
            AND (n.status IN ('in_progress', 'completed') OR n.pivot_state = 'intended')
            AND (t.status NOT IN ('completed', 'compensated', 'cancelled') OR t.end_time >= :since)
            AND coalesce(t.params->>'dry_run', 'false') <> 'true'
    )
""")
"""Whether another saga has published, or may have, and is not over, or was not when the look began."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified, and by which run: for a sync its own saga, otherwise whatever is newest."""

    wps_conn_id: str
    dag_id: str
    run_id: str
    transaction_id: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """One look: the verdict so far, and the row under which it is kept."""

    verification_id: int
    third_company_id: str
    verdict: Verdict
    message: str
    differences: Differences = field(default_factory=Differences)
    publication: Publication | None = None
    seconds: float = 0


def look(
    database: Database,
    services: SyncServices,
    subject: Subject,
    *,
    seconds: float,
    verification_id: int | None = None,
    patience: float | None = None,
) -> Look:
    """Read WPS's directory, at most for so many seconds, and compare it with known state.

    `verification_id`: of an earlier look of the same run; `patience`: see `judge`. Raises DatabaseError
    and SchemaError only: whatever is wrong with WPS is a verdict.
    """
    try:
        settings = services.wps_settings(subject.wps_conn_id)
    except NancalaccError as error:
        return Look(0, "", Verdict.UNVERIFIABLE, str(error))
    company = settings.third_company_id
    with database.transaction() as connection:
        publication = newest(connection, third_company_id=company)
        number = _begin(connection, subject, company, publication, verification_id=verification_id)
        started: datetime = connection.execute(select(UTC_NOW)).scalar_one()
        size = _size(connection, company)
    clock = time.monotonic()
    found = Differences()
    if subject.transaction_id is not None and (
        publication is None or publication.transaction_id != subject.transaction_id
    ):
        verdict, message = Verdict.SUPERSEDED, "A newer sync was published meanwhile: it is verified instead"
    elif publication is None or not publication.is_known:
        verdict = Verdict.UNVERIFIABLE
        message = "There is no completed full sync to compare with: start one"
    else:
        refusal = _too_slow(settings, size, seconds=seconds) or _read(
            database, services, subject, verification_id=number, seconds=seconds
        )
        if refusal:
            verdict, message = Verdict.UNVERIFIABLE, refusal
        else:
            with database.transaction() as connection:
                found = drift.compare(connection, verification_id=number, third_company_id=company)
                in_motion = connection.execute(
                    IN_MOTION,
                    {"company": company, "own": subject.transaction_id, "since": started},
                ).scalar_one()
            verdict, message = judge(
                found,
                publication,
                in_motion=in_motion,
                late_seconds=services.settings.repeat_seconds,
                patience=patience,
            )
    with database.transaction() as connection:
        connection.execute(
            update(verifications)
            .where(verifications.c.id == number)
            .values(
                verdict=verdict.value,
                message=message,
                counts=found.as_data(),
                looks=verifications.c.looks + 1,
            )
        )
    return Look(number, company, verdict, message, found, publication, time.monotonic() - clock)


def finish(database: Database, seen: Look) -> None:
    """Delete the copy, end the verification, and say what came of it: in the saga's events and the log."""
    if not seen.verification_id:
        return
    with database.transaction() as connection:
        directory.forget(connection, seen.verification_id)
        named = drift.examples(connection, verification_id=seen.verification_id, limit=NAMED)
        connection.execute(
            update(verifications).where(verifications.c.id == seen.verification_id).values(ended_at=UTC_NOW)
        )
    for each in named:
        place = f" in {each['did']}" if each["did"] else ""
        fields = f" ({each['fields']})" if each["fields"] else ""
        log.warning("%s %s%s: %s%s", each["kind"], each["key"], place, each["what"], fields)
    if seen.publication is None:
        return
    data = {
        "verdict": seen.verdict.value,
        "message": seen.message,
        "verification_id": seen.verification_id,
        "counts": seen.differences.as_data(),
    }
    SagaStore(database).append(seen.publication.transaction_id, [(EventType.VERIFICATION, None, data)])


def newest(connection: Connection, *, third_company_id: str) -> Publication | None:
    """The newest snapshot that WPS has accepted."""
    row = connection.execute(NEWEST, {"company": third_company_id}).one_or_none()
    if row is None:
        return None
    return Publication(
        row.transaction_id, row.task_id, float(row.age), row.difference or {}, is_known=row.is_known
    )


def _begin(
    connection: Connection,
    subject: Subject,
    company: str,
    publication: Publication | None,
    *,
    verification_id: int | None,
) -> int:
    """The row of this verification; copies that a dead one left behind are deleted."""
    if verification_id is not None:
        return verification_id
    number: int = connection.execute(
        insert(verifications)
        .values(
            third_company_id=company,
            transaction_id=publication.transaction_id if publication else None,
            task_id=publication.task_id if publication else None,
            dag_id=subject.dag_id,
            run_id=subject.run_id,
            verdict=Verdict.PENDING.value,
        )
        .returning(verifications.c.id)
    ).scalar_one()
    for old in connection.execute(LEFTOVER, {"company": company, "id": number}).scalars():
        directory.forget(connection, old)
    return number


def _read(
    database: Database, services: SyncServices, subject: Subject, *, verification_id: int, seconds: float
) -> str:
    """Copy the directory; returns why that was not possible, or nothing."""

    async def copy() -> None:
        async with asyncio.timeout(seconds), services.wps(subject.wps_conn_id) as client:
            shown = await DirectoryCopy(database, client, verification_id=verification_id).read()
            log.info(
                "WPS shows %s departments and %s users, %s of them not ours, in %s calls",
                shown.departments,
                shown.users,
                shown.foreign,
                client.reads,
            )

    try:
        asyncio.run(copy())
    except (DatabaseError, SchemaError):
        raise
    except TimeoutError:
        return f"WPS's directory could not be read within {seconds:.0f} s"
    except NancalaccError as error:
        return f"WPS's directory cannot be read: {error}"
    return ""


def _size(connection: Connection, company: str) -> tuple[int, int]:
    departments, users = (
        connection.execute(
            select(func.count()).select_from(table).where(table.c.third_company_id == company)
        ).scalar_one()
        for table in (known_departments, known_users)
    )
    return departments, users


def _too_slow(settings: WpsSettings, size: tuple[int, int], *, seconds: float) -> str:
    """Why a reading is not even begun: it could not end in time at the permitted rate."""
    departments, users = size
    calls = directory.calls_needed(departments=departments, users=users)
    rate = settings.reads_per_second
    if not rate or calls / rate <= seconds:
        return ""
    return (
        f"Reading WPS's directory takes {calls} calls, {calls / rate:.0f} s at {rate:g} calls per second"
        f" (extra 'reads_per_second'), more than the {seconds:.0f} s this run has for it: the DAG reconcile"
        " has more time, or set NANCALACC_VERIFY_SECONDS"
    )
