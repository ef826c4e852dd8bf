// Steer the run: send requests to the trainer, and list the waiting, taken and refused requests.

import { button, element } from "./dom.js";
import { ledgerWords, readValue, sliderPlace, sliderScale, sliderValue } from "./logic.js";
import { state } from "./state.js";

const RATE_PLACES = 500;
const RUN_ACTIONS = [["pause", "Pause"], ["resume", "Resume"], ["stop", "Stop"]]; // in the run bar
const MORE_ACTIONS = [["save", "Save now"], ["evaluate", "Evaluate now"]];
const MOST_LINES = 200;

export class Steer {
  /** `bar` holds the run bar's buttons; `post` sends a path and a body to the server; `goTo` shows a step. */
  constructor(root, bar, run, post, goTo) {
    this.run = run;
    this.post = post;
    this.goTo = goTo;
    this.why = element("p", { className: "reason", role: "status" });
    /** @param {string[]} action */
    const made = ([control, text]) => button(text, () => this.ask([{ control, value: null }]), { "data-control": control });
    this.inBar = RUN_ACTIONS.map(made);
    this.buttons = [...this.inBar, ...MORE_ACTIONS.map(made)];
    bar.append(...this.inBar);
    this.rate = this.makeRate();
    this.said = element("p", { className: "said", role: "alert" });
    this.ledger = element("ol", { className: "ledger", "aria-label": "Requests" });
    this.drawnLines = null;
    this.actions = element("div", { className: "actions" }, ...this.buttons.slice(this.inBar.length));
    root.append(this.why, this.actions, this.rate.row, this.said,
      element("h3", { text: "Requests" }), this.ledger);
  }

  makeRate() {
    const scale = { ...sliderScale({ kind: "number", low: 0, high: 10, default: 1 }), curve: "low" };
    const control = { low: 0, high: 10 };
    const slider = element("input", { type: "range", id: "rate", min: "0", max: String(RATE_PLACES) });
    const field = element("input", {
      type: "text", inputmode: "decimal", className: "value", "aria-label": "learning rate factor, as a number",
    });
    const send = button("Apply", () => {
      const { value, reason } = readValue(control, field.value);
      if (reason) this.say(`learning_rate: ${reason}.`, true);
      else this.ask([{ control: "learning_rate", value }]);
    }, { "aria-label": "Apply the learning rate factor" });
    slider.addEventListener("input", () => {
      field.value = String(sliderValue(scale, slider.valueAsNumber / RATE_PLACES));
      slider.setAttribute("aria-valuetext", field.value);
    });
    field.addEventListener("input", () => {
      const { value } = readValue(control, field.value);
      if (value !== undefined) slider.value = String(Math.round(RATE_PLACES * sliderPlace(scale, value)));
    });
    field.addEventListener("keydown", (event) => { if (event.key === "Enter") send.click(); });
    const row = element("div", { className: "knob rate" },
      element("label", { for: "rate" }, element("span", { text: "learning rate ×" })), slider, field, send);
    return { row, slider, field, send, scale, shown: null };
  }

  /** Send requests for changes. Resolves to whether the server accepted them; the panel shows its message. */
  async ask(changes) {
    this.say("");
    try {
      await this.post("requests", { changes });
    } catch (error) {
      this.say(error.message, true);
      return false;
    }
    this.say("Sent. The trainer answers before its next step.");
    return true;
  }

  say(words, refused = false) {
    this.said.textContent = words;
    this.said.classList.toggle("refused", refused);
  }

  draw() {
    const { steering, state: now, controls, waiting, over } = this.run;
    const why = state.readOnly ? "This page is read-only."
      : now === "finished" ? "The run has finished." : over ? this.run.ending
        : !steering ? "This run takes no requests." : "";
    this.why.textContent = why;
    this.actions.hidden = this.rate.row.hidden = state.readOnly || !steering;
    for (const made of this.buttons) {
      const { control } = made.dataset;
      made.hidden = (control === "pause" && now === "paused") || (control === "resume" && now !== "paused")
        || (this.inBar.includes(made) && (state.readOnly || !steering || now === "finished"));
      made.disabled = why !== "" || Boolean(steering?.unavailable[control]);
      made.title = steering?.unavailable[control] ?? "";
    }
    this.drawRate(why !== "");
    this.drawLedger(waiting, controls.slice(-MOST_LINES).reverse());
    if (waiting.length === 0 && this.said.textContent.startsWith("Sent")) this.say("");
  }

  /** Draw the list again only if it changed, because a click or the focus may be on one of its buttons. */
  drawLedger(waiting, answered) {
    const now = JSON.stringify([waiting, answered, this.run.steering?.undoable, this.run.over]);
    if (now === this.drawnLines) return;
    this.drawnLines = now;
    const lines = [
      ...waiting.map((line) => this.line(line, "waits for the trainer")),
      ...answered.map((line) => this.line(line, null)),
    ];
    this.ledger.replaceChildren(...(lines.length ? lines : [element("li", { text: "none yet", className: "none" })]));
  }

  drawRate(disabled) {
    const { slider, field, send, scale } = this.rate;
    for (const input of [slider, field, send]) input.disabled = disabled;
    const value = this.run.steering?.values.learning_rate ?? 1;
    if (value === this.rate.shown) return;
    this.rate.shown = value;
    field.value = String(value);
    slider.value = String(Math.round(RATE_PLACES * sliderPlace(scale, value)));
    slider.setAttribute("aria-valuetext", String(value));
  }

  line(entry, waits) {
    const undoable = this.run.steering?.undoable ?? [];
    const verdict = waits ?? (entry.taken ? "taken" : `refused: ${entry.reason}`);
    const made = element("li", { className: waits ? "waits" : entry.taken ? "taken" : "refused" });
    if (!waits) made.append(button(`step ${entry.step}`, () => this.goTo(entry.step), { className: "at" }));
    const undoes = entry.undoes ? "undone: " : "";
    made.append(element("span", { text: `${undoes}${ledgerWords(entry)}`, className: "what" }),
      element("span", { text: `${verdict}${entry.who ? `, ${entry.who}` : ""}`, className: "who" }));
    if (!state.readOnly && !waits && undoable.includes(entry.id) && !this.run.over) {
      const words = `Undo ${ledgerWords(entry)} of step ${entry.step}`;
      made.append(button("Undo", () => this.ask([{ control: "undo", value: entry.id }]), { "aria-label": words }));
    }
    return made;
  }
}
