// The page lives in a frame of Airflow's, or alone: theme, language and links follow Airflow.

import { AIRFLOW } from "./api.js";

function shell() {
  try {
    return window.parent !== window && window.parent.document ? window.parent : null;
  } catch {
    return null;
  }
}

function wantedTheme() {
  const classes = shell()?.document.documentElement.classList;
  if (classes?.contains("dark")) return "dark";
  if (classes?.contains("light")) return "light";
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function followTheme() {
  const apply = () => {
    document.documentElement.dataset.theme = wantedTheme();
  };
  apply();
  addEventListener("storage", apply);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  const html = shell()?.document.documentElement;
  if (html) new MutationObserver(apply).observe(html, { attributes: true, attributeFilter: ["class"] });
}

export function airflowLanguage() {
  return localStorage.getItem("i18nextLng") || navigator.language || "en";
}

export function airflowAddress(path) {
  return new URL(path, AIRFLOW).href;
}

// A frame may not lead its window elsewhere, but the window's own links may.
export function openInAirflow(event) {
  const window_ = shell();
  if (!window_) return;
  event.preventDefault();
  const link = window_.document.createElement("a");
  link.href = event.currentTarget.href;
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1) link.target = "_blank";
  link.click();
}

// Airflow's address shows what the frame shows, so that it can be sent to somebody.
export function mirrorAddress() {
  const window_ = shell();
  const base = new URL("plugin/nancalacc", AIRFLOW).pathname;
  if (!window_ || !window_.location.pathname.startsWith(base)) return;
  const address = base + location.pathname + location.search;
  window_.history.replaceState(window_.history.state, "", address);
}

export function loginAddress() {
  const here = shell()?.location.href ?? location.href;
  return `${airflowAddress("auth/login")}?next=${encodeURIComponent(here)}`;
}
