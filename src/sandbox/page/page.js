// The page: what is asked for, what is shown, and how it stays up to date. The server pages and filters; the page holds
// one page of rows and asks anew when it is told that something happened.
import { drawCard } from "./card.js";
import { $, ask, copyButton, el, number, say } from "./dom.js";
import { drawFaults, loadFaults } from "./faults.js";
import { drawRefused } from "./refused.js";
import { lang, otherLanguage, t } from "./words.js";

const ROWS = 25;
const COMMAND = "dingcard publish --mobile 15012341231 --template overtime --param pv=2000";
const ENDPOINTS = ["gettoken", "getbymobile", "accessToken", "interactiveCards.send", "interactiveCards.update", "createAndDeliver", "create", "spaces", "deliver", "update", "unknown"];
const FILTERS = { cards: ["q", "recipient", "template", "app", "outcome"], refused: ["q", "recipient", "template", "app", "endpoint"] };

// What is asked for stands in the address, so that it can be sent to somebody.
const address = new URLSearchParams(location.search);
const asked = { view: address.get("view") === "refused" ? "refused" : "cards", page: Math.max(0, (Number(address.get("page")) || 1) - 1) };
for (const key of ["q", "recipient", "template", "app", "outcome", "endpoint"]) asked[key] = address.get(key) ?? "";

let known = { apps: [], templates: {}, names: {} };
let rows = [];             // as loaded, newest first
let total = 0;             // on the server, under the present filters
let counts = null;         // of everything
let ready = false;         // a list came
let turn = 0;              // answers to an older question are dropped
const nodes = new Map();   // id -> { node, text }

const idOf = row => row.out_track_id !== undefined && row.number === undefined ? row.out_track_id : `#${row.number}`;
const filters = () => FILTERS[asked.view].filter(key => asked[key]);

function trouble(error) {
  $("trouble").hidden = !error;
  $("trouble").textContent = error ? t("trouble", error.message) : "";
}

// ---- the list ------------------------------------------------------------------------------------------------
// Brings the list in the page in line with `rows`. What was open or focused stays so.
function show() {
  const list = $("list"), wanted = new Set(rows.map(idOf));
  for (const [id, { node }] of nodes) if (!wanted.has(id)) { node.remove(); nodes.delete(id); }
  let place = list.firstChild;
  for (const row of rows) {
    const id = idOf(row), text = JSON.stringify(row), old = nodes.get(id);
    let node = old?.node;
    if (old?.text !== text) {
      node = (asked.view === "cards" ? drawCard : drawRefused)(row, known, only);
      nodes.set(id, { node, text });
      if (old) {
        if (place === old.node) place = old.node.nextSibling;
        exchange(old.node, node);
      }
    }
    if (node === place) place = place.nextSibling;
    else if (node.nextSibling !== place || !node.parentNode) list.insertBefore(node, place);
  }
  const pages = Math.max(1, Math.ceil(total / ROWS));
  $("pages").hidden = pages === 1 && asked.page === 0;
  $("where").textContent = t("where", number(asked.page + 1), number(pages));
  $("newer").disabled = asked.page === 0;
  $("older").disabled = asked.page + 1 >= pages;
  showEmpty();
  showSums();
}
function exchange(old, node) {
  const open = [...old.querySelectorAll("details")].map(details => details.open);
  const focusable = "button, summary, pre", focus = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
  const pressed = [...old.querySelectorAll("[aria-pressed]")].findIndex(chip => chip.getAttribute("aria-pressed") === "true");
  old.replaceWith(node);
  node.querySelectorAll("[aria-pressed]")[pressed]?.click();
  [...node.querySelectorAll("details")].forEach((details, n) => { if (n < open.length) details.open = open[n]; });
  if (focus >= 0) node.querySelectorAll(focusable)[focus]?.focus({ preventScroll: true });
}
function showEmpty() {
  if (rows.length > 0 || !ready) return $("empty").replaceChildren();
  if (filters().length > 0) return $("empty").replaceChildren(el("div", { class: "empty" }, el("h2", null, t("nothing")), el("button", { type: "button", class: "plain", onclick: reset }, t("reset"))));
  if (asked.view === "refused") return $("empty").replaceChildren(el("div", { class: "empty" }, el("h2", null, t("noRefused"))));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 84 64");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M4 36 18 8h48l14 28v20a4 4 0 0 1-4 4H8a4 4 0 0 1-4-4zM4 36h22l5 9h22l5-9h22M28 19h28M25 27h34");
  for (const [key, value] of Object.entries({ fill: "none", stroke: "currentColor", "stroke-width": 3, "stroke-linejoin": "round", "stroke-linecap": "round" })) path.setAttribute(key, value);
  svg.append(path);
  $("empty").replaceChildren(el("div", { class: "empty" }, svg, el("h2", null, t("emptyTitle")), el("p", null, t("emptyText", location.origin)),
    el("div", { class: "command" }, el("code", null, COMMAND), copyButton(COMMAND))));
}
function showSums() {
  const sum = (n, key, bad) => el("span", { class: bad && "bad" }, el("b", null, number(n)), t(key, n));
  const parts = filters().length > 0 ? [sum(total, "found")] : [];
  if (counts) {
    const { total: shown, recipients, duplicates } = counts.calls.deliveries;
    parts.push(sum(counts.cards, "cards"), sum(shown, "deliveries"), sum(recipients, "recipients"), sum(duplicates, "duplicates", duplicates > 0), sum(counts.calls.total, "called"));
  }
  // Its button is kept, or a click that falls between two counts would be lost.
  const [clear] = $("sums").querySelectorAll("button");
  $("sums").replaceChildren(...parts, clear ?? el("button", { type: "button", id: "clear", onclick: removeAll }));
  $("clear").textContent = t("clear");
  $("clear").hidden = !counts || counts.cards + counts.refused === 0;
  for (const [view, key] of [["cards", "viewCards"], ["refused", "viewRefused"]]) {
    $(`view-${view}`).textContent = t(key, counts ? number(counts[view]) : "");
    $(`view-${view}`).setAttribute("aria-pressed", String(asked.view === view));
  }
  $("reset").hidden = filters().length === 0;

  const calls = counts?.calls.calls ?? [];
  $("what").hidden = calls.length === 0;
  $("calls").setAttribute("aria-label", t("calls"));
  const head = el("tr", null, ["app", "endpoint", "result", "count"].map(key => el("th", { scope: "col" }, t(key))));
  const lines = calls.map(row => el("tr", null, el("td", null, row.app_key ?? t("none")), el("td", null, el("code", null, row.endpoint)),
    el("td", null, el("code", null, row.result)), el("td", null, number(row.count))));
  $("calls").replaceChildren(el("table", null, el("thead", null, head), el("tbody", null, lines)));
}

// ---- the server ----------------------------------------------------------------------------------------------
async function load() {
  const mine = ++turn, away = asked.page > 0 || scrollY > 320;
  const query = new URLSearchParams({ limit: ROWS, offset: asked.page * ROWS });
  for (const key of filters()) query.set(key, asked[key]);
  try {
    const answer = await ask(`/sandbox/${asked.view}?${query}`);
    if (mine !== turn) return;
    const got = answer[asked.view === "cards" ? "cards" : "calls"], fresh = new Map(got.map(row => [idOf(row), row]));
    const isNew = ready && rows.length > 0 && fresh.size > 0 && [...fresh.keys()].some(id => !nodes.has(id));
    // Whoever reads further down keeps what is read, with its changes; the new is offered.
    if (away && isNew && keepsReading) rows = rows.map(row => fresh.get(idOf(row)) ?? row);
    else { rows = got; keepsReading = true; }
    $("pill").hidden = !(away && isNew && rows !== got);
    total = answer.total;
    ready = true;
    trouble(null);
    show();
  } catch (error) { if (mine === turn) trouble(error); }
}
let keepsReading = false;  // false when the reader asked for another list

async function count() {
  try {
    const [calls, cards, refused] = await Promise.all([ask("/sandbox/calls"), ask("/sandbox/cards?limit=0"), ask("/sandbox/refused?limit=0"), loadFaults()]);
    counts = { calls, cards: cards.total, refused: refused.total };
    showSums();
  } catch { /* the live line says that it is away */ }
}
async function removeAll() {
  if (!confirm(t("sure"))) return;
  try { for (const what of ["cards", "refused"]) await ask(`/sandbox/${what}`, { method: "DELETE" }); } catch (error) { trouble(error); }
}

// Does the work at once, and then at most once in a while however often it is asked for; a slow answer makes it rarer.
function paced(work, pause) {
  let running = false, again = false;
  return async function run() {
    if (running) { again = true; return; }
    running = true;
    const before = performance.now();
    await work();
    setTimeout(() => { running = false; if (again) { again = false; run(); } }, Math.max(pause, 3 * (performance.now() - before)));
  };
}
const loadSoon = paced(load, 250), countSoon = paced(count, 700);

function listen() {
  const source = new EventSource("/sandbox/events");
  const state = () => {
    const on = source.readyState === EventSource.OPEN, text = t(on ? "live" : "away");
    $("live").classList.toggle("on", on);
    if ($("live").textContent !== text) $("live").textContent = text;
  };
  source.addEventListener("open", () => { state(); loadSoon(); countSoon(); });
  source.addEventListener("error", () => {
    state();
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
  for (const name of ["card", "update", "clear", "refused", "lagged"]) source.addEventListener(name, () => {
    if (asked.view === "refused" ? name !== "card" && name !== "update" : name !== "refused") loadSoon();
    countSoon();
  });
  source.addEventListener("faults", countSoon);
  state();
  onlang = state;
}
let onlang = () => {};

// ---- the reader ----------------------------------------------------------------------------------------------
// Another list is asked for: it is loaded from its first page, unless a page is given.
function askFor(changes) {
  Object.assign(asked, { page: 0 }, changes);
  keepsReading = false;
  if (changes.view) { rows = []; ready = false; nodes.forEach(({ node }) => node.remove()); nodes.clear(); }
  const query = new URLSearchParams();
  if (asked.view !== "cards") query.set("view", asked.view);
  for (const key of filters()) query.set(key, asked[key]);
  if (asked.page > 0) query.set("page", asked.page + 1);
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  for (const key of ["q", "recipient", "template", "app", "outcome", "endpoint"]) if ($(key).value !== asked[key]) $(key).value = asked[key];
  $("outcome").parentElement.hidden = asked.view !== "cards";
  $("endpoint").parentElement.hidden = asked.view !== "refused";
  scrollTo({ top: 0 });
  return load().then(() => { if (filters().length > 0) say(`${number(total)} ${t("found", total)}`); });
}
const only = id => askFor({ recipient: id });
function reset() {
  askFor({ q: "", recipient: "", template: "", app: "", outcome: "", endpoint: "" });
  $("q").focus();
}
function options(id, pairs) {
  $(id).replaceChildren(el("option", { value: "" }, t("any")), ...pairs.map(([value, text]) => el("option", { value }, text)));
  $(id).value = asked[id];
}
function speak() {
  document.documentElement.lang = lang() === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  $("q").placeholder = t("hint");
  $("lang").textContent = t("other");
  $("lang").lang = lang() === "zh" ? "en" : "zh-CN";
  $("pill").textContent = t("fresh");
  $("views").setAttribute("aria-label", t("views"));
  $("filters").setAttribute("aria-label", t("filters"));
  options("outcome", Object.entries(t("outcomes")));
  options("endpoint", ENDPOINTS.map(name => [name, name]));
  options("app", known.apps.map(app => [app.app_key, app.app_key]));
  $("templates").replaceChildren(...Object.entries(known.templates).map(([id, template]) => el("option", { value: id }, template.title)));
  $("people").replaceChildren(...Object.entries(known.names).map(([id, name]) => el("option", { value: id }, name)));
  drawFaults(known, trouble);
  onlang();
  nodes.forEach(entry => { entry.text = null; });
  show();
}

$("search").addEventListener("submit", event => { event.preventDefault(); askFor({ q: $("q").value.trim() }); });
let typing = null;
for (const key of ["q", "recipient", "template"]) $(key).addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => askFor({ [key]: $(key).value.trim() }), 250);
});
for (const key of ["app", "outcome", "endpoint"]) $(key).addEventListener("change", () => askFor({ [key]: $(key).value }));
$("reset").addEventListener("click", reset);
$("newer").addEventListener("click", () => askFor({ page: asked.page - 1 }).then(() => $("list").focus({ preventScroll: true })));
$("older").addEventListener("click", () => askFor({ page: asked.page + 1 }).then(() => $("list").focus({ preventScroll: true })));
$("view-cards").addEventListener("click", () => askFor({ view: "cards" }));
$("view-refused").addEventListener("click", () => askFor({ view: "refused" }));
$("pill").addEventListener("click", () => askFor({ page: 0 }).then(() => $("list").focus({ preventScroll: true })));
$("lang").addEventListener("click", () => { otherLanguage(); speak(); });
addEventListener("keydown", event => {
  const typed = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typed && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); $("q").focus(); }
  if (event.key === "Escape" && event.target === $("q") && $("q").value) { event.preventDefault(); askFor({ q: "" }); }
});
setInterval(() => { if (!document.hidden) countSoon(); }, 5000);

speak();
ask("/sandbox/directory").then(answer => { known = answer; speak(); }, trouble);
askFor({ page: asked.page });
countSoon();
listen();
