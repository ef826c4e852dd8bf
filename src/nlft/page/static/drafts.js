// A reader's edit of an example before it is saved: pure functions.
// A draft is {label, judgment, marks, seen}; seen is the label and judgment that it began with. Marks are [start, end, "right" | "wrong"], end exclusive, in order.

export function newDraft(example) {
  const now = { label: example.label, judgment: example.judgment ?? "" };
  return { ...now, marks: [], seen: now };
}

export function sameAsBefore(draft, example) {
  const asked = draft.judgment.trim();
  return draft.label === example.label && asked === (example.judgment ?? "").trim() && !draft.marks.length;
}

/** Mark tokens start to end, or clear them if the verdict is null. Add the mark to the judgment in words. */
export function marked(draft, tokens, start, end, verdict) {
  const marks = [];
  for (const [from, to, old] of draft.marks) {
    if (from < start) marks.push([from, Math.min(to, start), old]);
    if (to > end) marks.push([Math.max(from, end), to, old]);
  }
  if (verdict) marks.push([start, end, verdict]);
  marks.sort((a, b) => a[0] - b[0]);
  const quote = tokens.slice(start, end).join("").trim().replace(/\s+/g, " ");
  let { judgment, label } = draft;
  for (const old of ["wrong", "right"]) judgment = withoutLine(judgment, sentence(quote, old));
  if (verdict && quote) judgment = [judgment.trimEnd(), sentence(quote, verdict)].filter(Boolean).join("\n");
  if (verdict === "wrong") label = false;
  return { ...draft, label, judgment, marks };
}

/** A judgment quotes the wrong step as written: see docs/SALIENCY.md. */
function sentence(quote, verdict) {
  return `"${quote}" is ${verdict}.`;
}

function withoutLine(text, line) {
  return text.split("\n").filter((one) => one.trim() !== line).join("\n");
}

/** Each token's mark, or null. */
export function markOf(draft, index) {
  return draft?.marks.find(([start, end]) => index >= start && index < end)?.[2] ?? null;
}

/** Return why a draft cannot be saved, as a sentence. Null if it can be saved. */
export function problemOf(draft) {
  if (!draft.label && !draft.judgment.trim()) return "Write what is wrong, or mark the wrong tokens.";
  return null;
}
