// The page on which a person labels replies: one at a time, by keyboard, each decision saved at once.

import { byId, element, shownText, uniqueName } from "./dom.js";
import { Lights, drawContinuation } from "./lights.js";
import { pointsBefore, withSpan } from "./offsets.js";
import { ReplyView } from "./reply.js";
import { Saver, ask, readerName } from "./saving.js";
import { buildSpans } from "./spans.js";
import { visibleText } from "./text.js";

const TYPING_MS = 250; // time without a keystroke before words are saved
const AHEAD = 3; // replies that are fetched before they are shown
const KEPT = 300; // replies that the page keeps
const NAMES = { "-": "not labelled", "+": "liked", "x": "disliked", "?": "disliked, no reason yet", "s": "skipped" };

const page = {
  about: null, row: null, rows: new Map(), searched: null, going: null, to: null, keys: [], undoing: false, timer: undefined, typed: null, acts: 0,
  /** @type {Lights | null} */
  lights: null,
};
const me = readerName();
const opened = uniqueName().slice(0, 8); // the reader may have the page open twice
const why = /** @type {HTMLTextAreaElement} */ (byId("why"));
const filter = /** @type {HTMLSelectElement} */ (byId("filter"));
const number = /** @type {HTMLInputElement} */ (byId("number"));
const keys = /** @type {HTMLDialogElement} */ (byId("keys"));
const reply = new ReplyView(byId("reply"));
const saver = new Saver({ saved, clash, failed });

/** A name for one act, so that the server undoes it at once. Typed words share the name of their typing. */
const act = () => `${me}-${opened}-${++page.acts}`;

function stateOf({ skipped, label, judgment, spans }) {
  if (skipped) return "s";
  if (label === null) return "-";
  return label ? "+" : judgment.trim() || spans.length ? "x" : "?";
}

/** Change the shown reply's decision, draw it, and save it. */
function decide(changes, said, step = act()) {
  flush();
  const { row } = page;
  const decision = { ...row.decision, ...changes };
  saver.put(row, decision, step);
  draw();
  if (said) say(said);
}

function like(label) {
  flush();
  const { decision } = page.row;
  if (decision.label === label && !decision.skipped) return decide({ label: null }, "Not labelled.");
  decide({ ...moved(decision, label), label, skipped: false }, label ? "Liked." : "Disliked.");
  if (!label && stateOf(page.row.decision) === "?") say("Disliked. Say why (e), or strike words (x).");
}

/** Words follow the label, unless there are words of the other kind already. */
function moved(decision, to) {
  const from = kindOf(decision), into = to ? "feedback" : "judgment";
  if (from === into || !decision[from].trim() || decision[into].trim()) return {};
  return { [into]: decision[from], [from]: "" };
}

/** Save typed words now. */
function flush() {
  clearTimeout(page.timer);
  if (!page.typed) return;
  const { row, changes, step } = page.typed;
  page.typed = null;
  saver.put(row, { ...row.decision, ...changes(row.decision) }, step);
}

/** Take typed words: draw what depends on them, and save them when the typing pauses. `changes` makes the decision. */
function typed(changes, step) {
  const { row } = page;
  if (page.typed && page.typed.step !== step) flush();
  page.typed = { row, changes, step };
  row.decision = { ...row.decision, ...changes(row.decision) };
  clearTimeout(page.timer);
  page.timer = setTimeout(flush, TYPING_MS);
  drawState();
  page.lights?.follow(row);
}

function mark(replaced) {
  const found = reply.selected();
  if (!found) return say("Select words of the reply first, with the mouse or with r and the arrow keys.");
  const [start, end] = found.map((at) => pointsBefore(page.row.completion, at));
  flush();
  const { decision } = page.row;
  const became = decision.label === false ? {} : { ...moved(decision, false), label: false };
  document.getSelection().removeAllRanges();
  const words = visibleText(page.row.completion.slice(...found));
  decide({ ...became, skipped: false, spans: withSpan(decision.spans, { start, end }) },
    `${replaced ? "Write over" : "Struck"}: “${words}”.${became.label === false ? " The reply counts as disliked." : ""}`);
  if (replaced) drawnSpans.focus(start);
  else byId("reply").focus({ preventScroll: true });
}

const drawnSpans = buildSpans(byId("spans"), {
  /** Typing in a span's fields. */
  change(start, changes, step) {
    typed((decision) => ({
      spans: decision.spans.map((one) => (one.start === start ? withoutNulls({ ...one, ...changes }) : one)),
    }), step);
    drawReply();
  },
  act, flush,
  remove(start) {
    decide({ spans: page.row.decision.spans.filter((one) => one.start !== start) }, "No longer struck.");
    byId("reply").focus({ preventScroll: true });
  },
  resume,
});

function withoutNulls(span) {
  return Object.fromEntries(Object.entries(span).filter(([, value]) => value !== null));
}

async function resume(start) {
  flush();
  const { row } = page;
  const written = row.decision.spans.filter((one) => one.replace);
  const span = start === undefined ? written.at(-1) : written.find((one) => one.start === start);
  if (!page.lights) return say("The model goes on only with --model_name_or_path.");
  if (!span) return say("Write over some words first (w): the model goes on from there.");
  say("The model writes …");
  const asked = page.going = {};
  try {
    const found = await page.lights.resume(row, span);
    if (page.going !== asked || page.row !== row || !found) return;
    page.going = found;
    drawContinuation(found, page.about.max_new_tokens);
    byId("going-on").hidden = false;
    byId("going-on").scrollIntoView({ block: "nearest" });
    say("The model has gone on. Take it (a) or drop it (d).");
  } catch (error) {
    if (page.going === asked) say(error.message);
  }
}

function endResume(taken) {
  const found = page.going;
  if (!found?.begun) return;
  page.going = null;
  byId("going-on").hidden = true;
  byId("continuation").replaceChildren();
  if (taken) decide({ answer: (found.begun + found.text).trimEnd() }, "Taken as the right answer.");
  else say("Dropped.");
}

/** Take the last step back, or take it again. What was typed is saved before. */
async function turn(way) {
  flush();
  page.undoing = true;
  try {
    await saver.retry();
    if (saver.clashed.size) say("Answer the question above first.");
    else if (!saver.behind) await turned(way);
  } catch (error) {
    failed(error);
  }
  page.undoing = false;
  runKeys();
}

async function turned(way) {
  const answer = await ask(way, { who: me });
  if (!answer.row) return say(`There is nothing to ${way}.`);
  page.rows.set(answer.row.place, answer.row);
  page.about.states = answer.states;
  await show(answer.row.place);
  say(`${way === "undo" ? "Undone" : "Done again"}. This reply is ${NAMES[stateOf(page.row.decision)]}.`);
}

// Where the reader is

const isWanted = (place) => (
  (!filter.value || filter.value.includes(page.about.states[place])) && (!page.searched || page.searched.has(place)));

/** The next reply in a direction that the filter and the search let through; null if there is none. */
function following(place, way) {
  for (let at = place + way; at >= 0 && at < page.about.rows; at += way) if (isWanted(at)) return at;
  return null;
}

function move(way) {
  const next = following(page.to ?? page.row.place, way);
  if (next === null) return void say(way > 0 ? "That was the last reply." : "This is the first reply.");
  say("");
  return show(next);
}

async function rowAt(place) {
  let row = page.rows.get(place);
  if (!row) {
    row = await ask(`rows/${place}`);
    if (!page.rows.has(place)) page.rows.set(place, row);
    row = page.rows.get(place);
    for (const [old, one] of page.rows) {
      if (page.rows.size <= KEPT) break;
      if (old !== page.row?.place && !saver.waiting.has(old) && one !== row) page.rows.delete(old);
    }
  }
  return row;
}

/** Go to a reply. Until it is fetched, keys that move go on from there, and other keys wait for it. */
async function show(place) {
  flush();
  page.to = place;
  try {
    const row = page.rows.get(place) ?? await rowAt(place);
    if (page.to === place) present(row);
  } catch (error) {
    if (page.to === place) page.to = null;
    failed(error);
  }
  runKeys();
}

function present(row) {
  const { place } = row;
  page.to = null;
  page.row = row;
  page.going = null;
  byId("going-on").hidden = true;
  history.replaceState(null, "", `${location.pathname}#${place + 1}`);
  page.lights?.clear();
  draw();
  window.scrollTo(0, 0);
  performance.mark("nlft-shown");
  let ahead = place;
  for (let count = 0; count < AHEAD && ahead !== null; count++) {
    ahead = following(ahead, 1);
    if (ahead !== null && !page.rows.has(ahead)) rowAt(ahead).catch(() => {});
  }
  const before = following(place, -1);
  if (before !== null && !page.rows.has(before)) rowAt(before).catch(() => {});
}

// Drawing

function draw() {
  const { row } = page;
  byId("title").replaceChildren(`Reply ${(row.place + 1).toLocaleString("en")} · `, ...shownText("bdi", row.id).childNodes);
  if (page.drawn !== row) {
    byId("prompt").replaceChildren(...shownText("div", row.prompt, {}, true).childNodes);
    /** @type {HTMLDetailsElement} */ (byId("question")).open = row.prompt.length <= 1200;
    drawnSpans.forget();
  }
  page.drawn = row;
  const { answer } = row.decision;
  byId("known").hidden = answer === null;
  byId("answer").replaceChildren(...(answer === null ? [] : shownText("div", answer, {}, true).childNodes));
  drawReply();
  drawnSpans.draw(row, Boolean(page.lights));
  drawState();
  page.lights?.follow(row);
}

function drawReply() {
  reply.show(page.row.completion, page.row.decision.spans);
  page.lights?.again();
}

function drawState() {
  const { row: { decision, place }, about } = page;
  const letter = stateOf(decision);
  const badge = byId("badge");
  badge.textContent = NAMES[letter];
  badge.dataset.state = letter;
  byId("like").setAttribute("aria-pressed", String(letter === "+"));
  byId("dislike").setAttribute("aria-pressed", String(letter === "x" || letter === "?"));
  byId("skip").setAttribute("aria-pressed", String(letter === "s"));
  const titles = { "+": "Why do you like it?", "-": "Why? Like (1) or dislike (2) the reply first or later." };
  byId("why-title").textContent = titles[letter] ?? "What is wrong? Quote the words that you mean.";
  const words = wordsIn(decision);
  if (why.value !== words) why.value = words;
  byId("reason").textContent = letter === "?" ? "Say what is wrong, or strike words. Without one of both, the reply is left out." : "";
  if (page.about.states[place] !== letter) {
    about.states = about.states.slice(0, place) + letter + about.states.slice(place + 1);
  }
  drawProgress();
}

/** The kind of the words that are shown. Words that were written before the label was taken back stay in sight. */
function kindOf({ label, judgment, feedback }) {
  return label || (label === null && !judgment && feedback) ? "feedback" : "judgment";
}

const wordsIn = (decision) => decision[kindOf(decision)];

function drawProgress() {
  const { about } = page;
  const found = { "-": 0, "+": 0, "x": 0, "?": 0, "s": 0 };
  for (const letter of about.states) found[letter]++;
  const done = found["+"] + found["x"];
  const bar = /** @type {HTMLProgressElement} */ (byId("done"));
  bar.max = about.rows;
  bar.value = done;
  const parts = [`${done.toLocaleString("en")} of ${about.rows.toLocaleString("en")} labelled`, `${found["+"]} liked`,
    `${found["x"]} disliked`];
  if (found["?"]) parts.push(`${found["?"]} without a reason`);
  if (found["s"]) parts.push(`${found["s"]} skipped`);
  byId("counts").textContent = parts.join(" · ");
  number.value = String(page.row.place + 1);
  const way = (step) => following(page.row.place, step) === null;
  /** @type {HTMLButtonElement} */ (byId("previous")).disabled = way(-1);
  /** @type {HTMLButtonElement} */ (byId("next")).disabled = way(1);
}

function say(text) { byId("said").textContent = text; }

// Saving

function saved(answer, row) {
  // What this page has not saved yet is newer than the server's list.
  const own = [...saver.waiting.keys(), row.place, page.row.place];
  const states = [...answer.states];
  for (const place of own) if (page.rows.has(place)) states[place] = stateOf(page.rows.get(place).decision);
  page.about.states = states.join("");
  drawProgress();
}

function failed(error) {
  byId("trouble").hidden = !error;
  if (!error) return;
  byId("trouble").replaceChildren(
    element("p", { text: saver.behind ? `Not saved: ${error.message}` : error.message }),
    retryButton());
}

function retryButton() {
  const made = element("button", { type: "button", text: "Try again" });
  made.addEventListener("click", () => { byId("trouble").hidden = true; saver.retry(); });
  return made;
}

/** Another page has changed the same reply. The reader chooses; nothing is replaced in silence. */
function clash(row, theirs) {
  const mine = row.decision;
  const choose = (text, decision) => {
    const made = element("button", { type: "button", text });
    made.addEventListener("click", () => {
      byId("trouble").hidden = true;
      saver.clashed.delete(row.place);
      row.revision = theirs.revision;
      row.decision = theirs.decision;
      if (decision) saver.put(row, decision, act());
      if (page.row === row) draw();
      else show(row.place);
    });
    return made;
  };
  const words = ({ decision }) => `${NAMES[stateOf(decision)]}${wordsIn(decision) ? `, “${visibleText(wordsIn(decision))}”` : ""}`;
  byId("trouble").replaceChildren(
    element("p", { text: `Another page has changed reply ${row.place + 1}. There it is: ${words(theirs)}. Here it is: ${words(row)}.` }),
    choose("Take theirs", null), " ", choose("Keep mine", mine));
  byId("trouble").hidden = false;
}

// Keys and buttons

const ACTS = {
  j: () => move(1), k: () => move(-1), 1: () => like(true), 2: () => like(false), u: () => turn("undo"), redo: () => turn("redo"),
  s: () => decide({ skipped: !page.row.decision.skipped }, page.row.decision.skipped ? "No longer skipped." : "Skipped."),
  x: () => mark(false), w: () => mark(true), e: () => why.focus(), r: () => byId("reply").focus(), g: () => resume(),
  a: () => endResume(true), d: () => endResume(false), "/": () => byId("search").focus(), f: () => filter.focus(),
  "?": () => (keys.open ? keys.close() : openKeys()),
};

/** Do what a key does, in turn. A decision never falls on the reply before the one that the reader has asked for. */
function press(key) {
  if (page.keys.some((one) => "ewr/f?".includes(one))) return; // what follows would be text for the field that opens
  page.keys.push(key);
  runKeys();
}

function runKeys() {
  while (page.keys.length && !page.undoing && (page.to === null || "jk".includes(page.keys[0]))) ACTS[page.keys.shift()]();
}

async function openKeys() {
  const about = await ask("about").catch(() => page.about);
  byId("then").textContent = about.next;
  keys.showModal();
}

/** The act of Ctrl+Z, Ctrl+Shift+Z and Ctrl+Y, with Cmd on a Mac. */
function turnOf({ ctrlKey, metaKey, altKey, shiftKey, key }) {
  if (!(ctrlKey || metaKey) || altKey) return null;
  const letter = key.toLowerCase();
  if (letter === "z") return shiftKey ? "redo" : "u";
  return letter === "y" ? "redo" : null;
}

function onKey(event) {
  const inText = /** @type {HTMLElement} */ (event.target).matches("input, textarea, select");
  const turning = turnOf(event);
  if (turning && !inText && !keys.open && page.row) { // a field takes back its own letters
    event.preventDefault();
    return press(turning);
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !page.row) return;
  if (event.key === "Escape" && inText) return void byId("reply").focus({ preventScroll: true });
  if (inText || (keys.open && event.key !== "?")) return;
  const found = ACTS[event.key];
  if (!found) return;
  event.preventDefault();
  press(event.key);
}

function watchFields() {
  let step = act();
  why.addEventListener("focus", () => { step = act(); });
  why.addEventListener("input", () => {
    const words = why.value; // now: a moment later the field may show another reply's words
    typed((decision) => ({ [kindOf(decision)]: words }), step);
  });
  why.addEventListener("blur", flush);
  why.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { why.blur(); move(1); }
  });
  filter.addEventListener("change", () => applyFilter());
  number.addEventListener("change", () => {
    const place = Math.min(Math.max(1, Number(number.value) || 1), page.about.rows) - 1;
    show(place);
  });
  let wait;
  byId("search").addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(search, TYPING_MS);
  });
}

let searching = 0;

async function search() {
  const mine = ++searching, text = byId("search").value;
  const found = text ? (await ask("search", { text }).catch((error) => void failed(error)))?.places : null;
  if (mine !== searching) return;
  page.searched = found ? new Set(found) : null;
  applyFilter();
}

/** Show the first reply that is let through, unless the shown one is. */
function applyFilter() {
  const places = Array.from({ length: page.about.rows }, (_, place) => place).filter(isWanted);
  const some = filter.value || page.searched;
  byId("found").textContent = some ? `${places.length.toLocaleString("en")} found` : "";
  drawProgress();
  if (places.length && !isWanted(page.row.place)) show(places.find((place) => place > page.row.place) ?? places[0]);
}

function watchButtons() {
  const of = { previous: "k", next: "j", like: "1", dislike: "2", skip: "s", undo: "u", redo: "redo", help: "?", strike: "x", write: "w", take: "a", drop: "d" };
  for (const [id, key] of Object.entries(of)) {
    // A press of a button must not take the selection away before the words are struck.
    byId(id).addEventListener("pointerdown", (event) => { if (["x", "w"].includes(key)) event.preventDefault(); });
    byId(id).addEventListener("click", () => press(key));
  }
  byId("close-keys").addEventListener("click", () => keys.close());
  byId("drop-answer").addEventListener("click", () => decide({ answer: null }, "The answer is removed."));
}

/** A page that was in the background shows what other pages have saved meanwhile. */
async function refresh() {
  if (document.hidden || page.typed || saver.behind || !page.row) return;
  const [about, row] = await Promise.all([ask("about"), ask(`rows/${page.row.place}`)]).catch(() => []);
  if (!about || page.typed || saver.behind || row.place !== page.row.place) return;
  Object.assign(page.about, about);
  if (row.revision === page.row.revision) return void drawProgress();
  page.rows.clear();
  page.rows.set(row.place, row);
  show(row.place);
}

async function begin() {
  page.about = await ask("about");
  const { about } = page;
  document.title = `Label ${about.file}`;
  byId("where").append("Saved at once in ", shownText("b", about.out), "; ", shownText("span", about.file), " stays as it is. ",
    about.model ? "Model: " : "No model: start with --model_name_or_path to see what your words do to each token, and to let it go on.",
    ...(about.model ? [shownText("b", about.model)] : []));
  byId("of").textContent = `of ${about.rows.toLocaleString("en")}`;
  number.max = String(about.rows);
  if (about.model) page.lights = new Lights(reply);
  watchFields();
  watchButtons();
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", refresh);
  window.addEventListener("pagehide", flush);
  window.addEventListener("beforeunload", (event) => { flush(); if (saver.behind) event.preventDefault(); });
  const named = Number(location.hash.slice(1));
  const first = about.states.search(/[-?]/);
  await show(named >= 1 && named <= about.rows ? named - 1 : about.last ?? Math.max(0, first));
  performance.mark("nlft-drawn");
}

// Remove the token from the address, so that others can see the address. The cookie has it now.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

begin().catch((error) => failed(error));
