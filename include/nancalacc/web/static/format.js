// Times, durations and numbers as people read them.

import { language, t } from "./texts.js";

let offset = 0;

// The server's clock counts: that of a person's machine may be wrong.
export function setClock(moment) {
  offset = new Date(moment).getTime() - Date.now();
}

export function now() {
  return Date.now() + offset;
}

export function time(moment) {
  return moment ? new Date(moment).getTime() : null;
}

export function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined || Number.isNaN(milliseconds)) return "–";
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 60) return t("seconds", { seconds: seconds < 10 ? seconds.toFixed(1) : Math.floor(seconds) });
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return t("minutes", { minutes, seconds: Math.floor(seconds % 60) });
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return t("hours", { hours, minutes: minutes % 60 });
  return t("days", { count: Math.floor(hours / 24) });
}

export function ago(moment) {
  if (!moment) return "–";
  const seconds = Math.round((time(moment) - now()) / 1000);
  const format = new Intl.RelativeTimeFormat(language(), { numeric: "auto", style: "short" });
  const size = Math.abs(seconds);
  if (size < 60) return format.format(Math.trunc(seconds), "second");
  if (size < 3600) return format.format(Math.trunc(seconds / 60), "minute");
  if (size < 48 * 3600) return format.format(Math.trunc(seconds / 3600), "hour");
  return format.format(Math.trunc(seconds / 86400), "day");
}

export function moment(value) {
  if (!value) return "–";
  return new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "medium" }).format(new Date(value));
}

// Day and second; the year is in `moment`.
export function instant(value) {
  return new Intl.DateTimeFormat(language(), { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }).format(new Date(value));
}

export function clock(value) {
  return new Intl.DateTimeFormat(language(), { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }).format(new Date(value));
}

export function number(value) {
  return new Intl.NumberFormat(language()).format(value);
}
