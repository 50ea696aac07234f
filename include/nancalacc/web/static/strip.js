// The strip at the top: is anything wrong, at a glance.

import { get } from "./api.js";
import { h, section } from "./dom.js";
import { ago, duration, now, number, setClock, time } from "./format.js";
import { when } from "./parts.js";
import { t } from "./texts.js";

const place = document.getElementById("strip");
const ID = /([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/;
const OPEN = ["pending", "in_progress", "failed", "compensating"];

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
  return [
    h(
      "div",
      { class: "tiles" },
      tile(t("database"), t("ok"), t("schema", { revision: health.schema_revision ?? "–" }), health.schema_revision === health.schema_expected ? "good" : "bad"),
      listenerTile(health),
      tile(
        t("openSagas"),
        number(health.open_sagas),
        health.oldest_open ? t("oldestOpen", { age: duration(now() - time(health.oldest_open.start_time)) }) : "",
        "",
        () => go({ status: OPEN }),
      ),
      lastTile(health.last_full_syncs, go),
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
        { class: "notice warn problems", role: "status" },
        h("strong", {}, t("problems")),
        h("ul", {}, health.problems.map((problem) => h("li", {}, withLinks(problem, go)))),
      ),
  ].filter(Boolean);
}

function listenerTile({ listeners, inbox }) {
  const last = inbox.last_received_at ? t("lastEvent", { ago: ago(inbox.last_received_at) }) : "";
  const seen = listeners.filter((listener) => listener.seen_at);
  const away = seen.find((listener) => !listener.is_connected);
  if (!seen.length) return tile(t("listener"), t("noListener"), last);
  if (away) return tile(t("listener"), t("away"), t("seenAgo", { ago: ago(away.seen_at) }), "bad");
  const connected = tile(t("listener"), t("connected"), "", "good");
  connected.title = last;
  return connected;
}

function lastTile(last, go) {
  if (!last.length) return tile(t("lastFullSync"), t("never"), "", "warn");
  const note = last.length > 1 ? t("companies", { count: last.length, ago: ago(last.at(-1).end_time) }) : (last[0].task_id ?? "");
  return tile(t("lastFullSync"), when(last[0].end_time), note, "good", () => go({ saga: last[0].transaction_id }));
}

// A problem names a saga by its id: that becomes a link.
function withLinks(text, go) {
  return text.split(ID).map((part, index) =>
    index % 2 ? h("a", { href: `?saga=${part}`, onclick: (event) => (event.preventDefault(), go({ saga: part })) }, part) : part,
  );
}

function tile(label, value, note, tone = "", onclick = null) {
  const inside = [h("span", { class: "label" }, label), h("span", { class: "value" }, value), note && h("span", { class: "note" }, note)];
  if (!onclick) return h("div", { class: `tile ${tone}` }, inside);
  return h("button", { type: "button", class: `tile ${tone}`, onclick }, inside);
}
