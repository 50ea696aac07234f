"""Wires nancalacc into Airflow: the listener that records what only Airflow sees, the console, its links."""

import sys
from pathlib import Path

from airflow.plugins_manager import AirflowPlugin

INCLUDE = str(Path(__file__).resolve().parents[1] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.orchestration.links import SagaLink, console_views  # noqa: E402
from nancalacc.orchestration.listener import SagaListener  # noqa: E402
from nancalacc.orchestration.registry import NAMES  # noqa: E402
from nancalacc.web.mount import MountedApp  # noqa: E402


class NancalaccPlugin(AirflowPlugin):
    """The plugin; it only names its parts."""

    name = "nancalacc"
    listeners = [SagaListener(NAMES)]  # noqa: RUF012 - Airflow's interface
    fastapi_apps = [  # noqa: RUF012
        {"name": "nancalacc", "app": MountedApp(), "url_prefix": "/nancalacc"}
    ]
    external_views = console_views()
    global_operator_extra_links = [SagaLink(NAMES)]  # noqa: RUF012
