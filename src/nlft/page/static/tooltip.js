// What the map says about one token: its effect, what the models would say instead, its probability over the steps.

import { linePath } from "./chart.js";
import { byId, drawing, element, shownText } from "./dom.js";
import { effectAt, sharesOf } from "./effects.js";
import { tokenFacts, verdictEffect } from "./logic.js";
import { shareWords } from "./sentences.js";
import { END_WORDS, endsTurn, formatProbability } from "./text.js";

const SPARK = { width: 100, height: 34 };

/**
 * The parts of a token's tooltip.
 *
 * panel: see tokens.js; its `now` is drawn. history: {steps, values} of the token's probability, or null.
 */
export function tooltipParts(panel, index, history) {
  const { scores, verdict, after } = panel.now;
  const shown = after ?? verdict;
  const effect = effectAt(shown, index);
  const pushed = effect === "down" || effect === "up";
  const share = pushed ? `${shareWords(sharesOf(scores, shown)[index])} of this reply's training signal` : "";
  const head = element("p", { className: "said-head" },
    shownText("bdi", panel.example.tokens[index], { className: "text" }),
    element("b", { text: verdictEffect(shown, index), className: `effect-${effect}` }),
    element("span", { text: `token ${index + 1} of ${panel.cells.length}` }));
  /** @type {HTMLElement[]} */
  const parts = [head];
  if (endsTurn(panel.example.tokens[index]) && index === panel.cells.length - 1) {
    parts.push(element("p", { text: "The end-of-turn token: here the model stops, and the reply is over." }));
  }
  if (share) parts.push(element("p", { text: share, className: "share-of" }));
  parts.push(...sayInstead(scores.alternatives, index, panel.example.tokens[index], effect));
  if (history) parts.push(tokenSpark(history, effect));
  if (panel.explained) parts.push(tokenDetails(scores, verdict, after, index));
  else parts.push(element("p", { text: "Why (Y): ratios, tag and weights", className: "more" }));
  return parts;
}

function tokenDetails(scores, verdict, after, index) {
  const list = element("dl");
  for (const [name, value] of tokenFacts(scores, verdict, after, index)) {
    const className = name.split(" ")[0];
    list.append(element("div", { className }, element("dt", { text: name }), shownText("dd", value)));
  }
  return list;
}

/** What the base model and the tuned one would say at a token, the likeliest first. */
function sayInstead(alternatives, index, said, effect) {
  const place = alternatives ? alternatives.at.indexOf(index) : -1;
  if (place < 0) return [];
  const column = (title, choices) => element("div", {}, element("h4", { text: title }),
    element("ol", {}, ...choices.map(([text, probability]) => choiceLine(text, probability, text === said, effect === "down"))));
  return [element("div", { className: "instead" },
    column("base model says", alternatives.base[place]),
    column(alternatives.step ? `tuned model, step ${alternatives.step}` : "before training", alternatives.now[place]),
    element("p", { text: "A token may be only the beginning of a word.", className: "more" }))];
}

/** `same`: it is the token itself, which is crossed out if the training pushes it down. */
function choiceLine(text, probability, same, down) {
  const bar = element("i", { className: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--part", probability.toFixed(3));
  return element("li", { className: same ? (down ? "same down" : "same") : "" }, bar,
    shownText("bdi", endsTurn(text) ? END_WORDS : text, { className: "text" }),
    element("span", { text: `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)}%` }));
}

/** The token's probability at the recorded steps, as a line. It says so if the probability went the other way. */
function tokenSpark({ steps, values }, effect) {
  const kept = values.flatMap((value, at) => (value === null ? [] : [at]));
  if (kept.length < 2) return element("p", { text: "", hidden: true });
  const [first, last] = [values[kept[0]], values[kept.at(-1)]];
  const x = kept.map((at) => steps[at]), y = kept.map((at) => Math.exp(values[at]));
  const most = Math.max(...y), range = x.at(-1) - x[0] || 1;
  const scale = {
    x: (step) => 3 + (SPARK.width - 6) * (step - x[0]) / range,
    y: (value) => SPARK.height - 3 - (SPARK.height - 6) * (most > 0 ? value / most : 0),
  };
  const against = (effect === "down" && last > first) || (effect === "up" && last < first);
  const words = `${formatProbability(first)} at step ${x[0]}, ${formatProbability(last)} at step ${x.at(-1)}`
    + (against ? `: not ${effect} yet` : "");
  return element("div", { className: "token-spark" },
    drawing("svg", { width: SPARK.width, height: SPARK.height, role: "img", "aria-label": `probability: ${words}` },
      drawing("path", { class: "trace line-1", d: linePath({ x, y }, scale) })),
    element("p", { text: `probability ${words}` }));
}

let box = null;
/** The tooltip's element. It moves from card to card, and may be out of the document while cards are put in order. */
export const tooltipBox = () => (box ??= byId("tooltip"));
const room = element("i", { className: "room", "aria-hidden": "true" });

/**
 * Put the tooltip where it hides nothing: into the column beside the reply, at the height of its token; or, on narrow
 * screens, under the token's line, where the lines below make room for it.
 */
export function placeTooltip(cell, cells) {
  const tooltip = tooltipBox();
  const dock = cell.closest("article").querySelector(".dock");
  const beside = dock.offsetWidth > 0;
  const place = beside ? dock : cell.closest(".side");
  room.remove();
  if (tooltip.parentElement !== place) place.append(tooltip);
  const { top, height } = place.getBoundingClientRect();
  if (beside) {
    const least = Math.min(height, window.innerHeight - top - 8) - tooltip.offsetHeight;
    tooltip.style.setProperty("top", `${Math.max(0, Math.min(cell.getBoundingClientRect().top - top, least))}px`);
    return;
  }
  room.style.setProperty("height", `${tooltip.offsetHeight + 14}px`);
  const below = (/** @type {HTMLElement} */ one) => one.querySelector(".ink").getBoundingClientRect().top > lastLine(cell);
  const next = cells.slice(cells.indexOf(cell) + 1).find(below);
  if (next) next.before(room);
  else cell.parentElement.append(room);
  tooltip.style.setProperty("top", `${room.getBoundingClientRect().top - top + 8}px`);
}

/** The middle of the last line that a token is on. */
function lastLine(cell) {
  const { top, bottom } = [...cell.querySelector(".ink").getClientRects()].at(-1);
  return (top + bottom) / 2;
}

export function closeTooltip() {
  room.remove();
  tooltipBox().hidden = true;
  document.body.append(tooltipBox()); // its card may go
}

/** Scroll until the whole tooltip is seen. */
export function keepSeen() {
  tooltipBox().scrollIntoView({ block: "nearest" });
}
