"""What somebody on call sees within seconds: who listens, what is stuck, what happened in which epoch."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import Site
from console_rows import STEPS
from plan_rows import everything

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_strip_tells_whether_somebody_listens(page: Page, site: Site, picture: Callable[[str], Any]):
    site.rows.saga("good")
    page.goto(site.console)
    listener = page.locator("#strip .tile", has_text="Listener")
    expect(listener).to_contain_text("none")
    site.rows.listener("dingtalk_default")
    expect(listener).to_contain_text("connected")
    site.rows.execute("UPDATE listeners SET seen_at = seen_at - interval '10 minutes'")
    expect(listener).to_contain_text("away")
    expect(page.locator("#strip .problems")).to_contain_text("python -m nancalacc listen")
    picture("listener-away")


def test_a_problem_leads_to_its_saga(page: Page, site: Site):
    saga = site.rows.saga("back", status="compensating", done=4, failed="save_users", error="broken")
    site.rows.execute("UPDATE saga_transactions SET recovery_error = 'the database refuses'")
    page.goto(site.console)
    page.locator("#strip .problems").get_by_role("link", name=saga).click()
    expect(page.locator(".trouble .notice")).to_contain_text("the database refuses")
    assert f"saga={saga}" in page.url


def test_a_saga_that_waits_for_a_decision_is_told_of_until_somebody_decides(page: Page, site: Site):
    saga = site.rows.saga("asks", status="in_progress", done=2)
    everything(site.rows, saga)
    page.goto(site.console)
    problems = page.locator("#strip .problems")
    expect(problems).to_contain_text("waits for a person to approve or reject it")
    problems.get_by_role("link", name=saga).click()
    expect(page.locator(".title .tag")).to_have_text("waits for a decision")
    expect(page.locator("table.events")).to_contain_text(
        "plan abababababab · 120 of 12000 users would be removed"
    )
    site.rows.execute(
        "INSERT INTO saga_events (transaction_id, event_type, event_data)"
        ' VALUES (%s, \'approved\', \'{"epoch": 1, "user": "ann", "reason": "They left"}\')',
        saga,
    )
    expect(page.locator(".title .tag")).to_have_count(0)
    expect(problems).not_to_contain_text("waits for a person")


def test_each_epoch_has_its_own_timeline_and_its_own_part_of_the_trail(page: Page, site: Site):
    saga = site.rows.history("again", error="broken on purpose")
    site.rows.execute(
        "UPDATE saga_transactions SET epoch = 2, status = 'completed', progress = 100, failed_step = NULL,"
        " error_message = NULL"
    )
    site.rows.execute(
        "UPDATE saga_steps SET epoch = 2, status = 'completed', attempt = 1, error_message = NULL"
    )
    for number, step in enumerate(STEPS):
        for kind, seconds in (("step_started", 3.2 - 0.3 * number), ("step_completed", 3.0 - 0.3 * number)):
            site.rows.execute(
                "INSERT INTO saga_events (transaction_id, step_id, event_type, event_data, created_at)"
                " VALUES (%s, %s, %s, '{\"epoch\": 2}', timezone('utc', now()) - make_interval(secs => %s))",
                saga,
                f"{saga}:{step}",
                kind,
                seconds,
            )
    page.goto(f"{site.console}?saga={saga}")
    expect(page.locator(".span.forward.status-completed")).to_have_count(len(STEPS))
    expect(page.locator(".span.back")).to_have_count(0)
    expect(page.locator("table.events .epoch")).to_have_text(["Epoch 2", "Epoch 1"])
    page.get_by_role("button", name="Epoch 1").click()
    expect(page.locator(".span.back")).to_have_count(4)
    expect(page.locator(".span.status-failed")).to_have_count(2)
    page.evaluate("window.unchanged = true")
    site.rows.execute("UPDATE saga_transactions SET task_id = '20260101000000'")
    expect(page.locator(".facts")).to_contain_text("20260101000000")
    expect(page.locator(".span.back")).to_have_count(4)
    assert page.evaluate("window.unchanged") is True, "the epoch that was chosen stays"


def test_a_saga_that_has_not_begun_says_so(page: Page, site: Site):
    site.rows.saga("waiting", status="pending", done=0)
    page.goto(site.console)
    expect(page.locator("table.sagas .badge")).to_contain_text("Pending")
