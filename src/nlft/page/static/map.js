"use strict";
// The saliency map. First pure functions: numbers and tokens to what is seen. Then the page, built from them.
// Everything a model wrote goes in through textContent, never as markup.

const SATURATION = 8; // the ratio from which a colour grows no stronger
const PLAY_MS = 700;

const TAGS = {
  plain: "nothing special",
  salient: "singled out: by the judgment in a wrong completion, by the standard answer in a right one",
  neighbour: "its hidden state is close to a salient token's",
  gated: "weight 0, since too much of the completion is salient",
  contradiction: "the model is sure of it, but not once it sees the standard answer",
};

const CONTROLS = ("NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB " +
  "CAN EM SUB ESC FS GS RS US").split(" ");

// What shows as nothing, or moves what stands around it: controls, bidi marks, odd spaces, zero-width signs.
const HIDDEN = /[\p{C}\p{Z}]|(?!\p{M})\p{Default_Ignorable_Code_Point}/u;

/** How many times likelier: p/q from two log-probabilities; null where either is missing. */
function ratio(logp, logq) {
  return logp == null || logq == null ? null : Math.exp(logp - logq);
}

/** Colour strength in [0, 1]: 0 up to a ratio of 1, then with its logarithm, 1 from SATURATION on. */
function strength(value) {
  if (value === null) return 0;
  return Math.max(0, Math.min(1, Math.log(value) / Math.log(SATURATION)));
}

/** A probability from its logarithm: 0.4213, or 3.1e-7 where decimals would show zeros. */
function formatProbability(logp) {
  if (logp == null) return "unknown";
  const p = Math.exp(logp);
  return p >= 0.001 ? p.toFixed(4) : p.toExponential(1);
}

function formatRatio(value) {
  if (value === null) return "unknown";
  return "×" + (value >= 1000 || value < 0.001 ? value.toExponential(1) : value.toPrecision(3));
}

function formatWeight(value) {
  return value == null ? "unknown" : value.toFixed(3);
}

function formatShares(counts, total) {
  const percent = (count) => (total ? ((100 * count) / total).toFixed(1) : "0.0") + "%";
  const words = ([name, count], place) => `${name} ${count}${place ? "" : ` of ${total} tokens`} (${percent(count)})`;
  return counts.map(words).join(", ");
}

/** The step's words: "step 40, epoch 1.33 (5 of 12), scheme nlft". */
function formatStep(step, index, total) {
  return `step ${step.step}, epoch ${step.epoch.toFixed(2)} (${index + 1} of ${total}), scheme ${step.scheme}`;
}

function hiddenName(char) {
  const code = char.codePointAt(0);
  return CONTROLS[code] ?? "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}

/**
 * Text as parts to show, each of a kind: "text" as it is, a "mark" or a "name" for what would show as nothing.
 * Prose keeps its own line breaks and tabs; a token shows them.
 */
function visibleParts(text, prose = false) {
  const parts = [];
  const add = (kind, shown) => {
    if (kind !== "name" && parts.at(-1)?.kind === kind) parts.at(-1).text += shown;
    else parts.push({ kind, text: shown });
  };
  const marks = prose ? {} : { "\n": "↵", "\t": "⇥", ...(/^ +$/.test(text) && { " ": "·" }) };
  if (text === "") add("mark", prose ? "(empty)" : "∅");
  if (/^\p{M}/u.test(text)) add("text", "◌"); // a lone accent needs something to sit on
  for (const char of text) {
    if (marks[char]) add("mark", marks[char]);
    else if (HIDDEN.test(char) && !" \n\t".includes(char)) add("name", hiddenName(char));
    else add("text", char);
  }
  return parts;
}

function visibleText(text) {
  return visibleParts(text).map((part) => part.text).join("");
}

/** Does the text run from right to left? Its first letter decides. */
function runsRightToLeft(text) {
  const letter = text.match(/\p{L}/u);
  return letter !== null && /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}]/u.test(letter[0]);
}

function tagName(step, index) {
  return step.tag_names[index] ?? `tag ${index}`;
}

/** The scheme's verdict in words, from the two weights. */
function effect(likelihood, unlikelihood) {
  if (unlikelihood > 0) return likelihood > 0 ? "pushed both ways" : "pushed down";
  return likelihood > 0 ? "pushed up" : "left alone";
}

/** What the tooltip says of one token, as [name, value] pairs. */
function tokenFacts(step, scores, index) {
  const base = scores.base[index];
  const conditions = ["judge", "standard"].filter((name) => scores[name]).map((name) => {
    const logp = scores[name][index];
    return [name, `${formatProbability(logp)}  ${formatRatio(ratio(logp, base))}`];
  });
  return [
    ["base", formatProbability(base)], ...conditions,
    ["tag", tagName(step, scores.tag[index])],
    ["likelihood weight", formatWeight(scores.likelihood[index])],
    ["unlikelihood weight", formatWeight(scores.unlikelihood[index])],
  ];
}

/** How many tokens carry each tag: [name, count], salient always first; plain ones are not counted. */
function tagCounts(step, scores) {
  const counts = new Map([["salient", 0]]);
  for (const index of scores.tag) {
    const name = tagName(step, index);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  counts.delete("plain");
  return [...counts];
}

function matches(example, words, label) {
  if (label !== "all" && (label === "right") !== example.label) return false;
  const where = [example.id, example.prompt, example.answer, example.judgment ?? "", example.tokens.join("")];
  const text = where.join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

// ---- the page ----

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const state = { step: data.steps.length - 1, timer: null, shown: null };
const places = new WeakMap(); // token cell -> { view, index }

function element(name, { text, className, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shownText(tag, text, options, prose = false) {
  const parts = visibleParts(text, prose);
  const spans = parts.map((part) => part.kind === "text" ? part.text : element("span", { text: part.text, className: part.kind }));
  return element(tag, options, ...spans);
}

function strip(condition, value) {
  const made = element("i", { className: "strip", "data-condition": condition, "aria-hidden": "true" });
  if (value !== undefined) paint(made, value);
  return made;
}

function paint(made, value) {
  made.style.setProperty("--strength", strength(value).toFixed(3));
}

function markTag(cell, name) {
  cell.dataset.tag = Object.hasOwn(TAGS, name) ? name : "other";
}

function passage(title, text) {
  const body = shownText("div", text, { className: "prose", dir: "auto" }, true);
  const made = element("details", { className: "passage" }, element("summary", { text: title }), body);
  made.open = text.length <= 1200;
  return made;
}

function rowsCaption(rows) {
  if (rows.length === 2) return "upper row judge / base, lower row standard / base";
  return rows.length === 1 ? `one row: ${rows[0]} / base` : "no second condition was scored, so no rows";
}

function buildExample(example, index) {
  const rows = ["judge", "standard"].filter((name) => data.steps.some((step) => step.scores[index][name]));
  const verdict = example.label ? "right" : "wrong";
  const id = shownText("bdi", String(example.id));
  const badge = element("span", { text: example.label ? "✓ right" : "✗ wrong", className: `badge ${verdict}` });
  const share = element("span", { className: "share" });
  const title = element("h2", { id: `title-${index}` }, "Example ", id);
  const passages = element("div", { className: "passages" }, passage("Prompt", example.prompt));
  if (example.judgment !== null) passages.append(passage("Judgment", example.judgment));
  passages.append(passage("Standard answer", example.answer));
  const rightToLeft = runsRightToLeft(example.tokens.join(""));
  const group = element("div", {
    className: "tokens", role: "listbox", "aria-orientation": "horizontal", dir: rightToLeft ? "rtl" : "ltr",
    "aria-label": `Tokens of example ${example.id}`,
  });
  const view = { example, index, share, group, rightToLeft, cells: [] };
  example.tokens.forEach((token, position) => {
    const strips = rows.map((name) => strip(name));
    const last = position === example.tokens.length - 1;
    const cell = element("span", {
      className: last ? "token end" : "token", role: "option", tabindex: position === 0 ? "0" : "-1",
    }, shownText("bdi", token, { className: "text" }), ...strips);
    places.set(cell, { view, index: position });
    view.cells.push(cell);
    group.append(cell);
    if (token.includes("\n")) group.append(element("br"));
  });
  const caption = element("p", { className: "caption" });
  caption.append(element("b", { text: "Completion" }), ` ${example.tokens.length} tokens; ${rowsCaption(rows)}`);
  view.card = element("article", { id: `example-${index}`, "aria-labelledby": `title-${index}` },
    element("header", {}, title, badge, share), passages, caption, group);
  const link = element("a", { href: `#example-${index}` },
    element("span", { text: example.label ? "✓" : "✗", className: verdict, "aria-label": verdict, role: "img" }),
    shownText("bdi", String(example.id), { className: "id" }), shownText("bdi", example.prompt.slice(0, 80)));
  view.jump = element("li", {}, link);
  return view;
}

function drawExample(view, step) {
  const scores = step.scores[view.index];
  view.share.textContent = formatShares(tagCounts(step, scores), scores.tag.length);
  view.cells.forEach((cell, index) => {
    const name = tagName(step, scores.tag[index]);
    markTag(cell, name);
    cell.setAttribute("aria-label", `${visibleText(view.example.tokens[index])}, ${name}`);
    for (const made of cell.querySelectorAll(".strip")) {
      paint(made, ratio(scores[made.dataset.condition]?.[index], scores.base[index]));
    }
  });
}

function showStep(index) {
  state.step = Math.max(0, Math.min(data.steps.length - 1, index));
  const step = data.steps[state.step];
  const words = formatStep(step, state.step, data.steps.length);
  byId("step").value = String(state.step);
  byId("step").setAttribute("aria-valuetext", words);
  byId("where").textContent = words;
  byId("previous").disabled = state.step === 0;
  byId("next").disabled = state.step === data.steps.length - 1;
  views.forEach((view) => drawExample(view, step));
  if (state.shown) showTooltip(state.shown);
}

function play(on) {
  clearInterval(state.timer);
  state.timer = null;
  byId("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  if (state.step === data.steps.length - 1) showStep(0);
  state.timer = setInterval(() => {
    showStep(state.step + 1);
    if (state.step === data.steps.length - 1) play(false);
  }, PLAY_MS);
}

function showTooltip(cell) {
  hideTooltip();
  state.shown = cell;
  const { view, index } = places.get(cell);
  const step = data.steps[state.step];
  const scores = step.scores[view.index];
  const verdict = effect(scores.likelihood[index], scores.unlikelihood[index]);
  const facts = element("dl");
  for (const [name, value] of tokenFacts(step, scores, index)) {
    facts.append(element("div", { className: name.split(" ")[0] }, element("dt", { text: name }), shownText("dd", value)));
  }
  const tooltip = byId("tooltip");
  tooltip.replaceChildren(
    element("p", {}, shownText("bdi", view.example.tokens[index], { className: "text" }),
      element("b", { text: verdict }), element("span", { text: `${index + 1} of ${view.cells.length}` })),
    facts);
  tooltip.hidden = false;
  cell.setAttribute("aria-describedby", "tooltip");
  cell.classList.add("shown");
  const box = cell.getBoundingClientRect();
  const below = box.bottom + tooltip.offsetHeight + 12 < window.innerHeight;
  const top = below ? box.bottom + 6 : Math.max(4, box.top - tooltip.offsetHeight - 6);
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tooltip.offsetWidth - 8));
  tooltip.style.setProperty("top", `${top + window.scrollY}px`);
  tooltip.style.setProperty("left", `${left + window.scrollX}px`);
}

function hideTooltip() {
  byId("tooltip").hidden = true;
  state.shown?.removeAttribute("aria-describedby");
  state.shown?.classList.remove("shown");
  state.shown = null;
}

/** The token that a key leads to from here, or null for any other key. Up and down follow the lines as laid out. */
function target(view, index, key) {
  const { cells, rightToLeft } = view;
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
  if (event.key === "," || event.key === ".") return showStep(state.step + (event.key === "." ? 1 : -1));
  const next = target(place.view, place.index, event.key);
  if (next === null) return;
  event.preventDefault();
  place.view.cells[Math.max(0, Math.min(place.view.cells.length - 1, next))].focus();
}

function onTokenFocus(event) {
  const place = places.get(event.target);
  if (!place) return;
  for (const cell of place.view.cells) {
    cell.tabIndex = cell === event.target ? 0 : -1;
    cell.setAttribute("aria-selected", String(cell === event.target));
  }
  showTooltip(event.target);
}

function onPointer(event) {
  const cell = event.target.closest(".token");
  const focused = places.has(document.activeElement) ? document.activeElement : null;
  if (cell ?? focused) showTooltip(cell ?? focused);
  else hideTooltip();
}

function filter() {
  const wanted = views.filter((view) => matches(view.example, byId("search").value.trim(), byId("label").value));
  for (const view of views) view.card.hidden = view.jump.hidden = !wanted.includes(view);
  byId("count").textContent = `${wanted.length} of ${views.length} examples`;
  hideTooltip();
}

function nextTheme() {
  const themes = ["auto", "light", "dark"];
  const root = document.documentElement;
  const theme = themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length];
  root.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

function drawLegend() {
  for (const [condition, cause] of [["judge", "the judgment"], ["standard", "the standard answer"]]) {
    const scale = element("dt", { className: "scale" });
    for (const [value, text] of [[1, "≤1×"], [2, "2×"], [4, "4×"], [SATURATION, `≥${SATURATION}×`]]) {
      scale.append(element("span", {}, strip(condition, value), text));
    }
    byId("scales").append(scale, element("dd", {}, element("b", { text: `${condition} / base` }), ` ${cause} makes it likelier`));
  }
  for (const name of new Set(data.steps.flatMap((step) => step.tag_names))) {
    const sample = element("dt", {}, shownText("span", name, { className: "text" }));
    markTag(sample, name);
    byId("tags").append(sample, element("dd", { text: TAGS[name] ?? "as the scheme calls it" }));
  }
}

const views = data.examples.map(buildExample);
byId("run").append(...shownText("bdi", data.run).childNodes);
byId("notes").append(...data.notes.map((text) => shownText("p", text)));
byId("notes").hidden = data.notes.length === 0;
byId("examples").append(...views.map((view) => view.card));
byId("jump").append(...views.map((view) => view.jump));
byId("step").max = String(data.steps.length - 1);
byId("step").addEventListener("input", (event) => { play(false); showStep(Number(event.target.value)); });
byId("previous").addEventListener("click", () => { play(false); showStep(state.step - 1); });
byId("next").addEventListener("click", () => { play(false); showStep(state.step + 1); });
byId("play").disabled = data.steps.length === 1;
byId("play").addEventListener("click", () => play(state.timer === null));
byId("theme").addEventListener("click", nextTheme);
byId("search").addEventListener("input", filter);
byId("label").addEventListener("change", filter);
byId("examples").addEventListener("keydown", onTokenKey);
byId("examples").addEventListener("focusin", onTokenFocus);
byId("examples").addEventListener("focusout", hideTooltip);
byId("examples").addEventListener("pointerover", onPointer);
byId("examples").addEventListener("pointerleave", onPointer);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTooltip(); });
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
drawLegend();
filter();
showStep(state.step);
