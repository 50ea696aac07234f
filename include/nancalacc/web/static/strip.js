// The strip at the top: is anything wrong, at a glance.

import { get } from "./api.js";
import { h, section } from "./dom.js";
import { duration, now, number, setClock, time } from "./format.js";
import { when } from "./parts.js";
import { t } from "./texts.js";

const place = document.getElementById("strip");

export async function refreshStrip(go, { signal } = {}) {
  const health = await get("/health/details", {}, { signal });
  setClock(health.now);
  // Ages are shown by the minute: what only grew older is no change.
  const shown = { ...health, now: Math.floor(now() / 15000) };
  section(place, [shown, t("title")], () => render(health, go));
}

export function showProblem(...content) {
  section(place, ["problem", content.map(String), t("title")], () => h("div", { class: "notice bad", role: "alert" }, ...content));
}

function render(health, go) {
  const inbox = health.inbox;
  const last = health.last_full_sync;
  return [
    h(
      "div",
      { class: "tiles" },
      tile(t("database"), t("ok"), t("schema", { revision: health.schema_revision ?? "–" }), health.schema_revision === health.schema_expected ? "good" : "bad"),
      tile(
        t("openSagas"),
        number(health.open_sagas),
        health.oldest_open ? t("oldestOpen", { age: duration(now() - time(health.oldest_open.start_time)) }) : t("noneOpen"),
        "",
        () => go({ status: ["pending", "in_progress", "failed", "compensating"] }),
      ),
      tile(t("lastFullSync"), last ? when(last.end_time) : t("never"), last?.task_id ?? "", last ? "good" : "warn", last ? () => go({ saga: last.transaction_id }) : null),
      tile(
        t("inboxWaiting"),
        number(inbox.pending + inbox.claimed),
        inbox.lag_seconds === null ? t("noLag") : t("lag", { age: duration(inbox.lag_seconds * 1000) }),
        inbox.lag_seconds > 600 ? "warn" : "",
        () => go({ view: "inbox" }),
      ),
      tile(t("deadEvents"), number(inbox.dead), inbox.dead ? t("decide") : "", inbox.dead ? "bad" : "good", () => go({ view: "inbox", inbox: "dead" })),
    ),
    health.problems.length > 0 &&
      h(
        "div",
        { class: "notice warn", role: "status" },
        h("strong", {}, t("problems")),
        h("ul", {}, health.problems.map((problem) => h("li", {}, problem))),
      ),
  ].filter(Boolean);
}

function tile(label, value, note, tone, onclick) {
  const inside = [h("span", { class: "label" }, label), h("span", { class: "value" }, value), h("span", { class: "note" }, note)];
  if (!onclick) return h("div", { class: `tile ${tone}` }, inside);
  return h("button", { type: "button", class: `tile ${tone}`, onclick }, inside);
}
