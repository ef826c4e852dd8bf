// Talk to the run's models: their replies side by side, and what a reader says about each.
//
// A model's text goes in through text nodes alone. Offsets that the server gets count code points, as Python does.

import { button, element, uniqueName } from "./dom.js";
import { pointsBefore, withSpan } from "./offsets.js";

const LOOK_MS = 1000;
const NOT_STARTED = "The run's models are not loaded, so that this page needs little memory: start them to let the base and the trained model answer side by side.";

/**
 * Mount the conversation into an element. Nothing is asked of the models before the reader sends a prompt.
 * @param {HTMLElement} root an empty element
 * @param {{get: (path: string) => Promise<any>, post: (path: string, body: object, signal?: AbortSignal) => Promise<Response>}} source
 */
export function mountReplies(root, source) {
  const made = new Replies(root, source);
  made.wait();
  return made;
}

/** Every place of words in a text, in code points. */
export function placesOfWords(text, words) {
  const found = [];
  for (let at = text.indexOf(words); words && at >= 0; at = text.indexOf(words, at + words.length)) {
    found.push({ start: pointsBefore(text, at), end: pointsBefore(text, at + words.length) });
  }
  return found;
}

class Replies {
  constructor(root, source) {
    this.source = source;
    this.talk = uniqueName();
    this.turn = 0; // the number of the last turn
    this.last = null; // the last turn, see Turn
    this.asking = null; // cancels the running request
    this.selection = null; // {reply, start, end, text}: what the reader has selected in a reply
    this.said = element("p", { role: "status", className: "reply-status" });
    this.about = element("div", { className: "reply-about" });
    this.log = element("div", { className: "reply-log" });
    this.kept = element("p", { className: "reply-kept", role: "status" });
    this.next = element("code", { className: "reply-next", hidden: true });
    this.score = element("div", { className: "reply-score", role: "status" });
    this.form = this.makeForm();
    this.starter = button("Start the models", () => this.start(), { className: "main", hidden: true });
    this.said.tabIndex = -1;
    root.append(this.about, this.log, this.form, this.said, this.starter, this.kept, this.next, this.score);
    document.addEventListener("selectionchange", () => this.select());
  }

  makeForm() {
    this.text = element("textarea", { rows: "3", "aria-label": "Prompt", placeholder: "Write a prompt for all sides" });
    this.rule = element("textarea", { rows: "1", "aria-label": "Rule", placeholder: "Rule that the side rule has in its prompt; without one there is no such side" });
    this.blind = element("input", { type: "checkbox" });
    this.questions = element("select", { "aria-label": "Held-out prompt" });
    this.ask = button("Ask this prompt", () => this.send({ question: Number(this.questions.value) }));
    this.stop = button("Stop", () => this.asking?.abort(), { hidden: true });
    this.submit = element("button", { type: "submit", text: "Send", className: "main" });
    const held = element("span", { className: "reply-held", hidden: true }, this.questions, this.ask);
    this.held = held;
    const form = element("form", { className: "reply-form", hidden: true }, this.text, element("label", { className: "reply-rule" }, "Rule ", this.rule), element("div", { className: "actions" },
      this.submit, this.stop, button("New conversation", () => this.startOver()),
      element("label", {}, this.blind, " Hide the names"), held));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.text.value.trim()) this.send({ text: this.text.value });
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    return form;
  }

  /** Wait until the models are loaded, then show what they are. If nobody has started them, offer to. */
  async wait() {
    try {
      const found = await this.source.get("chat");
      if (found.stopped) return void this.offer(NOT_STARTED);
      if (found.error) return void this.offer(`The models cannot be used: ${found.error}`);
      if (!found.loading) return void this.open(found.ready);
      this.said.textContent = "The models are loading …";
      setTimeout(() => this.wait(), LOOK_MS);
    } catch (error) {
      this.said.textContent = error.message;
    }
  }

  offer(why) {
    this.said.textContent = why;
    this.starter.hidden = false;
    this.form.hidden = true;
  }

  async start() {
    this.starter.hidden = true;
    this.said.textContent = "The models are loading …";
    this.said.focus({ preventScroll: true }); // the button that had the focus is gone
    try {
      await this.source.post("chat/start", {});
      this.wait();
    } catch (error) {
      this.offer(`The models cannot be started: ${error.message}`);
    }
  }

  open({ lines, questions, blind, score, rule, kept, next }) {
    this.said.textContent = "";
    this.about.replaceChildren(...lines.map((text) => element("p", { text })));
    this.questions.replaceChildren(...questions.map(({ id, text }, at) => (
      element("option", { value: String(at), text: `${id}: ${text}` }))));
    this.held.hidden = questions.length === 0;
    this.blind.checked = blind;
    this.rule.value = rule ?? "";
    this.showScore(score);
    this.showKept(kept, next);
    this.form.hidden = false;
  }

  showScore(lines) { this.score.replaceChildren(...lines.map((text) => element("p", { text }))); }

  showKept(kept, next) {
    this.kept.textContent = kept;
    this.next.textContent = next;
    this.next.hidden = !next;
  }

  startOver() {
    this.asking?.abort();
    this.talk = uniqueName();
    this.turn = 0;
    this.last = null;
    this.log.replaceChildren();
    this.selection = null;
    this.said.textContent = "A new conversation.";
  }

  /** Send a prompt, and show the replies while they are written. */
  async send(asked) {
    if (this.asking) return;
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.busy(true);
    const view = new Turn(this, asked.text ?? this.questions.selectedOptions[0].textContent);
    view.begins = asked.question !== undefined; // a held-out prompt begins a new conversation
    this.log.append(view.root);
    try {
      const shown = this.last?.replies.map((one) => one.shown) ?? [];
      const how = { talk: this.talk, turn: this.turn, shown, blind: this.blind.checked, rule: this.rule.value };
      const response = await this.source.post("chat/ask", { ...how, ...asked }, signal);
      await eachLine(response, (line) => view.take(line));
      if (asked.text !== undefined) this.text.value = "";
      this.said.textContent = "";
    } catch (error) {
      this.said.textContent = signal.aborted ? "Stopped. What was written stays in the conversation." : error.message;
      if (!view.replies.length) view.root.remove();
    }
    view.finish();
    this.asking = null;
    this.busy(false);
  }

  busy(is) {
    this.submit.disabled = this.ask.disabled = is;
    this.stop.hidden = !is;
    if (is) this.said.textContent = "Writing …";
  }

  /** Remember what is selected in a reply: the selection is gone as soon as a field has the focus. */
  select() {
    const selection = document.getSelection();
    if (!selection?.rangeCount || selection.isCollapsed) return;
    const range = selection.getRangeAt(0);
    const reply = [...this.log.querySelectorAll(".reply-text")].find((one) => one.contains(range.commonAncestorContainer));
    const view = reply && Reply.of.get(reply);
    if (!view?.whole) return;
    const before = document.createRange();
    before.selectNodeContents(reply);
    before.setEnd(range.startContainer, range.startOffset);
    const chosen = range.toString(), text = chosen.trim();
    if (!text) return;
    const first = before.toString().length + chosen.indexOf(text);
    const [start, end] = [first, first + text.length].map((units) => pointsBefore(view.whole, units));
    this.selection = { reply: view, start, end, text };
    view.words.value = text;
  }

  /** Keep a mark as an example. */
  async keep(body) {
    const found = await (await this.source.post("chat/mark", { talk: this.talk, ...body })).json();
    this.showKept(found.kept, found.next);
  }
}

/** A prompt and the replies to it. */
class Turn {
  constructor(page, prompt) {
    this.page = page;
    this.talk = page.talk;
    this.number = 0;
    this.replies = [];
    this.hidden = false;
    this.begins = false; // whether the earlier turns go once the models have taken the prompt
    this.columns = element("div", { className: "reply-columns" });
    this.choice = element("div", { className: "reply-choice", hidden: true });
    this.root = element("section", { className: "reply-turn" },
      element("p", { className: "reply-prompt", text: prompt }), this.columns, this.choice);
  }

  /** Take one line of the stream. */
  take(line) {
    if (line.error) throw new Error(line.error);
    if (line.headings) {
      this.number = this.page.turn = line.turn;
      this.page.last = this;
      if (this.begins) this.page.log.replaceChildren(this.root);
      this.hidden = line.hidden;
      this.replies = line.headings.map((heading, at) => new Reply(this, at, heading));
      this.columns.append(...this.replies.map((one) => one.root));
    } else if (line.piece !== undefined) {
      this.replies[line.at].add(line.piece);
    } else if (line.end) {
      this.replies[line.at].end(line.end, line.text, line.cut);
    }
  }

  /** The stream is over. Unless it was stopped, the reader can choose between hidden sides. */
  finish() {
    for (const one of this.replies) if (!one.whole) one.end("stopped", one.text.textContent);
    if (!this.hidden || !this.replies.every((one) => one.complete)) return;
    const boxes = this.replies.map(() => element("input", { type: "checkbox" }));
    const labels = boxes.map((box, at) => element("label", {}, box, ` ${this.replies[at].heading.textContent}`));
    this.choice.append("Best: ", ...labels,
      button("Choose", () => this.choose(boxes.flatMap((box, at) => (box.checked ? [at] : []))), { className: "main" }),
      button("All alike", () => this.choose(boxes.map((_, at) => at))));
    this.choice.hidden = false;
  }

  async choose(at) {
    const { page } = this;
    try {
      const body = { talk: this.talk, turn: this.number, at };
      const { headings, score } = await (await page.source.post("chat/choose", body)).json();
      headings.forEach((text, place) => { this.replies[place].heading.textContent = text; });
      this.choice.hidden = true;
      page.showScore(score);
      page.said.textContent = "";
    } catch (error) {
      page.said.textContent = error.message;
    }
  }
}

/** One reply, and what the reader says about it. */
class Reply {
  /** @type {WeakMap<Element, Reply>} */
  static of = new WeakMap();

  constructor(turn, at, heading) {
    this.turn = turn;
    this.at = at;
    this.whole = ""; // the text as the model wrote it, once it has ended
    this.complete = false;
    this.mark = { good: null, why: "", spans: [] };
    this.saving = Promise.resolve();
    this.heading = element("h3", { text: heading });
    this.text = element("div", { className: "reply-text" });
    this.ended = element("p", { className: "reply-end" });
    this.problem = element("p", { className: "reason", role: "status" });
    this.root = element("article", { className: "reply" }, this.heading, this.text, this.ended, this.makeActions(), this.problem);
    Reply.of.set(this.text, this);
  }

  makeActions() {
    const called = (what) => ({ "aria-label": `${what}, reply ${this.at + 1}` });
    const press = { "aria-pressed": "false" };
    this.good = button("👍 Like", () => this.thumb(true), { ...press, className: "reply-good" });
    this.bad = button("👎 Reject", () => this.thumb(false), { ...press, className: "reply-bad" });
    this.why = element("input", { type: "text", placeholder: "Why, in words", ...called("Why") });
    this.why.addEventListener("change", () => this.set({ ...this.mark, why: this.why.value.trim() }));
    this.words = element("input", { type: "text", placeholder: "Select words, or type them", ...called("Words") });
    this.instead = element("input", { type: "text", placeholder: "What should stand there", ...called("Instead") });
    this.actions = element("div", { className: "reply-actions", hidden: true },
      element("div", { className: "actions" }, this.good, this.bad, button("Undo", () => this.undo())), this.why,
      element("div", { className: "actions" }, this.words, button("Strike", () => this.strike(null))),
      element("div", { className: "actions" }, this.instead, button("Write over", () => this.strike(this.instead.value))));
    return this.actions;
  }

  /** The number of code points that the reader sees. The models may have written on after Stop. */
  get shown() { return [...this.whole].length; }

  add(piece) { this.text.append(piece); }

  end(reason, text, cut = "") {
    this.whole = text;
    this.complete = reason !== "stopped";
    this.ended.textContent = reason === "stopped" ? "stopped" : cut;
    this.actions.hidden = text.trim() === "";
    this.draw();
  }

  thumb(good) {
    const other = this.mark.good === !good; // a reason for the other thumb no longer fits
    if (other) this.why.value = "";
    this.set({ ...this.mark, good: this.mark.good === good ? null : good, why: other ? "" : this.mark.why });
  }

  undo() { this.set({ good: null, why: "", spans: [] }); }

  strike(replace) {
    const { selection } = this.turn.page;
    const words = this.words.value.trim();
    const selected = selection?.reply === this && selection.text === words;
    const places = selected ? [{ start: selection.start, end: selection.end }] : placesOfWords(this.whole, words);
    if (!places.length) {
      this.problem.textContent = words ? `The reply does not say “${words}”.` : "Select words of the reply first.";
      return;
    }
    const more = places.map((one) => ({ ...one, replace }));
    const good = this.mark.good ?? false; // a strike is an objection, unless the reader has liked the reply
    this.set({ ...this.mark, good, spans: more.reduce(withSpan, this.mark.spans) });
  }

  /** Keep a mark. If the server refuses it, the earlier one comes back. */
  set(mark) {
    const before = this.mark;
    this.mark = mark;
    this.problem.textContent = "";
    this.draw();
    if (mark.why && mark.good === null && !mark.spans.length) {
      this.problem.textContent = "Like or reject the reply, so that the reason is kept.";
      if (before.good === null && !before.spans.length) return; // nothing is kept that would have to go
    }
    this.saving = this.saving.then(async () => {
      try {
        await this.turn.page.keep({ talk: this.turn.talk, turn: this.turn.number, at: this.at, shown: this.shown, ...mark });
        this.root.classList.toggle("kept", mark.good !== null || mark.spans.length > 0);
      } catch (error) {
        if (this.mark === mark) this.mark = before;
        this.problem.textContent = error.message;
        this.draw();
      }
    });
  }

  draw() {
    const { good, why, spans } = this.mark;
    this.good.setAttribute("aria-pressed", String(good === true));
    this.bad.setAttribute("aria-pressed", String(good === false));
    if (document.activeElement !== this.why) this.why.value = why;
    const letters = [...this.whole];
    const parts = [];
    let at = 0;
    for (const { start, end, replace } of spans) {
      parts.push(letters.slice(at, start).join(""), element("s", {
        text: letters.slice(start, end).join(""), "data-instead": replace || null, title: replace ? `instead: ${replace}` : "struck",
      }));
      at = end;
    }
    this.text.replaceChildren(...parts, letters.slice(at).join(""));
  }
}

/** Call with each JSON object of a streamed response, as it comes. An empty line says that the server is still there. */
async function eachLine(response, call) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) call(JSON.parse(line));
  }
}
