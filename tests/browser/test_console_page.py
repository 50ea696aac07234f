"""The console as a person meets it: list, filters, detail, actions, keyboard, themes, narrow screens."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from browser.conftest import ROOT, Opened, Site, forget_airflows_complaints
from console_rows import STEPS
from plan_rows import everything

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
WIDTH = "document.documentElement.scrollWidth"
PHONE = {"viewport": {"width": 375, "height": 800}}


@pytest.fixture
def filled(site: Site) -> Site:
    """A few sagas of every kind, and an inbox."""
    rows = site.rows
    rows.saga("scheduled__2026-01-01", task_id="20260101021000")
    rows.saga("scheduled__2026-01-02", task_id="20260102021000")
    rows.saga("other", company="tenant-2", dag_id="full_sync__wps_b")
    rows.saga("cancelled", status="cancelled", done=0, error="No longer wanted")
    rows.history("failed", error="Database 127.0.0.1:5432/nancalacc: broken on purpose (SQLSTATE P0001)")
    rows.saga(
        "published", status="failed", done=6, failed="notify_wps", error="WPS is busy", pivot="intended"
    )
    rows.saga("running", status="in_progress", done=3, running="save_departments")
    rows.inbox_event("dead-1")
    rows.inbox_event("dead-2", error="Unreadable: it is not JSON")
    rows.inbox_event("waiting", status="pending", error=None)
    rows.conflict("mobile", "manager0042", other="Zhang.San0007")
    rows.conflict("name", "432825033", other="432825001")
    return site


def names(page: Page) -> list[str]:
    return [re.split(" · ", text)[-1] for text in page.locator("td.c-definition .sub").all_inner_texts()]


def test_the_list_shows_newest_first_with_status_and_reason(
    page: Page, filled: Site, picture: Callable[[str], Any]
):
    page.goto(filled.console)
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)
    assert names(page)[0] == "running"
    failed = page.locator("tr", has_text="broken on purpose")
    expect(failed.locator(".badge")).to_contain_text("Compensated")
    expect(failed).to_contain_text("Failed at save_users")
    expect(page.locator("#strip")).to_contain_text("Dead events")
    picture("list")


def test_filters_are_in_the_address_and_survive_a_reload(page: Page, filled: Site):
    page.goto(filled.console)
    page.locator(".chip", has_text="Compensated").click()
    expect(page.locator("table.sagas tbody tr")).to_have_count(1)
    assert "status=compensated" in page.url
    page.reload()
    expect(page.locator("table.sagas tbody tr")).to_have_count(1)
    expect(page.locator(".chip", has_text="Compensated")).to_have_attribute("aria-pressed", "true")
    page.go_back()
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)
    page.locator("#search").fill("tenant-2")
    expect(page.locator("table.sagas tbody tr")).to_have_count(1)
    assert "text=tenant-2" in page.url
    expect(page.locator("#search")).to_be_focused()
    page.locator("#search").fill("nothing is called this")
    expect(page.locator(".empty")).to_contain_text("No saga matches")
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)


def test_a_failed_saga_tells_why_what_was_undone_and_in_which_order(
    page: Page, filled: Site, picture: Callable[[str], Any]
):
    page.goto(filled.console)
    page.locator("tr", has_text="broken on purpose").get_by_role("link").click()
    expect(page.locator(".trouble .notice")).to_contain_text("Failed at save_users. Database")
    expect(page.locator(".trouble .notice")).to_contain_text("Nothing was published")
    expect(page.locator(".line")).to_have_count(len(STEPS))
    undone = page.locator(".span.back")
    expect(undone).to_have_count(4)
    lefts = [float(bar.get_attribute("data-from") or 0) for bar in undone.all()]
    assert lefts == sorted(lefts, reverse=True), "steps further down are undone first"
    expect(page.locator(".line", has_text="save_users").locator(".span.status-failed")).to_have_count(2)
    expect(page.locator("table.events")).to_contain_text("compensation_completed")
    link = page.locator(".line", has_text="save_users").get_by_role("link")
    assert link.get_attribute("href") == (
        f"http://127.0.0.1:{filled.port}{ROOT}/dags/full_sync/runs/failed/tasks/save_users"
    )
    picture("detail-compensated")


def test_progress_of_a_running_saga_moves_without_a_reload(
    page: Page, filled: Site, picture: Callable[[str], Any]
):
    page.goto(filled.console)
    page.locator("tr", has_text="running").get_by_role("link").click()
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "37")
    picture("detail-running")
    page.evaluate("window.unchanged = true")
    filled.rows.execute("UPDATE saga_transactions SET progress = 62 WHERE run_id = 'running'")
    expect(bar).to_have_attribute("aria-valuenow", "62")
    assert page.evaluate("window.unchanged") is True


def test_rows_that_have_not_changed_are_left_alone(page: Page, filled: Site):
    page.goto(filled.console)
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)
    page.evaluate("document.querySelectorAll('table.sagas tbody tr').forEach(row => { row.mine = true })")
    filled.rows.execute("UPDATE saga_transactions SET progress = 62 WHERE run_id = 'running'")
    expect(page.locator("tr", has_text="62 %")).to_have_count(1)
    kept = page.evaluate("[...document.querySelectorAll('table.sagas tbody tr')].filter(r => r.mine).length")
    assert kept == 6


def test_a_retry_asks_for_a_reason_and_says_what_it_did(
    page: Page, filled: Site, picture: Callable[..., Any]
):
    page.goto(filled.console)
    page.locator("tr", has_text="broken on purpose").get_by_role("link").click()
    page.get_by_role("button", name="Retry").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    expect(dialog.get_by_label("From step")).to_have_value("save_users")
    dialog.get_by_role("button", name="Do it").click()
    assert not filled.calls, "without a reason nothing is sent"
    dialog.get_by_label("Reason").fill("The table is mended")
    picture("dialog", full_page=False)
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#toast")).to_contain_text("Cleared save_users")
    assert filled.calls[-1] == "POST /api/v2/dags/full_sync/clearTaskInstances"
    expect(page.locator("table.events .by-person")).to_contain_text("ann: The table is mended")


def test_a_refused_action_tells_its_reason_in_the_dialog(opened: Opened, filled: Site):
    page = opened.page
    page.goto(filled.console)
    page.locator("tr", has_text="running").get_by_role("link").click()
    page.get_by_role("button", name="Cancel").click()
    filled.methods = {"GET"}
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("Not needed")
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("You may not do this")
    # Chromium itself writes about every answer that is an error.
    opened.complaints = [each for each in opened.complaints if "403" not in each]


def test_what_is_not_possible_cannot_be_pressed_and_says_why(page: Page, filled: Site):
    page.goto(filled.console)
    page.locator("tr", has_text="WPS is busy").get_by_role("link").click()
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_have_attribute("aria-disabled", "true")
    expect(cancel).to_have_attribute("title", re.compile("only go forward"))
    cancel.click(force=True)
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_dead_event_is_retried_from_the_page(page: Page, filled: Site, picture: Callable[[str], Any]):
    page.goto(filled.console)
    page.locator("#strip").get_by_role("button", name="Dead events").click()
    expect(page.locator("table.inbox tbody tr")).to_have_count(2)
    picture("inbox")
    page.locator("tr", has_text="60011").get_by_role("button", name="Retry").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("Rights were given")
    page.get_by_role("dialog").get_by_role("button", name="Do it").click()
    expect(page.locator("table.inbox tbody tr")).to_have_count(1)
    assert filled.rows.value("SELECT status FROM dingtalk_events WHERE event_id = 'dead-1'") == "pending"


def test_dead_events_can_be_decided_on_when_the_inbox_is_opened_by_its_address(page: Page, filled: Site):
    page.goto(f"{filled.console}?view=inbox&inbox=dead")
    expect(page.get_by_role("button", name="Retry")).to_have_count(2)
    expect(page.get_by_role("button", name="Drop")).to_have_count(2)


def test_conflicts_are_listed_and_narrowed_by_kind(page: Page, filled: Site, picture: Callable[[str], Any]):
    page.goto(filled.console)
    page.get_by_role("link", name="Conflicts").click()
    rows = page.locator("table.conflicts tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("has the mobile of Zhang.San0007")
    picture("conflicts")
    page.locator(".chip", has_text="Department name").click()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("432825033")
    assert "kind=name" in page.url


def test_a_viewer_is_offered_nothing_to_change(page: Page, filled: Site):
    filled.methods = {"GET"}
    page.goto(filled.console)
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)
    expect(page.get_by_role("button", name="Start a full sync")).to_have_count(0)
    page.goto(f"{filled.console}?view=inbox&inbox=dead")
    expect(page.locator("table.inbox tbody tr")).to_have_count(2)
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)


FOCUSED = "document.activeElement.textContent.trim()"
OUTLINE = "getComputedStyle(document.activeElement).outlineStyle"


def tab_to(page: Page, words: str) -> None:
    """Press Tab until what has these words has the focus, and see to it that a person sees where it is."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED) == words:
            assert page.evaluate(OUTLINE) != "none"
            return
    pytest.fail(f"Tab does not lead to {words!r}")


def give_reason(page: Page, reason: str) -> None:
    """Confirm an open dialog by the keyboard."""
    expect(page.get_by_role("dialog").get_by_label("Reason")).to_be_focused()
    page.keyboard.type(reason)
    tab_to(page, "Do it")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_page_works_with_the_keyboard_alone(page: Page, filled: Site):
    page.goto(filled.console)
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("tenant-1")
    expect(page.locator("table.sagas tbody tr")).to_have_count(6)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(page.locator("a.saga").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".trouble .notice")).to_contain_text("broken on purpose")
    retry = page.locator("section.actions").get_by_role("button", name="Retry")
    tab_to(page, "Retry")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.type("Never mind")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(retry).to_be_focused()
    assert not filled.calls
    page.keyboard.press("Enter")
    give_reason(page, "By hand")
    expect(page.locator("#toast")).to_contain_text("Cleared save_users")
    assert filled.calls[-1] == "POST /api/v2/dags/full_sync/clearTaskInstances"
    expect(page.locator("table.events .by-person")).to_contain_text("ann: By hand")
    expect(retry).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)


def test_the_focus_returns_to_a_button_that_was_drawn_anew_behind_the_dialog(page: Page, filled: Site):
    page.goto(f"{filled.console}?dag_id=full_sync&run_id=running")
    cancel = page.locator("section.actions").get_by_role("button", name="Cancel")
    cancel.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    old = cancel.element_handle()
    # Its reason is another one now, and so the panel is drawn anew.
    filled.rows.execute("UPDATE saga_steps SET pivot_state = 'intended' WHERE step_name = 'notify_wps'")
    expect(cancel).to_have_attribute("aria-disabled", "true")
    assert not old.evaluate("button => button.isConnected")
    page.keyboard.press("Escape")
    expect(cancel).to_be_focused()


def decide_with_keys(page: Page, action: str, *, reason: str) -> int:
    """Decide about a dead event of the inbox; returns the event's id, as it was sent."""
    tab_to(page, action)
    page.keyboard.press("Enter")
    with page.expect_request(f"**/{action.lower()}") as sent:
        give_reason(page, reason)
    assert sent.value.post_data_json["reason"] == reason
    return int(sent.value.url.split("/")[-2])


def test_a_dead_event_is_decided_on_with_the_keyboard_alone(page: Page, site: Site):
    numbers = [site.rows.inbox_event(event_id) for event_id in ("first", "second")]
    page.goto(f"{site.console}?view=inbox&inbox=dead")
    rows = page.locator("table.inbox tbody tr")
    expect(rows.get_by_role("button", name="Retry")).to_have_count(2)
    decided = {decide_with_keys(page, "Retry", reason="Rights were given")}
    expect(rows).to_have_count(1)
    expect(rows.get_by_role("button", name="Retry")).to_be_focused()
    decided.add(decide_with_keys(page, "Drop", reason="It is not ours"))
    expect(rows).to_have_count(0)
    expect(page.locator("#main")).to_be_focused()
    assert decided == set(numbers)


def test_text_that_looks_like_markup_stays_text(page: Page, filled: Site):
    filled.rows.saga(MARKUP, status="failed", done=1, failed="save_users", error=MARKUP, company=MARKUP[:20])
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(filled.console)
    row = page.locator("tr", has_text="onerror").first
    expect(row).to_contain_text(MARKUP)
    row.get_by_role("link").click()
    expect(page.locator(".trouble .notice")).to_contain_text(MARKUP)
    assert page.locator("img").count() == 0
    assert dialogs == []


@pytest.mark.parametrize("opened", [{"color_scheme": "dark"}], indirect=True)
def test_the_dark_theme_is_dark(page: Page, filled: Site, picture: Callable[[str], Any]):
    page.goto(filled.console)
    expect(page.locator("table.sagas tbody tr")).to_have_count(7)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 19, 24)"
    picture("list-dark")
    page.locator("tr", has_text="broken on purpose").get_by_role("link").click()
    expect(page.locator(".line")).to_have_count(len(STEPS))
    picture("detail-dark")


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
@pytest.mark.parametrize(
    "where", ["", "?view=inbox", "?view=conflicts", "?view=statistics", "?run_id=failed&dag_id=full_sync"]
)
def test_nothing_sticks_out_on_a_narrow_screen(
    page: Page, filled: Site, picture: Callable[[str], Any], where: str
):
    page.goto(filled.console + where)
    page.wait_for_selector("table, .timeline")
    page.wait_for_timeout(300)
    assert page.evaluate(WIDTH) <= 375
    picture(f"narrow{re.sub(r'[^a-z]+', '-', where)}")


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
def test_a_saga_with_everything_fits_a_narrow_screen(page: Page, site: Site, picture: Callable[..., Any]):
    saga = site.rows.saga("manual__2026-01-01T02:10:00+00:00", status="in_progress", done=2)
    everything(site.rows, saga)
    page.goto(f"{site.console}?saga={saga}")
    expect(page.locator("section.plan .notice")).to_contain_text("Decide in Airflow")
    expect(page.locator("section.checks .tile")).to_have_count(3)
    page.get_by_text("By department below the root").click()
    page.get_by_text("Show every change").click()
    expect(page.locator(".changes tbody tr")).to_have_count(100)
    picture("narrow-everything")
    assert page.evaluate(WIDTH) <= 375
    page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    picture("narrow-dialog", full_page=False)
    box = dialog.bounding_box() or {}
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 375
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    assert page.evaluate(WIDTH) <= 375
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Start a full sync").click()
    expect(dialog).to_contain_text("Allow mass delete")
    picture("narrow-start", full_page=False)
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")


@pytest.mark.parametrize("opened", [{"locale": "zh-CN"}], indirect=True)
def test_the_page_speaks_chinese(page: Page, filled: Site, picture: Callable[[str], Any]):
    page.goto(filled.console)
    expect(page.locator("header")).to_contain_text("收件箱")
    expect(page.locator("tr", has_text="broken on purpose")).to_contain_text("已补偿")
    picture("list-chinese")
    page.get_by_role("button", name="English").click()
    expect(page.locator("header")).to_contain_text("Inbox")
    page.reload()
    expect(page.locator("header")).to_contain_text("Inbox")


def test_a_run_leads_to_its_saga_and_one_without_says_so(page: Page, filled: Site):
    page.goto(f"{filled.console}?dag_id=full_sync&run_id=failed&embedded=1")
    expect(page.locator(".trouble .notice")).to_contain_text("broken on purpose")
    expect(page.locator("header")).to_be_hidden()
    page.goto(f"{filled.console}?dag_id=full_sync&run_id=other-run&embedded=1")
    expect(page.locator(".empty")).to_contain_text("This run has no saga")


def test_statistics_show_durations_and_reasons(page: Page, filled: Site, picture: Callable[[str], Any]):
    page.goto(f"{filled.console}?view=statistics")
    expect(page.locator("tbody")).to_have_count(2)
    expect(page.locator("main")).to_contain_text("validate_task")
    expect(page.locator("main")).to_contain_text("broken on purpose")
    picture("statistics")


def test_an_exception_of_ours_is_found_among_what_airflow_complains_about(opened: Opened, site: Site):
    page = opened.page

    def broken(route: Route) -> None:
        body = route.fetch().text()
        route.fulfill(body=f"{body}; throw new Error('broken on purpose')", content_type="text/javascript")

    page.route("**/figures.js", broken)
    page.goto(site.console)
    page.evaluate("console.error('a word of Airflow')")
    with page.expect_console_message(lambda message: "404" in message.text):
        page.evaluate("fetch('../nowhere')")
    forget_airflows_complaints(opened)
    assert [re.search("broken on purpose|404", each)[0] for each in opened.complaints] == [  # type: ignore[index]
        "broken on purpose",
        "404",
    ]
    opened.complaints.clear()


def test_who_is_not_signed_in_is_told_where_to(opened: Opened, filled: Site):
    filled.signed_in = False
    page = opened.page
    page.goto(filled.console)
    link = page.get_by_role("link", name="Sign in to Airflow")
    href = link.get_attribute("href") or ""
    assert href.startswith(f"http://127.0.0.1:{filled.port}{ROOT}/auth/login?next=")
    opened.complaints = [each for each in opened.complaints if "401" not in each]
