// What the training does to each token, and how much of the training signal it gets: pure functions.

import { tagName } from "./logic.js";
import { log1mp } from "./saliency.js";

const HELD_TAGS = new Set(["held", "kept"]);

/** The tags of tokens that the feedback itself names, in words. The other tags follow from them, or from nothing. */
export const TOUCHED_BECAUSE = {
  struck: "struck, because a reader quoted or marked them",
  salient: "salient: likelier once the model has read the judgment, or the standard answer",
  contradiction: "at odds with the standard answer",
};

/** @typedef {"down" | "up" | "held" | "alone"} Effect */

/** What a scheme does to a token. `strike` trains without the two weights, so there the tag says it. @returns {Effect} */
export function effectAt(verdict, index) {
  if (verdict.unlikelihood[index] > 0) return "down";
  if (verdict.likelihood[index] > 0) return "up";
  const name = tagName(verdict, index);
  if (name === "struck") return "down";
  return HELD_TAGS.has(name) ? "held" : "alone";
}

export const touchedAt = (verdict, index) => Object.hasOwn(TOUCHED_BECAUSE, tagName(verdict, index));

const known = new WeakMap(); // verdict -> signal

/**
 * Each token's part of its example's loss: {values, whole}. `whole` is false if the run did not record the loss of
 * struck and held tokens: then the struck tokens count the same, and the held ones nothing.
 *
 * verdict: recorded or tried; a `signal` of its own goes before what its weights give.
 */
export function signalOf(scores, verdict) {
  if (!known.has(verdict)) known.set(verdict, computeSignal(scores, verdict));
  return known.get(verdict);
}

function computeSignal(scores, verdict) {
  const { likelihood, unlikelihood } = verdict;
  const count = likelihood.length;
  if (verdict.signal) return { values: verdict.signal, whole: true };
  const values = new Float32Array(count);
  const rest = unlikelihood.some((one) => one > 0) ? log1mp(scores.base) : null;
  let weighed = false, struck = false;
  for (let i = 0; i < count; i++) {
    let part = 0;
    if (likelihood[i] > 0) part -= likelihood[i] * scores.base[i];
    if (unlikelihood[i] > 0) part -= unlikelihood[i] * rest[i];
    values[i] = Number.isFinite(part) ? part : 0;
    weighed ||= values[i] > 0;
    struck ||= tagName(verdict, i) === "struck";
  }
  if (weighed || !struck) return { values, whole: true };
  for (let i = 0; i < count; i++) values[i] = tagName(verdict, i) === "struck" ? 1 : 0;
  return { values, whole: false };
}

/** Each token's share of its example's training signal, from 0 to 1. */
export function sharesOf(scores, verdict) {
  const { values } = signalOf(scores, verdict);
  let total = 0;
  for (const value of values) total += value;
  return total > 0 ? values.map((value) => value / total) : values;
}

/** How strongly a share is drawn. The root keeps a tenth of the signal visible; shares of any two replies compare. */
export const strengthOf = (share) => Math.sqrt(Math.max(0, Math.min(1, share)));

/**
 * Counts and shares of one example: tokens per effect, the tokens that the feedback touches, and their part of the loss.
 * `rest` counts the tokens that it does not touch, by effect; `inside` those that are the rest of a struck quote.
 *
 * normalization: `loss_normalization`; with "sample", each example's loss is divided by its tokens.
 */
export function effectsOf(scores, verdict, normalization = "sample") {
  const { values, whole } = signalOf(scores, verdict);
  const found = { tokens: values.length, down: 0, up: 0, held: 0, alone: 0, touched: 0, others: 0, inside: 0 };
  const rest = { down: 0, up: 0, held: 0, alone: 0 };
  const names = new Set();
  const sums = { all: 0, down: 0, up: 0, held: 0, alone: 0, touched: 0 };
  for (let i = 0; i < values.length; i++) {
    const effect = effectAt(verdict, i);
    found[effect]++;
    sums[effect] += values[i];
    sums.all += values[i];
    if (touchedAt(verdict, i)) {
      found.touched++;
      sums.touched += values[i];
      names.add(tagName(verdict, i));
      continue;
    }
    rest[effect]++;
    if (tagName(verdict, i) === "inside") found.inside++;
    if (effect === "down" || effect === "up") found.others++;
  }
  const share = (part) => (sums.all > 0 ? part / sums.all : 0);
  const divisor = normalization === "sample" && !verdict.signal ? Math.max(1, values.length) : 1;
  return {
    ...found, rest, names: [...names], whole, downShare: share(sums.down), upShare: share(sums.up), touchedShare: share(sums.touched),
    loss: sums.all / divisor, touchedLoss: sums.touched / divisor,
  };
}

/** How much an example tells: a large share of its training signal on few tokens. From 0 to 1. */
export function tellingOf(scores, verdict) {
  const shares = Array.from(sharesOf(scores, verdict)).sort((a, b) => b - a);
  const few = Math.max(1, Math.ceil(shares.length / 10));
  const most = shares.slice(0, few).reduce((sum, one) => sum + one, 0);
  const touched = shares.length > few && verdict.tag.some((_, i) => touchedAt(verdict, i));
  return touched ? most : most / 2; // an example whose feedback touched nothing shows nothing of the feedback
}
