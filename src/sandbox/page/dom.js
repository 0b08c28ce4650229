// How elements are made and values are printed. Text goes in as text, and nothing here can make markup of it.
import { lang, t } from "./words.js";

export const $ = id => document.getElementById(id);

export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return node;
}

export const number = n => new Intl.NumberFormat(lang()).format(n);
export const pretty = value => typeof value === "string" ? value : JSON.stringify(value, null, 2);

export function when(text) {
  const at = new Date(text), today = at.toDateString() === new Date().toDateString();
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
  const shown = new Intl.DateTimeFormat(lang(), today ? clock : { month: "2-digit", day: "2-digit", ...clock }).format(at);
  return el("time", { datetime: text, title: text }, shown);
}

export function say(text) { $("say").textContent = text; }

export function copyButton(text) {
  if (!navigator.clipboard) return null;
  const button = el("button", { type: "button", class: "copy", onclick: async () => {
    try { await navigator.clipboard.writeText(text); } catch { return; }
    button.textContent = t("copied");
    say(t("copied"));
    setTimeout(() => { button.textContent = t("copy"); }, 1500);
  } }, t("copy"));
  return button;
}

// What went over the wire, made when it is opened: most never are.
export function raw(parts) {
  const box = el("details", { class: "raw" }, el("summary", null, t("raw")));
  box.addEventListener("toggle", () => {
    if (!box.open || box.children.length > 1) return;
    for (const [name, value] of parts()) box.append(el("h3", null, name), el("pre", { class: "json", tabindex: 0, "aria-label": name }, pretty(value)));
  });
  return box;
}

export async function ask(path, options) {
  const response = await fetch(path, options), body = await response.json();
  if (!response.ok) throw new Error(body.error ?? response.status);
  return body;
}
