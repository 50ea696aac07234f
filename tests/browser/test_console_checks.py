"""What a sync promised, what it cost, whether it arrived, and taking it back."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from psycopg.types.json import Jsonb

from browser.conftest import Site

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PLAN = {"total": 1452, "expected_seconds": 96.0, "limit_seconds": 10800, "basis": "earlier"}
SPENT = {"planned": PLAN, "happened": {"total": 1460, "seconds": 101.5, "calls": {}}}
VERDICT = {"verdict": "drifted", "message": "WPS differs: 2 users missing in WPS"}


def test_a_finished_sync_shows_its_calls_and_what_wps_has_and_can_be_undone(
    page: Page, site: Site, picture: Callable[[str], Any]
):
    saga = site.rows.saga("done")
    for step, data in (("validate_task", {"call_plan": PLAN}), ("fetch_dingtalk_data", {"budget": SPENT})):
        site.rows.execute("UPDATE saga_steps SET action_data = %s WHERE step_name = %s", Jsonb(data), step)
    site.rows.execute(
        "INSERT INTO saga_events (transaction_id, event_type, event_data) VALUES (%s, 'verification', %s)",
        saga,
        Jsonb(VERDICT),
    )
    page.goto(f"{site.console}?saga={saga}")
    tiles = page.locator("section.checks .tile")
    expect(tiles).to_have_count(3)
    expect(tiles.nth(0)).to_contain_text("1,452")
    expect(tiles.nth(0)).to_contain_text("at most 3 h")
    expect(tiles.nth(1)).to_contain_text("1,460")
    expect(tiles.nth(2)).to_contain_text("2 users missing in WPS")
    picture("checks")
    page.get_by_role("button", name="Undo this sync").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("left alone")
    dialog.get_by_label("Reason").fill("It was a mistake")
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#toast")).to_contain_text("The undo has been started")
    assert site.calls[-1] == "POST /api/v2/dags/undo_sync/dagRuns"
