"""A client of Airflow's REST API, as the demo and the tests use it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx

from nancalacc.errors import CallRefusedError, IncompleteAnswerError

Json = dict[str, Any]

FINISHED = frozenset({"success", "failed"})
POLL_SECONDS = 0.25
PAGE = 100


class AirflowApi:
    """Airflow's public API, version 2, as one user.

    Raises CallRefusedError with Airflow's own words when it answers with an HTTP error, and
    IncompleteAnswerError when what is waited for does not come in time.
    """

    def __init__(self, base_url: str, *, username: str, password: str) -> None:
        self._username = username
        self._password = password
        self._client = httpx.Client(base_url=base_url, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(
        self, method: str, path: str, *, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Any call below `/api/v2`; returns the decoded answer, None when there is none."""
        return self.request(method, f"/api/v2{path}", body=body, query=query)

    def request(
        self, method: str, path: str, *, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Any call as the signed-in user, the plugin's pages included."""
        if "Authorization" not in self._client.headers:
            self._sign_in()
        answer = self._client.request(method, path, json=body, params=query)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._sign_in()
            answer = self._client.request(method, path, json=body, params=query)
        if answer.is_error:
            raise CallRefusedError(
                f"{method} {path}: HTTP {answer.status_code}: {answer.text[:500]}",
                code=str(answer.status_code),
            )
        return answer.json() if answer.content else None

    def health(self) -> dict[str, str]:
        """The status of each component, by name (`scheduler`: `healthy`)."""
        answer: dict[str, Json | None] = self.call("GET", "/monitor/health")
        return {name: str((part or {}).get("status")) for name, part in answer.items()}

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60) -> None:
        """Wait until the DAG is known; raises at once when a DAG file cannot be imported."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                self.call("GET", f"/dags/{quote(dag_id)}")
            except CallRefusedError as refused:
                if refused.code != "404":
                    raise
                if errors := self.import_errors():
                    raise CallRefusedError(f"DAG {dag_id!r} is not there: {errors}") from None
                time.sleep(POLL_SECONDS)
            else:
                return
        raise IncompleteAnswerError(f"DAG {dag_id!r} did not appear within {timeout:g} s")

    def import_errors(self) -> dict[str, str]:
        """DAG files that cannot be imported: file name to traceback."""
        answer = self.call("GET", "/importErrors")
        return {str(error["filename"]): str(error["stack_trace"]) for error in answer["import_errors"]}

    def pause(self, dag_id: str, *, paused: bool = True) -> None:
        """Pause a DAG or, with `paused=False`, let it run."""
        self.call("PATCH", f"/dags/{quote(dag_id)}", body={"is_paused": paused})

    def trigger(self, dag_id: str, *, conf: Json | None = None, run_id: str | None = None) -> str:
        """Start a run with a configuration and return its run id."""
        body: Json = {"logical_date": None, "conf": conf or {}}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return str(self.call("POST", f"/dags/{quote(dag_id)}/dagRuns", body=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> Json:
        """One run as Airflow tells it."""
        answer: Json = self.call("GET", _run(dag_id, run_id))
        return answer

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run: queued, running, success or failed."""
        return str(self.run(dag_id, run_id)["state"])

    def runs(self, dag_id: str) -> list[Json]:
        """The latest runs of a DAG, newest first."""
        query = {"order_by": "-run_after", "limit": PAGE}
        runs: list[Json] = self.call("GET", f"/dags/{quote(dag_id)}/dagRuns", query=query)["dag_runs"]
        return runs

    def wait_run(
        self, dag_id: str, run_id: str, *, timeout: float = 120, states: Collection[str] = FINISHED
    ) -> str:
        """Wait until the run is in one of `states` (by default: ended) and return its state."""
        deadline = time.monotonic() + timeout
        state = self.run_state(dag_id, run_id)
        while state not in states:
            if time.monotonic() > deadline:
                tasks = self.task_states(dag_id, run_id)
                raise IncompleteAnswerError(
                    f"Run {run_id!r} of {dag_id!r} is {state} after {timeout:g} s; its tasks: {tasks}"
                )
            time.sleep(POLL_SECONDS)
            state = self.run_state(dag_id, run_id)
        return state

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run with its task instances."""
        self.call("DELETE", _run(dag_id, run_id))

    def set_run_state(self, dag_id: str, run_id: str, *, state: str) -> None:
        """Mark a run by hand as `success`, `failed` or `queued`."""
        self.call("PATCH", _run(dag_id, run_id), body={"state": state})

    def task_instances(self, dag_id: str, run_id: str) -> dict[str, Json]:
        """The task instances of a run by task id (the latest try of each)."""
        found: dict[str, Json] = {}
        while True:
            query = {"limit": PAGE, "offset": len(found)}
            answer = self.call("GET", f"{_run(dag_id, run_id)}/taskInstances", query=query)
            found |= {str(task["task_id"]): task for task in answer["task_instances"]}
            if not answer["task_instances"] or len(found) >= answer["total_entries"]:
                return found

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """The state of every task of a run; None means not looked at yet."""
        return {task_id: task["state"] for task_id, task in self.task_instances(dag_id, run_id).items()}

    def wait_task(
        self, dag_id: str, run_id: str, task_id: str, *, states: Collection[str], timeout: float = 60
    ) -> str:
        """Wait until a task is in one of `states` and return its state."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.task_states(dag_id, run_id).get(task_id)
            if state is not None and state in states:
                return state
            if time.monotonic() > deadline:
                raise IncompleteAnswerError(
                    f"Task {task_id!r} of run {run_id!r} is {state} after {timeout:g} s, not {sorted(states)}"
                )
            time.sleep(POLL_SECONDS)

    def set_task_state(
        self, dag_id: str, run_id: str, task_id: str, *, state: str, downstream: bool = False
    ) -> None:
        """Mark a task by hand as `success`, `failed` or `skipped`."""
        body = {"new_state": state, "include_downstream": downstream}
        self.call("PATCH", f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}", body=body)

    def clear(
        self,
        dag_id: str,
        run_id: str,
        *,
        task_ids: Collection[str] | None = None,
        only_failed: bool = False,
        downstream: bool = False,
        upstream: bool = False,
    ) -> list[str]:
        """Clear tasks of a run, all of them without `task_ids`; returns the ids of those cleared."""
        body: Json = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": only_failed,
            "include_downstream": downstream,
            "include_upstream": upstream,
            "reset_dag_runs": True,
        }
        if task_ids is not None:
            body["task_ids"] = sorted(task_ids)
        answer = self.call("POST", f"/dags/{quote(dag_id)}/clearTaskInstances", body=body)
        return sorted(str(task["task_id"]) for task in answer["task_instances"])

    def log(self, dag_id: str, run_id: str, task_id: str, *, attempt: int | None = None) -> str:
        """The log of a task's try, by default its latest, a line per event."""
        if attempt is None:
            attempt = int(self.task_instances(dag_id, run_id)[task_id]["try_number"])
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{attempt}"
        answer = self.call("GET", path, query={"full_content": True})
        return "\n".join(_line(event) for event in answer["content"])

    def xcoms(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """What a task left as XCom, by key."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries"
        keys = [str(entry["key"]) for entry in self.call("GET", path)["xcom_entries"]]
        return {key: self.call("GET", f"{path}/{quote(key)}")["value"] for key in keys}

    def _sign_in(self) -> None:
        body = {"username": self._username, "password": self._password}
        answer = self._client.post("/auth/token", json=body)
        if answer.is_error:
            raise CallRefusedError(
                f"Airflow refuses to sign in {self._username!r}: HTTP {answer.status_code}",
                code=str(answer.status_code),
            )
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _line(event: Any) -> str:
    if not isinstance(event, dict):
        return str(event)
    details = [f"{key}={value}" for key, value in event.items() if key not in {"event", "timestamp"}]
    return " ".join([str(event.get("timestamp") or ""), str(event.get("event") or ""), *details]).strip()
