// Conflicts: what DingTalk says and WPS cannot have, held back until the conflict is gone.

import { get } from "./api.js";
import { h, reconcile, replace, section } from "./dom.js";
import { number } from "./format.js";
import { when } from "./parts.js";
import { t } from "./texts.js";

const MOST = 200;

export function conflictsView(main, state, go) {
  const chips = h("div", { class: "chips", role: "group", "aria-label": t("conflictKind") });
  const rows = h("tbody", {});
  const note = h("div", { class: "empty" });
  const table = h(
    "table",
    { class: "conflicts stack" },
    h("thead", {}, h("tr", {}, ["conflictKind", "company", "conflictKey", "conflictReason", "conflictSince"].map((name) => h("th", { scope: "col" }, t(name))), h("th", {}))),
    rows,
  );
  replace(main, h("h1", {}, t("conflicts")), h("p", { class: "sub" }, t("conflictsText")), chips, h("div", { class: "card scroll" }, table, note));

  async function refresh({ signal } = {}) {
    const page = await get("/conflicts", { kind: state.kind, limit: MOST }, { signal });
    section(chips, [page.counts, state.kind], () =>
      Object.entries(page.counts).map(([kind, count]) => {
        const pressed = state.kind === kind;
        return h(
          "button",
          { type: "button", class: "chip", "aria-pressed": String(pressed), onclick: () => go({ view: "conflicts", kind: pressed ? null : kind }) },
          t(`conflict_${kind}`),
          h("span", { class: "count" }, number(count)),
        );
      }),
    );
    reconcile(rows, page.items, { key: (each) => JSON.stringify([each.third_company_id, each.kind, each.key]), render: (each) => row(each, go) });
    table.hidden = page.items.length === 0;
    section(note, [page.items.length, page.next_cursor], () => {
      if (page.items.length === 0) return [h("p", {}, t("noConflicts"))];
      return page.next_cursor ? [h("p", {}, t("firstConflicts", { count: MOST }))] : [];
    });
  }

  return {
    refresh,
    tick: () => {},
    onkey: (event) => event.key === "Escape" && go({}),
    seconds: 10,
  };
}

function row(conflict, go) {
  const saga = conflict.transaction_id && { saga: conflict.transaction_id };
  return h(
    "tr",
    {},
    h("td", {}, t(`conflict_${conflict.kind}`)),
    h("td", {}, conflict.third_company_id),
    h("td", { class: "data" }, conflict.key),
    h("td", { class: "data" }, conflict.reason),
    h("td", {}, when(conflict.since)),
    h("td", {}, saga && h("a", { href: `?saga=${encodeURIComponent(saga.saga)}`, onclick: (click) => (click.preventDefault(), go(saga)) }, t("conflictSaga"))),
  );
}
