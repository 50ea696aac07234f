// What the saga is: its sync, status, run, and how far it is.

import { airflowAddress, openInAirflow } from "../airflow.js";
import { h } from "../dom.js";
import { duration, moment, now, time } from "../format.js";
import { badge, nameOf, progressBar, when } from "../parts.js";
import { t } from "../texts.js";

const DECISIONS = ["approval_requested", "approved", "rejected"];

export const name = "head";

export function shown({ events, steps, actions, now: _, updated_at: __, ...rest }) {
  return [rest, asks({ events, ...rest })];
}

// Whether a person is to decide; the plan says on what, and where.
function asks(saga) {
  const last = saga.events.findLast((event) => DECISIONS.includes(event.event_type) && event.event_data?.epoch === saga.epoch);
  return saga.status === "in_progress" && last?.event_type === "approval_requested";
}

export function render(saga) {
  const began = time(saga.start_time);
  const ended = time(saga.end_time);
  const took = ended ? h("span", {}, duration(ended - began)) : h("span", { data: { since: String(began) } }, duration(now() - began));
  const facts = [
    [t("company"), saga.third_company_id],
    [t("taskId"), saga.task_id],
    [t("epoch"), saga.epoch > 1 && saga.epoch],
    [t("started"), h("span", { title: moment(saga.start_time) }, when(saga.start_time))],
    [t("duration"), took],
    [t("runId"), runOf(saga)],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return [
    h(
      "div",
      { class: "title" },
      h("h1", {}, nameOf(saga)),
      badge(saga.status),
      asks(saga) && h("span", { class: "tag warn" }, t("waitsForDecision")),
      saga.params.dry_run === true && h("span", { class: "tag" }, t("dryRunTag")),
      !ended && h("div", { class: "with-number" }, progressBar(saga), h("span", {}, `${saga.progress} %`)),
      saga.current_step && h("span", { class: "sub" }, t("runningAt", { step: saga.current_step })),
    ),
    h("dl", { class: "facts" }, facts.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)))),
  ];
}

export function tick(root) {
  for (const element of root.querySelectorAll("[data-since]")) element.textContent = duration(now() - Number(element.dataset.since));
}

function runOf(saga) {
  if (!saga.run_id) return "";
  return [
    h("code", {}, saga.run_id),
    " ",
    saga.links.run && h("a", { class: "run", href: airflowAddress(saga.links.run), target: "_top", onclick: openInAirflow }, t("run")),
  ];
}
