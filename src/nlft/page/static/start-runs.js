// The list of a folder's runs. It looks for news while the tab is visible, and draws only what changed.

import { byId, element, shownText } from "./dom.js";
import { formatNumber } from "./text.js";

const LOOK_MS = 3000;
let drawn = "";

/**
 * @typedef {{ number: number, name: string, state: string, step: number | null, steps: number | null,
 *   scheme: string | null, model: string | null, loss: number | null, accuracy: number | null }} Row
 */

/** @param {Row} run */
function row(run) {
  const steps = run.step === null ? "" : run.steps === null ? String(run.step) : `${run.step} of ${run.steps}`;
  const name = shownText("a", run.name, { href: `run/${run.number}/` });
  const state = element("span", { text: run.state, className: "status", "data-state": run.state });
  const loss = run.loss === null ? "" : formatNumber(run.loss);
  const right = run.accuracy === null ? "" : `${(100 * run.accuracy).toFixed(1)}%`;
  return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, state),
    ...[steps, run.scheme ?? "", run.model ?? "", loss, right].map((text) => shownText("td", text)));
}

async function look() {
  if (document.hidden) return;
  const response = await fetch("api/list");
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  byId("notes").hidden = true;
  const now = JSON.stringify(found);
  if (now === drawn) return;
  drawn = now;
  byId("folder").replaceChildren(...shownText("bdi", found.folder).childNodes);
  const training = found.runs.filter((/** @type {Row} */ run) => run.state === "training").length;
  byId("status").textContent = `${found.runs.length} runs, ${training} training`;
  document.querySelector("#runs tbody")?.replaceChildren(...found.runs.map(row));
}

function again() {
  look().catch((error) => {
    byId("notes").hidden = false;
    byId("notes").textContent = `The list cannot be renewed: ${error.message}`;
  });
}

// Remove the token from the address, so that others can see the address. The cookie has it now.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);
again();
setInterval(again, LOOK_MS);
document.addEventListener("visibilitychange", again);
