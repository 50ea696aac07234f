// The page: what it shows follows from its address; it asks anew every few seconds while it is seen.

import { followTheme, loginAddress, mirrorAddress, openInAirflow } from "./airflow.js";
import { get, Refused } from "./api.js";
import { ask } from "./ask.js";
import { conflictsView } from "./conflicts.js";
import { detailView } from "./detail.js";
import { h, replace } from "./dom.js";
import { figuresView } from "./figures.js";
import { inboxView } from "./inbox.js";
import { listView } from "./list.js";
import { refreshTimes, toast } from "./parts.js";
import { refreshStrip, showProblem } from "./strip.js";
import { language, switchLanguage, t } from "./texts.js";

// The pages, by their name in the address. A new one is a module, a line here, and its word in texts.js.
const VIEWS = { sagas: listView, inbox: inboxView, conflicts: conflictsView, statistics: figuresView };
const SEVERAL = ["status"];
const main = document.getElementById("main");
const header = document.getElementById("header");
let me = null;
let view = null;
let running = new AbortController();

function stateOf(search) {
  const query = new URLSearchParams(search);
  const state = {};
  for (const name of query.keys()) state[name] = SEVERAL.includes(name) ? query.getAll(name) : query.get(name);
  return state;
}

function addressOf(state) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    for (const each of Array.isArray(value) ? value : [value]) if (each !== null && each !== undefined && each !== "") query.append(name, each);
  }
  const text = query.toString();
  return text ? `?${text}` : location.pathname;
}

// Goes to another state of the page; `quiet`: the same view goes on, and what has the focus keeps it.
function go(state, { quiet = false } = {}) {
  const focused = document.activeElement?.id;
  const at = document.activeElement?.selectionStart;
  history[quiet ? "replaceState" : "pushState"](null, "", addressOf(state));
  show();
  if (quiet && focused) {
    const element = document.getElementById(focused);
    element?.focus();
    if (typeof at === "number") element?.setSelectionRange?.(at, at);
  } else {
    scrollTo(0, 0);
    // What had the focus is gone with the page that it was on: Tab goes on in the new one.
    if (document.activeElement === document.body) main.focus({ preventScroll: true });
  }
}

function show() {
  running.abort();
  running = new AbortController();
  const state = stateOf(location.search);
  document.body.classList.toggle("embedded", state.embedded === "1");
  renderHeader(state);
  const made = state.saga || state.run_id ? detailView : (VIEWS[state.view] ?? listView);
  view = made(main, state, go, { me: () => me });
  mirrorAddress();
  poll(view, running.signal);
}

function renderHeader(state) {
  const at = state.view ?? (state.saga ? "" : "sagas");
  const tab = (name) => {
    const to = name === "sagas" ? {} : { view: name };
    return h("a", { href: addressOf(to), "aria-current": at === name ? "page" : null, onclick: (event) => (event.preventDefault(), go(to)) }, t(name));
  };
  document.documentElement.lang = language();
  document.title = `nancalacc · ${t("title")}`;
  document.getElementById("skip-link").textContent = t("skipLink");
  replace(
    header,
    h("span", { class: "brand" }, "nancalacc"),
    h("nav", { "aria-label": t("title") }, Object.keys(VIEWS).map(tab)),
    h("span", { class: "space" }),
    me?.full_sync_dags.length > 0 && h("button", { type: "button", class: "primary start", "aria-label": t("startFullSync"), onclick: startFullSync }, h("span", { "aria-hidden": "true" }, "+"), h("span", { class: "words" }, t("startFullSync"))),
    h(
      "button",
      {
        type: "button",
        class: "plain",
        lang: language() === "en" ? "zh-CN" : "en",
        onclick: () => {
          switchLanguage();
          show();
        },
      },
      t("switchLanguage"),
    ),
  );
}

function startFullSync() {
  ask({
    title: t("startFullSync"),
    text: t("startText"),
    path: "/full-syncs",
    fields: [
      { name: "dag_id", label: t("definition"), kind: "choice", options: me.full_sync_dags },
      { name: "dry_run", label: t("dryRun"), kind: "flag" },
      { name: "allow_mass_delete", label: t("allowMassDelete"), kind: "flag" },
    ],
    then: (result) => go({ saga: result.transaction_id }),
  });
}

async function poll(shown, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await refreshOnce(shown, signal);
    await pause(shown.seconds * 1000, signal);
  }
}

async function refreshOnce(shown, signal) {
  try {
    if (me === null) {
      me = await get("/me", {}, { signal });
      renderHeader(stateOf(location.search));
    }
    const strip = document.body.classList.contains("embedded") ? null : refreshStrip(go, { signal });
    await Promise.all([shown.refresh({ signal }), strip]);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof Refused && error.status === 401) {
      showProblem(t("signIn"), " ", h("a", { href: loginAddress(), target: "_top", onclick: openInAirflow }, t("signInLink")));
    } else if (error instanceof Refused) {
      showProblem(error.message);
    } else if (error instanceof TypeError) {
      showProblem(t("offline"));
    } else {
      toast(error.message, { error: true });
      throw error;
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, milliseconds);
    function done() {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      signal.removeEventListener("abort", done);
      resolve();
    }
    function seen() {
      if (!document.hidden) done();
    }
    document.addEventListener("visibilitychange", seen);
    signal.addEventListener("abort", done);
  });
}

addEventListener("popstate", show);
addEventListener("keydown", (event) => {
  if (document.getElementById("dialog").open || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "/" && !event.target.matches("input, textarea, select")) {
    const search = document.getElementById("search");
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
    return;
  }
  view?.onkey(event);
});
setInterval(() => {
  if (document.hidden) return;
  view?.tick();
  refreshTimes();
}, 1000);
followTheme();
show();
