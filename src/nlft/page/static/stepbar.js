// The step bar: shows a step, plays the steps, and marks the steps of changes.

import { button, byId, element } from "./dom.js";
import { formatStep, ledgerWords, nearestStep } from "./logic.js";
import { state } from "./state.js";
import { rove } from "./toolbar.js";

const PLAY_MS = 700;
let timer = null;
/** Brings the bar's one Tab stop up to date after buttons have come, gone or been disabled. */
export let refreshBar = () => {};

/** Connect the bar to its events. `show` draws the step at an index into the first run's steps. */
export function watchSteps(show) {
  const go = (index) => { play(false, show); show(index); };
  byId("step").addEventListener("input", () => go(Number(byId("step").value)));
  byId("previous").addEventListener("click", () => go(state.at - 1));
  byId("next").addEventListener("click", () => go(state.at + 1));
  byId("latest").addEventListener("click", () => go(state.runs[0].steps.length - 1));
  byId("play").addEventListener("click", () => play(timer === null, show));
  refreshBar = rove(byId("runbar"));
}

function play(on, show) {
  clearInterval(timer);
  timer = null;
  byId("play").textContent = on ? "❚❚" : "Play";
  byId("play").setAttribute("aria-label", on ? "Pause playing" : "Play");
  if (!on) return;
  const last = () => state.runs[0].steps.length - 1;
  if (state.at >= last()) show(0);
  timer = setInterval(() => {
    show(state.at + 1);
    if (state.at >= last()) play(false, show);
  }, PLAY_MS);
}

/** Draw the bar. `step` is the decoded shown step, or null if it cannot be read. */
export function drawSteps(step) {
  const { steps } = state.runs[0];
  const last = steps.length - 1;
  const words = step ? formatStep(step, state.at, steps.length)
    : steps.length ? `step ${steps[state.at]} (${state.at + 1} of ${steps.length})` : "no step recorded yet";
  byId("step").max = String(Math.max(last, 0));
  byId("step").value = String(state.at);
  byId("step").disabled = last < 1;
  byId("step").setAttribute("aria-valuetext", words);
  byId("where").textContent = words;
  byId("previous").disabled = state.at <= 0;
  byId("next").disabled = state.at >= last;
  byId("play").disabled = last < 1;
  const behind = last - state.at;
  byId("latest").hidden = state.following || behind <= 0 || (state.runs[0].over || state.runs[0].state === "finished");
  byId("latest").textContent = `Latest (${behind} newer)`;
  refreshBar();
}

/** Draw marks along the bar: each change at the recorded step nearest to its first step. */
export function drawMarks(show) {
  const { steps, controls } = state.runs[0];
  const last = Math.max(steps.length - 1, 1);
  const at = new Map(); // changes at the same recorded step share a mark
  for (const line of controls.filter((one) => one.taken)) {
    const index = nearestStep(steps, line.step);
    at.set(index, [...(at.get(index) ?? []), `${ledgerWords(line)}, from step ${line.step}`]);
  }
  // Keep the existing elements, because a click or the focus may be on one of them.
  const marks = byId("marks");
  while (marks.childElementCount > at.size) marks.lastElementChild.remove();
  while (marks.childElementCount < at.size) marks.append(button("", () => {}, { className: "mark-at" }));
  byId("marks-key").hidden = at.size === 0;
  const drawn = marks.getElementsByTagName("button");
  [...at].forEach(([index, said], place) => {
    const mark = drawn[place];
    mark.onclick = () => show(index);
    mark.title = said.join("; ");
    mark.setAttribute("aria-label", mark.title);
    mark.style.setProperty("--at", String(index / last));
  });
  refreshBar();
}

/** Fill the choices to compare with: the run's own steps, and the other runs. */
export function drawBesideChoices(change) {
  const choose = byId("beside");
  const choices = state.runs.map((run, index) => (
    element("option", { value: String(index), text: index ? `run ${run.about.run}` : "another step" })));
  choose.replaceChildren(element("option", { value: "", text: "nothing" }), ...choices);
  choose.addEventListener("change", () => {
    if (choose.value === "") return change(null);
    const run = Number(choose.value);
    const { steps } = state.runs[run];
    return change({ run, at: run ? nearestStep(steps, state.runs[0].steps[state.at] ?? 0) : 0 });
  });
  byId("other-step").addEventListener("input", () => (
    change({ ...state.beside, at: Number(byId("other-step").value) })));
}

export function drawBesideBar(step) {
  const { beside } = state;
  byId("beside").value = beside ? String(beside.run) : "";
  byId("beside-step").hidden = !beside;
  if (!beside) return;
  const { steps } = state.runs[beside.run];
  byId("other-step").max = String(Math.max(steps.length - 1, 0));
  byId("other-step").value = String(beside.at);
  const words = step ? formatStep(step, beside.at, steps.length) : "no step recorded yet";
  byId("other-step").setAttribute("aria-valuetext", words);
  byId("other-where").textContent = words;
}
