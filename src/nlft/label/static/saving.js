// Talk to the server, and save decisions in order. A decision that cannot be saved is kept and sent again.

import { uniqueName } from "./dom.js";

const KEPT_ALIVE = 15_000; // characters of a request that a closing page may still send; browsers allow 64 KB in all

/** The name of whoever labels in this browser, so that an undo takes back no other reader's step. */
export function readerName() {
  const made = uniqueName();
  try {
    const known = localStorage.getItem("nlft-label-reader");
    if (known === null) localStorage.setItem("nlft-label-reader", made);
    return known ?? made;
  } catch { // without storage, a reload makes another reader
    return made;
  }
}

export async function ask(path, body, signal) {
  const text = JSON.stringify(body);
  const sent = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: text, signal, keepalive: text.length < KEPT_ALIVE,
  };
  let response;
  try {
    response = await fetch(`api/${path}`, sent);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server does not answer. Start the same command again, and open the address that it prints.");
  }
  if (response.status === 204) return null;
  const found = await response.json().catch(() => ({}));
  if (response.ok) return found;
  throw Object.assign(new Error(found.error ?? `The server answered ${response.status}.`), { status: response.status, row: found.row });
}

export class Saver {
  /**
   * `saved` is called with the server's answer; `clash` with a row and the row that another page has saved; `failed`
   * with an error, or null when everything is saved.
   */
  constructor({ saved, clash, failed }) {
    this.saved = saved;
    this.clash = clash;
    this.failed = failed;
    this.waiting = new Map(); // place -> {row, step}
    this.busy = null;
    this.clashed = new Set(); // places whose decision another page has changed: the reader has not chosen yet
  }

  /** Whether something is not on disk yet. */
  get behind() { return this.waiting.size > 0 || this.busy !== null || this.clashed.size > 0; }

  put(row, decision, step) {
    row.decision = decision;
    this.waiting.set(row.place, { row, step });
    this.busy ??= this.drain().finally(() => { this.busy = null; });
    return this.busy;
  }

  /** Try again what could not be saved. */
  retry() {
    if (this.waiting.size) this.busy ??= this.drain().finally(() => { this.busy = null; });
    return this.busy ?? Promise.resolve();
  }

  async drain() {
    while (this.waiting.size) {
      const [place, { row, step }] = this.waiting.entries().next().value;
      this.waiting.delete(place);
      try {
        const answer = await ask("decide", { place, decision: row.decision, seen: row.revision, step });
        row.revision = answer.revision;
        this.saved(answer, row);
      } catch (error) {
        if (error.status === 409) {
          this.clash(row, error.row);
          this.clashed.add(place);
          continue;
        }
        if (!this.waiting.has(place)) this.waiting.set(place, { row, step });
        return void this.failed(error);
      }
    }
    if (!this.clashed.size) this.failed(null); // the reader is asked which one to keep, and the question stays
  }
}
