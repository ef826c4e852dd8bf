// The tab of the runs that this page shows: what each is, and what it is doing.

import { element, shownText } from "./dom.js";
import { stateOf } from "./runstate.js";
import { state } from "./state.js";
import { formatNumber } from "./text.js";

/** Fill the tab. Return what draws it again. */
export function mountRuns(root) {
  const body = element("tbody");
  const head = ["run", "state", "model", "scheme", "seed", "loss", "steps recorded"];
  root.append(element("h2", { text: "Runs" }), element("div", { className: "scroll" }, element("table", { className: "runs" },
    element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { text, scope: "col" })))), body)),
  // A run that was opened from a folder's list stands two levels below it.
  ...(/\/run\/\d+\/$/.test(location.pathname)
    ? [element("p", {}, element("a", { href: "../../", text: "All runs of this folder" }))] : []),
  element("p", { className: "note-of", text: "To see two runs side by side: nlft map RUN OTHER, then Compare with." }));
  const draw = () => body.replaceChildren(...state.runs.map(runRow));
  draw();
  return draw;
}

function runRow(run) {
  const { about } = run;
  const now = stateOf(run);
  const cell = (text) => shownText("td", text == null ? "–" : String(text));
  return element("tr", {}, element("th", { scope: "row" }, shownText("bdi", about.run)),
    element("td", {}, element("span", { className: "status", "data-state": now.state, text: now.words })),
    cell(about.model), cell(about.scheme), cell(about.seed), cell(formatNumber(run.last("loss"))), cell(run.steps.length));
}
