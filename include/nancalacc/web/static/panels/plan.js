// What the sync will change, or has changed: counts, subtrees, and every single change on demand.

import { airflowAddress, openInAirflow } from "../airflow.js";
import { addressOf, get } from "../api.js";
import { h, replace } from "../dom.js";
import { number } from "../format.js";
import { chipsFor, listing } from "../listing.js";
import { t } from "../texts.js";

const KINDS = ["departments", "users", "memberships"];
const SORTS = ["added", "changed", "moved", "disabled", "removed"];
const EVENTS = ["checkpoint_passed", "approval_requested", "approved", "rejected"];

export const name = "plan";

// Anew with each plan and each decision: the plan itself is not part of what the page asks for all the time.
export function shown(saga) {
  return [saga.transaction_id, saga.epoch, asked(saga)?.id, saga.status, fetchOf(saga)];
}

export function render(saga) {
  const place = h("div", {});
  if (saga.steps.some((step) => step.name === "fetch_dingtalk_data") || asked(saga)) fill(place, saga);
  return place;
}

function asked(saga) {
  return saga.events.findLast((event) => EVENTS.includes(event.event_type));
}

function fetchOf(saga) {
  const step = saga.steps.find((each) => each.name === "fetch_dingtalk_data");
  return step ? [step.status, step.attempt] : null;
}

async function fill(place, saga) {
  const path = `/sagas/${encodeURIComponent(saga.transaction_id)}`;
  let plan = null;
  try {
    plan = (await get(`${path}/plan`)).plan;
  } catch {
    // The page says what is wrong with the server; without a plan there is nothing to show here.
    return;
  }
  if (!plan) return;
  const some = KINDS.some((kind) => SORTS.some((sort) => plan.counts[kind]?.[sort]));
  replace(
    place,
    h("div", { class: "section-head" }, h("h2", {}, t("plan")), h("code", { title: plan.hash }, plan.hash.slice(0, 12)), some && csv(path)),
    waiting(saga) && notice(saga),
    plan.decisions.filter((each) => each.plan_hash === plan.hash).map(decided),
    some ? [table(plan.counts), subtrees(plan), details(path)] : h("p", { class: "hint" }, t("planEmpty")),
  );
}

function waiting(saga) {
  return asked(saga)?.event_type === "approval_requested" && saga.status === "in_progress";
}

function notice(saga) {
  const address = saga.links.run && airflowAddress(`${saga.links.run}/tasks/plan_changes/required_actions`);
  return h("div", { class: "notice warn" }, h("p", { class: "what" }, t("planWaits"), " ", address && h("a", { href: address, target: "_top", onclick: openInAirflow }, t("planDecide"))));
}

function decided(decision) {
  if (!decision.decided_by) return h("p", { class: "hint" }, t("planNobody"));
  const words = decision.is_approved ? "planApproved" : "planRejected";
  return h("p", {}, t(words, { user: decision.decided_by, reason: decision.reason || "–" }));
}

function csv(path) {
  return h("a", { href: addressOf(`${path}/plan.csv`).href, class: "download", onclick: openInAirflow }, t("planCsv"));
}

function table(counts) {
  return h(
    "div",
    { class: "card scroll" },
    h(
      "table",
      { class: "counts" },
      h("thead", {}, h("tr", {}, h("th", {}), ["known", ...SORTS].map((each) => h("th", { scope: "col" }, t(each))))),
      h(
        "tbody",
        {},
        KINDS.map((kind) => h("tr", {}, h("th", { scope: "row" }, t(kind)), ["known", ...SORTS].map((sort) => h("td", { class: sort === "removed" && counts[kind][sort] ? "severe" : "" }, number(counts[kind][sort]))))),
      ),
    ),
  );
}

function subtrees(plan) {
  const more = plan.every_subtree - plan.subtrees.length;
  return h(
    "details",
    { class: "subtrees" },
    h("summary", {}, t("planSubtrees")),
    h(
      "div",
      { class: "card scroll" },
      h(
        "table",
        { class: "counts" },
        h("thead", {}, h("tr", {}, ["place", "kind", "known", ...SORTS].map((each) => h("th", { scope: "col" }, t(each))))),
        h("tbody", {}, plan.subtrees.flatMap(subtreeRows)),
      ),
    ),
    more > 0 && h("p", { class: "hint" }, t("moreSubtrees", { count: number(more) })),
  );
}

function subtreeRows(subtree) {
  const title = subtree.did ? `${subtree.name ?? ""} (${subtree.did})` : t("nowhere");
  return KINDS.filter((kind) => subtree.counts[kind]).map((kind) => h("tr", {}, h("td", {}, title), h("td", {}, t(kind)), ["known", ...SORTS].map((sort) => h("td", {}, number(subtree.counts[kind][sort])))));
}

function details(path) {
  return listing({
    look: "listing changes",
    title: t("planChanges"),
    label: t("change"),
    path: `${path}/plan/changes`,
    filters: [...chipsFor("kind", KINDS), ...chipsFor("sort", SORTS)],
    columns: ["kind", "change", "name", "place", "fields"],
    row,
  });
}

function row(change) {
  const sort = change.is_disabled ? "disabled" : change.is_moved ? "moved" : change.action;
  const id = change.kind === "departments" ? change.did : change.uid;
  const called = change.name ?? change.old_name;
  const renamed = change.name && change.old_name && change.name !== change.old_name ? `${change.old_name} → ` : "";
  return h(
    "tr",
    { class: change.action === "removed" ? "severe" : "" },
    h("td", {}, t(change.kind)),
    h("td", {}, t(sort)),
    h("td", {}, renamed, called ? `${called} ` : "", h("code", {}, id ?? "")),
    h("td", {}, placeOf(change)),
    h("td", { class: "data" }, change.fields.join(", ")),
  );
}

function placeOf(change) {
  const now = change.place_name ?? change.place;
  const before = change.old_place_name ?? change.old_place;
  if (!now || !before || change.place === change.old_place) return now ?? before ?? "";
  return `${before} → ${now}`;
}
