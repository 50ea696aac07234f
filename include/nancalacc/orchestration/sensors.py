"""Sensors of our DAGs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import astuple
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSkipException

from nancalacc.orchestration.hooks import open_database
from nancalacc.orchestration.registry import sync_services_of
from nancalacc.orchestration.runs import run_params
from nancalacc.orchestration.triggers import EventsTrigger
from nancalacc.sync.batch import NAME, BatchParams
from nancalacc.sync.claiming import tenants_of
from nancalacc.sync.claims import due_tenants, free_abandoned

TRIGGERER_DELAY = timedelta(minutes=5)
"""How much longer than it should a deferral may take before it counts as lost."""


class EventsSensor(BaseSensorOperator):
    """Waits until a company has events that may be handled; skips when there are none for long enough.

    Its bounded wait gives other runs of the DAG their turn. Events whose time has not come, of a
    company whose lock is taken or awaited, or that WPS does not know yet, do not count.
    """

    def execute(self, context: Any) -> None:
        """Ask once, then leave the waiting to the triggerer.

        Raises RefusedError for wrong parameters, DatabaseError when the database is away.
        """
        services = sync_services_of(context)
        pairs = BatchParams.of(run_params(context)).pairs(services.settings.companies)
        tenants = tenants_of(services, pairs)
        with open_database() as database, database.transaction() as connection:
            free_abandoned(connection)
            if due_tenants(connection, tenants, definition=NAME):
                return
        idle = services.settings.idle_seconds
        self.defer(
            trigger=EventsTrigger(
                tenants=[list(astuple(tenant)) for tenant in tenants],
                until=time.time() + idle,
                poll_seconds=services.settings.poll_seconds,
            ),
            method_name="resume",
            timeout=timedelta(seconds=idle) + TRIGGERER_DELAY,
        )

    def resume(self, context: Any, event: Mapping[str, Any]) -> None:
        """Let the run go on, or skip it."""
        if not event["due"]:
            raise AirflowSkipException("There were no events to handle; the next run waits for more")
