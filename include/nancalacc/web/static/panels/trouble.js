// Why the saga is not well, in words.

import { h } from "../dom.js";
import { moment } from "../format.js";
import { shortError } from "../parts.js";
import { t } from "../texts.js";

export const name = "trouble";

export function shown(saga) {
  return [saga.error_message, saga.failed_step, saga.recovery_error, saga.recovery_tries, saga.recovery_at, saga.past_pivot, saga.status];
}

export function render(saga) {
  if (!saga.error_message && !saga.recovery_error) return [];
  const ended = ["compensated", "cancelled", "completed"].includes(saga.status);
  const again = saga.recovery_error && !saga.error_message?.includes(saga.recovery_error) ? `${saga.recovery_error.replace(/[.。]$/, "")}. ` : "";
  return h(
    "div",
    { class: `notice ${ended ? "warn" : "bad"}` },
    saga.error_message &&
      h("p", { class: "what" }, saga.failed_step && h("strong", {}, `${t("failedAt", { step: saga.failed_step })}. `), shortError(saga)),
    h("p", {}, saga.past_pivot ? t("published") : t("notPublished")),
    saga.recovery_error && h("p", {}, again, t("recoveryTries", { count: saga.recovery_tries, at: moment(saga.recovery_at) })),
  );
}
