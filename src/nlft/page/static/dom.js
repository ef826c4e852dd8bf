// Build parts of the document. A model's text goes in only through textContent.

import { visibleParts } from "./text.js";

/**
 * The elements of the page's template that are more than an HTMLElement.
 * @typedef {{
 *   step: HTMLInputElement, "other-step": HTMLInputElement, search: HTMLInputElement,
 *   label: HTMLSelectElement, sort: HTMLSelectElement, beside: HTMLSelectElement,
 *   previous: HTMLButtonElement, next: HTMLButtonElement, play: HTMLButtonElement, "open-all": HTMLButtonElement,
 *   legend: HTMLDetailsElement, share: HTMLDetailsElement, drawing: HTMLTemplateElement, keys: HTMLDialogElement,
 * }} Parts
 * @typedef {{ text?: string, className?: string, [attribute: string]: string | number | boolean | null | undefined }} Options
 */

/** @type {<Id extends string>(id: Id) => Id extends keyof Parts ? Parts[Id] : HTMLElement} */
// @ts-expect-error -- only the template determines the type of each element
export const byId = (id) => document.getElementById(id);

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Options} options
 * @param {(Node | string)[]} children
 */
export function element(name, { text, className, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/**
 * Make an element of a drawing. The page has an empty one, which gives the namespace.
 * @param {string} name
 * @param {{ [attribute: string]: string | number }} attributes
 * @param {(Node | string)[]} children
 */
export function drawing(name, attributes = {}, ...children) {
  const { namespaceURI } = byId("drawing").content.firstElementChild;
  const made = document.createElementNS(namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.append(...children);
  return made;
}

export function button(text, onClick, attributes = {}) {
  const made = element("button", { text, type: "button", ...attributes });
  made.addEventListener("click", onClick);
  return made;
}

/** Show text of a model or a file, with its invisible characters made visible. */
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

/** Call at most once per frame, with the last arguments. */
export function onceAFrame(call) {
  let waiting = null;
  return (...args) => {
    if (waiting === null) requestAnimationFrame(() => { const last = waiting; waiting = null; call(...last); });
    waiting = args;
  };
}

/** A name that nobody else has. Over plain HTTP, on another machine, a browser has no `randomUUID`. */
export function uniqueName() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
