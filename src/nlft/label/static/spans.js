// The list of struck words: what should stand there instead, a remark, and what else can be done with them.

import { button, element, shownText } from "./dom.js";
import { offsetOf } from "./offsets.js";

/**
 * Build the list in `root`. `acts`: change(start, changes, step), remove(start), resume(start), act(), flush().
 * Returns draw(row, model), focus(start) and forget().
 */
export function buildSpans(root, acts) {
  let shown = new Map(); // start -> {item, replace, note, nothing}

  function item(row, span, model) {
    const words = row.completion.slice(offsetOf(row.completion, span.start), offsetOf(row.completion, span.end));
    const name = words.length > 60 ? `${[...words].slice(0, 60).join("")}…` : words;
    const replace = element("input", { type: "text", "aria-label": `Instead of “${name}”`, placeholder: "write instead (optional)" });
    const note = element("input", { type: "text", "aria-label": `Remark on “${name}”`, placeholder: "remark (optional)" });
    const nothing = element("input", { type: "checkbox" });
    let step;
    for (const field of [replace, note]) {
      field.addEventListener("focus", () => { step = acts.act(); });
      field.addEventListener("blur", () => acts.flush());
    }
    replace.addEventListener("input", () => {
      nothing.checked = false;
      acts.change(span.start, { replace: replace.value || null }, step);
    });
    note.addEventListener("input", () => acts.change(span.start, { note: note.value || null }, step));
    nothing.addEventListener("change", () => {
      replace.value = "";
      acts.change(span.start, { replace: nothing.checked ? "" : null }, acts.act());
    });
    const more = model ? [button("Go on from here", () => acts.resume(span.start), { className: "resume" })] : [];
    const made = element("li", {},
      shownText("del", name, { className: "struck-words" }, true), replace,
      element("label", { className: "nothing" }, nothing, " nothing"), note,
      ...more, button("Do not strike", () => acts.remove(span.start)));
    return { item: made, replace, note, nothing, end: span.end };
  }

  return {
    draw(row, model) {
      const kept = new Map();
      for (const span of row.decision.spans) {
        const old = shown.get(span.start);
        const one = old && old.end === span.end ? old : item(row, span, model);
        if (document.activeElement !== one.replace) one.replace.value = span.replace ?? "";
        if (document.activeElement !== one.note) one.note.value = span.note ?? "";
        one.nothing.checked = span.replace === "";
        kept.set(span.start, one);
      }
      const items = [...kept.values()].map((one) => one.item);
      if (items.length !== root.children.length || items.some((one, at) => root.children[at] !== one)) root.replaceChildren(...items);
      root.hidden = !items.length;
      shown = kept;
    },
    focus(start) { shown.get(start)?.replace.focus(); },
    forget() { shown = new Map(); },
  };
}
