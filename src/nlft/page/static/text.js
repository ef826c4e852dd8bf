// Make any text of a model readable: pure functions. Their results go into the page through
// textContent, never as markup.

const CONTROL_NAMES = ("NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB " +
  "CAN EM SUB ESC FS GS RS US").split(" ");

// Characters that are invisible or move their neighbours: controls, bidi marks, odd spaces, zero-width signs.
const HIDDEN = /[\p{C}\p{Z}]|(?!\p{M})\p{Default_Ignorable_Code_Point}/u;

function hiddenName(char) {
  const code = char.codePointAt(0);
  return CONTROL_NAMES[code] ?? "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}

/**
 * Split text into parts, each of a kind: "text" unchanged, a "mark" or a "name" for an invisible character.
 * Prose keeps its line breaks and tabs; a token shows them as marks.
 */
export function visibleParts(text, prose = false) {
  const parts = [];
  const add = (kind, shown) => {
    if (kind !== "name" && parts.at(-1)?.kind === kind) parts.at(-1).text += shown;
    else parts.push({ kind, text: shown });
  };
  const marks = prose ? {} : { "\n": "↵", "\t": "⇥", ...(/^ +$/.test(text) && { " ": "·" }) };
  if (text === "") add("mark", prose ? "(empty)" : "∅");
  if (/^\p{M}/u.test(text)) add("text", "◌"); // an accent needs a base character
  for (const char of text) {
    if (marks[char]) add("mark", marks[char]);
    else if (HIDDEN.test(char) && !" \n\t".includes(char)) add("name", hiddenName(char));
    else add("text", char);
  }
  return parts;
}

// What ends a reply in the models' tokenizers: <|im_end|>, <|eot_id|>, <end_of_turn>, </s> and the like.
const ENDING = /^(?:<[|｜][^<>]*(?:end|eos|eot|return)[^<>]*[|｜]>|<end_of_turn>|<eos>|<\/s>)$/iu;
export const END_WORDS = "end of turn";

export const endsTurn = (token) => ENDING.test(token);

export function visibleText(text) {
  return visibleParts(text).map((part) => part.text).join("");
}

/** Does the text run from right to left? Its first letter decides. */
export function runsRightToLeft(text) {
  const letter = text.match(/\p{L}/u);
  return letter !== null && /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}]/u.test(letter[0]);
}

/** The ratio p/q of two log-probabilities; null if one is missing or not a number. */
export function ratio(logp, logq) {
  return logp == null || logq == null || Number.isNaN(logp - logq) ? null : Math.exp(logp - logq);
}

const SATURATION = 8; // the ratio at which a colour reaches its full strength

/** Colour strength in [0, 1]: 0 up to a ratio of 1, then with its logarithm, 1 from SATURATION on. */
export function strength(value) {
  if (value === null) return 0;
  return Math.max(0, Math.min(1, Math.log(value) / Math.log(SATURATION)));
}

/** @type {[number, string][]} */
export const LEGEND_RATIOS = [[1, "≤1×"], [2, "2×"], [4, "4×"], [SATURATION, `≥${SATURATION}×`]];

/** A probability from its logarithm: 0.4213, or 3.1e-7 for small ones. */
export function formatProbability(logp) {
  if (logp == null || Number.isNaN(logp)) return "unknown";
  const p = Math.exp(logp);
  return p >= 0.001 ? p.toFixed(4) : p.toExponential(1);
}

export function formatRatio(value) {
  if (value === null) return "unknown";
  return "×" + (value >= 1000 || value < 0.001 ? value.toExponential(1) : value.toPrecision(3));
}

export function formatWeight(value) {
  return value == null || Number.isNaN(value) ? "unknown" : value.toFixed(3);
}

/** A number of any size in at most four digits: 0.0123, 1.234, 12.3k. */
export function formatNumber(value) {
  if (value == null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 10_000) return `${(value / 1000).toPrecision(3)}k`;
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

export function formatPercent(share) {
  return share == null || !Number.isFinite(share) ? "–" : `${(100 * share).toFixed(1)}%`;
}

/** A duration in readable units: 45 s, 3 min, 2 h 05 min. */
export function formatDuration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function formatShares(counts, total) {
  const percent = (found) => (total ? ((100 * found) / total).toFixed(1) : "0.0") + "%";
  const words = ([name, found], place) => `${name} ${found}${place ? "" : ` of ${total} tokens`} (${percent(found)})`;
  return counts.map(words).join(", ");
}

/** The scheme's effect on a token in words, from the two weights. */
export function effect(likelihood, unlikelihood) {
  if (unlikelihood > 0) return likelihood > 0 ? "pushed both ways" : "pushed down";
  return likelihood > 0 ? "pushed up" : "left alone";
}
