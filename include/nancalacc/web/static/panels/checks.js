// Calls of DingTalk, planned and made; whether WPS has what it was given; what an undo did.

import { h } from "../dom.js";
import { duration, number } from "../format.js";
import { t } from "../texts.js";

const TONES = { verified: "good", drifted: "bad", stopped: "bad", pending: "" };

export const name = "checks";

export function shown(saga) {
  return [saga.steps.map((step) => step.action_data), verdictOf(saga)];
}

export function render(saga) {
  const budget = saga.steps.find((step) => step.action_data?.budget)?.action_data.budget;
  const plan = saga.steps.find((step) => step.action_data?.call_plan)?.action_data.call_plan ?? budget?.planned;
  const made = budget?.happened;
  const tiles = [...calls(plan, made), ...undo(undoOf(saga)), ...verdict(verdictOf(saga))];
  return tiles.length ? [h("h2", {}, t("checks")), h("div", { class: "tiles" }, tiles), byPath(plan, made)] : [];
}

// What the last verification that says something said.
export function verdictOf(saga) {
  return saga.events.findLast((event) => event.event_type === "verification" && event.event_data?.verdict in TONES)?.event_data;
}

export function undoOf(saga) {
  return saga.steps.find((step) => step.action_data?.undo)?.action_data.undo;
}

// Those of which there are most come first: JSON as the database keeps it has no order.
export function byNumber(counts) {
  return Object.keys(counts).sort((one, other) => counts[other] - counts[one]);
}

export function sum(counts) {
  return Object.values(counts).reduce((all, each) => all + each, 0);
}

function calls(plan, made) {
  return [
    plan && tile("callsPlanned", plan.basis ? number(plan.total) : "–", plan.basis ? `${t("about", { time: seconds(plan.expected_seconds) })}, ${t("limitOf", { time: seconds(plan.limit_seconds) })}` : t("noBasis")),
    made && tile("callsMade", number(made.total), seconds(made.seconds)),
  ].filter(Boolean);
}

function byPath(plan, made) {
  const paths = [...new Set([...Object.keys(plan?.calls ?? {}), ...Object.keys(made?.calls ?? {})])].sort();
  if (!paths.length) return [];
  const limit = plan ? (plan.calls_per_second ? t("perSecond", { count: number(plan.calls_per_second) }) : t("noLimit")) : "–";
  const counted = (counts, path) => (counts && path in counts ? number(counts[path]) : "–");
  return h(
    "div",
    { class: "card scroll" },
    h(
      "table",
      { class: "counts dense" },
      h("thead", {}, h("tr", {}, ["api", "planned", "made", "limit"].map((each) => h("th", { scope: "col" }, t(each))))),
      h(
        "tbody",
        {},
        paths.map((path) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, path)), h("td", {}, counted(plan?.calls, path)), h("td", {}, counted(made?.calls, path)), h("td", {}, limit))),
      ),
    ),
  );
}

function undo(done) {
  if (!done) return [];
  const listed = byNumber(done.left_alone).map((reason) => `${number(done.left_alone[reason])} × ${t(`left_${reason}`)}`);
  return [tile("restoredObjects", number(sum(done.restored)), done.task_id), tile("leftAlone", number(sum(done.left_alone)), listed.join(t("comma")))];
}

function verdict(event) {
  return event ? [tile("wpsVerdict", t(`verdict_${event.verdict}`), event.message, TONES[event.verdict])] : [];
}

function seconds(value) {
  return duration((value ?? 0) * 1000);
}

function tile(label, value, note, tone = "") {
  return h("div", { class: `tile ${tone}` }, h("span", { class: "label" }, t(label)), h("span", { class: "value" }, value), h("span", { class: "note" }, note));
}
