// What happened, in one sentence per example and one per run: pure functions of the counts of effects.js.

import { TOUCHED_BECAUSE } from "./effects.js";

/** A share in words that a reader can say aloud: "93%", "less than 1%". */
export function shareWords(share) {
  if (!(share > 0)) return "0%";
  if (share < 0.01) return "less than 1%";
  return share > 0.99 && share < 1 ? "more than 99%" : `${Math.round(100 * share)}%`;
}

const tokenWords = (count, of) => (count === of ? `all ${of} tokens` : `${count} of ${of} tokens`);

/** Counts of effectsOf for one example, as a sentence. */
export function exampleSentence(found) {
  const { tokens: count, down, up, held, alone, inside } = found;
  if (!count) return "This reply is empty.";
  if (!down && !up && !held) return `Leaves all ${count} tokens alone: this reply trains nothing.`;
  const signal = (share) => (found.whole ? `, ${shareWords(share)} of its training signal` : "");
  const parts = [];
  if (down) parts.push(`pushes down ${tokenWords(down, count)}${signal(found.downShare)}`);
  if (up) parts.push(`pushes up ${down ? up : tokenWords(up, count)}${down || !found.touched ? "" : touchedWords(found)}`);
  const other = down || up ? "the other " : "all ";
  if (held) parts.push(`holds ${alone || !(down || up) ? `${held === count ? "all " : ""}` : other}${held} as ${held === 1 ? "it was" : "they were"}`);
  if (alone && alone < count) parts.push(`leaves ${held ? "" : other}${alone} alone${quoteWords(inside, alone)}`);
  const text = parts.join("; ");
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

/** How many of the tokens that are left alone are the rest of a quote. */
function quoteWords(inside, alone) {
  if (!inside) return "";
  return inside === alone ? ", the rest of a quote" : `, ${inside} of them the rest of a quote`;
}

function touchedWords({ touched, touchedShare }) {
  return `; the ${touched} that the feedback names get ${shareWords(touchedShare)} of the training signal`;
}

/**
 * All examples together, as a sentence.
 *
 * all: one {label, answered, found} per scored example; `found` of effectsOf.
 */
export function runSentence(all) {
  if (!all.length) return "";
  const sum = (pick) => all.reduce((total, one) => total + pick(one), 0);
  const count = sum((one) => one.found.tokens), touched = sum((one) => one.found.touched);
  if (!touched) return `Feedback touched none of ${count} tokens.`;
  const loss = sum((one) => one.found.loss);
  const part = loss > 0 && all.every((one) => one.found.whole)
    ? ` and is ${shareWords(sum((one) => one.found.touchedLoss) / loss)} of the loss` : "";
  return `Feedback touched ${touched} of ${count} tokens${part}; ${restWords(all)}.`;
}

function restWords(all) {
  const disliked = all.filter((one) => !one.label);
  const replies = all.some((one) => one.answered) ? "wrong" : "disliked";
  const held = all.reduce((sum, one) => sum + one.found.held, 0);
  if (held) return `${held} others are held as they were`;
  const only = disliked.filter(({ found }) => found.touched > 0 && found.others === 0).length;
  if (!disliked.length) return "there are no disliked replies";
  return `in ${only} of ${disliked.length} ${replies} replies nothing else was trained`;
}

/**
 * What the counts of runSentence are of, so that they add up.
 *
 * all: as for runSentence; at: the steps of the scores, in words.
 */
export function runCounts(all, at) {
  if (!all.length) return "";
  const sum = (pick) => all.reduce((total, one) => total + pick(one.found), 0);
  const names = new Set(all.flatMap((one) => one.found.names));
  const because = Object.entries(TOUCHED_BECAUSE).filter(([name]) => names.has(name)).map(([, words]) => words);
  const disliked = all.filter((one) => !one.label).length;
  const [bad, good] = all.some((one) => one.answered) ? ["wrong", "right"] : ["disliked", "liked"];
  const rest = [
    [sum(({ rest: { down } }) => down), "pushed down"], [sum(({ rest: { up } }) => up), "pushed up"],
    [sum(({ rest: { held } }) => held), "held as they were"],
    [sum(({ inside }) => inside), "the rest of a quote and not trained"],
    [sum(({ rest: { alone }, inside }) => alone - inside), "left alone"],
  ].filter(([count]) => count).map(([count, words]) => `${count} ${words}`);
  const others = sum(({ tokens: count, touched }) => count - touched);
  return `Of ${all.length} watched ${all.length === 1 ? "reply" : "replies"} (${disliked} ${bad}, ${all.length - disliked} ${good}), ${at}.`
    + (because.length ? ` Touched tokens are ${because.join("; or ")}.` : "")
    + (rest.length ? ` The other ${others}: ${rest.join(", ")}.` : "");
}
