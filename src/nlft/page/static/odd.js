// What surprises beside a judgment: touched tokens that it does not quote, and quoted ones that nothing happens to.
// Pure functions.

import { touchedAt } from "./effects.js";
import { strikes, tagName } from "./logic.js";
import { END_WORDS, endsTurn, visibleText } from "./text.js";

const MOST = 5; // phrases of one list
const LETTER = /[\p{L}\p{N}]/u;

/**
 * Where the judgment's quotes and the touched tokens differ, in sentences. [] if nothing is quoted.
 *
 * quoted: the [first, last] tokens of each quote's places. verdict: the tags that are shown.
 */
export function oddSentences(tokens, quoted, verdict) {
  const named = new Set(quoted.flatMap(([first, last]) => tokens.map((_, i) => i).slice(first, last + 1)));
  if (!named.size) return [];
  const all = tokens.map((_, i) => i);
  const rest = all.filter((i) => tagName(verdict, i) === "inside");
  const more = all.filter((i) => touchedAt(verdict, i) && !named.has(i));
  const less = all.filter((i) => named.has(i) && !touchedAt(verdict, i) && !rest.includes(i) && LETTER.test(tokens[i]));
  const struck = strikes(verdict);
  const found = [];
  if (rest.length) found.push(`Rest of a quote, crossed out but not trained: ${phrases(tokens, rest)}.`);
  if (more.length) {
    found.push(struck ? `Struck, but not quoted here: ${phrases(tokens, more)} (marked, or quoted in other words).`
      : `Touched, but not quoted: ${phrases(tokens, more)} (the whole judgment counts, not only its quotes).`);
  }
  if (less.length) {
    found.push(struck ? `Quoted, but not struck: ${phrases(tokens, less)}.`
      : `Quoted, but not touched: ${phrases(tokens, less)} (the judgment makes it too little likelier).`);
  }
  return found;
}

/** Tokens as quoted phrases, those in a row together. */
function phrases(tokens, places) {
  const runs = [];
  for (const at of places) {
    if (runs.at(-1)?.at(-1) === at - 1) runs.at(-1).push(at);
    else runs.push([at]);
  }
  const words = runs.map((run) => `“${visibleText(run.map((at) => (endsTurn(tokens[at]) ? ` ${END_WORDS}` : tokens[at])).join("")).trim()}”`);
  const left = words.length - MOST;
  return left > 0 ? `${words.slice(0, MOST).join(", ")} and ${left} more` : words.join(", ");
}
