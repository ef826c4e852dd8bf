// The what-if: every setting of the scheme as a control, and the tags and weights that it would give every token.

import { button, element, factTable, onceAFrame } from "./dom.js";
import {
  cannotTry, differing, readValue, recordedVerdict, scoredAt, sliderPlace, sliderScale, sliderValue, strikes, tagCounts, tryScheme,
  whatWouldChange,
} from "./logic.js";
import { plainKnobs } from "./plainknobs.js";
import { prepare } from "./saliency.js";
import { state } from "./state.js";
import { strikeUnknown, strikeVerdict } from "./strike.js";
import { formatNumber, formatPercent } from "./text.js";

const PLACES = 500; // number of positions of a slider
const prepared = new WeakMap(); // scores -> example for saliency.js

function forTwin(scores, label) {
  if (!prepared.has(scores)) prepared.set(scores, prepare({ ...scores, label: scores.rescored?.label ?? label }));
  return prepared.get(scores);
}

/** Tags and weights of the what-if for a step's examples (null if not scored). Null without a computable what-if. */
export function triedVerdicts(step, examples) {
  if (!state.tried || !step) return null;
  const { scheme: name, settings } = state.tried;
  if (name === "strike") return triedStrikes(step, examples, settings);
  const scored = step.scores.map((scores, index) => scores && forTwin(scores, examples[index].label));
  const whole = scored.filter(Boolean);
  if (cannotTry(name, settings, whole)) return null;
  const verdicts = tryScheme(name, settings, whole);
  return scored.map((one) => (one ? verdicts[whole.indexOf(one)] : null));
}

/** The same for `strike`, which the recorded tags answer. Null if another scheme's scores are shown. */
function triedStrikes(step, examples, settings) {
  if (step.scheme !== "strike") return null;
  return step.scores.map((scores, index) => scores
    && strikeVerdict(examples[index], recordedVerdict(scores), scores.source.settings, settings));
}

/** Why a scheme cannot be tried on a step's scores; null if it can. */
function whyNot(name, settings, scored, step) {
  if (name !== "strike") return cannotTry(name, settings, scored);
  return step?.scheme === "strike" ? null : "strike needs marked words, which this step's scores do not have.";
}

/** The panel. It calls `changed` when another what-if is tried, and `apply` to send it to the trainer. */
export class WhatIf {
  constructor(root, about, changed, apply) {
    this.changed = onceAFrame(changed);
    this.knobs = [];
    this.recorded = null;
    this.chooser = element("select", { id: "try-scheme" });
    this.renew(about);
    this.chooser.addEventListener("change", () => this.choose(this.chooser.value));
    this.back = button("As recorded", () => this.reset(), { title: "Show what the run recorded" });
    this.apply = button("Apply to the run", () => apply(state.tried), { className: "main", hidden: true });
    this.reason = element("p", { className: "reason", role: "status" });
    this.list = element("div", { className: "knobs plain" });
    this.rest = element("div", { className: "knobs" });
    this.advanced = element("details", { id: "advanced" }, element("summary", { text: "Advanced" }),
      element("div", { className: "knob scheme" }, element("label", { for: "try-scheme", text: "scheme" }), this.chooser),
      this.reason, this.rest);
    this.unknown = element("p", { className: "reason", role: "status" });
    this.help = element("p", { className: "help" });
    this.sum = element("div", { className: "sum", role: "status", "aria-label": "What would change" });
    root.append(this.list, this.unknown, element("div", { className: "actions" }, this.back, this.apply), this.sum,
      this.advanced, this.help);
    this.say("");
    root.addEventListener("focusin", (event) => this.say(event.target.closest(".knob")?.dataset.help ?? ""));
    root.addEventListener("pointerover", (event) => {
      const help = event.target.closest(".knob")?.dataset.help;
      if (help) this.say(help);
    });
  }

  /** Use the run's new data: it may have been started again, with other examples. */
  renew(about) {
    this.about = about;
    this.schemes = about.schemes;
    this.drawnScheme = null;
    this.can = true; // whether the page can compute the shown scheme
    const names = Object.keys(this.schemes);
    this.chooser.replaceChildren(...names.map((name) => element("option", { text: name, value: name })));
  }

  say(help) {
    const can = this.can ? "Change a setting to see here what it would do to every token. The run does not change." : "";
    this.help.textContent = help || can;
  }

  get now() { return state.tried ?? this.recorded; }

  choose(name) { this.set(name, {}); }

  /** A scheme's settings before a reader turns any: those of the step, else the scheme's own. */
  untouched(name) {
    const defaults = Object.fromEntries((this.schemes[name] ?? []).map((control) => [control.name, control.default]));
    return name === this.recorded.scheme ? { ...defaults, ...this.recorded.settings } : defaults;
  }

  set(scheme, turned) {
    const settings = { ...this.untouched(scheme), ...turned };
    const same = scheme === this.recorded.scheme
      && Object.entries(settings).every(([name, value]) => this.untouched(scheme)[name] === value);
    state.tried = same ? null : { scheme, settings, turned };
    this.drawKnobs();
    this.changed();
  }

  reset() { if (this.recorded) this.set(this.recorded.scheme, {}); }

  turn(name, value) {
    const { scheme } = this.now;
    const { [name]: _, ...others } = state.tried?.turned ?? {};
    this.set(scheme, value === this.untouched(scheme)[name] ? others : { ...others, [name]: value });
  }

  /** Take over the settings of another step, except those that the reader has turned. */
  follow(step) {
    if (!step) return;
    this.recorded = { scheme: step.scheme, settings: step.settings };
    const { tried } = state;
    if (tried) tried.settings = { ...this.untouched(tried.scheme), ...tried.turned };
  }

  /** Draw the panel for a step: recorded settings, tried settings, and the changes that they would make. */
  draw(step, verdicts) {
    const examples = this.about.examples;
    if (!this.recorded) return;
    this.drawKnobs();
    const scored = step ? step.scores.map((scores, i) => scores && forTwin(scores, examples[i].label)) : [];
    this.judge(scored.filter(Boolean), step);
    this.drawSum(step, scored, verdicts);
  }

  judge(scored, step) {
    for (const option of this.chooser.options) {
      const settings = Object.fromEntries(this.schemes[option.value].map((control) => [control.name, control.default]));
      const why = whyNot(option.value, settings, scored, step);
      option.disabled = why !== null && option.value !== this.now.scheme && !canApply(option.value);
      option.title = why ?? "";
      option.textContent = why === null ? option.value : `${option.value} (not available here)`;
    }
    const why = this.schemes[this.now.scheme] ? whyNot(this.now.scheme, this.now.settings, scored, step)
      : `The run's record does not describe ${this.now.scheme}.`;
    const others = [...this.chooser.options].filter((option) => option.value !== this.now.scheme)
      .map((option) => option.title);
    this.reason.textContent = others.filter(Boolean).join(" ");
    const unknown = this.now.scheme === "strike" && state.tried && !why
      ? strikeUnknown(this.recorded.settings, this.now.settings) : [];
    this.unknown.textContent = [why, ...unknown].filter(Boolean).join(" ");
    if (this.can !== (why === null)) {
      this.can = why === null;
      this.say("");
    }
    // Keep changed settings enabled, so that a reader can reset a what-if that cannot be computed.
    for (const knob of this.knobs) knob.enable(why === null || canApply(this.now.scheme) || knob.turned());
  }

  drawKnobs() {
    const { scheme: name, settings } = this.now;
    this.chooser.value = name;
    this.back.disabled = state.tried === null;
    if (this.drawnScheme !== name) {
      this.drawnScheme = name;
      const controls = this.schemes[name] ?? [];
      const plain = new Map(plainKnobs(name, controls));
      this.knobs = controls.map((control) => (
        makeKnob(control, (value) => this.turn(control.name, value), plain.get(control.name))));
      const own = (knob) => plain.has(knob.control.name);
      this.list.replaceChildren(...[...plain.keys()].map((wanted) => this.knobs.find((knob) => knob.control.name === wanted).row));
      this.rest.replaceChildren(...this.knobs.filter((knob) => !own(knob)).map((knob) => knob.row));
    }
    for (const knob of this.knobs) {
      const { name: setting, default: initial } = knob.control;
      const was = name === this.recorded.scheme ? this.recorded.settings[setting] : initial;
      knob.show(settings[setting] ?? initial, was);
    }
  }

  drawSum(step, scored, verdicts) {
    const places = scored.flatMap((one, index) => (one ? [index] : []));
    const recorded = places.map((index) => recordedVerdict(step.scores[index]));
    if (!places.length) return void this.sum.replaceChildren();
    const tried = verdicts ? places.map((index) => verdicts[index]) : recorded;
    if (recorded.some(strikes)) return void this.sum.replaceChildren(...strikeSum(recorded, verdicts && tried));
    const found = whatWouldChange(places.map((i) => scored[i]), recorded, tried, this.about.loss_normalization);
    const { changed, before, after } = found;
    const words = verdicts ? ` in ${changed.examples} of ${before.examples} examples: `
      + `${changed.gained} more salient, ${changed.lost} no longer` : " so far";
    const row = (name, shown, pick) => [name, shown(pick(before)), verdicts ? shown(pick(after)) : ""];
    return void this.sum.replaceChildren(
      element("p", {}, element("b", { text: `${changed.retagged} of ${changed.tokens} tokens change` }), words),
      element("p", { className: "note-of", text: `Only the ${before.examples} watched replies, ${scoredAt(step)}:` }),
      factTable(["", "recorded", "what if"], [
        row("salient tokens", formatPercent, (one) => one.salientFraction),
        row("disliked replies with too much marked", formatPercent, (one) => one.gatedFraction),
        row("loss", formatNumber, (one) => one.loss),
        row("of it, pushing up", formatNumber, (one) => one.likelihood),
        row("of it, pushing down", formatNumber, (one) => one.unlikelihood),
      ]));
  }
}

/** How many tokens would be struck; without a what-if, nothing: the page says it already. */
function strikeSum(recorded, tried) {
  if (!tried) return [];
  const struck = (all) => all.reduce((sum, verdict) => sum + tagCounts(verdict)[0][1], 0);
  const moved = recorded.reduce((sum, one, at) => sum + differing(one, tried[at]).reduce((a, b) => a + b, 0), 0);
  const count = recorded.reduce((sum, one) => sum + one.tag.length, 0);
  return [element("p", {}, element("b", { text: `${moved} of ${count} tokens change` }),
    `: ${struck(tried)} struck instead of ${struck(recorded)}`)];
}

/** Whether the run would accept the scheme, even if this page cannot compute it. */
function canApply(name) {
  const { steering, over } = state.runs[0];
  if (state.readOnly || !steering || over || steering.unavailable.scheme) return false;
  return (steering.conditions[name] ?? ["?"]).every((condition) => steering.scorable.includes(condition));
}

/** One setting's control: {control, row, show(value, recorded), turned(), enable(on)}. `plain`: what it means, in words. */
function makeKnob(control, turn, plain) {
  const name = element("span", { className: "setting" }, ...control.name.split("_").flatMap((word, at) => (
    at ? ["_", element("wbr"), word] : [word])));
  const label = plain ? element("span", {}, element("span", { className: "plain-words", text: plain }), name) : name;
  let before; // the recorded value
  const undo = button("↺", () => turn(before), { className: "undo", "aria-label": `${control.name} as recorded` });
  const row = element("div", { className: "knob", "data-help": `${control.name}: ${control.help}` });
  const made = control.kind === "flag" ? flag(control, turn)
    : control.kind === "choice" ? choice(control, turn) : number(control, turn, row);
  row.append(element("label", { for: made.inputs[0].id }, label), ...made.inputs, undo);
  return {
    control, row,
    show(value, recorded) {
      made.show(value);
      before = recorded;
      undo.hidden = value === recorded || recorded === undefined;
      row.classList.toggle("turned", !undo.hidden);
    },
    turned() { return !undo.hidden; },
    enable(on) { for (const input of [...made.inputs, undo]) input.disabled = !on; },
  };
}

function flag(control, turn) {
  const input = element("input", { type: "checkbox", id: `knob-${control.name}` });
  input.addEventListener("change", () => turn(input.checked));
  return { inputs: [input], show(value) { input.checked = value; } };
}

function choice(control, turn) {
  const input = element("select", { id: `knob-${control.name}` });
  input.append(...control.choices.map((text) => element("option", { text, value: text })));
  input.addEventListener("change", () => turn(input.value));
  return { inputs: [input], show(value) { input.value = value; } };
}

function number(control, turn, row) {
  const scale = sliderScale(control);
  const slider = element("input", { type: "range", id: `knob-${control.name}`, min: "0", max: String(PLACES) });
  const field = element("input", {
    type: "text", inputmode: "decimal", className: "value", "aria-label": `${control.name}, as a number`,
  });
  const rounded = (value) => (control.kind === "integer" ? Math.round(value) : value);
  slider.addEventListener("input", () => turn(rounded(sliderValue(scale, slider.valueAsNumber / PLACES))));
  field.addEventListener("input", () => {
    const { value, reason } = readValue(control, field.value);
    row.classList.toggle("refused", reason !== undefined);
    field.setCustomValidity(reason ?? "");
    field.title = reason ?? "";
    if (reason === undefined) turn(rounded(value));
  });
  field.addEventListener("change", () => { if (field.validationMessage) field.reportValidity(); });
  return {
    inputs: [slider, field],
    show(value) {
      slider.value = String(Math.round(PLACES * sliderPlace(scale, value)));
      slider.setAttribute("aria-valuetext", String(value));
      if (document.activeElement !== field) field.value = String(value);
    },
  };
}
