// The Markdown that a template's body is written in, as far as DingTalk's cards show it. It makes elements, never markup:
// a tag in the text is text, except the few that DingTalk knows, which are left out. Pictures are named, not loaded.
import { el } from "./dom.js";

const INLINE = [
  [/^`([^`]+)`/, ([, code]) => el("code", null, code)],
  [/^!\[([^\]]*)\]\([^)\s]*\)/, ([, alt]) => el("span", { class: "picture" }, alt || "…")],
  [/^\[([^\]]+)\]\(([^)\s]+)\)/, ([, text, to]) => /^(https?|dingtalk):/i.test(to)
    ? el("a", { href: to, target: "_blank", rel: "noreferrer noopener" }, inline(text)) : el("span", null, inline(text))],
  [/^(\*\*|__)(?=\S)([\s\S]*?\S)\1/, ([, , text]) => el("strong", null, inline(text))],
  [/^(\*|_)(?=\S)([\s\S]*?\S)\1(?!\w)/, ([, , text]) => el("em", null, inline(text))],
  [/^~~(?=\S)([\s\S]*?\S)~~/, ([, text]) => el("s", null, inline(text))],
  [/^<a\s+atId=[^>]*>([^<]*)<\/a>/i, ([, name]) => el("strong", null, `@${name.replace(/^@/, "")}`)],
  [/^<br\s*\/?>/i, () => el("br")],
  [/^<\/?font\b[^>]*>/i, () => ""],
  [/^\\([\\`*_~[\]<>#-])/, ([, character]) => character],
  [/^\n/, () => el("br")],
];

function inline(text) {
  const parts = [];
  let plain = "";
  while (text) {
    // An underscore inside a word is part of it.
    const inWord = text[0] === "_" && /\w$/.test(plain);
    let found = null;
    for (const [pattern, make] of inWord ? [] : INLINE) {
      found = pattern.exec(text);
      if (found) { parts.push(plain, make(found)); plain = ""; text = text.slice(found[0].length); break; }
    }
    if (!found) { plain += text[0]; text = text.slice(1); }
  }
  return [...parts, plain].filter(part => part !== "");
}

const LIST = /^\s*(?:([-*+])|(\d+)[.)])\s+/;

// Lines of one kind in a row make a block.
const BLOCKS = [
  [/^\s*#{1,6}\s+/, line => el("p", { class: "heading" }, inline(line.replace(/^\s*#+\s+/, "").replace(/\s+#+\s*$/, "")))],
  [/^\s*([-*_])(\s*\1){2,}\s*$/, () => el("hr")],
];

export function markdown(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n"), blocks = [];
  const take = matches => { const taken = []; while (lines.length && matches(lines[0])) taken.push(lines.shift()); return taken; };
  while (lines.length) {
    const line = lines[0], single = BLOCKS.find(([pattern]) => pattern.test(line));
    if (/^\s*$/.test(line)) lines.shift();
    else if (/^\s*```/.test(line)) {
      lines.shift();
      blocks.push(el("pre", null, take(inside => !/^\s*```/.test(inside)).join("\n")));
      lines.shift();
    } else if (single) blocks.push(single[1](lines.shift()));
    else if (/^\s*>/.test(line)) blocks.push(el("blockquote", null, inline(take(quoted => /^\s*>/.test(quoted)).map(quoted => quoted.replace(/^\s*>\s?/, "")).join("\n"))));
    else if (LIST.test(line)) {
      const ordered = Boolean(LIST.exec(line)[2]);
      const items = take(item => LIST.test(item) && Boolean(LIST.exec(item)[2]) === ordered);
      blocks.push(el(ordered ? "ol" : "ul", null, items.map(item => el("li", null, inline(item.replace(LIST, ""))))));
    } else {
      const plain = other => !/^\s*($|>|```)/.test(other) && !LIST.test(other) && !BLOCKS.some(([pattern]) => pattern.test(other));
      blocks.push(el("p", null, inline(take(plain).join("\n"))));
    }
  }
  return blocks;
}
