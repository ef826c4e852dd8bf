// A completion's tokens on the page: built once, then updated where something changed; usable with the keyboard.

import { byId, element, shownText } from "./dom.js";
import { tagName, tokenFacts, verdictEffect } from "./logic.js";
import { state } from "./state.js";
import { ratio, runsRightToLeft, strength, visibleText } from "./text.js";

export const TAGS = {
  plain: "no tag",
  salient: "salient: by the judgment in a wrong completion, by the standard answer in a right one",
  neighbour: "its hidden state is close to a salient token's",
  gated: "weight 0, because too much of the completion is salient",
  struck: "struck: trained towards what else the base model would say here",
  inside: "the rest of a struck span: not trained",
  held: "held: trained to stay as the base model has it",
  kept: "outside the scope of the feedback: held to the base model itself",
  contradiction: "likely under base, but unlikely under standard",
};

const places = new WeakMap(); // token cell -> { panel, index }
let shownCell = null;
/** @type {(way: number) => void} */
let changeStep = () => {};

/** The place of a token cell: {panel, index}, or undefined. */
export const placeOf = (cell) => places.get(cell);

export function strip(condition, value) {
  const made = element("i", { className: "strip", "data-condition": condition, "aria-hidden": "true" });
  if (value !== undefined) paintStrip(made, strength(value));
  return made;
}

function paintStrip(made, share) {
  made.style.setProperty("--strength", share.toFixed(3));
}

export function markTag(cell, name) {
  cell.dataset.tag = Object.hasOwn(TAGS, name) ? name : "other";
}

/** Build one completion: its cells, and their current content. */
export function buildTokens(example, title) {
  // With a model, an edit can make a right completion wrong, and then it has a row for the judgment.
  const rows = example.label && !state.rescores ? ["standard"] : ["judge", "standard"];
  const rightToLeft = runsRightToLeft(example.tokens.join(""));
  const group = element("div", {
    className: "tokens", role: "listbox", "aria-orientation": "horizontal", "aria-multiselectable": "true",
    dir: rightToLeft ? "rtl" : "ltr", "aria-label": title,
  });
  const panel = { example, group, rows, rightToLeft, cells: [], strips: {}, drawn: [], now: null };
  for (const row of rows) panel.strips[row] = [];
  example.tokens.forEach((token, index) => {
    const strips = rows.map((row) => strip(row));
    rows.forEach((row, at) => panel.strips[row].push(strips[at]));
    const last = index === example.tokens.length - 1;
    const cell = element("span", {
      className: last ? "token end" : "token", role: "option", tabindex: index === 0 ? "0" : "-1",
    }, shownText("bdi", token, { className: "text" }), ...strips);
    places.set(cell, { panel, index });
    panel.cells.push(cell);
    panel.drawn.push({});
    group.append(cell);
    const replacement = example.replacements?.[index];
    if (replacement !== undefined) group.append(inPlace(replacement));
    if (token.includes("\n")) group.append(element("br"));
  });
  return panel;
}

/**
 * Show scores in a panel.
 *
 * now: {scores, verdict, after, changed}: recorded tags and weights, the what-if's or null, and the tokens to mark as
 * changed, or null.
 */
export function drawTokens(panel, now) {
  const { scores } = now;
  const fresh = panel.now?.scores !== scores;
  panel.now = now;
  panel.group.dataset.rows = panel.rows.filter((row) => scores[row]).join(" ");
  if (fresh) drawStrips(panel, scores);
  const verdict = now.after ?? now.verdict;
  panel.cells.forEach((cell, index) => {
    const name = tagName(verdict, index), changed = Boolean(now.changed?.[index]);
    const drawn = panel.drawn[index];
    if (drawn.name === name && drawn.changed === changed) return;
    markTag(cell, name);
    cell.classList.toggle("changed", changed);
    const replacement = panel.example.replacements?.[index];
    const instead = replacement === undefined ? "" : `, replaced by ${replacement ? visibleText(replacement) : "nothing"}`;
    cell.setAttribute("aria-label",
      `${visibleText(panel.example.tokens[index])}, ${name}${instead}${changed ? ", changed" : ""}`);
    drawn.name = name;
    drawn.changed = changed;
  });
}

/** What a reader wants in the place of the tokens before it. The cell's label says it too. */
function inPlace(text) {
  const title = text ? "what should stand here" : "nothing should stand here";
  return shownText("ins", text || "∅", { className: "replacement", "aria-hidden": "true", title });
}

function drawStrips(panel, scores) {
  for (const row of panel.rows) {
    const logp = scores[row];
    panel.strips[row].forEach((made, index) => {
      const share = strength(logp ? ratio(logp[index], scores.base[index]) : null);
      if (panel.drawn[index][row] === share) return;
      panel.drawn[index][row] = share;
      paintStrip(made, share);
    });
  }
}

export function redrawTooltip() {
  if (shownCell) showTooltip(shownCell);
}

export function showTooltip(cell) {
  hideTooltip();
  const { panel, index } = places.get(cell);
  if (!panel.now) return;
  shownCell = cell;
  const { scores, verdict, after } = panel.now;
  const facts = element("dl");
  for (const [name, value] of tokenFacts(scores, verdict, after, index)) {
    const className = name.split(" ")[0];
    facts.append(element("div", { className }, element("dt", { text: name }), shownText("dd", value)));
  }
  const tooltip = byId("tooltip");
  tooltip.replaceChildren(
    element("p", {}, shownText("bdi", panel.example.tokens[index], { className: "text" }),
      element("b", { text: verdictEffect(after ?? verdict, index) }),
      element("span", { text: `${index + 1} of ${panel.cells.length}` })),
    facts);
  tooltip.hidden = false;
  cell.setAttribute("aria-describedby", "tooltip");
  cell.classList.add("shown");
  const box = cell.getBoundingClientRect();
  const below = box.bottom + tooltip.offsetHeight + 12 < window.innerHeight;
  const upper = below ? box.bottom + 6 : Math.max(4, box.top - tooltip.offsetHeight - 6);
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tooltip.offsetWidth - 8));
  tooltip.style.setProperty("top", `${upper + window.scrollY}px`);
  tooltip.style.setProperty("left", `${left + window.scrollX}px`);
}

export function hideTooltip() {
  byId("tooltip").hidden = true;
  shownCell?.removeAttribute("aria-describedby");
  shownCell?.classList.remove("shown");
  shownCell = null;
}

/** The index that a key moves to, or null for other keys. Up and down follow the displayed lines. */
function keyTarget(panel, index, key) {
  const { cells, rightToLeft } = panel;
  if (key === "Home") return 0;
  if (key === "End") return cells.length - 1;
  if (key === "ArrowLeft" || key === "ArrowRight") return index + ((key === "ArrowRight") !== rightToLeft ? 1 : -1);
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const way = key === "ArrowDown" ? 1 : -1;
  const here = cells[index];
  const isBeyond = (cell, from) => way * (cell.offsetTop - from.offsetTop) > from.offsetHeight / 2;
  let next = index + way;
  while (cells[next] && !isBeyond(cells[next], here)) next += way;
  if (!cells[next]) return index;
  let best = next;
  for (let at = next; cells[at] && !isBeyond(cells[at], cells[next]); at += way) {
    if (Math.abs(cells[at].offsetLeft - here.offsetLeft) < Math.abs(cells[best].offsetLeft - here.offsetLeft)) best = at;
  }
  return best;
}

function onTokenKey(event) {
  const place = places.get(event.target);
  if (!place || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "," || event.key === ".") return void changeStep(event.key === "." ? 1 : -1);
  const next = keyTarget(place.panel, place.index, event.key);
  if (next === null) return;
  event.preventDefault();
  const { cells } = place.panel;
  cells[Math.max(0, Math.min(cells.length - 1, next))].focus();
}

function onTokenFocus(event) {
  const place = places.get(event.target);
  if (!place) return;
  for (const cell of place.panel.cells) cell.tabIndex = cell === event.target ? 0 : -1;
  showTooltip(event.target);
}

function onPointer(event) {
  const cell = event.target.closest?.(".token");
  const focused = places.has(document.activeElement) ? document.activeElement : null;
  if (cell ?? focused) showTooltip(cell ?? focused);
  else hideTooltip();
}

/** Connect the tokens of all examples to their events. `step` moves the shown step by one. */
export function watchTokens(examples, step) {
  changeStep = step;
  examples.addEventListener("keydown", onTokenKey);
  examples.addEventListener("focusin", onTokenFocus);
  examples.addEventListener("focusout", hideTooltip);
  examples.addEventListener("pointerover", onPointer);
  examples.addEventListener("pointerleave", onPointer);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTooltip(); });
}
