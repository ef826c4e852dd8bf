// The curves of a run, drawn by plotly.js, which is fetched only once they are to be seen.

import { byId, element } from "./dom.js";
import { decimate, ledgerWords } from "./logic.js";
import { state } from "./state.js";
import { formatNumber, formatPercent } from "./text.js";

const REDRAW_MS = 1000;
const STROKES = [
  { colour: "--line-1", dash: "solid" }, { colour: "--line-2", dash: "dash" },
  { colour: "--line-3", dash: "dot" }, { colour: "--line-4", dash: "dashdot" },
  { colour: "--line-5", dash: "longdash" }, { colour: "--line-6", dash: "longdashdot" },
];

const CHARTS = [
  { title: "Loss", words: formatNumber, curves: [["loss", "loss"], ["nlft/likelihood_loss", "likelihood"],
    ["nlft/unlikelihood_loss", "unlikelihood"], ["eval_loss", "held out"],
    ["nlft/answer_loss", "answers"], ["nlft/redirect_loss", "redirect"]] },
  { title: "Learning rate", words: formatNumber, curves: [["learning_rate", "learning rate"]] },
  { title: "Salient and gated", words: formatPercent, curves: [["nlft/salient_fraction", "salient tokens"],
    ["nlft/gated_fraction", "gated samples"]] },
  { title: "Accuracy", words: formatPercent, curves: [["eval_mean_token_accuracy", "held-out tokens"],
    ["mean_token_accuracy", "trained tokens"]] },
  { title: "Tokens a second", words: formatNumber, curves: [["tokens_per_second", "tokens/s"]] },
];

let plotly = null;

/** The library, once it is there; an exported file without it has none. */
function load(address) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  if (!address) return Promise.reject(new Error("the file was written without curves"));
  plotly ??= new Promise((resolve, reject) => {
    const script = element("script", { src: address });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => reject(new Error("plotly.js did not come")));
    document.head.append(script);
  });
  return plotly;
}

export class Curves {
  /** `goTo` shows the step nearest to a number; `address` is where plotly.js is, or null. */
  constructor(address, goTo) {
    this.address = address;
    this.goTo = goTo;
    this.charts = [];
    this.timer = null;
    this.ready = false;
    this.root = byId("curves");
    this.root.addEventListener("toggle", () => this.draw());
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.draw());
  }

  get wanted() { return this.ready && this.root.open && !this.root.hidden; }

  /** Draw soon, and not too often: events come by the dozen. */
  later() {
    if (this.timer === null && this.wanted) {
      this.timer = setTimeout(() => { this.timer = null; this.draw(); }, this.charts.length ? REDRAW_MS : 0);
    }
  }

  async draw() {
    if (!this.wanted) return;
    const library = await load(this.address).catch((error) => {
      this.root.querySelector(".charts").textContent = `No curves: ${error.message}.`;
      return null;
    });
    if (!library) return;
    if (!this.charts.length) this.build();
    for (const chart of this.charts) this.drawChart(library, chart);
  }

  build() {
    this.charts = CHARTS.map((about) => {
      const value = element("b", {});
      const plot = element("div", { className: "plot", role: "img" });
      const keys = element("ul", { className: "keys-of" });
      const figure = element("figure", {}, element("figcaption", {}, `${about.title} `, value), plot, keys);
      return { about, value, plot, keys, figure };
    });
    this.root.querySelector(".charts").replaceChildren(...this.charts.map((chart) => chart.figure));
  }

  drawChart(library, { about, value, plot, keys, figure }) {
    const width = plot.clientWidth || 300;
    const [run] = state.runs;
    const other = state.beside?.run ? state.runs[state.beside.run] : null;
    const traces = [run, other].filter(Boolean).flatMap((one) => about.curves.flatMap(([column, name], place) => {
      const curve = points(one, column, width);
      if (!curve.x.length) return [];
      const { colour, dash } = STROKES[place];
      return [{
        ...curve, name: one === run ? name : `${name}, ${one.about.run}`, type: "scatter",
        mode: curve.x.length < 2 ? "markers" : "lines", opacity: one === run ? 1 : 0.45,
        line: { color: colourOf(colour), width: 1.6, dash }, hovertemplate: "%{y:.4g}<extra>%{fullData.name}</extra>",
      }];
    }));
    figure.hidden = traces.length === 0;
    if (figure.hidden) return;
    const [column, name] = about.curves.find(([one]) => run.last(one) !== null) ?? about.curves[0];
    value.textContent = about.words(run.last(column));
    plot.setAttribute("aria-label", `${about.title}: ${name} ${value.textContent} at the last step`);
    drawKeys(keys, about.curves, run, other);
    library.react(plot, traces, layout(), { displayModeBar: false, responsive: true, showTips: false });
    if (plot.dataset.wired) return;
    plot.dataset.wired = "yes";
    plot.on("plotly_click", (event) => this.goTo(event.points[0].x));
  }

  /** Move the line that shows where the step bar is. */
  cursor() {
    if (!this.wanted || !window.Plotly) return;
    for (const { plot, figure } of this.charts) {
      if (!figure.hidden && plot.dataset.wired) window.Plotly.relayout(plot, { shapes: chartLines() });
    }
  }
}

/** A colour of the style sheet as this theme has it; a custom property alone would tell of both themes. */
function colourOf(name) {
  const probe = byId("curves");
  probe.style.setProperty("accent-color", `var(${name})`);
  return getComputedStyle(probe).accentColor;
}

function points(run, column, width) {
  const values = run.columns[column] ?? [];
  const kept = values.flatMap((value, index) => (value === null ? [] : [index]));
  return decimate(kept.map((index) => run.columns.step[index]), kept.map((index) => values[index]), width);
}

/** The shown step, and what was changed at which, as lines across a chart. */
function chartLines() {
  const line = (x, name, dash) => ({
    type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: colourOf(name), width: 1, dash },
  });
  const run = state.runs[0];
  const marks = run.controls.filter((entry) => entry.taken).map((entry) => (
    { ...line(entry.step, "--mark", "dot"), name: ledgerWords(entry) }));
  const shown = run.steps[state.at];
  return shown === undefined ? marks : [...marks, line(shown, "--accent", "solid")];
}

/** The curves by name, told apart by colour and by how the line is drawn. */
function drawKeys(keys, curves, run, other) {
  const found = curves.flatMap(([column, name], place) => (
    run.last(column) === null ? [] : [element("li", { text: name, className: `key-${place + 1}` })]));
  const faint = other ? [element("li", { text: `faint: ${other.about.run}` })] : [];
  keys.replaceChildren(...(found.length > 1 || other ? [...found, ...faint] : []));
}

function layout() {
  const axis = {
    gridcolor: colourOf("--line"), linecolor: colourOf("--line"), zeroline: false, automargin: true, nticks: 5,
    tickfont: { size: 11 }, exponentformat: "e",
  };
  return {
    autosize: true, height: 130, margin: { l: 4, r: 6, t: 6, b: 4 },
    paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { family: "system-ui, sans-serif", size: 11, color: colourOf("--muted") },
    xaxis: { ...axis, showgrid: false }, yaxis: { ...axis, rangemode: "tozero", nticks: 4 }, showlegend: false,
    hovermode: "x unified", hoverlabel: { bgcolor: colourOf("--surface"), font: { color: colourOf("--ink") } },
    shapes: chartLines(), uirevision: "kept",
  };
}
