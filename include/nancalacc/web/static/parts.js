// Small parts that several views share.

import { h } from "./dom.js";
import { ago, moment } from "./format.js";
import { t } from "./texts.js";

const SIGNS = {
  pending: "○",
  in_progress: "▶",
  completed: "✓",
  done: "✓",
  failed: "✕",
  dead: "✕",
  compensating: "↶",
  compensated: "↶",
  cancelled: "⊘",
  skipped: "⤼",
  claimed: "▶",
};

// A status is told by sign and word, too: colour alone does not reach everybody.
export function badge(status, text = t(status)) {
  return h(
    "span",
    { class: `badge status-${status}` },
    h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[status] ?? "•"),
    text,
  );
}

// The same without its word, where many stand below each other.
export function mark(status) {
  return h("span", { class: `mark status-${status}`, role: "img", "aria-label": t(status), title: t(status) }, SIGNS[status] ?? "•");
}

export function when(value) {
  return h("time", { datetime: value ?? "", title: moment(value), data: { ago: value ?? "" } }, ago(value));
}

export function refreshTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-ago]")) {
    const text = ago(element.dataset.ago);
    if (element.textContent !== text) element.textContent = text;
  }
}

export function progressBar(saga) {
  const tone = ["compensating", "compensated", "failed", "cancelled"].includes(saga.status) ? saga.status : "completed";
  return h(
    "div",
    {
      class: `progress ${saga.status === "in_progress" ? "live" : ""}`,
      role: "progressbar",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": saga.progress,
      "aria-label": t("progress"),
    },
    h("div", { class: `bar tone-${tone}`, vars: { "--part": `${saga.progress}%` } }),
  );
}

export function nameOf(saga) {
  return t(saga.definition);
}

export function shortError(saga) {
  const text = saga.error_message ?? "";
  const step = saga.failed_step ? `${saga.failed_step}: ` : "";
  return text.startsWith(step) ? text.slice(step.length) : text;
}

export function toast(text, { error = false } = {}) {
  const place = document.getElementById("toast");
  place.textContent = text;
  place.className = error ? "shown error" : "shown";
  clearTimeout(place.timer);
  place.timer = setTimeout(() => {
    place.className = "";
  }, 6000);
}
