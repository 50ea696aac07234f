"""What happens when a task has failed for good."""

from __future__ import annotations

import logging
from typing import Any

from nancalacc.errors import FencedError, IllegalTransitionError, NancalaccError
from nancalacc.saga.definition import transaction_id_of
from nancalacc.saga.execution import message_of
from nancalacc.saga.telemetry import named

log = logging.getLogger(__name__)


def step_failed(context: Any) -> None:
    """Tell the saga that a step has failed for good: it requests compensation, settle_saga starts it.

    An `on_failure_callback`; it never raises, because settle_saga finds out by itself what is missing.
    A task that was overtaken, or refused to start, says nothing about the saga.
    """
    error = context.get("exception")
    if isinstance(error, FencedError | IllegalTransitionError):
        return
    task_instance = context["ti"]
    transaction_id = transaction_id_of(dag_id=task_instance.dag_id, run_id=task_instance.run_id)
    message = message_of(error) if isinstance(error, BaseException) else "Its task was ended from outside"
    with named(transaction_id, step=task_instance.task_id):
        try:
            from nancalacc.orchestration.hooks import open_coordinator

            with open_coordinator() as coordinator:
                coordinator.fail(transaction_id, step=task_instance.task_id, error=message)
        except NancalaccError as failure:
            log.warning(
                "Saga %s: cannot record that %s failed: %s", transaction_id, task_instance.task_id, failure
            )
