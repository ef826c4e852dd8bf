// The quotes in a judgment, and the tokens that they name: pure functions.

const QUOTE = /"([^"\n]+)"|“([^”\n]+)”|«([^»\n]+)»|„([^“”\n]+)[“”]|`([^`\n]+)`/gu;
const WORD = /[\p{L}\p{N}]/u;

/**
 * Split a judgment into parts: {text, places}. `places` are [first, last] tokens of each place where the completion has
 * the quote; [] if it has not; null for text that is no quote.
 */
export function quoteParts(judgment, tokens) {
  const parts = [];
  let at = 0;
  for (const match of judgment.matchAll(QUOTE)) {
    if (match.index > at) parts.push({ text: judgment.slice(at, match.index), places: null });
    const quoted = match.slice(1).find((one) => one !== undefined);
    parts.push({ text: match[0], places: placesOf(quoted, tokens) });
    at = match.index + match[0].length;
  }
  if (at < judgment.length) parts.push({ text: judgment.slice(at), places: null });
  return parts;
}

/** [first, last] token of each place where the tokens' text has the quote. Case, and ends of words, must not matter. */
export function placesOf(quote, tokens) {
  const joined = tokens.join("");
  const text = joined.toLowerCase().length === joined.length ? joined.toLowerCase() : joined; // as long, so places fit
  const wanted = quote.trim().replace(/[.,;:!?]$/u, "").toLowerCase();
  if (!wanted) return [];
  const found = [];
  for (let from = text.indexOf(wanted); from >= 0; from = text.indexOf(wanted, from + wanted.length)) {
    const inside = (edge, near) => WORD.test(edge) && WORD.test(near ?? " ");
    const cut = inside(wanted[0], text[from - 1]) || inside(wanted.at(-1), text[from + wanted.length]);
    if (!cut) found.push(tokensOf(from, from + wanted.length, tokens));
  }
  return found;
}

function tokensOf(start, end, tokens) {
  let at = 0, first = -1, last = -1;
  tokens.forEach((token, index) => {
    const next = at + token.length;
    if (next > start && at < end && token.trim() !== "") {
      if (first < 0) first = index;
      last = index;
    }
    at = next;
  });
  return [first, last];
}
