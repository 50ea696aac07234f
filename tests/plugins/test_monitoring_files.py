"""The files of docs/monitoring speak of metrics that exist, and their table of all of them."""

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml

from console_rows import Rows
from plugins.conftest import SCRAPE_TOKEN

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
NAME = re.compile(r"\bnancalacc_[a-z_]+")


async def exposed(client: httpx.AsyncClient, rows: Rows) -> set[str]:
    rows.saga("good")
    rows.inbox_event("e1")
    answer = await client.get("/metrics", headers={"authorization": f"Bearer {SCRAPE_TOKEN}"})
    return set(re.findall(r"^# TYPE (\S+)", answer.text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
async def test_every_metric_that_is_asked_for_exists(client: httpx.AsyncClient, rows: Rows, name: str):
    asked = set(NAME.findall((MONITORING / name).read_text()))
    assert asked
    assert asked <= await exposed(client, rows)


async def test_the_table_explains_every_metric_and_no_other(client: httpx.AsyncClient, rows: Rows):
    explained = re.findall(
        r"^\| `(nancalacc_\w+)`", (MONITORING / "README.md").read_text(), flags=re.MULTILINE
    )
    assert set(explained) == await exposed(client, rows)


def test_every_alert_tells_its_severity_and_says_what_is_wrong():
    [group] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


def test_the_dashboard_has_a_title_and_a_query_in_every_panel():
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    assert all(panel["title"] and panel["targets"][0]["expr"] for panel in dashboard["panels"])
