// A list that is read when it is opened, in pages; chips narrow it. What has the focus keeps it.

import { get } from "./api.js";
import { h } from "./dom.js";
import { t } from "./texts.js";

const PAGE = 100;

// `filters`: one chip each, with the query's `name`, its `value` and the chip's `word`. `row` renders an item.
export function listing({ look, title, label, path, filters, columns, row }) {
  const chosen = {};
  let latest = 0;
  let next = null;
  const chips = filters.map((filter) => ({ filter, button: h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => choose(filter) }, filter.word) }));
  const rows = h("tbody", {});
  const note = h("p", { class: "hint", role: "status" });
  const more = h("button", { type: "button", class: "plain", hidden: true, onclick: () => load(next) }, t("more"));
  const element = h(
    "details",
    { class: look, ontoggle: () => element.open && !rows.children.length && load() },
    h("summary", {}, title),
    h("div", { class: "chips", role: "group", "aria-label": label }, chips.map(({ button }) => button)),
    h("div", { class: "card scroll" }, h("table", { class: "stack" }, h("thead", {}, h("tr", {}, columns.map((each) => h("th", { scope: "col" }, t(each))))), rows)),
    note,
    more,
  );

  function choose({ name, value }) {
    chosen[name] = chosen[name] === value ? "" : value;
    for (const { filter, button } of chips) button.setAttribute("aria-pressed", String(chosen[filter.name] === filter.value));
    load();
  }

  async function load(cursor = null) {
    const asked = ++latest;
    let page;
    try {
      page = await get(path, { ...chosen, limit: PAGE, cursor });
    } catch (error) {
      note.textContent = error.message;
      return;
    }
    if (asked !== latest) return;
    if (!cursor) rows.replaceChildren();
    rows.append(...page.items.map(row));
    next = page.next_cursor;
    more.hidden = !next;
    note.textContent = rows.children.length ? "" : t("noEvents");
  }

  return element;
}

// A chip for each value of a query's parameter, with the word that `word` gives it.
export function chipsFor(name, values, word = t) {
  return values.map((value) => ({ name, value, word: word(value) }));
}
