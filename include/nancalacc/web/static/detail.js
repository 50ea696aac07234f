// One saga: what happened, why, and what can be done about it. Each panel is a module with
//   name       the class of its section
//   shown      what it shows of a saga; it is rendered again only when that has changed
//   render     its elements
//   tick       optional: called every second

import { get, Refused } from "./api.js";
import { h, replace, section } from "./dom.js";
import { setClock } from "./format.js";
import * as actions from "./panels/actions.js";
import * as checks from "./panels/checks.js";
import * as differences from "./panels/differences.js";
import * as head from "./panels/head.js";
import * as left from "./panels/left.js";
import * as parameters from "./panels/parameters.js";
import * as plan from "./panels/plan.js";
import * as rows from "./panels/rows.js";
import * as steps from "./panels/steps.js";
import * as trail from "./panels/trail.js";
import * as trouble from "./panels/trouble.js";
import { t } from "./texts.js";

const PANELS = [head, trouble, actions, steps, plan, rows, checks, differences, left, trail, parameters];

export function detailView(main, state, go) {
  const embedded = state.embedded === "1";
  const places = PANELS.map((panel) => h("section", { class: panel.name }));
  const tools = { chosen: {}, refresh, again: show, go };
  let shown = null;
  let saga = null;
  replace(
    main,
    !embedded && h("p", { class: "crumb" }, h("a", { href: "?", onclick: (event) => (event.preventDefault(), go({})) }, `← ${t("back")}`)),
    places,
  );

  async function refresh({ signal } = {}) {
    saga ??= state.saga ?? (await sagaOfRun(state, signal));
    if (!saga) return missing(t("noSagaForRun"));
    try {
      shown = await get(`/sagas/${encodeURIComponent(saga)}`, {}, { signal });
    } catch (error) {
      if (error instanceof Refused && error.status === 404) return missing(error.message);
      throw error;
    }
    setClock(shown.now);
    show();
  }

  function show() {
    PANELS.forEach((panel, index) => section(places[index], panel.shown(shown, tools), () => panel.render(shown, tools)));
  }

  function missing(text) {
    section(places[0], text, () => h("div", { class: "empty" }, h("p", {}, text)));
  }

  function tick() {
    PANELS.forEach((panel, index) => panel.tick?.(places[index]));
  }

  function onkey(event) {
    if (event.key === "Escape" && !embedded) go({});
  }

  return { refresh, tick, onkey, seconds: 2 };
}

async function sagaOfRun(state, signal) {
  const found = await get("/sagas", { dag_id: state.dag_id, run_id: state.run_id, limit: 1 }, { signal });
  return found.items[0]?.transaction_id ?? null;
}
