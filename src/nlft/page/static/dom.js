// The document's few helpers. What a model wrote goes in through textContent alone.

import { visibleParts } from "./text.js";

export const byId = (id) => document.getElementById(id);

export function element(name, { text, className, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export function button(text, onClick, attributes = {}) {
  const made = element("button", { text, type: "button", ...attributes });
  made.addEventListener("click", onClick);
  return made;
}

/** Text of a model or a file, its invisible characters made visible. */
export function shownText(tag, text, options, prose = false) {
  const parts = visibleParts(text, prose);
  const spans = parts.map((part) => (
    part.kind === "text" ? part.text : element("span", { text: part.text, className: part.kind })));
  return element(tag, options, ...spans);
}

/** A table of facts: rows of [name, ...values]. */
export function factTable(head, rows) {
  const cells = (name, row) => row.map((text) => element(name, { text }));
  const body = rows.map(([name, ...values]) => (
    element("tr", {}, element("th", { text: name, scope: "row" }), ...cells("td", values))));
  return element("table", { className: "facts" },
    element("thead", {}, element("tr", {}, ...cells("th", head))), element("tbody", {}, ...body));
}

/** Call at most once a frame, with the last arguments. */
export function onceAFrame(call) {
  let waiting = null;
  return (...args) => {
    if (waiting === null) requestAnimationFrame(() => { const last = waiting; waiting = null; call(...last); });
    waiting = args;
  };
}
