// The curves of a run: line charts of its logged numbers, with the shown step and the changes to the run.

import { CHART_HEIGHT, chartScale, linePath, nearestOf, niceTicks } from "./chart.js";
import { button, byId, drawing, element } from "./dom.js";
import { decimate, ledgerWords } from "./logic.js";
import { state } from "./state.js";
import { formatNumber, formatPercent } from "./text.js";
import { refreshBar } from "./stepbar.js";

const REDRAW_MS = 1000;

const CHARTS = [
  { title: "Loss", words: formatNumber, curves: [["loss", "loss"], ["nlft/likelihood_loss", "likelihood"],
    ["nlft/unlikelihood_loss", "unlikelihood"], ["eval_loss", "held out"],
    ["nlft/answer_loss", "answers"], ["nlft/redirect_loss", "redirect"]] },
  { title: "Loss, part by part", spark: "Loss at struck words", words: formatNumber, curves: [["nlft/strike_loss", "strike"], ["nlft/hold_loss", "hold"],
    ["nlft/keep_loss", "keep"], ["nlft/replace_loss", "replace"], ["nlft/ban_loss", "ban"]] },
  { title: "Probability of struck words", words: formatPercent, curves: [["nlft/struck_probability", "mean probability"]] },
  { title: "Learning rate", words: formatNumber, curves: [["learning_rate", "learning rate"]] },
  { title: "Salient and gated", spark: "Salient tokens", words: formatPercent, curves: [["nlft/salient_fraction", "salient tokens"],
    ["nlft/gated_fraction", "gated samples"]], unless: "nlft/struck_probability" },
  { title: "Accuracy", spark: "Token accuracy", words: formatPercent, curves: [["eval_mean_token_accuracy", "held-out tokens"],
    ["mean_token_accuracy", "trained tokens"]] },
  { title: "Tokens per second", words: formatNumber, curves: [["tokens_per_second", "tokens/s"]] },
];

const MOST_SPARKS = 4;
const SPARK_SIZE = { width: 64, height: 22 };

/** The charts of the tab, and the small ones in the run bar that open it. */
export class Curves {
  /** `goTo` shows the step nearest to a number; `open` shows the tab. */
  constructor(goTo, open) {
    this.goTo = goTo;
    this.open = open;
    this.charts = [];
    this.timer = null;
    this.ready = false;
    this.root = null;
    this.sparks = byId("sparks");
  }

  /** Build the charts in the tab's element. */
  mount(root) {
    this.root = root;
    this.charts = CHARTS.map((about) => new Chart(about, this.goTo));
    const empty = element("p", { className: "note", text: "This run has logged no numbers yet." });
    this.empty = empty;
    root.append(element("section", { id: "curves", className: "charts", "aria-label": "Curves" },
      ...this.charts.map((chart) => chart.figure)), empty);
    new ResizeObserver(() => this.later()).observe(root);
    this.draw();
    return () => this.draw();
  }

  get wanted() { return this.ready && this.root !== null && !this.root.hidden; }

  /** Draw soon, but not often, because events come in dozens. */
  later() {
    this.timer ??= setTimeout(() => { this.timer = null; this.draw(); }, REDRAW_MS);
  }

  draw() {
    if (this.ready) this.drawSparks();
    if (!this.wanted) return;
    for (const chart of this.charts) chart.draw();
    this.empty.hidden = this.charts.some((chart) => !chart.figure.hidden);
  }

  /** Move the line of the shown step. */
  cursor() {
    if (this.wanted) for (const chart of this.charts) chart.drawSteps();
  }

  drawSparks() {
    const [run] = state.runs;
    const shown = CHARTS.flatMap((about) => {
      if (about.unless !== undefined && run.last(about.unless) !== null) return [];
      const [column, name] = about.curves.find(([one]) => run.last(one) !== null) ?? [];
      return column ? lineOf(run, column, name, 0, false).map((line) => ({ about, line })) : [];
    }).slice(0, MOST_SPARKS);
    this.sparks.hidden = shown.length === 0;
    byId("sparks-of").hidden = this.sparks.hidden;
    // A line of the log holds the means since the line before it, over all examples that were trained on.
    const last = Math.max(...shown.map(({ line }) => line.x.at(-1)));
    byId("sparks-of").textContent = `All that was trained, logged at step ${last}`;
    // Keep the existing buttons, because the focus may be on one of them.
    while (this.sparks.childElementCount > shown.length) this.sparks.lastElementChild.remove();
    while (this.sparks.childElementCount < shown.length) {
      this.sparks.append(button("", () => this.open(), { className: "spark" }));
    }
    const drawn = this.sparks.getElementsByTagName("button");
    shown.forEach(({ about, line }, place) => drawSpark(drawn[place], about, line));
    refreshBar();
  }
}

function drawSpark(made, about, line) {
  const { width, height } = SPARK_SIZE;
  const words = about.words(line.y.at(-1));
  const kept = decimate(line.x, line.y, width);
  const [first, last] = [kept.x[0], kept.x.at(-1)];
  const [low, high] = [Math.min(...kept.y), Math.max(...kept.y)];
  const scale = {
    x: (step) => 2 + (width - 4) * (last > first ? (step - first) / (last - first) : 0.5),
    y: (value) => height - 3 - (height - 6) * (high > low ? (value - low) / (high - low) : 0.5),
  };
  const title = about.spark ?? about.title;
  made.setAttribute("aria-label", `${title} ${words}: open the curves`);
  made.replaceChildren(element("span", { text: title }),
    drawing("svg", { width, height, "aria-hidden": "true" },
      drawing("path", { class: `trace line-1${kept.x.length < 2 ? " single" : ""}`, d: linePath(kept, scale) })),
    element("b", { text: words }));
}

class Chart {
  constructor(about, goTo) {
    this.about = about;
    this.value = element("b", {});
    this.plot = element("div", { className: "plot", role: "img" });
    this.keys = element("ul", { className: "keys-of" });
    this.said = element("div", { className: "said-at", hidden: true });
    this.figure = element("figure", {}, element("figcaption", {}, `${about.title} `, this.value), this.plot, this.keys);
    this.lines = [];
    this.scale = null;
    this.steps = drawing("g", {});
    this.pointed = drawing("g", { class: "pointed" });
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.unpoint());
    this.plot.addEventListener("click", (event) => {
      const step = this.stepUnder(event);
      if (step !== null) goTo(step);
    });
  }

  draw() {
    const { curves, title, words, unless } = this.about;
    const [run] = state.runs;
    const other = state.beside?.run ? state.runs[state.beside.run] : null;
    this.lines = [run, other].filter(Boolean).flatMap((one) => curves.flatMap(([column, name], place) => (
      lineOf(one, column, one === run ? name : `${name}, ${one.about.run}`, place, one !== run))));
    const elsewhere = unless !== undefined && run.last(unless) !== null; // another chart says it of such a run
    this.figure.hidden = this.lines.length === 0 || elsewhere;
    if (this.figure.hidden) return;
    const [column, name] = curves.find(([one]) => run.last(one) !== null) ?? curves[0];
    this.value.textContent = words(run.last(column));
    this.plot.setAttribute("aria-label", `${title}: ${name} ${this.value.textContent} at the last step`);
    drawKeys(this.keys, curves, run, other);
    const width = this.plot.clientWidth || 300;
    this.scale = chartScale(this.lines, width);
    const traces = this.lines.map((line) => drawing("path", {
      class: `trace line-${line.place + 1}${line.faint ? " faint" : ""}${line.x.length < 2 ? " single" : ""}`,
      d: linePath(decimate(line.x, line.y, width), this.scale),
    }));
    this.plot.replaceChildren(drawing("svg", { width, height: CHART_HEIGHT, "aria-hidden": "true" },
      ...axes(this.scale, words), this.steps, ...traces, this.pointed), this.said);
    this.drawSteps();
  }

  /** Draw the shown step, and the steps of changes, as lines across the chart. */
  drawSteps() {
    const { scale } = this;
    if (this.figure.hidden || !scale) return;
    const [run] = state.runs;
    const across = (step, className) => (
      step < scale.first || step > scale.last ? [] : [upright(scale, step, className)]);
    const marks = run.controls.filter((entry) => entry.taken).flatMap((entry) => across(entry.step, "mark-line"));
    const shown = run.steps[state.at];
    this.steps.replaceChildren(...marks, ...(shown === undefined ? [] : across(shown, "shown-line")));
  }

  stepUnder(event) {
    if (!this.scale) return null;
    const steps = [...new Set(this.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    return nearestOf(steps, this.scale.step(event.clientX - this.plot.getBoundingClientRect().left));
  }

  /** Show each curve's value, and each change, at the logged step under the pointer. */
  point(event) {
    const step = this.stepUnder(event);
    if (step === null) return;
    const { scale } = this;
    const found = this.lines.flatMap((line) => {
      const at = line.x.indexOf(step);
      return at < 0 ? [] : [{ line, value: line.y[at] }];
    });
    this.pointed.replaceChildren(upright(scale, step, "pointed-line"), ...found.map(({ line, value }) => (
      drawing("circle", { class: `dot line-${line.place + 1}`, cx: scale.x(step), cy: scale.y(value), r: 3 }))));
    this.said.replaceChildren(element("b", { text: `step ${step}` }), ...found.map(({ line, value }) => (
      element("span", { text: `${line.name} ${this.about.words(value)}` }))), ...changesAt(step));
    this.said.hidden = false;
    this.said.classList.toggle("at-left", scale.x(step) > scale.width / 2);
  }

  unpoint() {
    this.pointed.replaceChildren();
    this.said.hidden = true;
  }
}

/** The line of a column: every step that logged a value. Empty if no step did. */
function lineOf(run, column, name, place, faint) {
  const values = run.columns[column] ?? [];
  const kept = values.flatMap((value, index) => (value === null ? [] : [index]));
  if (!kept.length) return [];
  return [{ x: kept.map((at) => run.columns.step[at]), y: kept.map((at) => values[at]), name, place, faint }];
}

/** The changes at a step, in words. */
function changesAt(step) {
  const taken = state.runs[0].controls.filter((entry) => entry.taken && entry.step === step);
  return taken.map((entry) => element("span", { text: ledgerWords(entry), className: "changed" }));
}

function upright(scale, step, className) {
  const x = scale.x(step).toFixed(1);
  return drawing("line", { class: className, x1: x, x2: x, y1: scale.top, y2: scale.bottom });
}

/** The grid and its numbers. */
function axes(scale, words) {
  const values = niceTicks(scale.low, scale.high, 5).flatMap((value) => {
    const y = scale.y(value).toFixed(1);
    return [
      drawing("line", { class: "grid-line", x1: scale.left, x2: scale.right, y1: y, y2: y }),
      drawing("text", { class: "tick", x: scale.left - 5, y, "text-anchor": "end", dy: "0.35em" }, words(value)),
    ];
  });
  const whole = niceTicks(scale.first, scale.last, Math.max(2, Math.floor(scale.width / 50)));
  const steps = whole.filter(Number.isInteger).map((step) => drawing(
    "text", { class: "tick", x: scale.x(step).toFixed(1), y: CHART_HEIGHT - 5, "text-anchor": "middle" }, String(step)));
  return [...values, ...steps];
}

/** The names of the curves. Colour and dash distinguish them. */
function drawKeys(keys, curves, run, other) {
  const found = curves.flatMap(([column, name], place) => (
    run.last(column) === null ? [] : [element("li", { text: name, className: `key-${place + 1}` })]));
  const faint = other ? [element("li", { text: `faint: ${other.about.run}` })] : [];
  keys.replaceChildren(...(found.length > 1 || other ? [...found, ...faint] : []));
}
