// Edit an example's label, judgment and marked tokens on its card, and save them as a new version.

import { button, byId, element } from "./dom.js";
import { decodeStep } from "./decode.js";
import { markOf, marked, newDraft, problemOf, sameAsBefore } from "./drafts.js";
import { state, storageName } from "./state.js";
import { visibleText } from "./text.js";
import { placeOf } from "./tokens.js";

const TYPING_MS = 500; // time without a keystroke before the model is asked

export class Feedback {
  /**
   * `post` sends a path and a body to the server; `about` is the run's, so that its drafts survive a reload; `rescored`
   * is called when the model has scored an edit.
   */
  constructor(post, about, rescored) {
    this.post = post;
    this.changed = rescored;
    this.scores = new Map(); // example index -> {draft, scores}: the model's scores of a draft
    this.timers = new Map();
    this.asked = new Map(); // example index -> controller that cancels the request to the model
    this.storage = storageName("nlft-map-drafts", about);
    this.drafts = new Map(); // example index -> draft
    this.held = new Map(); // drafts of a run that has no examples now
    this.editors = new Map(); // example index -> {view, root, ...}
    this.selection = null; // {panel, from, to}
    this.bar = byId("drafts");
    this.said = element("span", { role: "status" });
    this.save = button("Save as a new version", () => this.send(), { className: "main" });
    this.drop = button("Discard all", () => this.discard());
    this.failed = element("div", { className: "reason", role: "alert" }); // why a save failed, until the next edit
    this.bar.append(this.said, this.failed, this.save, this.drop);
    this.restore();
    // The tokens' own handler has already moved the focus when a key event arrives here.
    document.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Add the button that opens a card's editor. */
  add(view) {
    const open = button("Edit feedback", () => this.toggle(view), { "aria-expanded": "false" });
    view.actions.append(open);
    const editor = this.makeEditor(view, open);
    this.editors.set(view.index, editor);
    view.card.append(editor.root);
    view.panel.group.addEventListener("pointerdown", (event) => this.onPointer(event, view));
    view.panel.group.addEventListener("pointerover", (event) => { if (event.buttons === 1) this.extend(event, view); });
    this.draw(view.index);
    if (this.drafts.has(view.index)) this.score(view.index);
  }

  /** The model's scores of an example's current edit, or null. */
  rescored(index) {
    const found = this.scores.get(index);
    return found && found.draft === this.drafts.get(index) ? found.scores : null;
  }

  /** Ask the model to score an edit when typing has stopped for a moment. */
  score(index) {
    clearTimeout(this.timers.get(index));
    this.asked.get(index)?.abort();
    if (!state.rescores) return;
    const draft = this.drafts.get(index);
    if (!draft || problemOf(draft)) return void this.changed();
    this.timers.set(index, setTimeout(() => this.askModel(index, draft), TYPING_MS));
  }

  async askModel(index, draft) {
    const { model } = this.editors.get(index);
    const { id, fingerprint, label } = draft, judgment = draft.judgment || null;
    const asked = new AbortController();
    this.asked.set(index, asked);
    model.textContent = "Scoring with the model …";
    try {
      const answer = await this.post("rescore", { example: index, id, fingerprint, label, judgment }, asked.signal);
      const { scores: [scores] } = decodeStep(await answer.arrayBuffer());
      this.scores.set(index, { draft, scores: { ...scores, rescored: { label } } });
      model.textContent = "";
    } catch (error) {
      model.textContent = asked.signal.aborted ? "" : error.message;
    }
    this.changed();
  }

  makeEditor(view, open) {
    const { index } = view;
    const text = element("textarea", { rows: "4", "aria-label": `Judgment of example ${view.example.id}` });
    const verdict = element("select", { "aria-label": `Is the completion of example ${view.example.id} right?` },
      element("option", { text: "wrong", value: "wrong" }), element("option", { text: "right", value: "right" }));
    const problem = element("p", { className: "reason", role: "status" });
    const model = element("p", { className: "said", role: "status" });
    text.addEventListener("input", () => this.set(index, { ...this.draft(view), judgment: text.value }));
    verdict.addEventListener("change", () => (
      this.set(index, { ...this.draft(view), label: verdict.value === "right" })));
    const root = element("section", { className: "editor", hidden: true, "aria-label": "Feedback" },
      element("label", {}, "The completion is ", verdict),
      element("label", { className: "block" }, "Judgment", text),
      element("p", { className: "hint" }, "Select tokens with the mouse, or with ", element("kbd", { text: "Shift" }),
        " and the arrow keys. Then:"),
      element("div", { className: "actions" },
        button("Mark wrong (W)", () => this.mark(view, "wrong")), button("Mark right (R)", () => this.mark(view, "right")),
        button("Clear mark (X)", () => this.mark(view, null)), button("Undo edits", () => this.forget(view))),
      problem, model);
    return { view, root, text, verdict, problem, model, open };
  }

  draft(view) { return this.drafts.get(view.index) ?? newDraft(saved(view.index)); }

  toggle(view) {
    const { root, open, text } = this.editors.get(view.index);
    root.hidden = !root.hidden;
    open.setAttribute("aria-expanded", String(!root.hidden));
    if (root.hidden) this.select(null);
    else text.focus({ preventScroll: true });
  }

  set(index, draft) {
    const { id, fingerprint } = state.runs[0].examples[index];
    this.failed.replaceChildren();
    if (sameAsBefore(draft, saved(index))) this.drafts.delete(index);
    else this.drafts.set(index, { ...draft, id, fingerprint });
    this.store();
    this.draw(index);
    this.score(index);
  }

  forget(view) { this.set(view.index, newDraft(saved(view.index))); }

  /** The run has new examples. Remove the old editors, and the drafts of examples that are gone. */
  forgetOthers() {
    for (const index of this.timers.keys()) clearTimeout(this.timers.get(index));
    for (const asked of this.asked.values()) asked.abort();
    this.scores.clear();
    this.editors.clear();
    this.selection = null;
    // A run that starts again has no examples for a moment. Keep its drafts until the examples are there.
    const drafts = new Map([...this.held, ...this.drafts]);
    this.held = state.runs[0].examples.length ? new Map() : drafts;
    this.drafts = ofThisRun(drafts);
    if (!this.held.size) this.store();
    this.drawBar();
  }

  mark(view, verdict) {
    if (this.selection?.panel !== view.panel) {
      this.editors.get(view.index).problem.textContent = "Select tokens first.";
      return;
    }
    const { from, to } = this.selection;
    const [start, end] = [Math.min(from, to), Math.max(from, to) + 1];
    this.set(view.index, marked(this.draft(view), view.example.tokens, start, end, verdict));
  }

  onKey(event) {
    const place = placeOf(event.target);
    const view = [...this.editors.values()].find((one) => place && one.view.panel === place.panel)?.view;
    if (!view || this.editors.get(view.index).root.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const verdict = { w: "wrong", r: "right", x: null }[event.key.toLowerCase()];
    if (verdict !== undefined) return void this.mark(view, verdict);
    if (!event.key.startsWith("Arrow") && event.key !== "Home" && event.key !== "End") return;
    const from = event.shiftKey ? this.selection?.from ?? place.index : null;
    const to = placeOf(document.activeElement)?.index;
    this.select(from === null || to === undefined ? null : { panel: view.panel, from, to });
  }

  onPointer(event, view) {
    if (this.editors.get(view.index).root.hidden) return;
    const place = placeOf(event.target.closest(".token"));
    if (!place) return;
    event.preventDefault();
    const from = event.shiftKey && this.selection ? this.selection.from : place.index;
    this.select({ panel: view.panel, from, to: place.index });
    view.panel.cells[place.index].focus();
  }

  extend(event, view) {
    const place = placeOf(event.target.closest(".token"));
    if (place && this.selection?.panel === view.panel) this.select({ ...this.selection, to: place.index });
  }

  select(selection) {
    for (const cell of this.selection?.panel.cells ?? []) cell.setAttribute("aria-selected", "false");
    this.selection = selection;
    if (!selection) return;
    const [start, end] = [Math.min(selection.from, selection.to), Math.max(selection.from, selection.to)];
    selection.panel.cells.slice(start, end + 1).forEach((cell) => cell.setAttribute("aria-selected", "true"));
  }

  draw(index) {
    const { view, text, verdict, problem, open } = this.editors.get(index);
    const draft = this.draft(view);
    if (text.value !== draft.judgment) text.value = draft.judgment;
    verdict.value = draft.label ? "right" : "wrong";
    problem.textContent = this.drafts.has(index) ? problemOf(draft) ?? "" : "";
    view.panel.cells.forEach((cell, at) => {
      const mark = markOf(draft, at);
      if (mark) cell.dataset.mark = mark;
      else delete cell.dataset.mark;
    });
    open.textContent = this.drafts.has(index) ? "Edit feedback (edited)" : "Edit feedback";
    this.drawBar();
  }

  drawBar() {
    const edited = this.drafts.size;
    const problems = [...this.drafts.values()].filter(problemOf).length;
    if (edited) this.said.textContent = `${edited} example${edited > 1 ? "s" : ""} edited, not saved yet.`;
    this.bar.hidden = !edited && !this.said.textContent.startsWith("Saved") && !this.failed.hasChildNodes();
    this.save.hidden = this.drop.hidden = !edited;
    this.save.disabled = problems > 0;
  }

  async send() {
    const sent = new Map(this.drafts);
    const edits = [...sent].map(([example, draft]) => ({ example, ...draft }));
    this.failed.replaceChildren();
    try {
      const found = await (await this.post("feedback", { edits })).json();
      state.saved = [...state.saved.filter((one) => !sent.has(one.example)), ...edits];
      for (const [index, draft] of sent) {
        const now = this.drafts.get(index);
        if (now === draft) this.drafts.delete(index);
        // A draft that changed while the others were saved stays.
        else if (now) now.seen = { label: draft.label, judgment: draft.judgment };
      }
      this.store();
      this.said.textContent = `Saved as ${found.file} of the run: ${found.examples} examples, ${found.changed} changed`
        + `${found.whole ? "" : " (watched examples only; start nlft map with --data FILE to include all)"}.`;
      for (const index of sent.keys()) if (this.editors.has(index)) this.draw(index);
      this.changed();
    } catch (error) {
      if (error.status === 409) this.clash(error.body);
      else this.failed.append(`Not saved: ${error.message}`);
    }
    this.drawBar();
  }

  /** Others have saved feedback on the same examples. The reader chooses; nothing is replaced in silence. */
  clash(found) {
    state.saved = found.saved;
    for (const index of found.changed) {
      const theirs = newDraft(saved(index)), { id } = state.runs[0].examples[index];
      const mine = words(this.drafts.get(index) ?? theirs);
      const row = element("p", {
        text: `Another page has changed example ${id}. There it is: ${words(theirs)}. Here it is: ${mine}. `,
      });
      const choose = (text, draft) => button(text, () => {
        row.remove();
        const left = [...this.failed.childNodes];
        this.set(index, draft());
        this.failed.replaceChildren(...left);
        this.drawBar();
      });
      row.append(choose("Take theirs", () => theirs), " ",
        choose("Keep mine", () => ({ ...(this.drafts.get(index) ?? theirs), seen: theirs.seen })));
      this.failed.append(row);
    }
  }

  discard() {
    const indices = [...this.drafts.keys()];
    this.drafts.clear();
    this.failed.replaceChildren();
    this.store();
    for (const index of indices) this.draw(index);
    this.changed();
    this.said.textContent = "";
    this.drawBar();
  }

  store() {
    try {
      sessionStorage.setItem(this.storage, JSON.stringify([...this.drafts]));
    } catch { /* without storage, a reload loses the drafts */ }
  }

  restore() {
    try {
      this.drafts = ofThisRun(JSON.parse(sessionStorage.getItem(this.storage) ?? "[]"));
    } catch { /* continue without stored drafts */ }
  }
}

/** The example at an index with the label and judgment of the newest saved version. */
function saved(index) {
  const example = state.runs[0].examples[index];
  const found = state.saved.find((one) => one.example === index && one.id === example.id);
  return found ? { ...example, label: found.label, judgment: found.judgment } : example;
}

/** A draft in words, for one who has to choose. */
function words({ label, judgment }) {
  return `${label ? "right" : "wrong"}${judgment ? `, “${visibleText(judgment)}”` : ""}`;
}

/** The drafts whose example still has the same index, prompt and reply. */
function ofThisRun(drafts) {
  const { examples } = state.runs[0];
  return new Map([...drafts].filter(([at, draft]) => examples[at] && draft.fingerprint === examples[at].fingerprint));
}
