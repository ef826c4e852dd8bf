// What a run of `strike` would strike with other settings, as far as its snapshots can tell: pure functions. A test
// compares the tags with Python's. What needs the model is named by `strikeUnknown`.

import { tagName } from "./logic.js";

const NAMES = ["plain", "salient", "neighbour", "gated", "struck", "inside", "held", "kept"];
const [STRUCK, INSIDE, HELD] = [4, 5, 6];
const CHANGES = { strike_weight: "struck", hold_weight: "held" }; // weights that only scale a part of the loss

/** The struck parts of a reply as [start, end], `end` exclusive: as recorded, else from the tags. */
export function spansOf(example, verdict) {
  if (example.spans?.length) return example.spans;
  const spans = [];
  for (let i = 0; i < verdict.tag.length; i++) {
    const name = tagName(verdict, i);
    if (name !== "struck" && name !== "inside") continue;
    const open = spans.at(-1);
    if (open && open[1] === i && name === "inside") open[1] = i + 1;
    else spans.push([i, i + 1]);
  }
  return spans;
}

/**
 * Tags, weights and, if it was recorded, the signal of one example under other settings.
 *
 * verdict: the recorded one; before, settings: the recorded settings and those to try.
 */
export function strikeVerdict(example, verdict, before, settings) {
  const tag = Uint8Array.from(verdict.tag, (_, i) => Math.max(0, NAMES.indexOf(tagName(verdict, i))));
  if (settings.pivot !== before.pivot && settings.pivot !== "contrast" && before.pivot !== "contrast") {
    for (const [start, end] of spansOf(example, verdict)) {
      // With a replacement, the first struck token is the first one that differs from it.
      const first = Math.max(start, firstStruck(tag, start, end));
      for (let i = first; i < end; i++) tag[i] = i === first || settings.pivot === "all" ? STRUCK : INSIDE;
    }
  }
  const liked = example.label && !tag.includes(STRUCK) && tag.includes(HELD);
  const likelihood = new Float32Array(tag.length).fill(liked ? settings.like_weight : 0);
  const made = { tag, likelihood, unlikelihood: new Float32Array(tag.length), names: NAMES, scheme: "strike" };
  return { ...made, signal: scaledSignal(verdict, tag, before, settings) };
}

function firstStruck(tag, start, end) {
  for (let i = start; i < end; i++) if (tag[i] === STRUCK) return i;
  return start;
}

/** The recorded signal under other weights; null if it cannot be known, because other tokens are struck. */
function scaledSignal(verdict, tag, before, settings) {
  const { signal } = verdict;
  if (!signal || settings.pivot !== before.pivot || settings.like_weight !== before.like_weight) return null;
  const factor = (name) => (settings[name] === before[name] ? 1 : settings[name] / before[name]);
  const struck = factor("strike_weight"), held = factor("hold_weight");
  if (!Number.isFinite(struck) || !Number.isFinite(held)) return null;
  return signal.map((value, i) => value * (tag[i] === STRUCK ? struck : held));
}

/** What cannot be computed from the record, as sentences. */
export function strikeUnknown(before, settings) {
  const found = [];
  const changed = (name) => settings[name] !== before[name];
  if (changed("pivot") && (settings.pivot === "contrast" || before.pivot === "contrast")) {
    found.push("Which word `contrast` chooses needs the model, so the struck tokens stay as recorded.");
  } else if (changed("pivot")) {
    found.push("The loss at newly struck tokens needs the model: each struck token counts the same here.");
  }
  if (changed("strike_at")) {
    found.push("strike_at changes what held tokens may not say, and no tag: the map cannot show it.");
  }
  const rest = Object.keys(settings).filter((name) => changed(name) && !(name in CHANGES)
    && !["pivot", "strike_at", "like_weight", "stop_below"].includes(name));
  if (rest.length) found.push(`What ${rest.join(", ")} would change needs the model's whole distribution.`);
  return found;
}
