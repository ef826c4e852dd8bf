// An example's card: closed, it is a strip of its tokens. Open, it has the completion, a sentence, and the judgment with
// its quotes linked to the tokens; and, if chosen, the same completion at another step or in another run.

import { buildBarcode, drawBarcode } from "./barcode.js";
import { byId, button, element, shownText } from "./dom.js";
import { effectsOf } from "./effects.js";
import { differing, recordedVerdict, tagCounts } from "./logic.js";
import { oddSentences } from "./odd.js";
import { exampleSentence, shareWords } from "./sentences.js";
import { state } from "./state.js";
import { TAGS, buildTokens, drawTokens, explain, markTag, strip } from "./tokens.js";
import { LEGEND_RATIOS, formatShares } from "./text.js";

/** The words for an example's label: where there is an answer, a reply is right or wrong; else a reader likes it. */
export function labelWords(example) {
  if (example.answer === null) return example.label ? "✓ liked" : "✗ disliked";
  return example.label ? "✓ right" : "✗ wrong";
}

/**
 * Build a closed card: {example, index, card, toggle, ...}. `panel` is null until it is opened for the first time.
 *
 * acts: {pin(id), opened(view)}; `opened` is called once the card has its tokens.
 */
export function buildCard(example, index, longest, acts) {
  const badge = element("span", { text: labelWords(example), className: `badge ${example.label ? "right" : "wrong"}` });
  const strip = buildBarcode(example.tokens.length / longest);
  const amount = element("span", { className: "amount" });
  const toggle = button("", () => setOpen(view, !view.open), {
    className: "toggle", "aria-expanded": "false", "aria-controls": `body-${index}`, id: `toggle-${index}`,
  });
  toggle.append(element("span", { className: "caret", "aria-hidden": "true" }), badge,
    shownText("bdi", String(example.id), { className: "id" }), element("span", { className: "lane" }, strip), amount);
  const title = element("h2", { id: `title-${index}` }, toggle);
  const body = element("div", { className: "body", id: `body-${index}`, hidden: true });
  const card = element("article", { id: `example-${index}`, "aria-labelledby": `title-${index}` }, title, body);
  const view = {
    example, index, card, toggle, strip, amount, body, acts, open: false, panel: null, other: null, shown: null,
    drawn: null, actions: null,
  };
  return view;
}

/** Open or close a card. Its tokens are built when it opens for the first time. */
export function setOpen(view, open) {
  view.open = open;
  view.card.classList.toggle("open", open);
  view.toggle.setAttribute("aria-expanded", String(open));
  if (open && !view.panel) buildBody(view);
  view.body.hidden = !open;
  if (open && view.drawn) drawCard(view, ...view.drawn);
}

function buildBody(view) {
  const { example, body, acts } = view;
  view.panel = buildTokens(example, `Tokens of example ${example.id}`);
  view.quotes = [];
  view.caption = element("p", { className: "caption" });
  view.sides = element("div", { className: "sides" }, element("div", { className: "side" }, view.caption, view.panel.group));
  view.sentence = element("p", { className: "sentence" });
  view.odd = element("p", { className: "odd note-of" });
  view.share = element("p", { className: "share" });
  view.why = button("Why", () => setWhy(view, !view.panel.explained), { "aria-expanded": "false", className: "why" });
  view.pin = button("Pin", () => acts.pin(example.id), { className: "pin", "aria-pressed": "false" });
  view.actions = element("div", { className: "actions" }, view.why, view.pin);
  // The tooltip stands in the dock, or under its token's line: never on what explains the colours.
  const hint = () => element("p", { className: "ask", text: "Point at a token, or tap it, for its numbers." });
  const reply = element("div", { className: "reply-text" }, element("h3", { text: "Reply" }), view.sides, hint());
  body.append(promptPart(example.prompt), element("div", { className: "reading" },
    element("div", { className: "read" }, reply, view.sentence, view.odd, view.share, ...saidBy(view)),
    element("div", { className: "dock" }, hint())), view.actions);
  acts.opened(view);
}

const LONG_PROMPT = 160; // letters that fit into two lines; a longer prompt is whole below the reply

/** The prompt in two lines, so that the reply stands on the first screen. */
function promptPart(text) {
  return element("div", { className: "asked" }, element("h3", { text: "Prompt" }),
    shownText("div", text.replace(/\s*\n\s*/g, " "), { className: "prose", dir: "auto" }, true));
}

/** Judgment, feedback and standard answer. Quotes in the first two are linked to the tokens that they name. */
function saidBy(view) {
  const { judgment, feedback, answer, prompt } = view.example;
  const block = (title, className, ...body) => (
    element("div", { className: `said-by ${className}` }, element("h3", { text: title }), ...body));
  const found = [];
  if (judgment !== null) found.push(block("Judgment", "judgment", linkedText(view, "judgment")));
  if (feedback) found.push(block("What a reader likes", "liked", linkedText(view, "feedback")));
  if (answer !== null) {
    found.push(block("Standard answer", "answer", shownText("div", answer, { className: "prose", dir: "auto" }, true)));
  }
  if (prompt.length > LONG_PROMPT) {
    found.push(block("Whole prompt", "answer", shownText("div", prompt, { className: "prose", dir: "auto" }, true)));
  }
  return found.length ? [element("div", { className: "passages" }, ...found)] : [];
}

/** The judgment or the feedback, with its quotes linked to the tokens that the run has recorded for them. */
function linkedText(view, name) {
  const body = element("div", { className: "prose", dir: "auto" });
  for (const [text, places] of view.example.quotes?.[name] ?? [[view.example[name], null]]) {
    if (!places) {
      body.append(shownText("span", text, {}, true));
      continue;
    }
    const quote = shownText("span", text, { className: places.length ? "quote" : "quote missing" }, true);
    if (!places.length) quote.title = "not in this reply";
    else connectQuote(view, quote, places);
    body.append(quote);
  }
  return body;
}

/** Light up the tokens of a quote that is pointed at or focused. Enter goes to the first of them. */
function connectQuote(view, quote, places) {
  quote.tabIndex = 0;
  quote.setAttribute("role", "button");
  quote.setAttribute("aria-label", `${quote.textContent}: ${places.length === 1 ? "one place" : `${places.length} places`} in the reply`);
  const light = (on) => {
    quote.classList.toggle("linked", on);
    for (const [first, last] of places) {
      for (const cell of view.panel.cells.slice(first, last + 1)) cell.classList.toggle("linked", on);
    }
  };
  for (const start of ["pointerenter", "focus"]) quote.addEventListener(start, () => light(true));
  for (const end of ["pointerleave", "blur"]) quote.addEventListener(end, () => light(false));
  const go = () => view.panel.cells[places[0][0]].focus();
  quote.addEventListener("click", go);
  quote.addEventListener("keydown", (event) => { if (event.key === "Enter") go(); });
  view.quotes.push({ quote, places });
}

/** Light up the quotes that name a token; none for null. */
export function lightQuotes(view, index) {
  for (const { quote, places } of view?.quotes ?? []) {
    quote.classList.toggle("linked", index !== null && places.some(([first, last]) => index >= first && index <= last));
  }
}

export function setWhy(view, on) {
  explain(view.panel, on);
  if (view.other) explain(view.other.panel, on);
  view.card.classList.toggle("why", on);
  view.why.setAttribute("aria-expanded", String(on));
  if (view.drawn) drawCard(view, ...view.drawn);
}

function rowsCaption(rows) {
  if (rows.length === 2) return "upper row judge / base, lower row standard / base";
  return rows.length === 1 ? `one row: ${rows[0]} / base` : "no second condition was scored, so there are no rows";
}

/**
 * Draw a card.
 *
 * here: {scores, after} of the shown step (scores null: not scored yet); there: the same of what stands beside it, with
 * its `example` and a `title`, or null.
 */
export function drawCard(view, here, there, hereTitle) {
  view.shown = here;
  view.drawn = [here, there, hereTitle];
  view.card.classList.toggle("pinned", state.pins.has(view.example.id));
  const verdict = here.scores && recordedVerdict(here.scores);
  const now = here.after ?? verdict;
  drawStrip(view, here.scores, now);
  if (!view.open) return;
  view.pin.setAttribute("aria-pressed", String(state.pins.has(view.example.id)));
  drawBeside(view, there);
  drawCaption(view, here.scores, there ? hereTitle : "");
  view.sentence.textContent = now ? exampleSentence(effectsOf(here.scores, now)) : "Not scored yet.";
  view.odd.textContent = now ? oddWords(view, now) : "";
  if (!now) return;
  view.share.textContent = formatShares(tagCounts(now), now.tag.length);
  const other = there?.scores ? recordedVerdict(there.scores) : null;
  const marks = other ? differing(now, there.after ?? other) : null;
  const before = here.before && here.before !== here.scores ? recordedVerdict(here.before) : null;
  const own = before ? differing(before, now) : here.after ? differing(verdict, here.after) : null;
  drawTokens(view.panel, { scores: here.scores, verdict, after: here.after, changed: marks ?? own });
  if (!view.other) return;
  view.other.caption.replaceChildren(element("b", { text: there.title }), ` ${besideWords(marks, there)}`);
  if (other) drawTokens(view.other.panel, { scores: there.scores, verdict: other, after: there.after, changed: marks });
}

function oddWords(view, verdict) {
  const quoted = view.quotes.filter(({ quote }) => quote.closest(".judgment")).flatMap(({ places: all }) => all);
  return oddSentences(view.example.tokens, quoted, verdict).join(" ");
}

function drawStrip(view, scores, verdict) {
  if (!verdict) {
    view.strip.replaceChildren();
    view.amount.textContent = "not scored yet";
    return;
  }
  const found = effectsOf(scores, verdict);
  const { touched, touchedShare, tokens } = found;
  view.amount.textContent = amountWords(found);
  view.amount.title = `The feedback touches ${touched} of ${tokens} tokens, ${shareWords(touchedShare)} of the training signal.`;
  if (!view.open) drawBarcode(view.strip, scores, verdict);
}

/** What an example's row says of it. A liked reply is often pushed up as a whole, without any feedback. */
function amountWords({ touched, tokens, up, held }) {
  const whole = up === tokens ? ", all pushed up" : held === tokens ? ", all held" : up || held ? "" : ", trains nothing";
  return `touched ${touched} of ${tokens}${touched ? "" : whole}`;
}

function drawCaption(view, scores, title) {
  const { tokens } = view.example;
  const rows = scores ? view.panel.rows.filter((row) => scores[row]) : [];
  const parts = [];
  if (view.panel.explained) parts.push(`${tokens.length} tokens`, scores ? rowsCaption(rows) : "");
  if (!scores) parts.push("not scored up to this step");
  else if (scores.rescored) parts.push("re-scored with the edited feedback");
  else if (scores.source.step !== view.shown.step) parts.push(`scores from step ${scores.source.step}`);
  const text = parts.filter(Boolean).join("; ");
  view.caption.replaceChildren(...(title ? [element("b", { text: title }), ` ${text}`] : [text]));
  view.caption.hidden = !title && !text;
}

function besideWords(marks, there) {
  if (!there.scores) return "not scored up to this step";
  if (!marks) return "a different completion";
  const found = marks.reduce((sum, one) => sum + one, 0);
  return found ? `${found} tokens with another tag` : "the same tags";
}

/** Make or remove the second completion. It has its own panel, because another run's example may have other tokens. */
function drawBeside(view, there) {
  const wanted = there?.example ?? null;
  if (view.other?.example !== wanted) {
    view.other?.side.remove();
    view.other = null;
  }
  view.sides.classList.toggle("two", Boolean(there));
  if (!wanted || view.other) return;
  const panel = buildTokens(wanted, `Tokens of example ${wanted.id}, ${there.title}`);
  explain(panel, view.panel.explained);
  const caption = element("p", { className: "caption" });
  const side = element("div", { className: "side" }, caption, panel.group);
  view.other = { example: wanted, panel, caption, side };
  view.sides.append(side);
}

export function drawLegend(tagNames) {
  for (const [condition, cause] of [["judge", "the judgment"], ["standard", "the standard answer"]]) {
    const scale = element("dt", { className: "scale" });
    for (const [value, text] of LEGEND_RATIOS) scale.append(element("span", {}, strip(condition, value), text));
    byId("scales").append(scale,
      element("dd", {}, element("b", { text: `${condition} / base` }), ` ${cause} raises its probability`));
  }
  addToLegend(tagNames);
}

/** Add the tags that the legend lacks. */
export function addToLegend(tagNames) {
  const known = new Set([...byId("tags").querySelectorAll("dt")].map((one) => one.dataset.name));
  for (const name of tagNames) {
    if (known.has(name)) continue;
    const sample = element("dt", { "data-name": name }, shownText("span", name, { className: "text ink" }));
    markTag(sample, name);
    byId("tags").append(sample, element("dd", { text: TAGS[name] ?? "a tag of this scheme" }));
  }
}
