// The reply on the page: its text with what is struck and replaced, and what the reader has selected in it.

import { element } from "./dom.js";
import { offsetOf, wholeCharacters, wordsOf } from "./offsets.js";
import { runsRightToLeft, visibleParts } from "./text.js";

// Pictures that an invisible character joins to one picture, such as a family.
const JOINED = /(\p{Extended_Pictographic}[\uFE0F\p{EMod}]*(?:\u200D\p{Extended_Pictographic}[\uFE0F\p{EMod}]*)+)/u;

export class ReplyView {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.text = "";
    this.words = [];
    root.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Show a text. `spans` are in code points. */
  show(text, spans) {
    if (text !== this.text) this.words = wordsOf(text);
    this.text = text;
    this.root.dir = runsRightToLeft(text) ? "rtl" : "ltr";
    const parts = [];
    let from = 0;
    for (const span of spans) {
      const [start, end] = [offsetOf(text, span.start), offsetOf(text, span.end)];
      parts.push(...this.pieces(from, start));
      parts.push(element("del", { className: "struck-words" }, ...this.pieces(start, end)));
      if (span.replace != null) parts.push(inPlace(span.replace));
      from = end;
    }
    this.root.replaceChildren(...parts, ...this.pieces(from, text.length));
  }

  /** A part of the text as elements that know their place in it. Invisible characters are named. */
  pieces(from, to) {
    const made = [];
    let at = from;
    for (const [place, part] of this.text.slice(from, to).split(JOINED).entries()) {
      if (place % 2) made.push(element("span", { "data-at": at, text: part }));
      else if (part) made.push(...this.named(at, at + part.length));
      at += part.length;
    }
    return made;
  }

  named(from, to) {
    let at = from;
    const made = [];
    for (const part of visibleParts(this.text.slice(from, to), true)) {
      if (part.kind === "name") {
        const size = this.text.codePointAt(at) > 0xffff ? 2 : 1;
        made.push(element("span", { className: "name", "data-at": at, "data-size": size, text: part.text }));
        at += size;
        continue;
      }
      const added = part.text.startsWith("◌") && this.text[at] !== "◌"; // an accent needs a base character
      const shown = added ? part.text.slice(1) : part.text;
      if (added) made.push(element("span", { className: "mark", "aria-hidden": "true", text: "◌" }));
      made.push(element("span", { "data-at": at, text: shown }));
      at += shown.length;
    }
    return made;
  }

  /** What is selected in the reply, as [start, end] in UTF-16; null if nothing is. */
  selected() {
    const selection = document.getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    if (!range.intersectsNode(this.root)) return null;
    return wholeCharacters(this.text, this.place(range.startContainer, range.startOffset),
      this.place(range.endContainer, range.endOffset));
  }

  /** The offset in the text of a place in the document. */
  place(node, offset) {
    const piece = (node instanceof Element ? node : node.parentElement)?.closest("[data-at]");
    if (piece instanceof HTMLElement && this.root.contains(piece)) {
      const at = Number(piece.dataset.at), size = Number(piece.dataset.size ?? 0);
      if (!size) return node === piece ? at + (offset ? piece.textContent.length : 0) : at + offset;
      return offset ? at + size : at;
    }
    const range = document.createRange();
    range.setStart(node, offset);
    for (const one of this.root.querySelectorAll("[data-at]")) {
      if (range.comparePoint(one, 0) >= 0) return Number(/** @type {HTMLElement} */ (one).dataset.at);
    }
    return this.text.length;
  }

  /** The document's range of a part of the text, in UTF-16. */
  rangeOf(start, end) {
    const range = document.createRange();
    let begun = false;
    for (const one of this.root.querySelectorAll("[data-at]")) {
      const piece = /** @type {HTMLElement} */ (one);
      const at = Number(piece.dataset.at), named = Number(piece.dataset.size ?? 0);
      const size = named || piece.textContent.length;
      if (at + size <= start) continue;
      if (at >= end) break;
      const node = piece.firstChild;
      if (!begun) range.setStart(node, named ? 0 : Math.max(0, start - at));
      begun = true;
      range.setEnd(node, named ? node.textContent.length : Math.min(size, end - at));
    }
    return begun ? range : null;
  }

  /** Select a part of the text, in UTF-16. */
  select(start, end) {
    const range = this.rangeOf(start, end);
    const selection = document.getSelection();
    selection.removeAllRanges();
    if (range) selection.addRange(range);
  }

  /** Arrow keys select the next or the previous word; with Shift they add words. */
  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const way = (event.key === "ArrowRight") === (this.root.dir === "ltr") ? 1 : -1;
    const now = this.selected();
    const { words } = this;
    if (!words.length) return;
    event.preventDefault();
    if (!now) return void this.select(...words[way > 0 ? 0 : words.length - 1]);
    if (event.shiftKey) {
      const next = words.find(([, end]) => end > now[1]), before = words.findLast(([start]) => start < now[0]);
      if (way > 0) this.select(now[0], next ? next[1] : now[1]);
      else if (before) this.select(before[0], now[1]);
      return;
    }
    const next = way > 0 ? words.find(([start]) => start >= now[1]) : words.findLast(([, end]) => end <= now[0]);
    if (next) this.select(...next);
  }
}

/** What should stand in the place of the words before it. It is no part of the text, so it cannot be selected. */
function inPlace(text) {
  const shown = visibleParts(text || "∅", true).map((part) => part.text).join("");
  return element("ins", { className: "replacement", text: shown, title: text ? "what should stand here" : "nothing should stand here" });
}
