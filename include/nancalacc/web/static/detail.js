// One saga: what happened, why, and what can be done about it.

import { airflowAddress, openInAirflow } from "./airflow.js";
import { get, Refused } from "./api.js";
import { ask } from "./ask.js";
import { h, replace, section } from "./dom.js";
import { duration, moment, now, number, setClock, time } from "./format.js";
import { badge, nameOf, progressBar, when } from "./parts.js";
import { t } from "./texts.js";
import { barsOf, tickTimeline, timeline } from "./timeline.js";

const TEXTS = { retry: "retryText", skip: "skipText", cancel: "cancelText", recover: "recoverText" };
const WAITING = ["failed", "compensated", "cancelled"];
const EVENTS_SHOWN = 500;
const SEVERE = ["step_failed", "saga_failed", "compensation_failed", "record_rejected", "warning"];

export function detailView(main, state, go) {
  const parts = Object.fromEntries(["head", "trouble", "actions", "lines", "figures", "trail", "more"].map((name) => [name, h("section", { class: name })]));
  const embedded = state.embedded === "1";
  replace(
    main,
    !embedded &&
      h("p", { class: "crumb" }, h("a", { href: "?", onclick: (event) => (event.preventDefault(), go({})) }, `← ${t("back")}`)),
    parts.head,
    parts.trouble,
    parts.actions,
    parts.lines,
    parts.figures,
    parts.trail,
    parts.more,
  );
  let chosen = null;
  let shown = null;
  let saga = null;

  async function refresh({ signal } = {}) {
    saga ??= state.saga;
    if (!saga) {
      const found = await get("/sagas", { dag_id: state.dag_id, run_id: state.run_id, limit: 1 }, { signal });
      if (!found.items.length) {
        section(parts.head, "none", () => h("div", { class: "empty" }, h("p", {}, t("noSagaForRun"))));
        return;
      }
      saga = found.items[0].transaction_id;
    }
    try {
      shown = await get(`/sagas/${encodeURIComponent(saga)}`, {}, { signal });
    } catch (error) {
      if (error instanceof Refused && error.status === 404) {
        section(parts.head, error.message, () => h("div", { class: "empty" }, h("p", {}, error.message)));
        return;
      }
      throw error;
    }
    setClock(shown.now);
    show();
  }

  function show() {
    const found = shown;
    const { events, steps, actions, now: _, updated_at: __, ...rest } = found;
    section(parts.head, rest, () => head(found));
    section(parts.trouble, [found.error_message, found.recovery_error, found.recovery_tries, found.recovery_at, found.past_pivot, found.status], () => trouble(found));
    section(parts.actions, actions, () => actionBar(found, refresh));
    const epochs = [...barsOf(events).keys()].filter((epoch) => epoch > 0);
    const epoch = epochs.includes(chosen) ? chosen : found.epoch;
    section(parts.lines, [steps.map(withoutBeat), events.length, events.at(-1)?.id, epoch, found.epoch], () => [
      h("div", { class: "section-head" }, h("h2", {}, t("timeline")), epochs.length > 1 && epochTabs(epochs, epoch)),
      h("div", { class: "card" }, timeline(found, { epoch })),
    ]);
    section(parts.figures, steps.map((step) => step.action_data), () => figures(steps));
    section(parts.trail, events.at(-1)?.id ?? 0, () => trail(events));
    section(parts.more, found.params, () =>
      Object.keys(found.params).length
        ? h("details", {}, h("summary", {}, t("parameters")), h("pre", {}, JSON.stringify(found.params, null, 2)))
        : [],
    );
  }

  function epochTabs(epochs, epoch) {
    return h(
      "div",
      { class: "chips", role: "group", "aria-label": t("epoch"), title: t("epochNote") },
      epochs.map((each) =>
        h("button", { type: "button", class: "chip", "aria-pressed": String(each === epoch), onclick: () => ((chosen = each), show()) }, `${t("epoch")} ${each}`),
      ),
    );
  }

  function tick() {
    tickTimeline(main);
    for (const element of parts.head.querySelectorAll("[data-since]")) element.textContent = duration(now() - Number(element.dataset.since));
  }

  function onkey(event) {
    if (event.key === "Escape" && !embedded) go({});
  }

  return { refresh, tick, onkey, seconds: 2 };
}

function withoutBeat({ heartbeat_age: _, ...step }) {
  return step;
}

function head(saga) {
  const began = time(saga.start_time);
  const ended = time(saga.end_time);
  const took = ended ? h("span", {}, duration(ended - began)) : h("span", { data: { since: String(began) } }, duration(now() - began));
  const facts = [
    [t("company"), saga.third_company_id],
    [t("taskId"), saga.task_id],
    [t("epoch"), saga.epoch],
    [t("started"), h("span", {}, moment(saga.start_time), " (", when(saga.start_time), ")")],
    [t("duration"), took],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return [
    h("div", { class: "title" }, h("h1", {}, nameOf(saga)), badge(saga.status), saga.params.dry_run === true && h("span", { class: "tag" }, t("dryRunTag")), saga.current_step && h("span", { class: "sub" }, t("runningAt", { step: saga.current_step }))),
    h(
      "p",
      { class: "sub ids" },
      h("code", {}, saga.run_id ?? ""),
      saga.links.run && h("a", { href: airflowAddress(saga.links.run), target: "_top", onclick: openInAirflow }, t("run")),
    ),
    h("div", { class: "with-number" }, progressBar(saga), h("span", {}, `${saga.progress} %`)),
    h("dl", { class: "facts" }, facts.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)))),
  ];
}

function trouble(saga) {
  const ended = ["compensated", "cancelled"].includes(saga.status);
  if (!saga.error_message && !saga.recovery_error) return [];
  return h(
    "div",
    { class: `notice ${ended || saga.status === "completed" ? "warn" : "bad"}` },
    saga.error_message && h("p", { class: "what" }, saga.failed_step && h("strong", {}, `${t("failedAt", { step: saga.failed_step })}. `), saga.error_message.replace(`${saga.failed_step}: `, "")),
    h("p", {}, saga.past_pivot ? t("published") : t("notPublished")),
    saga.recovery_error && h("p", {}, saga.recovery_error, " ", t("recoveryTries", { count: saga.recovery_tries, at: moment(saga.recovery_at) })),
  );
}

function actionBar(saga, refresh) {
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
  return action.action === "cancel" ? "danger-line" : "";
}

function confirm(saga, action, refresh) {
  const fields = action.steps.length ? [{ name: "step", label: action.action === "retry" ? t("fromStep") : t("step"), kind: "choice", options: action.steps }] : [];
  ask({
    title: `${t(action.action)}: ${nameOf(saga)}`,
    text: t(TEXTS[action.action]),
    path: `/sagas/${encodeURIComponent(saga.transaction_id)}/${action.action}`,
    fields,
    danger: action.action === "cancel",
    then: () => refresh(),
  });
}

function figures(steps) {
  const report = steps.findLast((step) => step.action_data?.rows && typeof step.action_data.rows === "object");
  const fetched = steps.find((step) => step.action_data?.difference);
  const rows = report?.action_data.rows ?? {};
  const kinds = ["departments", "users", "memberships"].filter((kind) => kind in rows || fetched?.action_data.difference?.[kind]);
  if (!kinds.length) return [];
  return [
    h("h2", {}, t("rowsWritten")),
    h(
      "div",
      { class: "tiles" },
      kinds.map((kind) =>
        h(
          "div",
          { class: "tile" },
          h("span", { class: "label" }, t(kind)),
          h("span", { class: "value" }, rows[kind] === undefined ? "–" : number(rows[kind])),
          h("span", { class: "note" }, fetched?.action_data.difference?.[kind] ? t("difference", fetched.action_data.difference[kind]) : ""),
        ),
      ),
    ),
  ];
}

function trail(events) {
  return [
    h("h2", {}, t("events")),
    events.length >= EVENTS_SHOWN && h("p", { class: "hint" }, t("older")),
    h(
      "div",
      { class: "card scroll" },
      h(
        "table",
        { class: "events stack" },
        h("thead", {}, h("tr", {}, ["time", "event", "step", "details"].map((name) => h("th", { scope: "col" }, t(name))))),
        h(
          "tbody",
          {},
          events.toReversed().map((event) =>
            h(
              "tr",
              { class: SEVERE.includes(event.event_type) ? "severe" : event.event_type === "action_requested" ? "by-person" : "" },
              h("td", { title: event.created_at }, moment(event.created_at)),
              h("td", {}, h("code", {}, event.event_type)),
              h("td", {}, event.step ?? ""),
              h("td", { class: "data" }, told(event)),
            ),
          ),
        ),
      ),
    ),
  ].filter(Boolean);
}

function told(event) {
  const { epoch, ...data } = event.event_data ?? {};
  const parts = [epoch > 1 && `${t("epoch")} ${epoch}`];
  if (data.user) parts.push(`${data.action} — ${t("byPerson", { user: data.user, reason: data.reason })}`, data.result);
  else {
    for (const [name, value] of Object.entries(data)) {
      if (value === null || value === "" || (name === "attempt" && value === 1)) continue;
      parts.push(name === "error" || name === "reason" || name === "message" ? String(value) : `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
    }
  }
  return parts.filter(Boolean).join(" · ");
}
