// Calls of DingTalk, planned and made; whether WPS has what it was given; what an undo did.

import { h } from "../dom.js";
import { duration, number } from "../format.js";
import { t } from "../texts.js";

const VERDICTS = ["verified", "drifted", "stopped", "pending"];

export const name = "checks";

export function shown(saga) {
  return [saga.steps.map((step) => step.action_data), verdictOf(saga)];
}

export function render(saga) {
  const tiles = [...calls(saga.steps), ...undo(saga.steps), ...verdict(verdictOf(saga))];
  return tiles.length ? [h("h2", {}, t("checks")), h("div", { class: "tiles" }, tiles)] : [];
}

function calls(steps) {
  const plan = steps.find((step) => step.action_data?.call_plan)?.action_data.call_plan;
  const made = steps.find((step) => step.action_data?.budget)?.action_data.budget.happened;
  return [
    plan && tile("callsPlanned", plan.basis ? number(plan.total) : "–", plan.basis ? `${t("about", { time: seconds(plan.expected_seconds) })}, ${t("limitOf", { time: seconds(plan.limit_seconds) })}` : t("noBasis")),
    made && tile("callsMade", number(made.total), seconds(made.seconds)),
  ].filter(Boolean);
}

function undo(steps) {
  const done = steps.find((step) => step.action_data?.undo)?.action_data.undo;
  if (!done) return [];
  const sum = (counts) => number(Object.values(counts).reduce((all, each) => all + each, 0));
  const listed = Object.entries(done.left_alone).map(([reason, count]) => `${reason} ${count}`);
  return [tile("restoredObjects", sum(done.restored), done.task_id), tile("leftAlone", sum(done.left_alone), listed.join(", "))];
}

function verdict(event) {
  if (!event || !VERDICTS.includes(event.verdict)) return [];
  return [tile("wpsVerdict", t(event.verdict === "pending" ? "verdict_pending" : event.verdict), event.message)];
}

function verdictOf(saga) {
  return saga.events.findLast((event) => event.event_type === "verification")?.event_data;
}

function seconds(value) {
  return duration((value ?? 0) * 1000);
}

function tile(label, value, note) {
  return h("div", { class: "tile" }, h("span", { class: "label" }, t(label)), h("span", { class: "value" }, value), h("span", { class: "note" }, note));
}
