"""Tasks that read WPS back: `verify_wps` after a sync, and those of the DAG `reconcile`.

They report. Whatever they find or fail at, a sync that was good stays good.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from nancalacc.config import WPS_CONN_ID, Settings
from nancalacc.errors import NancalaccError, RefusedError
from nancalacc.orchestration.runs import known_params, named_run, run_params
from nancalacc.orchestration.saga_tasks import retry_arguments
from nancalacc.orchestration.steps import ServicesOf
from nancalacc.saga.definition import transaction_id_of
from nancalacc.saga.execution import message_of
from nancalacc.sync.verdicts import Verdict
from nancalacc.sync.verify import Look, Subject, finish, look

log = logging.getLogger(__name__)

LEAST_READING_SECONDS = 10.0
"""What the first look may take even when nobody is to wait."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0
TRIGGERER_DELAY = timedelta(minutes=5)
RECONCILE_SECONDS = 3000.0


class VerifyWps(BaseOperator):
    """Looks whether WPS has what the run's saga published, until it has or the time is over.

    Between looks it waits in the triggerer and holds no worker slot. Ends skipped, with the reason,
    when there is no verdict; never fails because of what WPS shows or does not show.
    """

    def __init__(self, *, services: ServicesOf, seconds: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.services = services
        self.seconds = seconds

    def execute(self, context: Any) -> None:
        """The first look, at once."""
        if self.seconds is None:
            raise AirflowSkipException("NANCALACC_VERIFY_SECONDS is none: WPS is not read back")
        if run_params(context).get("dry_run"):
            raise AirflowSkipException("A dry run publishes nothing")
        self._look(context, until=time.time() + self.seconds, pause=FIRST_PAUSE_SECONDS)

    def resume(
        self, context: Any, event: object, *, until: float, pause: float, verification_id: int
    ) -> None:
        """A further look, after a pause."""
        self._look(context, until=until, pause=pause, verification_id=verification_id)

    def _look(self, context: Any, *, until: float, pause: float, verification_id: int | None = None) -> None:
        with named_run(context, step=self.task_id):
            self._verify(context, until=until, pause=pause, verification_id=verification_id)

    def _verify(self, context: Any, *, until: float, pause: float, verification_id: int | None) -> None:
        run = context["dag_run"]
        subject = Subject(
            wps_conn_id=run_params(context).get("wps_conn_id") or WPS_CONN_ID,
            dag_id=run.dag_id,
            run_id=run.run_id,
            transaction_id=transaction_id_of(dag_id=run.dag_id, run_id=run.run_id),
        )
        try:
            seen = self._see(context, subject, until=until, pause=pause, verification_id=verification_id)
        except (AirflowSkipException, TaskDeferred):
            raise
        except Exception as error:
            # Ours are explained; of any other the log must have all there is.
            log.warning("WPS cannot be verified", exc_info=not isinstance(error, NancalaccError))
            raise AirflowSkipException(f"Not verified: {message_of(error)}") from None
        report(seen)
        if seen.verdict in {Verdict.UNVERIFIABLE, Verdict.SUPERSEDED}:
            raise AirflowSkipException(f"Not verified: {seen.message}")

    def _see(
        self,
        context: Any,
        subject: Subject,
        *,
        until: float,
        pause: float,
        verification_id: int | None,
    ) -> Look:
        from nancalacc.orchestration.hooks import open_database

        with open_database() as database:
            seen = look(
                database,
                self.services(context),
                subject,
                seconds=max(LEAST_READING_SECONDS, until - time.time()),
                verification_id=verification_id,
                patience=self.seconds or None,
            )
            # Looking is work for WPS, too: not more than a third of the time.
            left = until - time.time()
            # The last look comes when the time is over.
            pause = min(max(pause, 2 * seen.seconds), left)
            may_pass = seen.verdict.may_change or (
                seen.verdict is Verdict.UNVERIFIABLE and verification_id is not None
            )
            if not may_pass or left <= 0:
                finish(database, seen)
                return seen
        log.info("%s: looking again in %.0f s", seen.message, pause)
        raise TaskDeferred(
            trigger=TimeDeltaTrigger(timedelta(seconds=pause)),
            method_name="resume",
            kwargs={
                "until": until,
                "pause": min(pause * 2, LONGEST_PAUSE_SECONDS),
                "verification_id": seen.verification_id,
            },
            timeout=timedelta(seconds=pause) + TRIGGERER_DELAY,
        )


def verify_wps(*, services: ServicesOf, settings: Settings) -> VerifyWps:
    """The task that reads WPS back after a sync, as this installation is configured."""
    return VerifyWps(
        task_id="verify_wps",
        services=services,
        seconds=settings.verify_seconds,
        retries=3,
        execution_timeout=timedelta(hours=1),
        doc_md=VerifyWps.__doc__,
        **retry_arguments(timedelta(seconds=settings.retry_delay_seconds)),
    )


def report(seen: Look) -> None:
    """Say in the log what was found; what somebody should look at as a warning."""
    level = logging.WARNING if seen.verdict in {Verdict.DRIFTED, Verdict.STOPPED} else logging.INFO
    log.log(level, "WPS %s: %s", seen.verdict.value, seen.message)


def reconcile(context: Any, *, services: ServicesOf, dingtalk_conn_id: str, wps_conn_id: str) -> None:
    """What a task of the DAG `reconcile` does for one company: compare, and repair if that was asked for.

    Ends successfully also when WPS differs; skips when WPS cannot be read. Raises RefusedError for a
    wrong parameter.
    """
    from nancalacc.orchestration.hooks import open_database
    from nancalacc.sync.repair import repair

    params = known_params(context, "wps_conn_id", "repair")
    built = services(context)
    asked = params.get("wps_conn_id")
    companies = [wps for _, wps in built.settings.companies]
    if asked is not None and asked not in companies:
        raise RefusedError(
            f"Parameter 'wps_conn_id' {asked!r} is no WPS connection of NANCALACC_COMPANIES:"
            f" {', '.join(companies)}"
        )
    if asked not in {None, wps_conn_id}:
        raise AirflowSkipException("Only another company was asked for")
    if not isinstance(params.get("repair", False), bool):
        raise RefusedError(f"Parameter 'repair' must be true or false, not {params['repair']!r}")
    run = context["dag_run"]
    with open_database() as database:
        seen = look(database, built, Subject(wps_conn_id, run.dag_id, run.run_id), seconds=RECONCILE_SECONDS)
        if params.get("repair") and seen.verdict in {Verdict.DRIFTED, Verdict.STOPPED}:
            with database.transaction() as connection:
                done = repair(
                    connection,
                    seen,
                    wps=built.wps_settings(wps_conn_id),
                    dingtalk=built.dingtalk_settings(dingtalk_conn_id),
                )
            if done.refused:
                log.warning("Nothing is repaired: %s", done.refused)
            else:
                log.warning(
                    "%s objects are queued for incremental_sync, which reads them anew; %s were left alone",
                    done.queued,
                    done.left,
                )
        finish(database, seen)
    report(seen)
    if seen.verdict is Verdict.UNVERIFIABLE:
        raise AirflowSkipException(f"Not compared: {seen.message}")
