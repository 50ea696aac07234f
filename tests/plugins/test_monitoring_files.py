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
SELECTED = re.compile(r"\b(nancalacc_[a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"by \(([a-z, ]+)\) \((nancalacc_[a-z_]+)")


async def scraped(client: httpx.AsyncClient, rows: Rows) -> str:
    """A scrape in which every family has a sample."""
    rows.saga("good")
    rows.saga("back", status="compensating", done=4, failed="save_users", error="broken")
    rows.inbox_event("e1")
    rows.listener("dingtalk_default")
    report = '{"rows": {"users": 12}, "calls": 1, "evidence": {"calls": {"topapi/v2/user/list": 3}}}'
    rows.execute("UPDATE saga_steps SET action_data = %s WHERE status = 'completed'", report)
    answer = await client.get("/metrics", headers={"authorization": f"Bearer {SCRAPE_TOKEN}"})
    return answer.text


async def exposed(client: httpx.AsyncClient, rows: Rows) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", await scraped(client, rows), flags=re.MULTILINE))


def expressions(name: str) -> list[str]:
    text = (MONITORING / name).read_text()
    if name.endswith(".yml"):
        return [rule["expr"] for rule in yaml.safe_load(text)["groups"][0]["rules"]]
    return [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
async def test_every_label_that_is_asked_for_exists_and_selects_something(
    client: httpx.AsyncClient, rows: Rows, name: str
):
    samples: dict[str, list[dict[str, str]]] = {}
    text = await scraped(client, rows)
    for metric, labels in re.findall(r"^(nancalacc_\w+)(?:\{(.*)\})? ", text, flags=re.MULTILINE):
        samples.setdefault(metric, []).append(dict(re.findall(r'(\w+)="([^"]*)"', labels)))
    for expression in expressions(name):
        for metric in NAME.findall(expression):
            assert metric in samples, f"{metric} has no sample"
        for metric, selector in SELECTED.findall(expression):
            found = samples[metric]
            for label, operator, value in re.findall(r'(\w+)(=~?)"([^"]*)"', selector):
                found = [
                    labels
                    for labels in found
                    if re.fullmatch(value if operator == "=~" else re.escape(value), labels[label])
                ]
            assert found, expression
        for labels, metric in GROUPED.findall(expression):
            assert set(labels.split(", ")) <= set(samples[metric][0]), expression
    shown = re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", (MONITORING / name).read_text())
    assert set(shown) <= {label for found in samples.values() for label in found[0]}


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
