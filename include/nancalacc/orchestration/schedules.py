"""When DAGs run."""

from __future__ import annotations

from airflow.sdk import CronTriggerTimetable
from airflow.sdk.exceptions import AirflowException
from airflow.timetables.trigger import CronTriggerTimetable as Checked

from nancalacc.config import Settings
from nancalacc.errors import ConfigurationError


def timetable(cron: str | None, *, variable: str, settings: Settings) -> CronTriggerTimetable | None:
    """The schedule of a cron expression in the configured zone; None leaves the DAG to people.

    Raises ConfigurationError that names the environment variable when it is no cron expression.
    """
    if cron is None:
        return None
    try:
        # The one for DAG files takes anything, and then the scheduler cannot read the DAG.
        Checked(cron, timezone=settings.schedule_timezone).validate()
    except AirflowException as error:
        raise ConfigurationError(
            f"Environment variable {variable} must be a cron expression or none, not {cron!r} ({error})"
        ) from None
    return CronTriggerTimetable(cron, timezone=settings.schedule_timezone)
