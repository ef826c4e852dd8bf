// A completion's tokens on the page: built once, then updated where something changed; usable with the keyboard.

import { element, shownText } from "./dom.js";
import { effectAt, sharesOf, strengthOf } from "./effects.js";
import { tagName, verdictEffect } from "./logic.js";
import { state } from "./state.js";
import { END_WORDS, endsTurn, ratio, runsRightToLeft, strength, visibleText } from "./text.js";
import { closeTooltip, keepSeen, placeTooltip, tooltipBox, tooltipParts } from "./tooltip.js";

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
/** @type {(example: object, index: number) => object | null} */
let historyOf = () => null;
/** @type {(panel: object, index: number | null) => void} */
let linkTo = () => {};

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
  const panel = { example, group, rows, rightToLeft, cells: [], strips: {}, drawn: [], now: null, explained: false };
  for (const row of rows) panel.strips[row] = [];
  example.tokens.forEach((token, index) => {
    const last = index === example.tokens.length - 1;
    const cell = element("span", {
      className: last ? "token end" : "token", role: "option", tabindex: index === 0 ? "0" : "-1",
    }, last && endsTurn(token) ? endText() : tokenText(token));
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

/** A token's text. The space before a word gets no colour, so that a line never ends with a coloured gap. */
function tokenText(token) {
  const gap = /^ (?=\S)/.test(token) ? " " : "";
  const ink = shownText("span", token.slice(gap.length), { className: "ink" });
  return element("bdi", { className: "text" }, ...(gap ? [gap] : []), ink);
}

/** The token after which the model stops, in words: its tooltip has its name. */
function endText() {
  return element("bdi", { className: "text" }, element("span", { className: "ink ending", text: END_WORDS }));
}

/** Show or hide why: the ratios under each token, and its tag as a line. */
export function explain(panel, on) {
  panel.explained = on;
  panel.group.classList.toggle("explained", on);
  if (on && !panel.strips[panel.rows[0]].length) {
    panel.cells.forEach((cell) => {
      for (const row of panel.rows) {
        const made = strip(row);
        panel.strips[row].push(made);
        cell.append(made);
      }
    });
  }
  if (panel.now) drawTokens(panel, panel.now, true);
}

/**
 * Show scores in a panel.
 *
 * now: {scores, verdict, after, changed}: recorded tags and weights, the what-if's or null, and the tokens to mark as
 * changed, or null.
 */
export function drawTokens(panel, now, anew = false) {
  const { scores } = now;
  const fresh = anew || panel.now?.scores !== scores;
  panel.now = now;
  panel.group.dataset.rows = panel.rows.filter((row) => scores[row]).join(" ");
  if (fresh && panel.explained) drawStrips(panel, scores);
  const verdict = now.after ?? now.verdict;
  const shares = sharesOf(scores, verdict);
  panel.cells.forEach((cell, index) => {
    const effect = effectAt(verdict, index);
    const full = effect === "down" || effect === "up" ? strengthOf(shares[index]).toFixed(2) : "0";
    const name = tagName(verdict, index), changed = Boolean(now.changed?.[index]);
    const drawn = panel.drawn[index];
    if (drawn.full !== full) cell.style.setProperty("--strength", full);
    drawn.full = full;
    if (drawn.name === name && drawn.changed === changed && drawn.effect === effect) return;
    Object.assign(drawn, { name, changed, effect });
    markTag(cell, name);
    cell.dataset.effect = effect;
    cell.classList.toggle("changed", changed);
    cell.setAttribute("aria-label", cellWords(panel, verdict, index, changed));
  });
}

function cellWords({ example }, verdict, index, changed) {
  const replacement = example.replacements?.[index];
  const instead = replacement === undefined ? "" : `, replaced by ${replacement ? visibleText(replacement) : "nothing"}`;
  const token = example.tokens[index];
  const said = index === example.tokens.length - 1 && endsTurn(token) ? END_WORDS : visibleText(token);
  const words = [said, verdictEffect(verdict, index), tagName(verdict, index)];
  return `${words.join(", ")}${instead}${changed ? ", changed" : ""}`;
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
  if (!shownCell) return;
  if (shownCell.checkVisibility()) showTooltip(shownCell);
  else hideTooltip(); // its card has been closed, or has gone
}

export function showTooltip(cell) {
  const { panel, index } = places.get(cell);
  if (!panel.now) return hideTooltip();
  if (cell !== shownCell) leaveToken();
  shownCell = cell;
  const tooltip = tooltipBox();
  tooltip.replaceChildren(...tooltipParts(panel, index, historyOf(panel.example, index)));
  tooltip.hidden = false;
  cell.setAttribute("aria-describedby", "tooltip");
  cell.classList.add("shown");
  linkTo(panel, index);
  return placeTooltip(cell, panel.cells);
}

export function hideTooltip() {
  leaveToken();
  closeTooltip();
}

function leaveToken() {
  if (shownCell) linkTo(places.get(shownCell).panel, null);
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
  if (event.key === "," || event.key === ".") {
    event.stopPropagation(); // the page has these keys too
    return void changeStep(event.key === "." ? 1 : -1);
  }
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
  if (event.target.matches(":focus-visible")) keepSeen();
}

function onTap(event) {
  const cell = event.target.closest?.(".token");
  if (cell && cell === shownCell && event.pointerType === "touch") keepSeen();
}

function onPointer(event) {
  const cell = event.target.closest?.(".token");
  // Between two lines of the same reply nothing changes, so that what stands below does not jump.
  if (!cell && shownCell && event.target.closest?.(".tokens")?.contains(shownCell)) return;
  const focused = places.has(document.activeElement) ? document.activeElement : null;
  if (cell ?? focused) showTooltip(cell ?? focused);
  else hideTooltip();
}

/**
 * Connect the tokens of all examples to their events. `step` moves the shown step by one. `history` returns a token's
 * probability over the steps, or null; `linked` is called with a panel and the token that is pointed at, or null.
 */
export function watchTokens(examples, { step, history, linked }) {
  changeStep = step;
  historyOf = history;
  linkTo = linked;
  examples.addEventListener("keydown", onTokenKey);
  examples.addEventListener("focusin", onTokenFocus);
  examples.addEventListener("focusout", hideTooltip);
  examples.addEventListener("click", onTap);
  examples.addEventListener("pointerover", onPointer);
  examples.addEventListener("pointerleave", onPointer);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTooltip(); });
  window.addEventListener("resize", redrawTooltip);
}
