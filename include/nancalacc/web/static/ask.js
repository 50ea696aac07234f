// Asks for a reason and a confirmation, then acts. One request id a dialog: a second click does nothing more.

import { post } from "./api.js";
import { h, placeOf, replace } from "./dom.js";
import { toast } from "./parts.js";
import { t } from "./texts.js";

const dialog = document.getElementById("dialog");

// crypto.randomUUID exists on secure origins only, and Airflow is often served by plain HTTP.
function requestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [8, 12, 16, 20, 32].map((end, index, ends) => hex.slice(index ? ends[index - 1] : 0, end)).join("-");
}

export function ask({ title, text, path, fields = [], danger = false, then }) {
  const id = requestId();
  const opener = placeOf(document.activeElement);
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const reason = h("textarea", { id: "reason", name: "reason", rows: 2, required: true, maxlength: 500, "aria-describedby": "reason-hint" });
  const inputs = fields.map((field) => ({ field, input: inputOf(field) }));
  const confirm = h("button", { type: "submit", class: danger ? "danger" : "primary" }, t("confirm"));
  const form = h(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        problem.hidden = true;
        confirm.disabled = true;
        confirm.textContent = t("working");
        try {
          const values = Object.fromEntries(inputs.map(({ field, input }) => [field.name, field.kind === "flag" ? input.checked : input.value]));
          const result = await post(path, { ...values, reason: reason.value, request_id: id });
          dialog.close();
          toast(result.message ?? t("done"));
          then?.(result);
        } catch (error) {
          problem.textContent = error.message;
          problem.hidden = false;
        } finally {
          confirm.disabled = false;
          confirm.textContent = t("confirm");
        }
      },
    },
    h("h2", { id: "dialog-title" }, title),
    h("p", {}, text),
    inputs.map(({ field, input }) =>
      field.kind === "flag"
        ? h("label", { class: "flag" }, input, field.label)
        : h("label", { class: "field" }, h("span", {}, field.label), input),
    ),
    h("label", { class: "field", for: "reason" }, h("span", {}, t("reason")), reason),
    h("p", { class: "hint", id: "reason-hint" }, t("reasonHint")),
    problem,
    h("div", { class: "buttons" }, h("button", { type: "button", onclick: () => dialog.close() }, t("close")), confirm),
  );
  dialog.setAttribute("aria-labelledby", "dialog-title");
  replace(dialog, form);
  // The page behind goes on: what opened the dialog may have been drawn anew while it was open, and the
  // focus have found its place before this event comes.
  dialog.onclose = () => isFocusLost() && opener.focus();
  dialog.showModal();
  reason.focus();
}

function isFocusLost() {
  const focused = document.activeElement;
  return !focused || focused === document.body || dialog.contains(focused);
}

function inputOf(field) {
  if (field.kind === "flag") return h("input", { type: "checkbox", name: field.name });
  return h("select", { name: field.name }, field.options.map((option) => h("option", { value: option }, option)));
}
