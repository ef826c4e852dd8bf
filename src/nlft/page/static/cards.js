// An example's card: its texts, its completion, and, if chosen, the same completion at another step or in another run.

import { byId, button, element, shownText } from "./dom.js";
import { differing, recordedVerdict, tagCounts } from "./logic.js";
import { state } from "./state.js";
import { TAGS, buildTokens, drawTokens, markTag, strip } from "./tokens.js";
import { LEGEND_RATIOS, formatPercent, formatShares } from "./text.js";

function passage(title, text) {
  const body = shownText("div", text, { className: "prose", dir: "auto" }, true);
  const made = element("details", { className: "passage" }, element("summary", { text: title }), body);
  made.open = text.length <= 1200;
  return made;
}

function rowsCaption(rows) {
  if (rows.length === 2) return "upper row judge / base, lower row standard / base";
  return rows.length === 1 ? `one row: ${rows[0]} / base` : "no second condition was scored, so there are no rows";
}

/** Build a card: {example, index, card, jump, panel, other, ...}; A press of the pin calls `onPin`. */
export function buildCard(example, index, onPin) {
  const verdict = example.label ? "right" : "wrong";
  const badge = element("span", { text: example.label ? "✓ right" : "✗ wrong", className: `badge ${verdict}` });
  const share = element("span", { className: "share" });
  const title = element("h2", { id: `title-${index}` }, "Example ", shownText("bdi", String(example.id)));
  const pin = button("Pin", () => onPin(example.id), { className: "pin", "aria-pressed": "false" });
  const judgment = example.judgment === null ? [] : [passage("Judgment", example.judgment)];
  const answer = example.answer === null ? [] : [passage("Standard answer", example.answer)];
  const feedback = example.feedback ? [passage("What a reader likes", example.feedback)] : [];
  const passages = element("div", { className: "passages" },
    passage("Prompt", example.prompt), ...judgment, ...answer, ...feedback);
  const panel = buildTokens(example, `Tokens of example ${example.id}`);
  const caption = element("p", { className: "caption" });
  const sides = element("div", { className: "sides" }, element("div", { className: "side" }, caption, panel.group));
  const actions = element("div", { className: "actions" });
  const card = element("article", { id: `example-${index}`, "aria-labelledby": `title-${index}` },
    element("header", {}, title, badge, share, pin), passages, sides, actions);
  const amount = element("span", { className: "amount", "aria-hidden": "true" });
  const link = element("a", { href: `#example-${index}` },
    element("span", { text: example.label ? "✓" : "✗", className: verdict, "aria-label": verdict, role: "img" }),
    shownText("bdi", String(example.id), { className: "id" }), shownText("bdi", example.prompt.slice(0, 80)));
  return {
    example, index, card, share, pin, passages, caption, sides, actions, panel, other: null, amount,
    jump: element("li", {}, link, amount), shown: null,
  };
}

/**
 * Draw a card.
 *
 * here: {scores, after} of the shown step (scores null: not scored yet); there: the same of what stands beside it, with
 * its `example` and a `title`, or null.
 */
export function drawCard(view, here, there, hereTitle) {
  view.shown = here;
  view.pin.setAttribute("aria-pressed", String(state.pins.has(view.example.id)));
  view.card.classList.toggle("pinned", state.pins.has(view.example.id));
  drawBeside(view, there);
  if (!here.scores) {
    view.share.textContent = "not scored yet";
    view.amount.textContent = "";
    drawCaption(view, null, there ? hereTitle : "");
    return;
  }
  const verdict = recordedVerdict(here.scores);
  const now = here.after ?? verdict;
  const counts = tagCounts(now);
  view.share.textContent = formatShares(counts, now.tag.length);
  view.amount.textContent = formatPercent(counts[0][1] / now.tag.length);
  drawCaption(view, here.scores, there ? hereTitle : "");
  const other = there?.scores ? recordedVerdict(there.scores) : null;
  const marks = other ? differing(now, there.after ?? other) : null;
  const before = here.before && here.before !== here.scores ? recordedVerdict(here.before) : null;
  const own = before ? differing(before, now) : here.after ? differing(verdict, here.after) : null;
  drawTokens(view.panel, { scores: here.scores, verdict, after: here.after, changed: marks ?? own });
  if (!view.other) return;
  view.other.caption.replaceChildren(element("b", { text: there.title }), ` ${besideWords(marks, there)}`);
  if (other) drawTokens(view.other.panel, { scores: there.scores, verdict: other, after: there.after, changed: marks });
}

function drawCaption(view, scores, title) {
  const { tokens } = view.example;
  const rows = scores ? view.panel.rows.filter((row) => scores[row]) : [];
  const words = scores ? rowsCaption(rows) : "not scored up to this step";
  const when = scores?.rescored ? "; re-scored with the edited feedback"
    : scores && scores.source.step !== view.shown.step ? `; scores from step ${scores.source.step}` : "";
  view.caption.replaceChildren(
    element("b", { text: title || "Completion" }), ` ${tokens.length} tokens; ${words}${when}`);
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
    const sample = element("dt", { "data-name": name }, shownText("span", name, { className: "text" }));
    markTag(sample, name);
    byId("tags").append(sample, element("dd", { text: TAGS[name] ?? "a tag of this scheme" }));
  }
}
