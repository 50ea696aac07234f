// Statistics of the last days.

import { get } from "./api.js";
import { h, replace, section } from "./dom.js";
import { duration, number } from "./format.js";
import { badge, when } from "./parts.js";
import { t } from "./texts.js";

export function figuresView(main, state, go) {
  const place = h("div", { class: "figures-view" });
  replace(main, h("h1", {}, t("statistics")), h("p", { class: "sub" }, t("last7")), place);

  async function refresh({ signal } = {}) {
    const found = await get("/statistics", { days: 7 }, { signal });
    section(place, found, () => render(found, go));
  }

  return { refresh, tick: () => {}, onkey: (event) => event.key === "Escape" && go({}), seconds: 15 };
}

function render(found, go) {
  const slowest = Math.max(0.001, ...found.steps.map((step) => step.p95 ?? 0));
  return [
    h(
      "div",
      { class: "tiles" },
      Object.entries(found.counts).map(([definition, counts]) =>
        h(
          "div",
          { class: "tile wide" },
          h("span", { class: "label" }, t(definition)),
          h("span", { class: "chips" }, Object.entries(counts).map(([status, count]) => h("span", {}, badge(status), " ", number(count)))),
        ),
      ),
      h(
        "div",
        { class: "tile" },
        h("span", { class: "label" }, t("compensationRate")),
        h("span", { class: "value" }, found.compensation_rate === null ? "–" : `${(100 * found.compensation_rate).toFixed(1)} %`),
        h("span", { class: "note" }),
      ),
    ),
    h("h2", {}, t("stepTimes")),
    h(
      "div",
      { class: "card scroll" },
      h(
        "table",
        { class: "dense" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("step")), ["runs", "failures", "retries", "median", "slowest"].map((name) => h("th", { scope: "col", class: "n" }, t(name))), h("th", {}))),
        h(
          "tbody",
          {},
          found.steps.map((step) =>
            h(
              "tr",
              {},
              h("td", { class: "step" }, step.step_name, " ", h("span", { class: "sub" }, t(step.definition))),
              h("td", { class: "n" }, number(step.count)),
              h("td", { class: "n" }, number(step.failed)),
              h("td", { class: "n" }, number(step.retries)),
              h("td", { class: "n" }, step.p50 === null ? "–" : duration(step.p50 * 1000)),
              h("td", { class: "n" }, step.p95 === null ? "–" : duration(step.p95 * 1000)),
              h("td", { class: "c-progress" }, h("div", { class: "progress" }, h("div", { class: "bar tone-neutral", vars: { "--part": `${(100 * (step.p95 ?? 0)) / slowest}%` } }))),
            ),
          ),
        ),
      ),
    ),
    h("h2", {}, t("reasons")),
    h(
      "div",
      { class: "card scroll" },
      found.reasons.length
        ? h(
            "table",
            { class: "dense stack" },
            h("thead", {}, h("tr", {}, ["count", "step", "error", "time"].map((name) => h("th", { scope: "col", class: name === "count" ? "n" : "" }, t(name))))),
            h(
              "tbody",
              {},
              found.reasons.map((reason) =>
                h(
                  "tr",
                  {},
                  h("td", { class: "n tries" }, number(reason.count)),
                  h("td", { class: "step" }, reason.failed_step ?? ""),
                  h("td", { class: "data" }, h("a", { href: "?", onclick: (event) => (event.preventDefault(), go({ text: reason.failed_step ?? "" })) }, reason.reason)),
                  h("td", {}, when(reason.last_at)),
                ),
              ),
            ),
          )
        : h("div", { class: "empty" }, h("p", {}, t("noEvents"))),
    ),
  ];
}
