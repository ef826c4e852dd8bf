// Compute the page's content from numbers: pure functions, without the document.

import { TAG_NAMES, SCHEMES, compare, missing, totals } from "./saliency.js";
import { effect, formatProbability, formatRatio, formatWeight, ratio } from "./text.js";

const verdicts = new WeakMap(); // scores -> verdict

/** The recorded tags and weights of one example; always the same object for the same scores. */
export function recordedVerdict(scores) {
  if (!verdicts.has(scores)) {
    const { likelihood, unlikelihood, tag, signal, source } = scores;
    verdicts.set(scores, { likelihood, unlikelihood, tag, signal, names: source.tag_names, scheme: source.scheme });
  }
  return verdicts.get(scores);
}

export function tagName(verdict, index) {
  return verdict.names[verdict.tag[index]] ?? `tag ${verdict.tag[index]}`;
}

const OF_TAG = { struck: "struck: pushed down", inside: "rest of a quote: not trained", held: "held", kept: "held as it was" };

/** Whether a scheme such as `strike` made these tags. */
export function strikes(verdict) {
  return verdict.tag.some((_, i) => tagName(verdict, i) in OF_TAG);
}

/**
 * Number of tokens per tag: [name, count]; plain tokens are not counted. What the scheme looks for is always first:
 * struck tokens if it tags as `strike` does, else salient ones.
 */
export function tagCounts(verdict) {
  const counts = new Map([[strikes(verdict) ? "struck" : "salient", 0]]);
  for (let i = 0; i < verdict.tag.length; i++) {
    const name = tagName(verdict, i);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  counts.delete("plain");
  return [...counts];
}

/** The share of the tokens that the scheme looks for. */
export function salientShare(verdict) {
  return verdict && verdict.tag.length ? tagCounts(verdict)[0][1] / verdict.tag.length : 0;
}

/** The tooltip's facts about one token, as [name, value] pairs. `after`: tags and weights of the what-if, or null. */
export function tokenFacts(scores, verdict, after, index) {
  const base = scores.base[index];
  const conditions = ["judge", "standard"].filter((name) => scores[name]).map((name) => {
    const logp = scores[name][index];
    return [name, `${formatProbability(logp)}  ${formatRatio(ratio(logp, base))}`];
  });
  const change = (one) => {
    const [old, now] = [one(verdict), after ? one(after) : null];
    return now === null || old === now ? old : `${old} → ${now}`;
  };
  return [
    ["base", formatProbability(base)], ...conditions,
    ["tag", change((one) => tagName(one, index))],
    ["likelihood weight", change((one) => formatWeight(one.likelihood[index]))],
    ["unlikelihood weight", change((one) => formatWeight(one.unlikelihood[index]))],
  ];
}

/** What the scheme does to a token, in words. `strike` trains without the two weights. */
export function verdictEffect(verdict, index) {
  const ofStrike = OF_TAG[tagName(verdict, index)];
  if (ofStrike && !verdict.likelihood[index] && !verdict.unlikelihood[index]) return ofStrike;
  return effect(verdict.likelihood[index], verdict.unlikelihood[index]);
}

/** The tokens whose tag differs, as a Uint8Array; null if the two cannot be compared. */
export function differing(one, other) {
  if (!one || !other || one.tag.length !== other.tag.length) return null;
  return Uint8Array.from(one.tag, (_, i) => (tagName(one, i) === tagName(other, i) ? 0 : 1));
}

/** The steps from which a step's examples have their scores, in words: "scored at step 40", or "at steps 30 to 40". */
export function scoredAt(step) {
  const from = (step?.scores ?? []).flatMap((scores) => (scores ? [scores.source.step] : []));
  if (!from.length) return "not scored yet";
  const [first, last] = [Math.min(...from), Math.max(...from)];
  return first === last ? `scored at step ${last}` : `scored at steps ${first} to ${last}`;
}

/** A step in words: "step 40, epoch 1.33 (snapshot 5 of 12), scheme nlft". */
export function formatStep(step, index, total) {
  return `step ${step.step}, epoch ${step.epoch.toFixed(2)} (snapshot ${index + 1} of ${total}), scheme ${step.scheme}`;
}

export function matches(example, words, label) {
  if (label !== "all" && (label === "right") !== example.label) return false;
  const where = [example.id, example.prompt, example.answer ?? "", example.feedback ?? "", example.judgment ?? "", example.tokens.join("")];
  const text = where.join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/**
 * The order of examples, as indices: pinned ones first, then by `key`, ties in the order of the file.
 *
 * items: one {pinned, label, telling, share, change} per example.
 */
export function sortedOrder(items, key) {
  const value = {
    file: () => 0, telling: (one) => -one.telling, share: (one) => -one.share, change: (one) => -one.change, label: (one) => (one.label ? 1 : 0),
  }[key];
  const order = items.map((_, index) => index);
  return order.sort((a, b) => items[b].pinned - items[a].pinned || value(items[a]) - value(items[b]) || a - b);
}

/** The index of the last step that is not after `step`, or 0. */
export function nearestStep(steps, step) {
  let found = 0;
  for (let i = 0; i < steps.length && steps[i] <= step; i++) found = i;
  return found;
}

/** Return why the scheme cannot be tried on these scores, as a sentence. Null if it can be tried. */
export function cannotTry(name, settings, examples) {
  if (name === "nlft-original") return `${name} needs whole hidden states, which a run does not record.`;
  if (!SCHEMES[name]) return `This page cannot compute ${name}.`;
  const unknown = SCHEMES[name].settings.filter((one) => settings[one] === undefined);
  if (unknown.length) return `${name} has settings that this run did not record: ${unknown.join(", ")}.`;
  const lacking = new Set(examples.flatMap((example) => missing(name, settings, example)));
  if (!lacking.size) return null;
  return `${name} needs ${[...lacking].join(" and ")}, which this step did not score.`;
}

/** Tags and weights of each prepared example under a scheme, from saliency.js. */
export function tryScheme(name, settings, examples) {
  return examples.map((example) => ({ ...SCHEMES[name].weigh(example, settings), names: TAG_NAMES, scheme: name }));
}

/** The changes from recorded to tried over all examples: `compare` and `totals` of saliency.js. */
export function whatWouldChange(examples, recorded, tried, normalization) {
  const old = recorded.map(asTwins);
  return {
    changed: compare(old, tried),
    before: totals(examples, old, normalization),
    after: totals(examples, tried, normalization),
  };
}

/** Recorded tags as indices into TAG_NAMES. Unknown tags get index 255. */
function asTwins(verdict) {
  const place = verdict.names.map((name) => TAG_NAMES.indexOf(name));
  const tag = Uint8Array.from(verdict.tag, (index) => (place[index] >= 0 ? place[index] : 255));
  return { ...verdict, tag, gated: tag.includes(TAG_NAMES.indexOf("gated")) };
}

/** The scale of a control's slider. If small (or large) values matter, they get more of the slider. */
export function sliderScale(control) {
  const low = control.low ?? Math.min(0, control.default);
  const high = control.high ?? Math.max(4 * control.default, low + 1);
  const place = (control.default - low) / (high - low);
  const curve = place < 0.1 ? "low" : place > 0.9 ? "high" : "even";
  return { low, high, curve: control.kind === "integer" ? "even" : curve };
}

/** The value at a slider's place in [0, 1], rounded to four digits: short to read, and exact enough to restore. */
export function sliderValue(scale, place) {
  const span = scale.high - scale.low;
  const digits = (distance) => Number(distance.toPrecision(4));
  if (scale.curve === "low") return scale.low + digits(span * place ** 2);
  if (scale.curve === "high") return Number((scale.high - digits(span * (1 - place) ** 2)).toPrecision(12));
  return digits(scale.low + span * place);
}

export function sliderPlace(scale, value) {
  const share = Math.max(0, Math.min(1, (value - scale.low) / (scale.high - scale.low)));
  if (scale.curve === "low") return Math.sqrt(share);
  return scale.curve === "high" ? 1 - Math.sqrt(1 - share) : share;
}

/** Read a typed value of a control, or say why it is not allowed. */
export function readValue(control, text) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) return { reason: "give a number" };
  const low = control.low ?? -Infinity, high = control.high ?? Infinity;
  if (value >= low && value <= high) return { value };
  if (control.high == null) return { reason: `give ${low} or more` };
  return { reason: `give ${low} to ${high}` };
}

/**
 * The requests that change the run's values to the tried scheme, with all its settings, or to the turned settings. The
 * shown step may have other settings than the run has now: those that the reader did not turn stay as they are.
 */
export function requestsFor(tried, values) {
  const same = tried.scheme === values.scheme;
  const found = same ? [] : [{ control: "scheme", value: tried.scheme }];
  for (const [name, value] of Object.entries(same ? tried.turned : tried.settings)) {
    if (values[`saliency.${name}`] !== value) found.push({ control: `saliency.${name}`, value });
  }
  return found;
}

/** A line of controls.jsonl, or a waiting request, in words: "learning_rate 1 → 0.5". */
export function ledgerWords(line) {
  const name = line.control.replace(/^saliency\./, "");
  const plain = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value));
  const wanted = line.new ?? line.value ?? null;
  if (wanted === null || ["pause", "resume", "undo"].includes(name)) return name;
  return line.taken ? `${name} ${plain(line.old)} → ${plain(line.new)}` : `${name} ${plain(wanted)}`;
}

/** Points of a curve for a chart `width` pixels wide: each stretch's first, smallest, largest and last point. */
export function decimate(x, y, width) {
  const stretch = Math.ceil(x.length / Math.max(1, width));
  if (stretch < 4) return { x, y };
  const kept = [];
  for (let start = 0; start < x.length; start += stretch) {
    const end = Math.min(x.length, start + stretch);
    let least = start, largest = start;
    for (let i = start; i < end; i++) {
      if (y[i] < y[least]) least = i;
      if (y[i] > y[largest]) largest = i;
    }
    kept.push(...new Set([start, least, largest, end - 1].sort((a, b) => a - b)));
  }
  return { x: kept.map((i) => x[i]), y: kept.map((i) => y[i]) };
}
