"""Airflow's own API, called inside the API server as the person who asks.

The request goes through all of Airflow: its permissions, its checks, its audit log. Grid and
tables therefore say the same, and nobody can do more here than there.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
from fastapi import Request

PASSED_ON = ("authorization", "cookie")
FINISHED = frozenset({"success", "failed"})


class AirflowRefusedError(Exception):
    """Airflow answered with an error; `status` is its HTTP status, the text its reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class AirflowCalls:
    """Airflow's API as the sender of `request`; `app` is Airflow's own app."""

    def __init__(self, request: Request) -> None:
        self._app = request.scope["nancalacc.airflow"]
        self._headers = {
            name: value for name in PASSED_ON if (value := request.headers.get(name)) is not None
        }

    async def run_state(self, dag_id: str, run_id: str) -> str | None:
        """The state of a run, None when it is gone."""
        try:
            answer = await self._call("GET", _run(dag_id, run_id))
        except AirflowRefusedError as refused:
            if refused.status == 404:
                return None
            raise
        return str(answer["state"])

    async def clear(self, dag_id: str, run_id: str, *, task_id: str, note: str) -> list[str]:
        """Clear a task and all that follow it; returns the ids of the tasks that were cleared."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "only_failed": False,
            "include_downstream": True,
            "reset_dag_runs": True,
            "note": note,
        }
        answer = await self._call("POST", f"/dags/{quote(dag_id)}/clearTaskInstances", body=body)
        return sorted({str(task["task_id"]) for task in answer["task_instances"]})

    async def trigger(self, dag_id: str, *, run_id: str, conf: dict[str, Any], note: str) -> bool:
        """Start a run; False when a run of this id exists already."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf, "note": note}
        try:
            await self._call("POST", f"/dags/{quote(dag_id)}/dagRuns", body=body)
        except AirflowRefusedError as refused:
            if refused.status == 409:
                return False
            raise
        return True

    async def fail_run(self, dag_id: str, run_id: str, *, note: str) -> None:
        """End a run by hand: its tasks are ended, too."""
        await self._call("PATCH", _run(dag_id, run_id), body={"state": "failed", "note": note})

    async def _call(self, method: str, path: str, *, body: Any = None) -> Any:
        transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow.internal") as client:
            answer = await client.request(method, f"/api/v2{path}", json=body, headers=self._headers)
        if answer.is_error:
            raise AirflowRefusedError(answer.status_code, _reason(answer))
        return answer.json()


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _reason(answer: httpx.Response) -> str:
    """What Airflow says about its refusal, without what it may quote of a stack."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = None
    if isinstance(detail, str) and answer.status_code < 500:
        return f"Airflow: {detail[:500]}"
    return f"Airflow refuses: HTTP {answer.status_code}"
