// One card: how it looks in the chat of one of its recipients, and what is known of it.
import { copyButton, el, pretty, raw, when } from "./dom.js";
import { markdown } from "./markdown.js";
import { t } from "./words.js";

const filled = (text, params) => text.replace(/\$\{([^}]*)\}/g, (_, name) => params[name.trim()] ?? "");
const short = id => id.replace(/\.schema$/, "");
const dataOf = data => ({ ...data?.cardParamMap, ...data?.cardMediaIdParamMap });

function valueOf(text) {
  if (/^\s*[[{]/.test(text)) {
    try { return el("pre", { class: "json", tabindex: 0 }, pretty(JSON.parse(text))); } catch { /* it only looked like JSON */ }
  }
  return text;
}

// Numbers as tiles, everything else as rows.
function fields(params, names) {
  const isNumber = text => /^[+-]?[\d.,]{1,12}\s?[%‰a-zA-Z\u4e00-\u9fff¥$]{0,3}$/.test(text) && /\d/.test(text);
  const pairs = names.filter(name => Object.hasOwn(params, name)).map(name => [name, String(params[name])]);
  const list = (kind, pairs) => pairs.length > 0 && el("dl", { class: kind },
    pairs.map(([name, text]) => el("div", null, el("dt", null, name), el("dd", null, valueOf(text)))));
  return [list("tiles", pairs.filter(pair => isNumber(pair[1]))), list("rows", pairs.filter(pair => !isNumber(pair[1])))];
}

function bubble(card, params, templates, headingId) {
  const known = Object.hasOwn(templates, card.template) ? templates[card.template] : {};
  const own = typeof params.title === "string" && params.title !== "";
  const heading = known.title ? filled(known.title, params) : own ? params.title : short(card.template);
  // A body says what it wants of the parameters; without one all are shown.
  const all = known.body ? [] : Object.keys(params).filter(name => known.title || !own || name !== "title");
  const parts = fields(params, known.fields?.length ? known.fields : all);
  return el("div", { class: "bubble" }, el("h2", { id: headingId }, heading),
    known.body && el("div", { class: "says" }, markdown(filled(known.body, params))),
    parts.some(Boolean) || known.body ? parts : el("p", { class: "none" }, t("noparams")), el("div", { class: "end" }));
}

// Everybody it was meant for, once each: what sort of place, how often shown, why not.
function places(card) {
  const seen = new Map();
  const at = ({ space_type: type, space_id: id }) => {
    const key = `${type}.${id}`;
    if (!seen.has(key)) seen.set(key, { type, id, count: 0, why: null });
    return seen.get(key);
  };
  for (const delivery of card.deliveries) at(delivery).count += 1;
  for (const failure of card.failures) { const place = at(failure); if (place.count === 0) place.why = failure.message; }
  return [...seen.values()];
}

// Each update with the values before and after it, oldest first. Where early updates are no longer remembered, what
// was there before them is not known.
function changes(card) {
  let before = card.updates.length === card.update_count ? dataOf(card.request?.cardData) : null;
  return card.updates.map(({ at, request }) => {
    const options = request?.cardUpdateOptions ?? request?.cardOptions ?? {}, rows = [];
    const byKey = options.updateCardDataByKey === true;
    if (request?.cardData) {
      const given = dataOf(request.cardData);
      const after = !byKey ? given : before && { ...before, ...given };
      for (const key of new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? given)])) {
        const from = before?.[key], to = (after ?? given)[key];
        if (from !== to) rows.push({ key, from, to });
      }
      before = after;
    }
    for (const [user, data] of Object.entries(request?.privateData ?? {})) {
      for (const [key, to] of Object.entries(dataOf(data))) rows.push({ key, to, user });
    }
    return { at, byKey, data: Boolean(request?.cardData), rows };
  });
}

function updates(card, name) {
  if (card.update_count === 0) return null;
  const row = ({ key, from, to, user }) => el("p", null, el("b", null, key), user && el("span", null, t("priv", name(user))),
    from !== undefined && el("del", null, from), from !== undefined && to !== undefined && el("span", { "aria-hidden": "true" }, "→"),
    to !== undefined ? el("ins", null, to) : el("span", null, t("gone")));
  const one = ({ at, byKey, data, rows }) => el("li", null, when(at), el("div", null,
    rows.length ? rows.map(row) : el("p", null, el("span", null, t("same"))), data && el("div", { class: "how" }, t(byKey ? "bykey" : "all"))));
  const kept = card.updates.length;
  return el("section", { class: "updates" },
    el("h3", null, t("updates", card.update_count), kept < card.update_count && ` · ${t("cut", kept)}`), el("ol", null, changes(card).reverse().map(one)));
}

const KEPT_CHIPS = 10;

// `known`: the directory of the sandbox. `only(id)` narrows the list to a recipient.
export function drawCard(card, known, only) {
  const name = id => known.names[id] ?? id, headingId = `card-${card.out_track_id}`;
  const all = places(card), shown = all.filter(place => place.count > 0), missed = all.filter(place => place.count === 0);
  const face = el("div", { class: "face" }), chips = new Map();

  // The chat of one recipient, who may have data of its own.
  function look(place) {
    const params = place?.type === "IM_ROBOT" ? { ...card.params, ...card.private[place.id] } : card.params;
    const group = place?.type === "IM_GROUP";
    face.replaceChildren(
      el("div", { class: `chat ${group ? "group" : "single"}` },
        place && el("div", { class: "chat-head" }, el("span", null, t("chat")[place.type]), " ", el("b", null, group ? name(place.id) : card.app_key),
          !group && el("span", null, ` · ${t("as")} ${name(place.id)}`)),
        el("div", { class: "message" }, el("span", { class: "avatar", "aria-hidden": "true" }, card.app_key.slice(0, 1).toUpperCase()),
          el("div", null, group && el("div", { class: "sender" }, card.app_key, " ", el("span", { class: "tag" }, t("robot"))),
            bubble(card, params, known.templates, headingId)))),
      place ? el("button", { type: "button", class: "link", onclick: () => only(place.id) }, t("only", name(place.id))) : "");
    for (const [other, chip] of chips) chip.setAttribute("aria-pressed", String(other === place));
  }
  function chip(place) {
    const { type, id, count } = place;
    const button = el("button", { type: "button", "aria-pressed": "false", class: count > 1 && "twice", title: t("see", name(id)), onclick: () => look(place) },
      el("small", null, t("kind")[type] ?? type), name(id), count > 1 && ` · ${t("times", count)}`);
    chips.set(place, button);
    return el("li", null, button);
  }
  function recipients() {
    if (shown.length === 0) return el("p", { class: "nobody" }, t("nobody"));
    const list = el("ul", { class: "chips" }, shown.slice(0, KEPT_CHIPS).map(chip));
    if (shown.length > KEPT_CHIPS) {
      const rest = el("li", null, el("button", { type: "button", class: "more", onclick: () => {
        const added = shown.slice(KEPT_CHIPS).map(chip);
        rest.replaceWith(...added);
        added[0].firstChild.focus();
      } }, t("more", shown.length - KEPT_CHIPS)));
      list.append(rest);
    }
    return list;
  }
  const facts = el("div", { class: "facts" },
    el("div", { class: "top" }, when(card.created_at), el("span", { class: "tag" }, `${card.app_key} · ${card.api}`)),
    el("div", null, el("h3", null, t("to"), card.delivery_count > 1 && ` · ${card.delivery_count}`), recipients()),
    missed.length > 0 && el("div", null, el("h3", null, t("failed")), el("ul", { class: "missed" },
      missed.map(({ type, id, why }) => el("li", null, el("small", null, t("kind")[type] ?? type), " ", name(id), ": ", el("b", null, why))))),
    el("div", null, el("h3", null, t("template")), el("code", null, card.template)),
    el("div", null, el("h3", { title: t("job") }, t("track")), el("div", { class: "id" }, el("code", null, card.out_track_id), copyButton(card.out_track_id)), el("p", { class: "hint" }, t("job"))));
  look(shown[0] ?? missed[0]);
  const parts = () => [[t("request"), card.request], [t("answer"), card.answer],
    ...card.updates.flatMap(({ request, answer }, n) => {
      const which = t("update", card.update_count - card.updates.length + n + 1);
      return [[`${t("request")}, ${which}`, request], [`${t("answer")}, ${which}`, answer]];
    }), [t("wholeCard"), card]];
  return el("li", null, el("article", { "aria-labelledby": headingId }, face, facts, updates(card, name), raw(parts)));
}
