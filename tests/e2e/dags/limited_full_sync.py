"""A DAG of the tests: a full sync with limits of time, as an installation may set them."""

import sys
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

INCLUDE = str(Path(__file__).resolve().parents[3] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.orchestration.registry import outcome_services_of, sync_services_of  # noqa: E402
from nancalacc.orchestration.saga_tasks import saga_tasks  # noqa: E402
from nancalacc.sync.company import FETCH  # noqa: E402
from nancalacc.sync.full import FULL_SYNC  # noqa: E402

with DAG("full_sync__limited", schedule=None, dagrun_timeout=timedelta(hours=1)) as dag:
    saga_tasks(
        FULL_SYNC,
        services=sync_services_of,
        outcome_services=outcome_services_of,
        retry_delay=timedelta(seconds=0.2),
    )

dag.get_task(FETCH).execution_timeout = timedelta(seconds=6)
