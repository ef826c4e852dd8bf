// A reply as a strip with one cell per token: down or up from the middle, as high as its share of the signal.

import { drawing, element } from "./dom.js";
import { effectAt, sharesOf, strengthOf } from "./effects.js";

const CELL = 10, GAP = 2, MIDDLE = 20; // units of the drawing
const LEVELS = 5;
// As in the text, held tokens have one line without gaps. Those that are left alone are dots.
const QUIET = { held: { width: CELL, height: 4 }, alone: { width: 3, height: 4 } };

/** Build an empty strip. `share` is its length beside the longest reply's. */
export function buildBarcode(share) {
  const strip = element("span", { className: "barcode", "aria-hidden": "true" });
  strip.style.setProperty("--length", share.toFixed(4));
  return strip;
}

/** Draw a strip: one path for the cells of each look, so that thousands of tokens cost little. */
export function drawBarcode(strip, scores, verdict) {
  const paths = barcodePaths(scores, verdict);
  const width = CELL * verdict.tag.length;
  const made = Object.entries(paths).map(([look, d]) => drawing("path", { class: look, d }));
  strip.replaceChildren(drawing("svg", { viewBox: `0 0 ${width} ${2 * MIDDLE}`, preserveAspectRatio: "none" }, ...made));
}

/** The cells as the `d` of one path per look: "down-4", "up-1", "held", "alone". */
export function barcodePaths(scores, verdict) {
  const shares = sharesOf(scores, verdict);
  const paths = {};
  for (let i = 0; i < shares.length; i++) {
    const effect = effectAt(verdict, i);
    const strength = strengthOf(shares[i]);
    const pushed = effect === "down" || effect === "up";
    const look = pushed ? `${effect}-${Math.max(1, Math.ceil(strength * LEVELS))}` : effect;
    const height = pushed ? (0.3 + 0.7 * strength) * MIDDLE : QUIET[effect].height;
    const width = pushed ? CELL - GAP : QUIET[effect].width;
    const top = effect === "down" ? MIDDLE : effect === "up" ? MIDDLE - height : MIDDLE - height / 2;
    const left = CELL * i + (pushed ? 0 : (CELL - width) / 2);
    paths[look] = `${paths[look] ?? ""}M${left} ${top.toFixed(1)}h${width}v${height.toFixed(1)}h${-width}z`;
  }
  return paths;
}
