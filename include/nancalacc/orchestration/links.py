"""Links from Airflow's pages to the console; imported by the plugin in every process, so light."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode, urlsplit

from nancalacc.saga.definition import transaction_id_of

CONSOLE = "nancalacc/console/"
VIEW = "nancalacc"
"""Name of the page in Airflow's own addresses: /plugin/nancalacc."""


def console_views() -> list[dict[str, Any]]:
    """The console in the menu, and a tab on the page of every run.

    Airflow loads these addresses relative to its own base URL, so that they work below a path.
    """
    return [
        {
            "name": "nancalacc",
            "href": CONSOLE,
            "destination": "nav",
            "category": "browse",
            "url_route": VIEW,
        },
        {
            "name": "Saga",
            "href": f"{CONSOLE}?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&embedded=1",
            "destination": "dag_run",
            "url_route": "saga",
        },
    ]


def console_address(**query: str) -> str:
    """The address of a place in the console, as a page of Airflow."""
    from airflow.configuration import conf

    base = conf.get("api", "base_url", fallback="/").rstrip("/")
    root = urlsplit(base).path.rstrip("/")
    return f"{base}/plugin/{VIEW}{root}/{CONSOLE}?{urlencode(query)}"


class SagaLink:
    """A button on the page of a task that leads to its saga; other DAGs' tasks get none."""

    name = "Saga"

    def __init__(self, definitions: Iterable[str]) -> None:
        self._definitions = tuple(definitions)

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address of the saga's page, "" for a task of another DAG."""
        dag_id = ti_key.dag_id
        if not any(dag_id == name or dag_id.startswith(f"{name}__") for name in self._definitions):
            return ""
        return console_address(saga=transaction_id_of(dag_id=dag_id, run_id=ti_key.run_id))
