"""What a sync promised, what it cost, whether it arrived, and taking it back."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from psycopg.types.json import Jsonb

from browser.conftest import Site
from nancalacc.sync.undo import UNDO_SYNC

pytestmark = [pytest.mark.browser, pytest.mark.slow]

GET, LIST, TOKEN = "topapi/v2/department/get", "topapi/v2/user/list", "gettoken"
PLAN = {
    "total": 1452,
    "calls": {GET: 452, LIST: 1000},
    "calls_per_second": 15,
    "expected_seconds": 96.0,
    "limit_seconds": 10800,
    "basis": "earlier",
}
SPENT = {
    "planned": PLAN,
    "happened": {"total": 1460, "seconds": 101.5, "calls": {GET: 455, LIST: 1004, TOKEN: 1}},
}
DIFFERENCES = (
    ("departments", "200", None, "changed", "parent,name"),
    *(("users", f"gone{number:03}", None, "missing", None) for number in range(120)),
    ("users", "u1", None, "missing", None),
    ("memberships", "u2", "200", "extra", None),
)
UNDO = {
    "of": "earlier",
    "task_id": "20260101021000",
    "restored": {"users": 3, "departments": 1},
    "left_alone": {"changed_since": 2, "name_taken": 1},
}


def report(site: Site, saga: str, step: str, data: dict[str, Any]) -> None:
    site.rows.execute(
        "UPDATE saga_steps SET action_data = %s WHERE step_id = %s", Jsonb(data), f"{saga}:{step}"
    )


def test_a_finished_sync_shows_its_calls_and_what_wps_has_and_can_be_undone(
    page: Page, site: Site, picture: Callable[[str], Any]
):
    saga = site.rows.saga("done")
    report(site, saga, "validate_task", {"call_plan": PLAN})
    report(site, saga, "fetch_dingtalk_data", {"budget": SPENT})
    site.rows.verification(saga, "verified")
    page.goto(f"{site.console}?saga={saga}")
    tiles = page.locator("section.checks .tile")
    expect(tiles).to_have_count(3)
    expect(tiles.nth(0)).to_contain_text("1,452")
    expect(tiles.nth(0)).to_contain_text("at most 3 h")
    expect(tiles.nth(1)).to_contain_text("1,460")
    expect(tiles.nth(2)).to_contain_text("as it was given")
    rows = page.locator("section.checks tbody tr")
    expect(rows).to_have_count(3)
    assert [row.split() for row in rows.all_inner_texts()] == [
        [TOKEN, "–", "1", "15", "/", "s"],
        [GET, "452", "455", "15", "/", "s"],
        [LIST, "1,000", "1,004", "15", "/", "s"],
    ]
    expect(page.locator("section.differences details")).to_have_count(0)
    expect(page.locator("section.trail")).to_contain_text("as it was given — WPS is verified")
    picture("checks")
    page.get_by_role("button", name="Undo this sync").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("left alone")
    dialog.get_by_label("Reason").fill("It was a mistake")
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#toast")).to_contain_text("The undo has been started")
    assert site.calls[-1] == "POST /api/v2/dags/undo_sync/dagRuns"


def test_every_object_in_which_wps_differs_is_found_from_the_strip(
    page: Page, site: Site, picture: Callable[..., Any]
):
    site.rows.known()
    saga = site.rows.saga("done")
    report(site, saga, "fetch_dingtalk_data", {"budget": SPENT})
    site.rows.verification(saga, "drifted", *DIFFERENCES)
    page.goto(site.console)
    problem = page.locator("#strip .problems li")
    expect(problem).to_contain_text("WPS differs from what company tenant-1 was given, in 123 objects")
    problem.get_by_role("link").click()
    verdict = page.locator("section.checks .tile.bad")
    expect(verdict).to_contain_text("differs")
    panel = page.locator("section.differences")
    panel.get_by_text("Show every difference (123)").click()
    rows = panel.locator("tbody tr")
    expect(rows).to_have_count(100)
    expect(rows.first).to_contain_text("市场部 200")
    expect(rows.first).to_contain_text("parent, name")
    picture("differences")
    panel.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(123)
    narrowed = panel.get_by_role("button", name="Only in WPS", exact=True)
    narrowed.click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("员工二 u2")
    expect(rows).to_contain_text("市场部 200")
    expect(narrowed).to_have_attribute("aria-pressed", "true")
    expect(narrowed).to_be_focused()
    panel.get_by_role("button", name="Departments").click()
    expect(rows).to_have_count(0)
    expect(panel).to_contain_text("Nothing here")


def test_what_an_undo_left_alone_is_listed_with_words_for_the_reason(
    page: Page, site: Site, picture: Callable[..., Any]
):
    site.rows.known()
    saga = site.rows.saga("back", definition=UNDO_SYNC)
    report(site, saga, "fetch_dingtalk_data", {"undo": UNDO})
    for kind, key, reason in (
        ("users", "u1", "changed_since"),
        ("users", "u2", "changed_since"),
        ("departments", "200", "name_taken"),
    ):
        site.rows.execute("INSERT INTO undo_left VALUES (%s, %s, %s, %s)", saga, kind, key, reason)
    page.goto(f"{site.console}?saga={saga}")
    tiles = page.locator("section.checks .tile")
    expect(tiles.nth(1)).to_contain_text("2 × changed since, 1 × a sibling has its name now")
    panel = page.locator("section.left-alone")
    panel.get_by_text("Show what was left alone (3)").click()
    rows = panel.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("a sibling has its name now")
    expect(rows.nth(1)).to_contain_text("员工一 u1")
    panel.get_by_role("button", name="changed since").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="中文").click()
    expect(tiles.nth(1)).to_contain_text("2 × 之后又有改动，1 × 名称已被同级部门占用")
    page.get_by_text("显示保持不变的对象（3）").click()
    expect(rows).to_have_count(3)
    picture("left-alone")
