// The steps over time, one epoch at a time.

import { h } from "../dom.js";
import { barsOf, tickTimeline, timeline } from "../timeline.js";
import { t } from "../texts.js";

export const name = "lines";

export function shown(saga, { chosen }) {
  const steps = saga.steps.map(({ heartbeat_age: _, ...step }) => step);
  return [steps, saga.events.length, saga.events.at(-1)?.id, chosen.epoch, saga.epoch];
}

export function render(saga, { chosen, again }) {
  const epochs = [...barsOf(saga.events).keys()].filter((epoch) => epoch > 0);
  const epoch = epochs.includes(chosen.epoch) ? chosen.epoch : saga.epoch;
  const choose = (each) => {
    chosen.epoch = each;
    again();
  };
  return [
    h("div", { class: "section-head" }, h("h2", {}, t("timeline")), epochs.length > 1 && tabs(epochs, epoch, choose), legend()),
    h("div", { class: "card" }, timeline(saga, { epoch })),
  ];
}

export const tick = tickTimeline;

function tabs(epochs, epoch, choose) {
  return h(
    "div",
    { class: "chips", role: "group", "aria-label": t("epoch"), title: t("epochNote") },
    epochs.map((each) => h("button", { type: "button", class: "chip", "aria-pressed": String(each === epoch), onclick: () => choose(each) }, `${t("epoch")} ${each}`)),
  );
}

function legend() {
  const kinds = [
    ["status-completed forward", "completed"],
    ["status-failed forward", "failed"],
    ["status-in_progress forward", "in_progress"],
    ["status-compensated back", "compensated"],
  ];
  return h("div", { class: "legend", "aria-hidden": "true" }, kinds.map(([look, word]) => h("span", {}, h("i", { class: `swatch ${look}` }), t(word))));
}
