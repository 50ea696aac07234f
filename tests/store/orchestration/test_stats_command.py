"""`python -m nancalacc db stats`, as a person starts it."""

import os
import subprocess
import sys
from pathlib import Path

INCLUDE = Path(__file__).resolve().parents[3] / "include"


def test_the_sizes_of_the_tables_are_shown(database_url: str, tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "nancalacc", "db", "stats"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=kept
        | {
            "PYTHONPATH": str(INCLUDE),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW_CONN_NANCALACC_DB": database_url,
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    heading, *lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert heading == ["Table", "Rows", "Size"]
    found = {line[0]: line[1:] for line in lines}
    assert {"saga_events", "tb_las_user", "dingtalk_events", "all"} <= set(found)
    assert found["saga_events"][0] == "0"
    assert found["all"][-1] in {"kB", "MB"}
