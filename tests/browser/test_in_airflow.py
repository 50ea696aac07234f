"""The console inside Airflow's own pages: a real login, a real sync, and Airflow's theme."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from browser.conftest import Opened, forget_airflows_complaints
from e2e.company import DAG, Company
from nancalacc.saga.definition import transaction_id_of

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]


def sign_in(page: Page, company: Company, path: str) -> None:
    """Sign in as a person does, and go on to `path`."""
    base = company.stack.base_url
    page.goto(f"{base}/auth/login?next={base}{path}")
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill(company.stack.passwords["admin"])
    page.locator("button[type=submit]").click()
    page.wait_for_url(re.compile(r"(?!.*/auth/login).*"))


def frame(page: Page) -> FrameLocator:
    return page.frame_locator("iframe")


def test_a_failed_sync_is_found_understood_and_retried(
    opened: Opened,
    company: Company,
    picture: Callable[..., Any],
):
    page = opened.page
    with company.broken("tb_las_user"):
        run_id = company.run()
    sign_in(page, company, "/plugin/nancalacc")
    expect(frame(page).locator("table.sagas tbody tr")).to_have_count(1)
    picture("airflow-list", full_page=False)
    frame(page).locator("a.saga").click()
    expect(frame(page).locator(".trouble .notice")).to_contain_text("Failed at save_users")
    expect(frame(page).locator(".trouble .notice")).to_contain_text("Nothing was published")
    saga = transaction_id_of(dag_id=DAG, run_id=run_id)
    assert f"saga={saga}" in page.url, "Airflow's address can be sent to somebody"
    frame(page).get_by_role("button", name="Retry").click()
    dialog = frame(page).get_by_role("dialog")
    dialog.get_by_label("Reason").fill("The table is mended")
    dialog.get_by_role("button", name="Do it").click()
    expect(frame(page).locator("#toast")).to_contain_text("Cleared save_users")
    # No reload: the page itself follows the run to its end.
    expect(frame(page).locator(".title .badge")).to_contain_text("Completed", timeout=120_000)
    expect(frame(page).locator("table.events .by-person")).to_contain_text("admin")
    picture("airflow-retried", full_page=False)
    assert company.wait(run_id) == "success"
    page.goto(page.url)
    expect(frame(page).locator(".title .badge")).to_contain_text("Completed")
    frame(page).get_by_role("link", name="Run in Airflow").click()
    page.wait_for_url(re.compile(rf"/dags/{DAG}/runs/{run_id}"))
    forget_airflows_complaints(opened)


def test_a_running_sync_is_watched_live(opened: Opened, company: Company, picture: Callable[..., Any]):
    page = opened.page
    sign_in(page, company, "/plugin/nancalacc")
    expect(frame(page).locator(".empty")).to_contain_text("No sync has run yet")
    with company.slow("tb_las_user", seconds=6):
        run_id = company.trigger()
        expect(frame(page).locator("table.sagas")).to_contain_text("at save_users")
        picture("airflow-running", full_page=False)
        frame(page).locator("a.saga").click()
        expect(frame(page).locator(".title .badge")).to_contain_text("Completed", timeout=90_000)
    assert company.wait(run_id) == "success"
    expect(frame(page).locator(".figures")).to_contain_text("6 new")
    picture("airflow-completed", full_page=False)
    forget_airflows_complaints(opened)


def test_the_page_takes_airflows_dark_theme(opened: Opened, company: Company, picture: Callable[..., Any]):
    page = opened.page
    company.run(dry_run=True)
    sign_in(page, company, "/plugin/nancalacc")
    expect(frame(page).locator("table.sagas tbody tr")).to_have_count(1)
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.reload()
    expect(frame(page).locator("table.sagas tbody tr")).to_have_count(1)
    expect(frame(page).locator("html")).to_have_attribute("data-theme", "dark")
    picture("airflow-dark", full_page=False)
    forget_airflows_complaints(opened)


def test_the_page_of_a_run_has_its_saga(opened: Opened, company: Company, picture: Callable[..., Any]):
    page = opened.page
    run_id = company.run(dry_run=True)
    sign_in(page, company, f"/dags/{DAG}/runs/{run_id}")
    page.get_by_role("link", name="Saga", exact=True).first.click()
    expect(frame(page).locator(".title .badge")).to_contain_text("Completed")
    expect(frame(page).locator("header")).to_be_hidden()
    picture("airflow-run-tab", full_page=False)
    forget_airflows_complaints(opened)
