// The panel that switches faults on and off. What is in force is the sandbox's to say; the panel asks, and puts the whole
// list back with one fault more or fewer.
import { $, ask, el, say } from "./dom.js";
import { t } from "./words.js";

const ENDPOINTS = ["gettoken", "getbymobile", "accessToken", "interactiveCards.send", "interactiveCards.update", "createAndDeliver", "create", "spaces", "deliver", "update"];
const REFUSALS = ["token_rejected", "server_error", "quota_spent", "ip_not_allowed", "permission_missing"];
const SWITCHES = ["latency", "throttle", "token_rejected", "server_error", "lose_answer", "ip_ban", "quota_spent", "ip_not_allowed", "permission_missing"];

// The switch that a fault belongs to, or its kind where it has none.
const switchOf = fault => fault.kind === "refuse" ? fault.reason : fault.kind;

let inForce = { faults: [], seed: null };
let trouble = () => {};
let kept = {}; // what the form holds, over a change of language

async function put(faults) {
  const body = JSON.stringify({ faults, ...(inForce.seed === null ? {} : { seed: inForce.seed }) });
  try { take(await ask("/sandbox/faults", { method: "PUT", body })); trouble(null); } catch (error) { trouble(error); }
}

function given() {
  const value = id => $(id)?.value.trim() ?? "", scope = {};
  if (value("f-endpoint")) scope.endpoint = value("f-endpoint");
  if (value("f-app")) scope.app = value("f-app");
  if (value("f-recipient")) scope.recipient = value("f-recipient");
  const amount = Number(value("f-amount"));
  if (value("f-often") === "next") scope.next = Math.max(1, Math.round(amount));
  if (value("f-often") === "chance") scope.probability = Math.min(100, Math.max(0, amount)) / 100;
  return { scope, number: id => Math.max(0, Math.round(Number(value(id)))) };
}

function fault(key) {
  const { scope, number } = given();
  if (REFUSALS.includes(key)) return { kind: "refuse", reason: key, ...scope };
  if (key === "latency") {
    const p50 = Math.max(1, number("f-p50"));
    return { kind: key, p50_ms: p50, p99_ms: Math.max(p50, number("f-p99")), ...scope };
  }
  if (key === "throttle") {
    // It is on or off, for no single calls.
    const { next, probability, ...rest } = scope;
    return { kind: key, on: true, per_second: Math.max(1, number("f-rate")), ...rest };
  }
  return { kind: key, ...scope };
}

function toggle(key) {
  const others = inForce.faults.filter(fault => switchOf(fault) !== key);
  return put(others.length < inForce.faults.length ? others : [...inForce.faults, fault(key)]);
}

async function endTokens() {
  // Of itself it is no fault that stays.
  await put([...inForce.faults, { kind: "expire_tokens" }]);
  say(t("tokensEnded"));
}

const labelled = (text, control) => el("label", null, el("span", null, text), control);
const choice = (id, first, values) => el("select", { id }, el("option", { value: "" }, first), values.map(value => el("option", { value }, value)));
const amount = (id, value, min, max) => el("input", { id, type: "number", value, min, max, inputmode: "numeric" });

// Builds the panel in the present language.
export function drawFaults(known, onTrouble) {
  trouble = onTrouble;
  for (const control of $("faults").querySelectorAll("select, input")) kept[control.id] = control.value;
  const often = el("select", { id: "f-often" }, ["always", "next", "chance"].map(value => el("option", { value }, t(value))));
  const many = labelled(t("amount"), amount("f-amount", 1, 1));
  const showMany = () => { many.hidden = often.value === "always"; };
  often.addEventListener("change", showMany);
  const switches = SWITCHES.map(key => el("button", { type: "button", role: "switch", id: `f-${key}`, "aria-checked": "false", onclick: () => toggle(key) },
    el("span", { class: "knob", "aria-hidden": "true" }), t("faultKinds")[key]));
  $("faults").replaceChildren(
    el("div", { class: "switches", role: "group", "aria-label": t("switches") }, switches),
    el("div", { class: "filters", role: "group", "aria-label": t("forWhom") },
      labelled(t("endpoint"), choice("f-endpoint", t("anyEndpoint"), ENDPOINTS)),
      labelled(t("app"), choice("f-app", t("anyApp"), known.apps.map(app => app.app_key))),
      labelled(t("recipient"), el("input", { id: "f-recipient", placeholder: t("anyone"), list: "people", autocomplete: "off", spellcheck: "false" })),
      labelled(t("often"), often), many),
    el("div", { class: "filters", role: "group", "aria-label": t("amount") },
      labelled(`${t("faultKinds").latency}: ${t("p50")}`, amount("f-p50", 300, 1)), labelled(`${t("faultKinds").latency}: ${t("p99")}`, amount("f-p99", 3000, 1)),
      labelled(`${t("faultKinds").throttle}: ${t("perSecond")}`, amount("f-rate", 1, 1))),
    el("ul", { class: "in-force", id: "force" }),
    el("div", { class: "tags" }, el("button", { type: "button", onclick: endTokens }, t("endTokens")),
      el("button", { type: "button", id: "f-off", onclick: () => put([]) }, t("allOff"))));
  for (const [id, value] of Object.entries(kept)) if ($(id)) $(id).value = value;
  showMany();
  take(inForce);
}

// What the sandbox says is in force.
function take(answer) {
  inForce = answer;
  const on = new Set(inForce.faults.map(switchOf));
  for (const key of SWITCHES) $(`f-${key}`)?.setAttribute("aria-checked", String(on.has(key)));
  $("in-force").textContent = t("inForce", inForce.faults.length);
  $("in-force").classList.toggle("amber", inForce.faults.length > 0);
  if (!$("force")) return;
  $("f-off").hidden = inForce.faults.length === 0;
  const row = (fault, n) => {
    const { kind, reason, next, ...rest } = fault, key = switchOf(fault), label = t("faultKinds")[key] ?? kind;
    const details = Object.entries(rest).filter(([, value]) => value !== null && value !== false).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
    return el("li", null, el("b", null, label), " ", details.join(", "), next !== undefined && el("span", { class: "tag" }, t("left", next)),
      el("button", { type: "button", class: "copy", "aria-label": `${t("off")}: ${label}`, onclick: () => put(inForce.faults.filter((_, other) => other !== n)) }, t("off")));
  };
  $("force").replaceChildren(...inForce.faults.map(row));
}

export async function loadFaults() { take(await ask("/sandbox/faults")); }
