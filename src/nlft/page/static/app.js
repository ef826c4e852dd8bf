// Build the page, and draw it from a source: the server or an exported file.

import { addToLegend, drawCard, drawLegend, lightQuotes } from "./cards.js";
import { Curves } from "./curves.js";
import { byId, element, shownText } from "./dom.js";
import { effectsOf } from "./effects.js";
import { Examples } from "./examples.js";
import { Feedback } from "./feedback.js";
import { mountFeedback } from "./feedbacklist.js";
import { watchKeys } from "./keys.js";
import { nearestStep, recordedVerdict, requestsFor, scoredAt, tagName } from "./logic.js";
import { mountRuns } from "./runlist.js";
import { Run } from "./runs.js";
import { stateOf } from "./runstate.js";
import { runCounts, runSentence } from "./sentences.js";
import { buildShare } from "./share.js";
import { keep, kept, state } from "./state.js";
import { drawBesideBar, drawBesideChoices, drawMarks, drawSteps, watchSteps } from "./stepbar.js";
import { Steer } from "./steer.js";
import { Tabs, tabList } from "./tabs.js";
import { redrawTooltip, watchTokens } from "./tokens.js";
import { rove } from "./toolbar.js";
import { WhatIf, triedVerdicts } from "./whatif.js";

const THEMES = ["auto", "light", "dark"];
const page = { source: null, list: null, whatIf: null, steer: null, curves: null, feedback: null, tabs: null, steps: {}, news: null, unseen: false, asked: undefined };
let ticket = 0;

/** The values of the page's own fields. */
function choices() {
  /** @param {"search" | "label" | "sort"} id */
  const value = (id) => byId(id).value;
  return {
    search: value("search"), label: value("label"), sort: value("sort"),
    theme: document.documentElement.dataset.theme ?? "auto", legend: byId("legend").open,
  };
}

/**
 * Show the page.
 * @param {any} source where the runs come from
 * @param {{ replies?: (root: HTMLElement) => void }} live what only a live page has: the models to talk to
 */
export async function begin(source, live = {}) {
  const about = await source.about();
  page.source = source;
  state.runs = about.runs.map((one, index) => new Run(source, index, one));
  state.readOnly = about.read_only;
  state.feedback = about.feedback;
  state.rescores = about.rescores;
  state.chat = Boolean(about.chat);
  state.saved = about.saved ?? [];
  await Promise.all(state.runs.map((run) => run.update()));
  restore(kept(state.runs[0].about, about.view));
  buildPage((state.chat && live.replies) || ((root) => noReplies(root, Boolean(live.replies))));
  buildViews();
  watchPage();
  await draw();
  performance.mark("nlft-drawn");
  page.tabs.follow();
  // Draw the tokens first, because they matter most.
  requestAnimationFrame(() => setTimeout(() => { page.curves.ready = true; page.curves.draw(); }));
  if (source.listen) source.listen(() => news(), (heard) => byId("status").classList.toggle("lost", !heard));
}

function restore(view) {
  const [run] = state.runs;
  state.pins = new Set(view.pins ?? []);
  const hasTried = view.tried && run.about.schemes[view.tried.scheme];
  const { scheme, settings, turned } = hasTried ? view.tried : {};
  state.tried = hasTried ? { scheme, settings: { ...settings }, turned: { ...(turned ?? settings) } } : null;
  state.following = view.step == null || !run.steps.includes(view.step);
  state.at = state.following ? Math.max(run.steps.length - 1, 0) : run.steps.indexOf(view.step);
  const other = state.runs[view.beside?.run];
  state.beside = other ? { run: view.beside.run, at: nearestStep(other.steps, view.beside.step ?? 0) } : null;
  for (const id of /** @type {const} */ (["search", "label", "sort"])) if (view[id] !== undefined) byId(id).value = view[id];
  if (byId("label").value === "") byId("label").value = "all";
  if (byId("sort").value === "") byId("sort").value = "telling";
  if (view.legend !== undefined) byId("legend").open = view.legend;
  if (THEMES.includes(view.theme)) setTheme(view.theme);
}

function buildPage(replies) {
  const [run] = state.runs;
  const { source } = page;
  document.title = `${run.about.run}: saliency map`;
  byId("run").append(...shownText("bdi", run.about.run).childNodes);
  const notes = state.runs.flatMap((one) => one.about.notes ?? []);
  byId("notes").append(...notes.map((text) => shownText("p", text)));
  byId("notes").hidden = notes.length === 0;
  page.list = new Examples({ pin: togglePin, opened });
  page.curves = new Curves(goToStep, () => openTab("curves"));
  page.tabs = new Tabs(tabList({
    map: () => {}, replies, curves: (root) => page.curves.mount(root), runs: mountRuns,
    feedback: (root) => mountFeedback(root, reveal),
  }));
  page.tabs.reveal = reveal;
  const panel = byId("panel");
  if (Object.keys(run.about.schemes).length) {
    const root = foldable(panel, "what-if", "What if");
    page.whatIf = new WhatIf(root, run.about, () => paint(), (tried) => applyTried(tried));
  }
  if (source.post) {
    const root = foldable(panel, "steer", "Steer the run", false);
    page.steer = new Steer(root, byId("run-buttons"), run, (path, body) => source.post(path, body), goToStep);
    buildShare(byId("share"), source, choices);
  }
  panel.hidden = panel.childElementCount === 0;
  drawBesideChoices((beside) => { state.beside = beside; draw(); });
  drawLegend([]);
}

/** Say why one cannot talk to the models here. */
function noReplies(root, isLive) {
  const { about } = state.runs[0];
  const why = about.preview ? "Nothing is trained yet, so there are no models to talk to."
    : isLive ? "This page only shows the run. To talk to its models, start nlft map without --read_only."
      : "This is a saved page. To talk to the models, open the run's live page with nlft map.";
  root.append(element("p", { className: "lead", text: why }));
}

function openTab(name) {
  location.hash = name;
  page.tabs.show(name);
}

/** Show an example on the map. */
function reveal(index) {
  const view = page.list.views[index];
  if (!view) return;
  page.tabs.show("map");
  page.list.goTo(view);
}

/** A part of the side panel. It is open if there is room. */
function foldable(panel, id, title, wanted = true) {
  const open = wanted && matchMedia("(min-width: 76rem)").matches;
  const body = element("div", { className: "body" });
  panel.append(element("details", { id, open }, element("summary", {}, element("h2", { text: title })), body));
  return body;
}

function buildViews() {
  const [run] = state.runs;
  if (page.source.post && state.feedback) {
    page.feedback ??= new Feedback((...sent) => page.source.post(...sent), run.about, () => paint());
  }
  page.list.build();
  // A draft that a reload kept must have its editor.
  for (const index of page.feedback?.drafts.keys() ?? []) page.list.open(index);
}

/** A card has its tokens now. */
function opened(view) {
  page.feedback?.add(view);
}

function watchPage() {
  watchSteps(show);
  rove(byId("tools"));
  watchTokens(byId("examples"), {
    step: (way) => show(state.at + way),
    history,
    linked: (panel, index) => lightQuotes(page.list.views.find((view) => view.panel === panel), index),
  });
  watchKeys({ list: page.list, step: (way) => show(state.at + way), tab: (place) => {
    const wanted = page.tabs.list[place];
    if (wanted) openTab(wanted.name);
  } });
  byId("sort").addEventListener("change", () => draw());
  byId("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(choices().theme) + 1) % THEMES.length]);
  });
  window.addEventListener("pagehide", () => keep(choices()));
  window.addEventListener("beforeunload", (event) => { if (page.feedback?.drafts.size) event.preventDefault(); });
  document.addEventListener("visibilitychange", () => { if (page.unseen && !document.hidden) news(); });
  window.addEventListener("beforeprint", () => {
    for (const view of page.list.visible) page.list.open(view.index);
    for (const one of document.querySelectorAll("details")) if (!one.classList.contains("menu")) one.open = true;
  });
}

/** A token's probability over the recorded steps, once they are fetched: then its tooltip is drawn again. */
function history(example, index) {
  const [run] = state.runs;
  const at = run.examples.indexOf(example);
  if (at < 0 || run.steps.length < 2) return null;
  const past = run.history();
  if (!past.found) {
    past.wanted.then(() => redrawTooltip());
    return null;
  }
  const { steps, of } = past.found;
  return { steps, values: of.map((bases) => bases?.[at]?.[index] ?? null) };
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
  page.whatIf?.follow(here);
  const other = state.beside && state.runs[state.beside.run];
  const tried = triedVerdicts(here, run.examples);
  const triedThere = other ? triedVerdicts(there, other.examples) : null;
  const places = other ? new Map(other.examples.map((example, index) => [example.id, index])) : null;
  const title = (of, step) => (state.beside?.run ? `${of.about.run}, step ${step.step}` : `Step ${step.step}`);
  page.list.sort(here, first, tried);
  for (const view of page.list.views) {
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
  drawSentence(run, here, tried);
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

/** What the feedback does in this run, in one sentence. */
function drawSentence(run, here, tried) {
  const scored = (here?.scores ?? []).flatMap((scores, index) => (scores ? [{ scores, index }] : []));
  const all = scored.map(({ scores, index }) => ({
    label: run.examples[index].label, answered: run.examples[index].answer !== null,
    found: effectsOf(scores, tried?.[index] ?? recordedVerdict(scores), run.about.loss_normalization),
  }));
  byId("run-sentence").textContent = runSentence(all);
  byId("run-sentence").hidden = all.length === 0;
  byId("run-counts").textContent = runCounts(all, scoredAt(here));
  const tags = new Set(scored.flatMap(({ scores, index }) => {
    const verdict = tried?.[index] ?? recordedVerdict(scores);
    return Array.from(verdict.tag, (_, i) => tagName(verdict, i));
  }));
  byId("key-struck").hidden = !tags.has("struck");
  byId("key-inside").hidden = !tags.has("inside");
  byId("key-instead").hidden = !run.examples.some((example) => Object.keys(example.replacements ?? {}).length);
  byId("key-changed").hidden = !tried && !state.beside;
}

/** The step, with the model's new scores for edited examples. */
function withRescored(step) {
  if (!step || !page.feedback) return step;
  return { ...step, scores: step.scores.map((scores, index) => page.feedback.rescored(index) ?? scores) };
}

/** Draw the parts that do not depend on the shown step: the run's state, its requests, its curves. */
function drawRun() {
  const [run] = state.runs;
  byId("status").textContent = stateOf(run).words;
  byId("status").dataset.state = run.state;
  page.steer?.draw();
  if (page.whatIf && page.steer) {
    const changes = state.tried && run.steering ? requestsFor(state.tried, run.steering.values) : [];
    page.whatIf.apply.hidden = state.readOnly || !run.steering;
    page.whatIf.apply.disabled = run.over || changes.length === 0;
  }
  page.curves.later();
  page.tabs.redraw();
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

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}
