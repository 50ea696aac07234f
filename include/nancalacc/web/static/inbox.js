// The inbox: events of DingTalk, above all the dead ones, which need a person's decision.

import { get } from "./api.js";
import { ask } from "./ask.js";
import { h, reconcile, replace, section } from "./dom.js";
import { number } from "./format.js";
import { badge, when } from "./parts.js";
import { t } from "./texts.js";

const STATUSES = ["dead", "pending", "claimed", "done"];

export function inboxView(main, state, go, { me }) {
  const chips = h("div", { class: "chips", role: "group", "aria-label": t("status") });
  const rows = h("tbody", {});
  const note = h("div", { class: "empty" });
  const table = h(
    "table",
    { class: "inbox stack" },
    h("thead", {}, h("tr", {}, ["status", "event", "objects", "received", "tries", "error"].map((name) => h("th", { scope: "col" }, t(name))), h("th", {}))),
    rows,
  );
  replace(main, h("h1", {}, t("inbox")), chips, h("div", { class: "card scroll" }, table, note));

  async function refresh({ signal } = {}) {
    const page = await get("/inbox", { status: state.inbox, limit: 100 }, { signal });
    section(chips, [page.counts, state.inbox], () =>
      STATUSES.map((status) => {
        const pressed = state.inbox === status;
        return h(
          "button",
          { type: "button", class: "chip", "aria-pressed": String(pressed), onclick: () => go({ view: "inbox", inbox: pressed ? null : status }) },
          badge(status),
          h("span", { class: "count" }, number(page.counts[status] ?? 0)),
        );
      }),
    );
    reconcile(rows, page.items, { key: (event) => event.id, render: (event) => row(event, { me, refresh, go }) });
    table.hidden = page.items.length === 0;
    section(note, page.items.length === 0, () => (page.items.length ? [] : h("p", {}, t("noEvents"))));
  }

  return {
    refresh,
    tick: () => {},
    onkey: (event) => event.key === "Escape" && go({}),
    seconds: 3,
  };
}

function row(event, { me, refresh, go }) {
  const may = event.status === "dead" && me()?.decides_events;
  const act = (action) => () =>
    ask({
      title: `${t(action)}: ${event.event_type}`,
      text: t(action === "drop" ? "dropEventText" : "retryEventText"),
      path: `/inbox/${event.id}/${action}`,
      danger: action === "drop",
      then: () => refresh(),
    });
  return h(
    "tr",
    {},
    h("td", {}, badge(event.status)),
    h(
      "td",
      {},
      h("code", {}, event.event_type || "?"),
      event.transaction_id && h("a", { class: "sub", href: `?saga=${encodeURIComponent(event.transaction_id)}`, onclick: (click) => (click.preventDefault(), go({ saga: event.transaction_id })) }, t("sagas")),
    ),
    h("td", { class: "data" }, event.object_ids.join(", ")),
    h("td", {}, when(event.received_at)),
    h("td", { class: "tries" }, String(event.attempts)),
    h("td", { class: "data" }, event.error ?? "", event.actions.toReversed().map(decided)),
    h("td", { class: "row-buttons" }, may && [h("button", { type: "button", onclick: act("retry") }, t("retry")), h("button", { type: "button", class: "danger-line", onclick: act("drop") }, t("drop"))]),
  );
}

function decided(action) {
  return h("p", { class: "sub by-person", title: action.error ?? "" }, when(action.at), " ", t(`event_${action.action}`, { user: action.user, reason: action.reason }));
}
