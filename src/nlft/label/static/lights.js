// What a model adds: the tokens light up by the effect of what is written, and the model goes on from changed words.

import { decodeStep, bytesOfBase64 } from "./decode.js";
import { byId, element, shownText } from "./dom.js";
import { recordedVerdict } from "./logic.js";
import { begunReply } from "./offsets.js";
import { ask } from "./saving.js";
import { state } from "./state.js";
import { formatRatio, ratio, strength, visibleText } from "./text.js";
import { buildTokens, drawTokens, hideTooltip, watchTokens } from "./tokens.js";

const TYPING_MS = 400; // time without a keystroke before the model is asked
const LEVELS = 4; // of the light behind a token; the last one begins at a ratio of 8
const KEPT = 50; // scores that are kept, so that going back shows them at once

export class Lights {
  /** @param {import("./reply.js").ReplyView} reply */
  constructor(reply) {
    this.reply = reply;
    this.timer = undefined;
    this.asked = null;
    this.known = new Map(); // what was written -> {tokens, scores}
    this.shown = null;
    state.rescores = true;
    watchTokens(byId("tokens"), { step: () => {}, history: () => null, linked: () => {} });
  }

  /** Ask the model about the row's decision when typing has stopped for a moment. The last question wins. */
  follow(row) {
    clearTimeout(this.timer);
    this.asked?.abort();
    const reason = cannotScore(row.decision);
    if (reason) {
      this.clear();
      return this.say(reason);
    }
    const found = this.known.get(keyOf(row));
    if (found) return this.draw(row, found);
    if (this.shown !== row.place) this.clear();
    this.say("");
    this.timer = setTimeout(() => this.askModel(row), TYPING_MS);
  }

  async askModel(row) {
    const asked = new AbortController();
    const key = keyOf(row);
    this.asked = asked;
    this.say("The model reads …");
    try {
      const answer = await ask("score", { place: row.place, decision: row.decision }, asked.signal);
      if (!answer || asked.signal.aborted) return;
      const { scores: [scores] } = decodeStep(bytesOfBase64(answer.step));
      const found = { tokens: answer.tokens, scores };
      this.known.set(key, found);
      if (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
      this.draw(row, found);
    } catch (error) {
      if (!asked.signal.aborted) this.say(error.message);
    }
  }

  /** Light up the reply's tokens, and show each with its numbers. */
  draw(row, { tokens, scores }) {
    this.shown = row.place;
    const liked = row.decision.label;
    const panel = buildTokens({ tokens, label: liked, replacements: {} }, "Tokens of the reply");
    byId("tokens").replaceChildren(panel.group);
    byId("effect").hidden = false;
    drawTokens(panel, { scores, verdict: recordedVerdict(scores), after: null, changed: null });
    const under = liked ? scores.standard : scores.judge;
    const ratios = tokens.map((_, at) => ratio(under?.[at], scores.base[at]));
    this.glow(tokens, ratios);
    this.say(sentence(tokens, ratios));
  }

  /** Draw again behind the reply, whose elements are new. */
  again() {
    if (this.last) this.glow(...this.last);
  }

  glow(tokens, ratios) {
    this.last = [tokens, ratios];
    if (!("highlights" in CSS)) return;
    const levels = Array.from({ length: LEVELS }, () => new Highlight());
    // The last token is the end of the turn. Where a tokenizer changes the text, places are unknown.
    if (tokens.slice(0, -1).join("") === this.reply.text) {
      let at = 0;
      tokens.slice(0, -1).forEach((token, index) => {
        const level = Math.floor(strength(ratios[index]) * LEVELS);
        const range = level > 0 ? this.reply.rangeOf(at, at + token.length) : null;
        if (range) levels[level - 1].add(range);
        at += token.length;
      });
    }
    levels.forEach((found, index) => CSS.highlights.set(`lit-${index + 1}`, found));
  }

  clear() {
    this.last = null;
    this.shown = null;
    hideTooltip();
    byId("effect").hidden = true;
    byId("tokens").replaceChildren();
    for (let level = 1; level <= LEVELS; level++) globalThis.CSS.highlights?.delete(`lit-${level}`);
  }

  say(text) { byId("model").textContent = text; }

  /** Let the model go on from a span's replacement. Returns {begun, text, cut}. */
  async resume(row, span) {
    const begun = begunReply(row.completion, row.decision.spans, span);
    const found = await ask("resume", { place: row.place, begun });
    return { begun, ...found };
  }
}

/** Show a continuation after the words that it follows. */
export function drawContinuation(found, limit) {
  const tail = [...found.begun].slice(-160).join("");
  byId("continuation").replaceChildren(
    element("p", { className: "prose", dir: "auto" }, tail.length < found.begun.length ? "… " : "",
      shownText("span", tail, { className: "before" }, true), shownText("ins", found.text || " ", { className: "replacement" }, true)),
    element("p", { className: "hint", text: found.cut
      ? `The model was cut off after ${limit} tokens. To let it end, start with --max_new_tokens ${2 * limit}.` : "The model ended its reply here." }));
}

function keyOf(row) {
  const { label, judgment, feedback, answer } = row.decision;
  return JSON.stringify([row.place, label, judgment, feedback, answer]);
}

function cannotScore({ label, judgment, feedback, answer }) {
  if (label === null) return "Like or dislike the reply and say why: then its tokens light up.";
  if (label && !feedback.trim() && !answer) return "Say why you like it: then its tokens light up.";
  if (!label && !judgment.trim()) return "Say what is wrong: then its tokens light up.";
  return null;
}

function sentence(tokens, ratios) {
  const found = ratios.map((value, at) => ({ value, at }))
    .filter(({ value, at }) => value !== null && value >= 2 && tokens[at] && at < tokens.length - 1); // not the end of the turn
  if (!found.length) return "No token gets twice as likely by what you wrote.";
  found.sort((a, b) => b.value - a.value);
  const most = found.slice(0, 3).map(({ value, at }) => `“${visibleText(tokens[at])}” ${formatRatio(value)}`);
  return `${found.length} of ${tokens.length} tokens get at least twice as likely by what you wrote: ${most.join(", ")}${found.length > 3 ? ", …" : ""}`;
}
