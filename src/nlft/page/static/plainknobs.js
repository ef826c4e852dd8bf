// The three settings of each scheme that matter first, in plain words. All others are behind "Advanced".

/** @type {{ [scheme: string]: { [setting: string]: string } }} */
const PLAIN = {
  nlft: {
    mistake_ratio: "How sure a mistake must be",
    gate_fraction: "How much of a reply may be a mistake",
    wrong_likelihood: "How much the rest of a disliked reply counts",
  },
  cut: {
    inappropriate_ratio: "How sure a mistake must be",
    inappropriate_weight: "How hard mistakes are pushed down",
    inappropriate_exponent: "How much the judgment's certainty counts",
  },
  rlsd: {
    credit_clip: "How far one token may stand out",
    wrong_weight: "How hard disliked replies are pushed down",
    credit_contrast: "Compare with the judgment",
  },
  strike: {
    pivot: "What is struck of a quote",
    strike_weight: "How hard it is struck",
    hold_weight: "How firmly the rest is held",
  },
};
const FIRST = 3;

/** The settings to show first: [name, words]; of a scheme without plain words, its first three by name. */
export function plainKnobs(scheme, controls) {
  const known = Object.entries(PLAIN[scheme] ?? {}).filter(([name]) => controls.some((control) => control.name === name));
  if (known.length) return known;
  return controls.slice(0, FIRST).map((control) => [control.name, ""]);
}
