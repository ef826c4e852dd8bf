// The twin of core/schemes/ (nlft, cut, rlsd, dft, uniform), core/neighbourhood.py, core/loss.py: log-probabilities to
// tags, weights and losses, in the browser. Pure functions, no imports. A test compares them with Python's on the same
// inputs. docs/SALIENCY.md describes the schemes and their settings. `nlft-original` has no twin, because it needs
// whole hidden states. The loss that `redirect` adds has none either: it needs more of the vocabulary than the
// completion's token.
//
// An ES module. In a classic script, leave out the word `export`, which appears only at the start of a line.
//
//   example   {base, standard, judge, band, label, mask?}: one sample of N tokens, as a run's snapshots hold it.
//               base, standard, judge: N natural-log probabilities, as Float32Array or array; null for those that
//                 the scheme does not need, `judge` also in right samples. They need full float32 precision: with
//                 four decimals, tags change near thresholds. In an array, null (JSON has no NaN) means NaN.
//               band: N x 17. Uint16Array: the bits of float16, row after row. Anything else holds numbers: a typed
//                 array or plain array, row after row, or N rows of 17.
//               label: true if the completion is right.
//               mask: N booleans or 0/1, true on completion tokens; without a mask, all tokens count.
//             `prepare` converts it to typed arrays. Call it once if an example is weighed many times.
//   settings  an object with all the fields of the scheme's settings dataclass, under Python's names.
//   weights   {likelihood: Float32Array(N), unlikelihood: Float32Array(N), tag: Uint8Array(N), gated: boolean};
//             a tag is an index into TAG_NAMES; padding has weight 0 and tag 0.
//
//   SCHEMES[name].settings                      the settings' names
//   SCHEMES[name].needs(settings)               array of the inputs that it reads: "standard", "judge", "band"
//   SCHEMES[name].weigh(example, settings)      -> weights; throws if an input or a setting is missing
//   missing(name, settings, example)            -> the needed inputs that the example lacks; [] if it can be weighed
//   prepare(example)                            -> example in typed arrays; a prepared one is returned unchanged
//   losses(weights, logp, log1mp?)              -> {likelihood, unlikelihood}: the sample's loss, summed over tokens
//   log1mp(logp)                                -> log(1-p), Float64Array
//   totals(examples, weights, normalization?)   -> {examples, wrong, gated, tokens, tags, salientFraction,
//                                                   gatedFraction, likelihood, unlikelihood, loss} over all of them
//   compare(before, after)                      -> {tokens, retagged, gained, lost, reweighted, examples}
//   neighbourhood(salient, band, similarity)    -> Uint8Array(N), 1 for tokens that the walks reach

export const TAG_NAMES = ["plain", "salient", "neighbour", "gated", "struck", "inside", "held", "kept"];
const TAG = { PLAIN: 0, SALIENT: 1, NEIGHBOUR: 2, GATED: 3 };

const WINDOW = 16;
const BAND = WINDOW + 1;
const PREPARED = new WeakSet();

// Compute in float32, like Python, because the last bit may decide a comparison at a threshold.
const f32 = Math.fround;
const exp32 = (x) => f32(Math.exp(x));
const log32 = (probability) => f32(Math.log(probability));

export const SCHEMES = {
  nlft: scheme(
    ["mistake_ratio", "mistake_floor", "unlikelihood_shift", "contradiction", "contradiction_base",
      "contradiction_standard", "redirect", "redirect_weight", "redirect_tokens", "gate_fraction", "wrong_likelihood",
      "after_mistake", "certain_threshold", "certain_exponent", "neighbour_exponent", "plain_exponent",
      "neighbour_similarity", "nll_weight", "branch_weight"],
    (settings) => (settings.branch_weight === 0 ? [] : ["standard", "judge", "band"]),
    weighNlft),
  cut: scheme(["inappropriate_ratio", "inappropriate_weight", "inappropriate_exponent"], () => ["judge"], weighCut),
  rlsd: scheme(["credit_clip", "credit_contrast", "wrong_weight"],
    (settings) => (settings.credit_contrast ? ["standard", "judge"] : ["standard"]), weighRlsd),
  dft: scheme([], () => [], weighDft),
  uniform: scheme([], () => [], (example) => plainLikelihood(example, 1)),
};

export function prepare(example) {
  if (PREPARED.has(example)) return example;
  const base = floats(example.base);
  const length = base.length;
  const sized = (name, values, wanted) => {
    if (values !== null && values.length !== wanted) {
      throw new RangeError(`"${name}" holds ${values.length} numbers where ${wanted} are wanted`);
    }
    return values;
  };
  const made = {
    base,
    standard: sized("standard", floats(example.standard), length),
    judge: sized("judge", floats(example.judge), length),
    band: sized("band", bandNumbers(example.band), length * BAND),
    label: Boolean(example.label),
    mask: sized("mask", Uint8Array.from(example.mask ?? new Uint8Array(length).fill(1), (one) => Number(Boolean(one))), length),
  };
  PREPARED.add(made);
  return made;
}

export function missing(name, settings, example) {
  return SCHEMES[name].needs(settings).filter((what) => isMissing(example, what));
}

export function log1mp(logp) {
  return Float64Array.from(logp, logOfRest);
}

/**
 * core/loss.py's `sample_losses`, summed in float64. A weight of 0 adds nothing, even beside NaN or infinity.
 *
 * log1mp: log(1-p) of each token. If left out, it is computed from logp. Training computes it from log-odds; float32
 * logp gives the same to 1e-6 up to log-odds of 87, and beyond that its digits run out. If logp is 0, p means
 * 1 minus float32's smallest number, and log(1-p) means -103.3.
 */
export function losses(weights, logp, log1mp = null) {
  let likelihood = 0, unlikelihood = 0;
  for (let t = 0; t < logp.length; t++) {
    if (weights.likelihood[t] !== 0) likelihood -= weights.likelihood[t] * logp[t];
    if (weights.unlikelihood[t] !== 0) {
      unlikelihood -= weights.unlikelihood[t] * (log1mp === null ? logOfRest(logp[t]) : log1mp[t]);
    }
  }
  return { likelihood, unlikelihood };
}

/**
 * Totals over all examples, each under its own base: counts, and the parts of the loss that the
 * scheme makes, as in events.jsonl if these examples were one optimizer step. Without `answer_weight`'s part.
 *
 * tags: number of tokens per tag, in the order of TAG_NAMES; other schemes' own tags are not counted.
 * normalization: `loss_normalization`.
 */
export function totals(examples, weights, normalization = "sample") {
  if (!["sample", "token"].includes(normalization)) throw new RangeError(`no normalization "${normalization}"`);
  const sum = { examples: examples.length, wrong: 0, gated: 0, tokens: 0, tags: TAG_NAMES.map(() => 0) };
  let likelihood = 0, unlikelihood = 0;
  examples.map(prepare).forEach((example, i) => {
    const tokens = count(example.mask);
    const part = losses(weights[i], example.base);
    const share = normalization === "sample" ? tokens : 1;
    likelihood += part.likelihood / share;
    unlikelihood += part.unlikelihood / share;
    sum.wrong += example.label ? 0 : 1;
    sum.gated += weights[i].gated ? 1 : 0;
    sum.tokens += tokens;
    weights[i].tag.forEach((tag, t) => { if (example.mask[t] && tag in sum.tags) sum.tags[tag]++; });
  });
  const divisor = normalization === "sample" ? sum.examples : sum.tokens;
  return {
    ...sum,
    salientFraction: sum.tokens ? sum.tags[TAG.SALIENT] / sum.tokens : 0,
    gatedFraction: sum.wrong ? sum.gated / sum.wrong : 0,
    likelihood: divisor ? likelihood / divisor : 0,
    unlikelihood: divisor ? unlikelihood / divisor : 0,
    loss: divisor ? (likelihood + unlikelihood) / divisor : 0,
  };
}

/**
 * Compare two lists of weights of the same examples, in tokens. `examples`: number of examples with a token that
 * differs. `gained` and `lost` count salient tokens. Weights differ if they are more than 1e-5 apart (float32 noise).
 */
export function compare(before, after) {
  const found = { tokens: 0, retagged: 0, gained: 0, lost: 0, reweighted: 0, examples: 0 };
  const apart = (a, b) => !(a === b || Math.abs(a - b) <= 1e-5 * Math.max(1, Math.abs(a), Math.abs(b)));
  before.forEach((old, i) => {
    const now = after[i];
    const seen = found.retagged + found.reweighted;
    for (let t = 0; t < old.tag.length; t++) {
      found.tokens++;
      if (old.tag[t] !== now.tag[t]) {
        found.retagged++;
        if (now.tag[t] === TAG.SALIENT) found.gained++;
        if (old.tag[t] === TAG.SALIENT) found.lost++;
      }
      if (apart(old.likelihood[t], now.likelihood[t]) || apart(old.unlikelihood[t], now.unlikelihood[t])) {
        found.reweighted++;
      }
    }
    if (found.retagged + found.reweighted > seen) found.examples++;
  });
  return found;
}

/**
 * The tokens that the walks from the salient tokens reach: core/neighbourhood.py's walk, in float64 like there.
 *
 * salient: N booleans or 0/1. band: N x 17 numbers, row after row. Returns 1 for reached tokens and salient ones.
 */
export function neighbourhood(salient, band, similarity) {
  const reached = Uint8Array.from(salient, (one) => Number(Boolean(one)));
  if (!count(reached)) return reached;
  for (const step of [-1, 1]) walk(reached, salient, band, step, similarity);
  return reached;
}

function walk(reached, salient, band, step, similarity) {
  const products = new Float64Array(band.length);
  const met = new Uint8Array(salient.length);
  // From the 17th joined token on, walks at the same place differ only in the norm of their centre. If a walk with the
  // same norm was here before, the rest is known. Norms soon agree to the bit, so long walks cost little.
  const been = new Float64Array(salient.length).fill(NaN);
  for (let start = 0; start < salient.length; start++) {
    if (!salient[start]) continue;
    let norm = band[start * BAND];
    let joined = 0;
    for (let next = start + step; next >= 0 && next < salient.length; next += step, joined++) {
      if (joined >= WINDOW) {
        if (been[next] === norm) break;
        been[next] = norm;
      }
      if (!met[next]) {
        met[next] = 1;
        centreProducts(products, band, next, step);
      }
      const own = band[next * BAND];
      const dot = products[next * BAND + Math.min(joined, WINDOW)];
      const scale = norm * own;
      if (!(scale > 0 && dot > similarity * Math.sqrt(scale))) break;
      reached[next] = 1;
      norm = (norm + 2 * dot + own) / 4;
    }
  }
}

/**
 * Fill products[t, joined]: token t's state times the centre of a walk that reaches it after `joined` tokens; the last
 * entry also holds for more. The centre is the sum of 2^-lag h over the joined tokens, newest first; the state at the
 * walk's start weighs as much as the first joined token's.
 */
function centreProducts(products, band, t, step) {
  let sum = 0;
  let weight = 1; // 2^-joined
  for (let joined = 0; joined <= WINDOW; joined++) {
    const lag = joined + 1;
    const from = step > 0 ? t - lag : t;
    const product = lag <= WINDOW && from >= 0 ? band[from * BAND + lag] : 0;
    products[t * BAND + joined] = sum + weight * product;
    weight /= 2;
    sum += weight * product;
  }
}

function weighNlft(example, settings) {
  const { label, mask } = example;
  if (settings.branch_weight === 0) return plainLikelihood(example, label ? settings.nll_weight : 0);
  const salient = label ? certainTokens(example, settings) : mistakes(example, settings);
  const reached = neighbourhood(salient, example.band, settings.neighbour_similarity);
  const limit = f32(f32(settings.gate_fraction) * Math.max(count(mask), 1));
  const weights = noWeights(mask.length);
  weights.gated = !label && count(salient) > limit;
  for (let t = 0; t < mask.length; t++) {
    if (salient[t]) weights.tag[t] = TAG.SALIENT;
    else if (mask[t] && reached[t]) weights.tag[t] = TAG.NEIGHBOUR;
    else if (mask[t] && weights.gated) weights.tag[t] = TAG.GATED;
  }
  (label ? weighRight : weighWrong)(weights, example, settings);
  return weights;
}

function mistakes({ base, standard, judge, mask }, settings) {
  const ratio = log32(settings.mistake_ratio), floor = log32(settings.mistake_floor);
  const sure = log32(settings.contradiction_base), excluded = log32(settings.contradiction_standard);
  return mask.map((inside, t) => inside && (
    (f32(judge[t] - base[t]) > ratio && f32(judge[t] - standard[t]) > ratio && judge[t] > floor)
    || (settings.contradiction && base[t] > sure && standard[t] < excluded)
  ));
}

function certainTokens({ standard, mask }, settings) {
  const threshold = log32(settings.certain_threshold);
  return mask.map((inside, t) => inside && standard[t] > threshold);
}

function weighWrong(weights, { base, standard, judge, mask }, settings) {
  const branch = f32(settings.branch_weight), shift = f32(settings.unlikelihood_shift);
  const least = f32(settings.mistake_ratio), factor = f32(settings.wrong_likelihood);
  let silent = false;
  for (let t = 0; t < mask.length; t++) {
    if (weights.tag[t] === TAG.SALIENT) {
      const ratio = Math.max(exp32(f32(judge[t] - base[t])), least);
      weights.unlikelihood[t] = branch * f32(2 / (1 + Math.exp(-f32(ratio - shift))));
      silent ||= settings.after_mistake === "zero";
    } else if (mask[t] && !silent && weights.tag[t] === TAG.PLAIN) {
      weights.likelihood[t] = branch * f32(factor * exp32(f32(standard[t] / 2)));
    }
  }
}

function weighRight(weights, { standard, mask }, settings) {
  const branch = f32(settings.branch_weight), nll = f32(settings.nll_weight);
  const threshold = f32(settings.certain_threshold), logThreshold = log32(settings.certain_threshold);
  const room = f32(Math.max(1 - settings.certain_threshold, 1e-12));
  const exponents = { [TAG.PLAIN]: f32(settings.plain_exponent), [TAG.NEIGHBOUR]: f32(settings.neighbour_exponent) };
  for (let t = 0; t < mask.length; t++) {
    if (!mask[t]) continue;
    let weight;
    if (weights.tag[t] === TAG.SALIENT) {
      const certainty = Math.max(f32(f32(exp32(standard[t]) - threshold) / room), 0);
      weight = f32(1 + f32(certainty ** f32(settings.certain_exponent)));
    } else {
      weight = exp32(f32(f32(standard[t] - logThreshold) * exponents[weights.tag[t]]));
    }
    weights.likelihood[t] = f32(branch * weight) + nll;
  }
}

function weighCut(example, settings) {
  const weights = plainLikelihood(example, 1);
  if (example.label) return weights;
  const { base, judge, mask } = example;
  const ratio = log32(settings.inappropriate_ratio), exponent = f32(settings.inappropriate_exponent);
  for (let t = 0; t < mask.length; t++) {
    if (!mask[t] || !(f32(judge[t] - base[t]) > ratio)) continue;
    weights.tag[t] = TAG.SALIENT;
    weights.likelihood[t] = 0;
    weights.unlikelihood[t] = f32(settings.inappropriate_weight) * exp32(f32(judge[t] * exponent));
  }
  return weights;
}

function weighRlsd(example, settings) {
  const { base, standard, judge, label, mask } = example;
  const weights = noWeights(mask.length);
  const without = settings.credit_contrast && !label ? judge : base;
  const least = f32(Math.log1p(-settings.credit_clip)), most = f32(Math.log1p(settings.credit_clip));
  for (let t = 0; t < mask.length; t++) {
    if (!mask[t]) continue;
    const evidence = f32(label ? standard[t] - without[t] : without[t] - standard[t]);
    const weight = exp32(Math.min(Math.max(evidence, least), most));
    if (label) weights.likelihood[t] = weight;
    else weights.unlikelihood[t] = f32(settings.wrong_weight) * weight;
    if (evidence > most) weights.tag[t] = TAG.SALIENT;
  }
  return weights;
}

function weighDft(example) {
  const weights = plainLikelihood(example, 1);
  example.mask.forEach((inside, t) => { if (inside) weights.likelihood[t] = exp32(example.base[t]); });
  return weights;
}

function plainLikelihood({ mask }, weight) {
  const weights = noWeights(mask.length);
  mask.forEach((inside, t) => { if (inside) weights.likelihood[t] = weight; });
  return weights;
}

function noWeights(length) {
  return {
    likelihood: new Float32Array(length), unlikelihood: new Float32Array(length), tag: new Uint8Array(length),
    gated: false,
  };
}

function scheme(names, needs, weigh) {
  const checked = (example, settings) => {
    const unset = names.filter((name) => settings[name] === undefined || settings[name] === null);
    if (unset.length) throw new TypeError(`settings lack ${unset.join(", ")}`);
    const lacking = needs(settings).filter((what) => isMissing(example, what));
    if (lacking.length) throw new TypeError(`the example lacks ${lacking.join(", ")}`);
    return weigh(prepare(example), settings);
  };
  return { settings: names, needs, weigh: checked };
}

function isMissing(example, what) {
  return (example[what] ?? null) === null && !(what === "judge" && example.label);
}

function floats(values) {
  if (values === null || values === undefined) return null;
  return values instanceof Float32Array ? values : Float32Array.from(values, (value) => value ?? NaN);
}

/** The numbers of a band, row after row, from any form that the header names. */
function bandNumbers(band) {
  if (band === null || band === undefined) return null;
  if (band instanceof Uint16Array) return Float32Array.from(band, halfToNumber);
  return floats(Array.isArray(band[0]) ? band.flat() : band);
}

function halfToNumber(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 1024 + fraction : fraction) * 2 ** (Math.max(exponent, 1) - 25);
}

/** log(1-p) through expm1, because 1-p of a rounded p loses all digits near p = 1. */
function logOfRest(logp) {
  return logp === 0 ? Math.log(2 ** -149) : Math.log(-Math.expm1(logp));
}

function count(flags) {
  let found = 0;
  for (const flag of flags) found += flag;
  return found;
}
