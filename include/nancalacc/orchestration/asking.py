"""A task that checks, and waits for a person only when the check asks for one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput
from airflow.sdk.execution_time.comms import CreateHITLDetailPayload, HITLDetailRequestResult

from nancalacc.errors import GuardError
from nancalacc.saga.checkpoint import Answer, Question

REASON = "reason"
REASON_LENGTH = 500

Ask = Callable[[Any], Question | None]
"""Runs the check in the task with this context; returns what a person must decide, if anything."""
Decide = Callable[[Any, str, Answer], None]
"""Records the answer to the question with this key; raises what a no means."""


class AskingOperator(HITLOperator):
    """Runs a check; where it asks, the task waits in Airflow (state `awaiting_input`, no process).

    Nobody's answer in time is a no.
    """

    def __init__(self, *, ask: Ask, decide: Decide, subject: str, **kwargs: Any) -> None:
        # Those of the DAG, which Airflow adds again; the form has fields of its own.
        kwargs.pop("params", None)
        super().__init__(
            subject=subject,
            options=[ApprovalOperator.APPROVE, ApprovalOperator.REJECT],
            defaults=ApprovalOperator.REJECT,
            params={
                REASON: Param(
                    "", type=["null", "string"], maxLength=REASON_LENGTH, title="Reason", description="Why"
                )
            },
            # The question says how long its answer is waited for.
            response_timeout=timedelta(days=1),
            **kwargs,
        )
        self._ask = ask
        self._decide = decide

    def execute(self, context: Any) -> None:
        """Check, and wait if a person must decide."""
        of_run = {name: value for name, value in context["params"].items() if name not in self.params}
        question = self._ask({**context, "params": of_run})
        if question is None:
            return
        self.subject, self.body = question.subject, question.body
        self.response_timeout = timedelta(seconds=question.seconds)
        try:
            super().execute(context)
        except TaskAwaitingInput as waiting:
            self._require_shown(context, question)
            raise TaskAwaitingInput(
                method_name=waiting.method_name, kwargs={"key": question.key}, timeout=waiting.timeout
            ) from None

    def execute_complete(self, context: Any, event: dict[str, Any], key: str = "") -> None:
        """Record the answer."""
        answer = super().execute_complete(context, event)
        by = answer["responded_by_user"]
        self._decide(
            context,
            key,
            Answer(
                is_approved=answer["chosen_options"] == [ApprovalOperator.APPROVE],
                by=None if by is None else str(by["name"] or by["id"]),
                reason=str(answer["params_input"].get(REASON) or "")[:REASON_LENGTH],
            ),
        )

    def _require_shown(self, context: Any, question: Question) -> None:
        """Raise GuardError unless Airflow shows this question.

        A task instance keeps the text of its first request, also after it was cleared: nobody may
        approve what they have not seen.
        """
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        shown = SUPERVISOR_COMMS.send(
            CreateHITLDetailPayload(
                ti_id=context["task_instance"].id,
                options=self.options,
                subject=question.subject,
                body=question.body,
                defaults=self.defaults,
                multiple=self.multiple,
                params=self.serialized_params,
                assigned_users=[],
            )
        )
        if not isinstance(shown, HITLDetailRequestResult) or (shown.subject, shown.body) != (
            question.subject,
            question.body,
        ):
            raise GuardError(
                "Airflow still shows the request that this run made earlier, about something else:"
                " nobody can decide on the present one here. Start a new run"
            )
