// What an undo left as it is, object by object, with the reason.

import { h } from "../dom.js";
import { number } from "../format.js";
import { chipsFor, listing } from "../listing.js";
import { t } from "../texts.js";
import { byNumber, sum, undoOf } from "./checks.js";

export const name = "left-alone";

export function shown(saga) {
  return [saga.transaction_id, undoOf(saga)];
}

export function render(saga) {
  const counts = undoOf(saga)?.left_alone ?? {};
  if (!sum(counts)) return [];
  return listing({
    look: "listing",
    title: t("everyLeft", { count: number(sum(counts)) }),
    label: t("reason"),
    path: `/sagas/${encodeURIComponent(saga.transaction_id)}/left-alone`,
    filters: [...chipsFor("kind", ["departments", "users"]), ...chipsFor("reason", byNumber(counts), textOf)],
    columns: ["kind", "name", "reason"],
    row: (left) => h("tr", {}, h("td", {}, t(left.kind)), h("td", {}, left.name ? `${left.name} ` : "", h("code", {}, left.key)), h("td", { class: "data" }, textOf(left.reason))),
  });
}

function textOf(reason) {
  return t(`left_${reason}`);
}
