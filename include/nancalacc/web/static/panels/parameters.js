// What the run was started with.

import { h } from "../dom.js";
import { t } from "../texts.js";

export const name = "more";

export function shown(saga) {
  return saga.params;
}

export function render(saga) {
  if (!Object.keys(saga.params).length) return [];
  return h("details", {}, h("summary", {}, t("parameters")), h("pre", {}, JSON.stringify(saga.params, null, 2)));
}
