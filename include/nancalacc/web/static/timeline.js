// Steps as bars over time, put together from the events: attempts, failures, compensations, epochs.

import { airflowAddress, openInAirflow } from "./airflow.js";
import { h } from "./dom.js";
import { clock, duration, moment, now, number, time } from "./format.js";
import { mark, shortError } from "./parts.js";
import { t } from "./texts.js";

const LEAST_SPAN = 2000;
const SHORT_SPAN = 20_000;
const ENDS = {
  step_completed: "completed",
  step_failed: "failed",
  step_skipped: "skipped",
  compensation_completed: "compensated",
  compensation_failed: "failed",
};

// Bars of each epoch: {epoch: {step: [{from, to, state, kind}]}}; `to` is null while it lasts.
export function barsOf(events) {
  const epochs = new Map();
  let epoch = 0;
  for (const event of events) {
    epoch = event.event_data?.epoch ?? epoch;
    if (!event.step) continue;
    if (!epochs.has(epoch)) epochs.set(epoch, new Map());
    const steps = epochs.get(epoch);
    if (!steps.has(event.step)) steps.set(event.step, []);
    const bars = steps.get(event.step);
    const at = time(event.created_at);
    const back = event.event_type.startsWith("compensation");
    const last = bars.at(-1);
    if (event.event_type === "step_started" || event.event_type === "compensation_started") {
      if (last && last.to === null) Object.assign(last, { to: at, state: "failed" });
      bars.push({ from: at, to: null, state: back ? "compensating" : "in_progress", kind: back ? "back" : "forward", attempt: event.event_data?.attempt });
    } else if (event.event_type in ENDS) {
      if (last && last.to === null) Object.assign(last, { to: at, state: ENDS[event.event_type] });
      else bars.push({ from: at, to: at, state: ENDS[event.event_type], kind: back ? "back" : "forward" });
      if (event.event_data?.error) bars.at(-1).error = event.event_data.error;
    }
  }
  return epochs;
}

export function timeline(saga, { epoch }) {
  const bars = barsOf(saga.events).get(epoch) ?? new Map();
  const all = [...bars.values()].flat();
  const from = Math.min(...all.map((bar) => bar.from), all.length ? Infinity : now());
  const live = all.some((bar) => bar.to === null);
  const until = Math.max(from + LEAST_SPAN, live ? now() : 0, ...all.map((bar) => bar.to ?? 0));
  const current = epoch === saga.epoch;
  return h(
    "div",
    { class: "timeline", data: { from: String(from), until: String(until), live: String(live) } },
    axis(from, until),
    saga.steps.map((step) => line(saga, step, { bars: bars.get(step.name) ?? [], from, until, current })),
  );
}

export function tickTimeline(root) {
  const element = root.querySelector(".timeline[data-live=true]");
  if (!element) return;
  const from = Number(element.dataset.from);
  const until = Math.max(from + LEAST_SPAN, now());
  for (const bar of element.querySelectorAll(".span")) place(bar, Number(bar.dataset.from), Number(bar.dataset.to) || until, from, until);
  element.querySelector(".axis").replaceWith(axis(from, until));
  for (const text of element.querySelectorAll("[data-since]")) text.textContent = duration(now() - Number(text.dataset.since));
}

function axis(from, until) {
  const whole = until - from;
  // Within a few seconds the clock would say the same several times.
  const tick = (part) => (part && whole < SHORT_SPAN ? `+${((part * whole) / 1000).toFixed(1)} s` : clock(from + part * whole));
  return h(
    "div",
    { class: "axis", "aria-hidden": "true" },
    h("div", { class: "axis-track" }, [0, 0.25, 0.5, 0.75, 1].map((part) => h("span", { class: "tick", vars: { "--at": `${part * 100}%` } }, tick(part)))),
  );
}

function line(saga, step, { bars, from, until, current }) {
  const status = current ? step.status : (bars.at(-1)?.state ?? "pending");
  const forward = bars.filter((bar) => bar.kind === "forward");
  const log = step.log_url && h("a", { href: airflowAddress(step.log_url), target: "_top", title: t("log"), onclick: openInAirflow }, step.name);
  return h(
    "div",
    { class: `line ${step.kind === "pivot" ? "is-pivot" : ""}` },
    h(
      "div",
      { class: "line-name" },
      mark(status),
      log || h("span", {}, step.name),
      step.kind === "pivot" && h("span", { class: "tag", title: t("pivotHint") }, t("pivot")),
      forward.length > 1 && h("span", { class: "tag" }, t("attempts", { count: forward.length })),
    ),
    h("div", { class: "track" }, bars.map((bar) => span(bar, from, until))),
    h("div", { class: "line-rows sub" }, current ? rowsOf(step) : ""),
    h("div", { class: "line-end" }, took(bars)),
    current && step.error_message && step.error_message !== shortError(saga) && h("p", { class: "line-error" }, step.error_message),
  );
}

function span(bar, from, until) {
  const kind = bar.kind === "back" ? t("compensation") : bar.attempt > 1 ? t("attempts", { count: bar.attempt }) : "";
  const title = [t(bar.state), kind, `${moment(bar.from)} – ${bar.to === null ? "…" : moment(bar.to)}`, duration((bar.to ?? now()) - bar.from), bar.error].filter(Boolean).join("\n");
  const element = h("div", { class: `span status-${bar.state} ${bar.kind}`, title, data: { from: String(bar.from), to: String(bar.to ?? "") } });
  place(element, bar.from, bar.to ?? until, from, until);
  return element;
}

function place(element, begin, end, from, until) {
  const whole = until - from;
  element.style.setProperty("--left", `${(100 * (begin - from)) / whole}%`);
  element.style.setProperty("--width", `${(100 * Math.max(0, end - begin)) / whole}%`);
}

function took(bars) {
  const last = bars.findLast((bar) => bar.kind === "forward");
  if (!last) return h("span", {}, "–");
  if (last.to === null) return h("span", { data: { since: String(last.from) } }, duration(now() - last.from));
  return h("span", {}, duration(last.to - last.from));
}

function rowsOf(step) {
  const rows = step.action_data?.rows;
  if (typeof rows === "number") return t("rows", { count: number(rows) });
  // Of a step that reports several kinds, the panel below tells; while it is at work, its people.
  const people = step.status === "in_progress" ? step.action_data?.users : null;
  return typeof people === "number" ? `${number(people)} ${t("users")}` : "";
}
