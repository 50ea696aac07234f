// The list of sagas: filters live in the address, rows change in place.

import { get } from "./api.js";
import { h, reconcile, replace, section } from "./dom.js";
import { duration, moment, now, time } from "./format.js";
import { badge, nameOf, progressBar, shortError, when } from "./parts.js";
import { t } from "./texts.js";

const STATUSES = ["in_progress", "failed", "compensating", "pending", "completed", "compensated", "cancelled"];
const PERIODS = { "": "anyTime", hour: "lastHour", day: "lastDay", week: "lastWeek" };
const HOURS = { hour: 1, day: 24, week: 168 };
const PAGE = 50;
const MOST = 200;

export function listView(main, state, go) {
  const limit = Math.min(MOST, Number(state.limit) || PAGE);
  const rows = h("tbody", {});
  const chips = h("div", { class: "chips", role: "group", "aria-label": t("status") });
  const note = h("div", { class: "empty" });
  const foot = h("div", { class: "foot" });
  const search = h("input", {
    type: "search",
    id: "search",
    value: state.text ?? "",
    placeholder: t("search"),
    "aria-label": t("searchLabel"),
    oninput: (event) => later(() => go({ ...state, text: event.target.value || null }, { quiet: true })),
  });
  const company = h("input", {
    type: "text",
    value: state.company ?? "",
    placeholder: t("company"),
    "aria-label": t("company"),
    onchange: (event) => go({ ...state, company: event.target.value.trim() || null }),
  });
  const table = h(
    "table",
    { class: "sagas" },
    h("thead", {}, h("tr", {}, ["status", "definition", "progress", "started", "duration", "what"].map((name) => h("th", { scope: "col", class: `c-${name}` }, t(name))))),
    rows,
  );
  replace(
    main,
    h(
      "div",
      { class: "filters" },
      search,
      select(t("definition"), state.definition ?? "", { "": t("all"), full_sync: t("full_sync"), incremental_sync: t("incremental_sync"), undo_sync: t("undo_sync") }, (value) => go({ ...state, definition: value || null })),
      select(t("period"), state.period ?? "", Object.fromEntries(Object.entries(PERIODS).map(([key, name]) => [key, t(name)])), (value) => go({ ...state, period: value || null })),
      company,
    ),
    chips,
    h("div", { class: "card" }, table, note),
    foot,
    h("p", { class: "hint keys" }, t("keys")),
  );

  const filtered = () => Boolean(state.text || state.company || state.definition || state.period || state.status?.length);

  async function refresh({ signal } = {}) {
    const since = HOURS[state.period] ? new Date(Math.floor((now() - HOURS[state.period] * 3600e3) / 60e3) * 60e3).toISOString() : null;
    const query = { text: state.text, company: state.company, definition: state.definition, status: state.status, since, limit };
    const page = await get("/sagas", query, { signal });
    reconcile(rows, page.items, { key: (saga) => saga.transaction_id, render: (saga) => row(saga, go) });
    table.hidden = page.items.length === 0;
    section(note, [page.items.length, filtered()], () =>
      page.items.length ? [] : [h("p", {}, filtered() ? t("noSagas") : t("noSagasYet")), filtered() && h("button", { type: "button", onclick: () => go({}) }, t("clearFilters"))].filter(Boolean),
    );
    section(chips, [page.counts, state.status], () => chipsOf(page.counts, state, go));
    section(foot, [page.next_cursor, limit], () =>
      page.next_cursor && limit < MOST ? [h("button", { type: "button", onclick: () => go({ ...state, limit: limit + PAGE }, { quiet: true }) }, t("more"))] : [],
    );
    tick();
  }

  function tick() {
    for (const cell of rows.querySelectorAll("[data-since]")) {
      const text = duration(now() - Number(cell.dataset.since));
      if (cell.textContent !== text) cell.textContent = text;
    }
  }

  function onkey(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const links = [...rows.querySelectorAll("a.saga")];
      if (!links.length || event.target.matches("select, textarea")) return;
      const at = links.indexOf(document.activeElement);
      const next = event.key === "ArrowDown" ? Math.min(links.length - 1, at + 1) : Math.max(0, at - 1);
      links[next].focus();
      event.preventDefault();
    } else if (event.key === "Escape" && filtered() && !event.target.matches("input")) {
      go({});
    }
  }

  return { refresh, tick, onkey, seconds: 3 };
}

let timer = null;
function later(work) {
  clearTimeout(timer);
  timer = setTimeout(work, 250);
}

function select(label, value, options, onchange) {
  return h(
    "select",
    { "aria-label": label, onchange: (event) => onchange(event.target.value) },
    Object.entries(options).map(([key, text]) => h("option", { value: key, selected: key === value }, key ? text : `${label}: ${text}`)),
  );
}

function chipsOf(counts, state, go) {
  const chosen = new Set(state.status ?? []);
  return STATUSES.filter((status) => counts[status] || chosen.has(status)).map((status) => {
    const pressed = chosen.has(status);
    const next = pressed ? [...chosen].filter((each) => each !== status) : [...chosen, status];
    return h(
      "button",
      { type: "button", class: "chip", "aria-pressed": String(pressed), onclick: () => go({ ...state, status: next.length ? next : null }) },
      badge(status),
      h("span", { class: "count" }, String(counts[status] ?? 0)),
    );
  });
}

function row(saga, go) {
  const began = time(saga.start_time);
  const ended = time(saga.end_time);
  const running = !ended;
  const open = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ saga: saga.transaction_id });
  };
  return h(
    "tr",
    { onclick: (event) => !event.target.closest("a") && !String(getSelection()) && go({ saga: saga.transaction_id }) },
    h("td", { class: "c-status" }, badge(saga.status)),
    h(
      "td",
      { class: "c-definition" },
      h("a", { class: "saga", href: `?saga=${encodeURIComponent(saga.transaction_id)}`, onclick: open }, nameOf(saga)),
      h("span", { class: "sub", title: saga.run_id ?? "" }, [saga.third_company_id, saga.run_id].filter(Boolean).join(" · ")),
    ),
    h("td", { class: "c-progress" }, h("div", { class: "with-number" }, progressBar(saga), h("span", { class: "sub" }, `${saga.progress} %`))),
    h("td", { class: "c-started", title: moment(saga.start_time) }, when(saga.start_time)),
    h("td", { class: "c-duration" }, running ? h("span", { data: { since: String(began) } }, duration(now() - began)) : duration(ended - began)),
    h("td", { class: "c-what" }, whatHappened(saga)),
  );
}

function whatHappened(saga) {
  if (saga.error_message) {
    return [saga.failed_step && h("strong", {}, t("failedAt", { step: saga.failed_step })), h("span", { class: "error-line", title: saga.error_message }, shortError(saga))].filter(Boolean);
  }
  if (saga.current_step) return h("span", {}, t("runningAt", { step: saga.current_step }));
  return h("span", { class: "sub" }, saga.task_id ? `${t("taskId")} ${saga.task_id}` : "");
}
