// One call that got no success: the reason first.
import { copyButton, el, raw, when } from "./dom.js";
import { t } from "./words.js";

export function drawRefused(call, known, only) {
  const headingId = `refused-${call.number}`, name = id => known.names[id] ?? id;
  const status = call.status === null ? t("cutAnswer") : `HTTP ${call.status}`;
  return el("li", null, el("article", { class: "refused", "aria-labelledby": headingId },
    el("div", { class: "reason" }, el("h2", { id: headingId }, call.result), call.message && el("p", null, call.message),
      el("p", { class: "tags" }, el("span", { class: "tag" }, status), el("span", { class: "tag" }, call.endpoint),
        call.fault && el("span", { class: "tag amber" }, t("byFault")), call.taken && el("span", { class: "tag amber" }, t("taken")))),
    el("div", { class: "facts" },
      el("div", { class: "top" }, when(call.at), el("span", { class: "tag" }, call.app_key ?? t("noApp"))),
      call.recipients.length > 0 && el("div", null, el("h3", null, t("asked")), el("ul", { class: "chips" }, call.recipients.map(id =>
        el("li", null, el("button", { type: "button", title: t("only", name(id)), onclick: () => only(id) }, name(id)))))),
      call.template && el("div", null, el("h3", null, t("template")), el("code", null, call.template)),
      call.out_track_id && el("div", null, el("h3", null, t("track")), el("div", { class: "id" }, el("code", null, call.out_track_id), copyButton(call.out_track_id)))),
    raw(() => [[t("request"), call.request], [t("answer"), call.answer]])));
}
