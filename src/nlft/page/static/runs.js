// A run in the page: its data, its steps by number, and a cache of the last fetched steps.

import { decodeStep } from "./decode.js";

// Size of the cache of steps. saliency.js needs twice as much again. A step outside the cache is fetched again.
const MOST_BYTES = 16e6;
const MOST_HISTORY = 24; // steps of a token's small curve

/** Each example's log-probabilities at a step, null where it was not scored at just this step. */
function baseOf(step) {
  return step?.scores.map((scores) => (scores && scores.source.step === step.step ? scores.base : null)) ?? null;
}

export class Run {
  constructor(source, index, about) {
    this.source = source;
    this.index = index;
    this.about = about;
    this.steps = [];
    this.controls = [];
    this.waiting = [];
    this.columns = { step: [], time: [] };
    this.events = 0;
    this.generation = 0; // the server counts from 1
    this.stepsSeen = 0;
    this.state = "waiting"; // see nlft/runs/state.py
    this.refusal = null; // why no request would be answered
    this.command = null; // what to type to go on
    this.folder = null; // where to type it
    this.steering = null;
    this.problem = null;
    this.cache = new Map(); // step -> promise of the step, in order of use
    this.bytes = 0;
    this.past = null; // see history
  }

  get examples() { return this.about.examples; }

  /** Fetch what is new. Return true if the run started again, so that the drawn content is out of date. */
  async update() {
    const have = {
      generation: this.generation, steps: this.stepsSeen, events: this.events, controls: this.controls.length,
    };
    const found = await this.source.changes(this.index, have);
    const anew = found.generation !== this.generation;
    if (anew) {
      this.generation = found.generation;
      this.columns = { step: [], time: [] };
      this.controls = [];
      this.cache.clear();
      this.bytes = 0;
    }
    if (found.steps) this.steps = found.steps;
    this.stepsSeen = found.steps_seen;
    this.addEvents(found.events);
    this.controls.push(...found.controls);
    this.waiting = found.waiting;
    this.state = found.state;
    this.refusal = found.refusal ?? null;
    this.command = found.command ?? null;
    this.folder = found.folder ?? null;
    this.steering = found.steering;
    this.problem = found.problem;
    return anew;
  }

  addEvents({ count, columns }) {
    const before = this.columns.step.length;
    const added = columns.step.length;
    for (const name of Object.keys(columns)) this.columns[name] ??= new Array(before).fill(null);
    for (const name of Object.keys(this.columns)) {
      this.columns[name].push(...(columns[name] ?? new Array(added).fill(null)));
    }
    this.events = count;
  }

  /** Whether the run has no process that could take a request. */
  get over() {
    return this.refusal !== null;
  }

  /** What to tell about a run that ended early: how, and the command that goes on. Empty while it runs. */
  get ending() {
    if (!this.over || this.state === "finished") return "";
    const [how] = this.refusal.split("; to go on: ");
    const said = `${how.charAt(0).toUpperCase()}${how.slice(1)}.`;
    return this.command ? `${said} To go on, type in ${this.folder}: ${this.command}` : said;
  }

  /** The last value of a column, or null. */
  last(name) {
    return (this.columns[name] ?? []).findLast((value) => value !== null) ?? null;
  }

  /** Promise of a step, see decode.js. It is rejected with a reason if the step cannot be shown. */
  step(number) {
    const found = this.cache.get(number);
    if (found) {
      this.cache.delete(number);
      this.cache.set(number, found);
      return found;
    }
    const wanted = this.source.stepBytes(this.index, number).then((buffer) => {
      this.bytes += buffer.byteLength;
      this.trim();
      return { ...decodeStep(buffer), size: buffer.byteLength };
    });
    this.cache.set(number, wanted);
    wanted.catch(() => this.cache.delete(number));
    return wanted;
  }

  /**
   * The log-probability of each token of an example at up to `MOST_HISTORY` steps: {steps, base}, null where the example
   * was not scored. It is fetched once for the recorded steps.
   */
  history() {
    const key = `${this.generation} ${this.stepsSeen}`;
    if (this.past?.key !== key) {
      const last = this.steps.length - 1, count = Math.min(this.steps.length, MOST_HISTORY);
      const chosen = Array.from({ length: count }, (_, at) => this.steps[Math.round((at * last) / Math.max(1, count - 1))]);
      const wanted = Promise.all(chosen.map((step) => this.step(step).catch(() => null)));
      this.past = { key, found: null, wanted };
      wanted.then((found) => { this.past.found = { steps: chosen, of: found.map((step) => baseOf(step)) }; });
    }
    return this.past;
  }

  trim() {
    for (const [number, wanted] of this.cache) {
      if (this.bytes <= MOST_BYTES || this.cache.size <= 3) return;
      this.cache.delete(number);
      wanted.then((step) => { this.bytes -= step.size; }, () => {});
    }
  }
}
