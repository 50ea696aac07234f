"""The plan of a sync as a person meets it: in the console, and as a request in Airflow."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import Opened, Site, forget_airflows_complaints
from browser.test_in_airflow import sign_in
from e2e.company import DAG, Company
from plan_rows import FORMULA, HASH, decision, plan

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_plan_is_browsed_filtered_and_downloaded(
    page: Page, site: Site, picture: Callable[..., Any]
) -> None:
    saga = site.rows.saga("r")
    plan(site.rows, saga, removed=120)
    decision(site.rows, saga, is_approved=True, by="ann", reason="They left")
    page.goto(f"{site.console}?saga={saga}")
    panel = page.locator("section.plan")
    expect(panel).to_contain_text(HASH[:12])
    expect(panel).to_contain_text("Approved by ann: They left")
    expect(panel.locator("tr", has_text="Users").first).to_contain_text("120")
    panel.get_by_text("By department below the root").click()
    expect(panel.locator(".subtrees")).to_contain_text("市场部 (200)")
    panel.get_by_text("Show every change").click()
    rows = panel.locator(".changes tbody tr")
    expect(rows).to_have_count(100)
    panel.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(123)
    expect(rows.first).to_contain_text("一组 → 新组")
    picture("plan")
    panel.locator(".changes .chip", has_text="Added").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(FORMULA)
    with page.expect_download() as download:
        panel.get_by_role("link", name="Download as CSV").click()
    assert download.value.suggested_filename == f"plan-{HASH[:12]}.csv"
    assert "员工119" in download.value.path().read_text(encoding="utf-8-sig")


def test_a_saga_without_a_plan_shows_none(page: Page, site: Site) -> None:
    saga = site.rows.saga("r")
    page.goto(f"{site.console}?saga={saga}")
    expect(page.locator(".title .badge")).to_contain_text("Completed")
    expect(page.locator("section.trail")).to_contain_text("step_completed")
    expect(page.locator("section.plan table")).to_have_count(0)


@pytest.mark.airflow
@pytest.mark.timeout(300)
def test_a_plan_is_approved_in_airflow(opened: Opened, company: Company, picture: Callable[..., Any]) -> None:
    page = opened.page
    assert company.state(company.run()) == "success"
    company.compare()
    for uid in ("u5", "u6"):
        company.sandbox.organisation.remove_user(uid)
    company.relax_thresholds()
    run_id = company.trigger(wps_conn_id="wps_asking")
    company.stack.api.wait_task(DAG, run_id, "plan_changes", states={"awaiting_input"}, timeout=90)

    sign_in(page, company, f"/dags/{DAG}/runs/{run_id}/tasks/plan_changes/required_actions")
    expect(page.locator("body")).to_contain_text("2 of 6 users would be removed")
    expect(page.locator("body")).to_contain_text("员工5")
    picture("airflow-approval", full_page=False)
    page.locator("[name=element_reason]").fill("They left")
    page.get_by_role("button", name="Approve", exact=True).click()

    assert company.wait(run_id) == "success"
    comparison = company.compare()
    assert comparison.equal, comparison.differences
    approved = company.rows("SELECT event_data FROM saga_events WHERE event_type = 'approved'")
    assert [(row["event_data"]["user"], row["event_data"]["reason"]) for row in approved] == [
        ("admin", "They left")
    ]
    forget_airflows_complaints(opened)
