"""When DAGs run."""

from __future__ import annotations

from airflow.sdk import CronTriggerTimetable

from nancalacc.config import Settings


def timetable(cron: str | None, *, settings: Settings) -> CronTriggerTimetable | None:
    """The schedule of a cron expression in the configured zone; None leaves the DAG to people."""
    return CronTriggerTimetable(cron, timezone=settings.schedule_timezone) if cron else None
