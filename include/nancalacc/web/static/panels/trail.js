// The audit trail: every event, the latest first, with a line where an epoch begins.

import { h } from "../dom.js";
import { instant, moment } from "../format.js";
import { t } from "../texts.js";

const EVENTS_SHOWN = 500;
const BAD = ["step_failed", "saga_failed", "compensation_failed", "record_rejected", "warning"];
const TEXTS = ["error", "reason", "message"];
const SHOWN_ELSEWHERE = ["kinds", "counts"];

export const name = "trail";

export function shown(saga) {
  return [saga.events.at(-1)?.id ?? 0, saga.epoch];
}

export function render(saga) {
  const events = saga.events;
  const several = new Set(events.map(epochOf).filter((epoch) => epoch > 0)).size > 1;
  const rows = [];
  let epoch = null;
  for (const event of events.toReversed()) {
    if (several && epochOf(event) && epochOf(event) !== epoch) {
      epoch = epochOf(event);
      rows.push(h("tr", { class: "epoch" }, h("th", { colspan: 4, scope: "rowgroup" }, `${t("epoch")} ${epoch}`)));
    }
    rows.push(row(event));
  }
  return [
    h("h2", {}, t("events")),
    events.length >= EVENTS_SHOWN && h("p", { class: "hint" }, t("older")),
    h(
      "div",
      { class: "card scroll" },
      h(
        "table",
        { class: "events stack" },
        h("thead", {}, h("tr", {}, ["time", "event", "step", "details"].map((each) => h("th", { scope: "col" }, t(each))))),
        h("tbody", {}, rows),
      ),
    ),
  ].filter(Boolean);
}

function epochOf(event) {
  return event.event_data?.epoch ?? 0;
}

function row(event) {
  return h(
    "tr",
    { class: toneOf(event.event_type) },
    h("td", { class: "at", title: moment(event.created_at) }, instant(event.created_at)),
    h("td", { class: "kind" }, h("code", {}, event.event_type)),
    h("td", { class: "step" }, event.step ?? ""),
    h("td", { class: "data" }, told(event)),
  );
}

function toneOf(type) {
  if (BAD.includes(type)) return "severe";
  if (["action_requested", "approval_requested", "approved", "rejected"].includes(type)) return "by-person";
  if (type.startsWith("compensation")) return "going-back";
  return type.endsWith("completed") ? "well" : "";
}

function told(event) {
  const { epoch: _, ...data } = event.event_data ?? {};
  if (data.user) {
    const what = data.action ?? (data.hash ? t("planOf", { hash: data.hash.slice(0, 12) }) : "");
    return [`${what} — ${t("byPerson", { user: data.user, reason: data.reason })}`, data.result].filter(Boolean).join(" · ");
  }
  if (data.verdict) return `${t(`verdict_${data.verdict}`)} — ${data.message}`;
  const parts = [];
  for (const [key, value] of Object.entries(data)) {
    if (value === null || value === "" || (key === "attempt" && value === 1) || SHOWN_ELSEWHERE.includes(key)) continue;
    if (key === "hash") parts.push(t("planOf", { hash: value.slice(0, 12) }));
    else if (Array.isArray(value) && value.every((each) => typeof each === "string")) parts.push(...value);
    else parts.push(TEXTS.includes(key) ? String(value) : `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  }
  return parts.join(" · ");
}
