// Places in a reply: UTF-16 offsets, which the document counts, and code points, which the file counts. Pure functions.
// A span is {start, end, replace?, note?} in code points, `end` exclusive.

/** The number of code points before a UTF-16 offset. */
export function pointsBefore(text, offset) {
  let points = 0;
  for (let at = 0; at < offset; at += text.codePointAt(at) > 0xffff ? 2 : 1) points++;
  return points;
}

/** The UTF-16 offset of a number of code points. */
export function offsetOf(text, points) {
  let at = 0;
  for (let passed = 0; passed < points && at < text.length; passed++) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}

/** A selection without the white space at its ends, and without half a character as people see it; null if empty. */
export function wholeCharacters(text, start, end) {
  const marked = text.slice(start, end);
  if (marked.trim()) {
    start += marked.length - marked.trimStart().length;
    end -= marked.length - marked.trimEnd().length;
  }
  let [from, to] = [start, end];
  for (const { index, segment } of new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(text)) {
    const after = index + segment.length;
    if (index < start && after > start) from = index;
    if (index < end && after > end) to = after;
    if (index >= end) break;
  }
  return from < to ? [from, to] : null;
}

/** The words of a text as [start, end] in UTF-16, with a sign next to a word as a word of its own. */
export function wordsOf(text) {
  const found = [];
  for (const { index, segment } of new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)) {
    if (segment.trim()) found.push([index, index + segment.length]);
  }
  return found;
}

/** The spans with a new one, which takes the place of those that it overlaps. */
export function withSpan(spans, span) {
  const kept = spans.filter((one) => one.end <= span.start || one.start >= span.end);
  return [...kept, span].sort((a, b) => a.start - b.start);
}

/** The reply up to the end of a span, with the replacements in place: where a model goes on. */
export function begunReply(text, spans, last) {
  let begun = "", from = 0;
  for (const span of spans) {
    if (span.start > last.start) break;
    const [start, end] = [offsetOf(text, span.start), offsetOf(text, span.end)];
    begun += text.slice(from, start) + (span.replace ?? text.slice(start, end));
    from = end;
  }
  return begun;
}
