// How many rows the sync wrote, or, before it did, how many it read; and what is different.

import { h } from "../dom.js";
import { number } from "../format.js";
import { t } from "../texts.js";

const KINDS = ["departments", "users", "memberships"];
const STEPS = { save_departments: "departments", save_users: "users", save_relations: "memberships" };

export const name = "figures";

export function shown(saga) {
  return saga.steps.map((step) => step.action_data);
}

export function render(saga) {
  const written = writtenBy(saga.steps);
  const read = saga.steps.find((step) => step.action_data?.difference)?.action_data;
  const counts = written ?? read ?? {};
  const kinds = KINDS.filter((kind) => kind in counts || read?.difference?.[kind]);
  if (!kinds.length) return [];
  return [
    h("h2", {}, t(written ? "rowsWritten" : "rowsRead")),
    h(
      "div",
      { class: "tiles" },
      kinds.map((kind) =>
        h(
          "div",
          { class: "tile" },
          h("span", { class: "label" }, t(kind)),
          h("span", { class: "value" }, typeof counts[kind] === "number" ? number(counts[kind]) : "–"),
          h("span", { class: "note" }, read?.difference?.[kind] ? t("difference", read.difference[kind]) : ""),
        ),
      ),
    ),
  ];
}

// One step reports all kinds, or each step its own; what was undone is not there.
function writtenBy(steps) {
  const whole = steps.findLast((step) => step.action_data?.rows && typeof step.action_data.rows === "object");
  if (whole) return whole.action_data.rows;
  const parts = steps.filter((step) => step.name in STEPS && step.status === "completed" && typeof step.action_data?.rows === "number");
  return parts.length ? Object.fromEntries(parts.map((step) => [STEPS[step.name], step.action_data.rows])) : null;
}
