// Build the page, and draw it from a source: the server or an exported file.

import { addToLegend, buildCard, drawCard, drawLegend } from "./cards.js";
import { Curves } from "./curves.js";
import { byId, element, shownText } from "./dom.js";
import { Feedback } from "./feedback.js";
import { differing, matches, nearestStep, recordedVerdict, requestsFor, salientShare, sortedOrder } from "./logic.js";
import { Run } from "./runs.js";
import { buildShare } from "./share.js";
import { keep, kept, state } from "./state.js";
import { drawBesideBar, drawBesideChoices, drawMarks, drawSteps, watchSteps } from "./stepbar.js";
import { Steer, statusWords } from "./steer.js";
import { formatDuration } from "./text.js";
import { hideTooltip, redrawTooltip, watchTokens } from "./tokens.js";
import { WhatIf, triedVerdicts } from "./whatif.js";

const THEMES = ["auto", "light", "dark"];
const page = { source: null, views: [], whatIf: null, steer: null, curves: null, feedback: null, steps: {}, order: [], news: null, unseen: false, asked: undefined };
let ticket = 0;

/** The values of the page's own fields. */
function choices() {
  /** @param {"search" | "label" | "sort"} id */
  const value = (id) => byId(id).value;
  return {
    search: value("search"), label: value("label"), sort: value("sort"),
    theme: document.documentElement.dataset.theme ?? "auto", curves: byId("curves").open, legend: byId("legend").open,
  };
}

export async function begin(source) {
  const about = await source.about();
  page.source = source;
  state.runs = about.runs.map((one, index) => new Run(source, index, one));
  state.readOnly = about.read_only;
  state.feedback = about.feedback;
  state.rescores = about.rescores;
  state.saved = about.saved ?? [];
  await Promise.all(state.runs.map((run) => run.update()));
  byId("curves").open = Boolean(source.listen);
  byId("legend").open = !source.listen;
  restore(kept(state.runs[0].about.run, about.view));
  buildPage();
  buildViews();
  watchPage();
  await draw();
  performance.mark("nlft-drawn");
  // Draw the tokens first, because they matter most.
  requestAnimationFrame(() => setTimeout(() => { page.curves.ready = true; page.curves.draw(); }));
  if (source.listen) source.listen(() => news(), (heard) => byId("status").classList.toggle("lost", !heard));
}

function restore(view) {
  const [run] = state.runs;
  state.pins = new Set(view.pins ?? []);
  const hasTried = view.tried && run.about.schemes[view.tried.scheme];
  state.tried = hasTried ? { scheme: view.tried.scheme, settings: { ...view.tried.settings } } : null;
  state.following = view.step == null || !run.steps.includes(view.step);
  state.at = state.following ? Math.max(run.steps.length - 1, 0) : run.steps.indexOf(view.step);
  const other = state.runs[view.beside?.run];
  state.beside = other ? { run: view.beside.run, at: nearestStep(other.steps, view.beside.step ?? 0) } : null;
  for (const id of /** @type {const} */ (["search", "label", "sort"])) if (view[id] !== undefined) byId(id).value = view[id];
  if (byId("label").value === "") byId("label").value = "all";
  if (byId("sort").value === "") byId("sort").value = "file";
  for (const id of /** @type {const} */ (["curves", "legend"])) if (view[id] !== undefined) byId(id).open = view[id];
  if (THEMES.includes(view.theme)) setTheme(view.theme);
}

function buildPage() {
  const [run] = state.runs;
  const { source } = page;
  document.title = `${run.about.run}: saliency map`;
  byId("run").append(...shownText("bdi", run.about.run).childNodes);
  const notes = state.runs.flatMap((one) => one.about.notes ?? []);
  byId("notes").append(...notes.map((text) => shownText("p", text)));
  byId("notes").hidden = notes.length === 0;
  byId("status").hidden = !source.listen;
  const panel = byId("panel");
  if (Object.keys(run.about.schemes).length) {
    const root = foldable(panel, "what-if", "What if");
    page.whatIf = new WhatIf(root, run.about, () => paint(), (tried) => applyTried(tried));
  }
  if (source.post) {
    const root = foldable(panel, "steer", "The run");
    page.steer = new Steer(root, run, (path, body) => source.post(path, body), goToStep);
    buildShare(byId("share"), source, choices);
  }
  panel.hidden = panel.childElementCount === 0;
  page.curves = new Curves(goToStep);
  byId("curves").hidden = !source.listen && state.runs.every((one) => !one.columns.step.length);
  drawBesideChoices((beside) => { state.beside = beside; draw(); });
  drawLegend([]);
}

/** A part of the side panel. It is open if there is room. */
function foldable(panel, id, title) {
  const open = matchMedia("(min-width: 76rem)").matches;
  const body = element("div", { className: "body" });
  panel.append(element("details", { id, open }, element("summary", {}, element("h2", { text: title })), body));
  return body;
}

function buildViews() {
  const [run] = state.runs;
  if (page.source.post && state.feedback) {
    page.feedback ??= new Feedback((...sent) => page.source.post(...sent), run.about.run, () => paint());
  }
  page.views = run.examples.map((example, index) => buildCard(example, index, togglePin));
  byId("examples").replaceChildren(...page.views.map((view) => view.card));
  byId("jump").replaceChildren(...page.views.map((view) => view.jump));
  page.order = page.views.map((view) => view.index);
  if (page.feedback) page.views.forEach((view) => page.feedback.add(view));
  if (!page.views.length) {
    const text = run.about.begun === false
      ? "Waiting for this run to begin: nothing is in its folder yet. The map appears here by itself."
      : "This run has no watched examples yet. Train with --watch 8 to see their tokens here.";
    byId("examples").append(element("p", { className: "note", text }));
  }
  filter();
}

function watchPage() {
  watchSteps(show);
  watchTokens(byId("examples"), (way) => show(state.at + way));
  byId("search").addEventListener("input", filter);
  byId("label").addEventListener("change", filter);
  byId("sort").addEventListener("change", () => draw());
  byId("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(choices().theme) + 1) % THEMES.length]);
  });
  window.addEventListener("pagehide", () => keep(choices()));
  document.addEventListener("visibilitychange", () => { if (page.unseen && !document.hidden) news(); });
  window.addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details")) if (!one.classList.contains("menu")) one.open = true;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || document.activeElement?.matches("input, textarea, select")) return;
    event.preventDefault();
    byId("search").focus();
  });
}

/** Show the step at an index into the first run's steps. */
function show(index) {
  const last = Math.max(state.runs[0].steps.length - 1, 0);
  state.at = Math.max(0, Math.min(last, index));
  state.following = state.at === last;
  return draw();
}

function goToStep(number) {
  return show(nearestStep(state.runs[0].steps, number));
}

/** Fetch the steps to show, then draw them, unless a later call has started meanwhile. */
async function draw() {
  const mine = ++ticket;
  const { runs: [run], beside } = state;
  page.asked = run.steps[state.at];
  const wanted = {
    here: [run, state.at],
    there: beside ? [state.runs[beside.run], beside.at] : null,
    first: byId("sort").value === "change" ? [run, 0] : null,
  };
  const problems = [];
  const found = await Promise.all(Object.entries(wanted).map(async ([name, place]) => {
    if (!place || place[0].steps[place[1]] === undefined) return [name, null];
    const [of, at] = place;
    const step = await of.step(of.steps[at]).catch((error) => {
      problems.push(`Step ${of.steps[at]} cannot be shown: ${error.message}.`);
      return null;
    });
    return [name, step];
  }));
  if (mine !== ticket) return;
  page.steps = Object.fromEntries(found);
  drawProblems(problems);
  paint();
}

function drawProblems(problems) {
  const notes = byId("notes");
  notes.querySelectorAll(".passing").forEach((one) => one.remove());
  const trouble = state.runs.flatMap((run) => [run.problem, run.ending]).filter(Boolean);
  for (const text of [...problems, ...trouble]) notes.append(shownText("p", text, { className: "passing" }));
  notes.hidden = notes.childElementCount === 0;
}

/** Draw from the fetched data. Nothing here waits. */
function paint() {
  const [run] = state.runs;
  const { there, first } = page.steps;
  const here = withRescored(page.steps.here);
  const other = state.beside && state.runs[state.beside.run];
  const tried = triedVerdicts(here, run.examples);
  const triedThere = other ? triedVerdicts(there, other.examples) : null;
  const places = other ? new Map(other.examples.map((example, index) => [example.id, index])) : null;
  const title = (of, step) => (state.beside?.run ? `${of.about.run}, step ${step.step}` : `Step ${step.step}`);
  for (const view of page.views) {
    const at = places?.get(view.example.id);
    const beside = there && at !== undefined ? {
      example: other.examples[at], title: title(other, there), scores: there.scores[at], after: triedThere?.[at] ?? null,
    } : null;
    const now = {
      step: here?.step, scores: here?.scores[view.index] ?? null, after: tried?.[view.index] ?? null,
      before: page.steps.here?.scores[view.index] ?? null,
    };
    drawCard(view, now, beside, here && title(run, here));
  }
  sort(here, first, tried);
  drawSteps(here);
  drawBesideBar(there);
  drawMarks(show);
  if (here) addToLegend(here.sources.flatMap((source) => source.tag_names));
  page.whatIf?.draw(here, tried);
  drawRun();
  redrawTooltip();
  page.curves.cursor();
  keep(choices());
}

/** The step, with the model's new scores for edited examples. */
function withRescored(step) {
  if (!step || !page.feedback) return step;
  return { ...step, scores: step.scores.map((scores, index) => page.feedback.rescored(index) ?? scores) };
}

/** Draw the parts that do not depend on the shown step: the run's state, its requests, its curves. */
function drawRun() {
  const [run] = state.runs;
  byId("status").textContent = statusWords(run, formatDuration);
  byId("status").dataset.state = run.state;
  page.steer?.draw();
  if (page.whatIf && page.steer) {
    const changes = state.tried && run.steering ? requestsFor(state.tried, run.steering.values) : [];
    page.whatIf.apply.hidden = state.readOnly || !run.steering;
    page.whatIf.apply.disabled = run.over || changes.length === 0;
  }
  page.curves.later();
}

function applyTried(tried) {
  return page.steer.ask(requestsFor(tried, state.runs[0].steering.values));
}

/** Something changed on the server. Only one fetch runs at a time. A change during a fetch causes one more fetch. */
async function news() {
  page.unseen = document.hidden; // a hidden tab draws nothing, so that the training gets the machine
  if (page.unseen) return;
  page.news = page.news ? "more" : "fetching";
  if (page.news === "more") return;
  do {
    page.news = "fetching";
    await fetchNews().catch((error) => drawProblems([error.status === 401
      ? "The server was started anew: open the address that it printed." : error.message]));
  } while (page.news === "more");
  page.news = null;
}

/** Fetch what is new, and draw the parts that changed. */
async function fetchNews() {
  const [run] = state.runs;
  const waited = !run.about.begun;
  const anew = (await Promise.all(state.runs.map((one) => one.update()))).some(Boolean);
  if (anew) {
    const about = await page.source.about();
    // The run that the page waited for is there: its schemes decide which parts the page has.
    if (waited && about.runs[0].begun) return void location.reload();
    const before = JSON.stringify(run.examples);
    about.runs.forEach((one, index) => { state.runs[index].about = one; });
    state.saved = about.saved;
    if (!run.about.schemes[state.tried?.scheme]) state.tried = null;
    page.whatIf?.renew(run.about);
    if (JSON.stringify(run.examples) !== before) {
      page.steps = {}; // they belong to the earlier examples
      page.feedback?.forgetOthers();
      buildViews();
    }
  }
  const last = Math.max(run.steps.length - 1, 0);
  if (state.following || state.at > last) state.at = last;
  if (anew || run.steps[state.at] !== page.asked) return draw();
  drawSteps(page.steps.here ?? null);
  drawMarks(show);
  drawRun();
  return drawProblems([]);
}

function togglePin(id) {
  if (!state.pins.delete(id)) state.pins.add(id);
  paint();
}

function sort(here, first, tried) {
  const verdictAt = (step, index) => (step?.scores[index] ? recordedVerdict(step.scores[index]) : null);
  const items = page.views.map(({ example, index }) => {
    const now = tried?.[index] ?? verdictAt(here, index);
    const marks = differing(verdictAt(first, index), now);
    const change = marks ? marks.reduce((sum, one) => sum + one, 0) / marks.length : 0;
    return { pinned: state.pins.has(example.id), label: example.label, share: salientShare(now), change };
  });
  const order = sortedOrder(items, byId("sort").value);
  if (order.every((index, place) => index === page.order[place])) return;
  page.order = order;
  const focused = document.activeElement;
  byId("examples").append(...order.map((index) => page.views[index].card));
  byId("jump").append(...order.map((index) => page.views[index].jump));
  if (focused !== document.activeElement && focused instanceof HTMLElement && focused.isConnected) focused.focus({ preventScroll: true });
}

function filter() {
  const wanted = page.views.filter((view) => matches(view.example, byId("search").value.trim(), byId("label").value));
  for (const view of page.views) view.card.hidden = view.jump.hidden = !wanted.includes(view);
  byId("count").textContent = `${wanted.length} of ${page.views.length} examples`;
  hideTooltip();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}
