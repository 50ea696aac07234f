// How WPS differs from what it was given, object by object.

import { h } from "../dom.js";
import { number } from "../format.js";
import { chipsFor, listing } from "../listing.js";
import { t } from "../texts.js";
import { sum, verdictOf } from "./checks.js";

const KINDS = ["departments", "users", "memberships"];
const WHATS = ["missing", "extra", "changed", "foreign"];
const LISTED = 10000; // of each kind; all are counted

export const name = "differences";

export function shown(saga) {
  return [saga.transaction_id, verdictOf(saga)];
}

export function render(saga) {
  const counts = verdictOf(saga)?.counts ?? {};
  const total = sum(Object.values(counts).map(sum));
  if (!total) return [];
  const ofKind = (kind) => sum(Object.values(counts).map((kinds) => kinds[kind] ?? 0));
  return [
    listing({
      look: "listing",
      title: t("everyDifference", { count: number(total) }),
      label: t("differs"),
      path: `/sagas/${encodeURIComponent(saga.transaction_id)}/differences`,
      filters: [...chipsFor("kind", KINDS), ...chipsFor("what", WHATS, (what) => t(`differs_${what}`))],
      columns: ["kind", "differs", "name", "place", "fields"],
      row,
    }),
    KINDS.some((kind) => ofKind(kind) > LISTED) && h("p", { class: "hint" }, t("firstDifferences", { count: number(LISTED) })),
  ];
}

function row(difference) {
  return h(
    "tr",
    {},
    h("td", {}, t(difference.kind)),
    h("td", {}, t(`differs_${difference.what}`)),
    h("td", {}, difference.name ? `${difference.name} ` : "", h("code", {}, difference.key)),
    h("td", {}, difference.did ? [difference.place_name ? `${difference.place_name} ` : "", h("code", {}, difference.did)] : ""),
    h("td", { class: "data" }, difference.fields.map((field) => t(`field_${field}`)).join(t("comma"))),
  );
}
