// What can be done about the saga, each with a reason and a confirmation.

import { ask } from "../ask.js";
import { h } from "../dom.js";
import { nameOf } from "../parts.js";
import { t } from "../texts.js";

const TEXTS = { retry: "retryText", skip: "skipText", cancel: "cancelText", recover: "recoverText", undo: "undoText" };
const WAITING = ["failed", "compensated", "cancelled"];

export const name = "actions";

export function shown(saga) {
  return [saga.actions, saga.status];
}

export function render(saga, { refresh }) {
  return h(
    "div",
    { class: "buttons" },
    saga.actions.map((action) =>
      h(
        "button",
        {
          type: "button",
          class: toneOf(action, saga),
          "aria-disabled": String(!action.allowed),
          title: action.reason ?? "",
          onclick: () => action.allowed && confirm(saga, action, refresh),
        },
        t(action.action),
      ),
    ),
  );
}

function toneOf(action, saga) {
  if (!action.allowed) return "";
  if (action.action === "retry" && WAITING.includes(saga.status)) return "primary";
  return ["cancel", "undo"].includes(action.action) ? "danger-line" : "";
}

function confirm(saga, action, refresh) {
  const label = action.action === "retry" ? t("fromStep") : t("step");
  ask({
    title: `${t(action.action)}: ${nameOf(saga)}`,
    text: t(TEXTS[action.action]),
    path: `/sagas/${encodeURIComponent(saga.transaction_id)}/${action.action}`,
    fields: action.steps.length ? [{ name: "step", label, kind: "choice", options: action.steps }] : [],
    danger: ["cancel", "undo"].includes(action.action),
    then: () => refresh(),
  });
}
