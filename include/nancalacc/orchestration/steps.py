"""The task of a step: runs it, and gives its place to others while the step waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator

from nancalacc.orchestration.runs import named_run, run_params, run_view, start_saga
from nancalacc.saga.definition import SagaDefinition, Step
from nancalacc.saga.telemetry import named
from nancalacc.saga.waiting import Waiting

log = logging.getLogger(__name__)

WATCHER_DELAY = timedelta(minutes=15)
"""How much longer than it should a wait may take before it counts as lost, and the step is tried again."""

ServicesOf = Callable[[Any], Any]
"""Builds what the actions need from a task's context."""


class StepOperator(BaseOperator):
    """Runs one step of the saga of its run; while the step waits, the triggerer watches its attempt."""

    def __init__(
        self, *, definition: SagaDefinition, step: Step, services: ServicesOf, **options: Any
    ) -> None:
        super().__init__(**options)
        self.definition = definition
        self.step = step
        self.services = services

    def execute(self, context: Any) -> None:
        """Run the step, and before it every predecessor that is not done."""
        from nancalacc.orchestration.hooks import open_coordinator

        with named_run(context, step=self.step.name):
            view = run_view(self.definition, context)
            with open_coordinator() as coordinator:
                done = coordinator.run_step_or_wait(
                    self.definition,
                    start_saga(coordinator, self.definition, context),
                    self.step.name,
                    services=self.services(context),
                    params=run_params(context),
                    run=view,
                )
            self._defer_if_waiting(done, context)

    def resume(self, context: Any, waiting: Mapping[str, Any], event: Any) -> None:
        """Go on with the same attempt; raises FencedError when somebody else has gone on meanwhile."""
        from nancalacc.orchestration.hooks import open_coordinator

        with named_run(context, step=self.step.name):
            with open_coordinator() as coordinator:
                done = coordinator.resume_step(
                    self.definition, Waiting.of(waiting), services=self.services(context)
                )
            self._defer_if_waiting(done, context)

    def _defer_if_waiting(self, waiting: Mapping[str, Any] | Waiting, context: Any) -> None:
        if not isinstance(waiting, Waiting):
            return
        from nancalacc.orchestration.triggers import StepTrigger

        with named(waiting.transaction_id, epoch=waiting.epoch, attempt=waiting.attempt):
            log.info(
                "Saga %s: step %s waits, for %.0f s at most",
                waiting.transaction_id,
                waiting.step,
                waiting.seconds,
            )
        self.defer(
            trigger=StepTrigger(
                dag_id=context["dag_run"].dag_id,
                waiting=waiting.as_data(),
                until=time.time() + waiting.seconds,
            ),
            method_name="resume",
            kwargs={"waiting": waiting.as_data()},
            timeout=timedelta(seconds=waiting.seconds) + WATCHER_DELAY,
        )
