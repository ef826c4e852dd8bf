// A line chart as SVG: scales, ticks and lines, computed from numbers. curves.js puts them into the document.

export const CHART_HEIGHT = 130;
const EDGE = { left: 46, right: 8, top: 8, bottom: 20 }; // room for the numbers at the axes, in pixels

/**
 * Round numbers from `low` to `high`, each 1, 2 or 5 times a power of ten from the next.
 * @param {number} low
 * @param {number} high
 * @param {number} most maximum number of results
 * @returns {number[]}
 */
export function niceTicks(low, high, most) {
  const least = (high - low) / Math.max(1, most - 1);
  if (!(least > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= least * (1 - 1e-9)) ?? 10);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high * (1 + 1e-9); n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

/**
 * Positions of steps and values in a chart. The y axis includes zero, so half the height is half the loss.
 * @param {{x: number[], y: number[]}[]} lines
 * @param {number} width of the chart in pixels
 */
export function chartScale(lines, width) {
  let [first, last, low, high] = [Infinity, -Infinity, 0, 0];
  for (const { x, y } of lines) {
    first = Math.min(first, x[0]);
    last = Math.max(last, x[x.length - 1]);
    for (const value of y) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low === high) high = 1;
  if (first === last) [first, last] = [first - 1, last + 1];
  const across = Math.max(1, width - EDGE.left - EDGE.right);
  const down = CHART_HEIGHT - EDGE.top - EDGE.bottom;
  return {
    width, first, last, low, high,
    x: (/** @type {number} */ step) => EDGE.left + across * (step - first) / (last - first),
    y: (/** @type {number} */ value) => EDGE.top + down * (high - value) / (high - low),
    step: (/** @type {number} */ place) => first + (last - first) * (place - EDGE.left) / across,
    top: EDGE.top, bottom: CHART_HEIGHT - EDGE.bottom, left: EDGE.left, right: width - EDGE.right,
  };
}

/**
 * A line as the `d` of an SVG path. A single point becomes a stroke of length 0, whose round ends make a dot.
 * @param {{x: number[], y: number[]}} line
 * @param {{x: (step: number) => number, y: (value: number) => number}} scale
 */
export function linePath({ x, y }, scale) {
  const points = x.map((step, at) => `${scale.x(step).toFixed(1)} ${scale.y(y[at]).toFixed(1)}`);
  return points.length === 1 ? `M${points[0]}h0` : `M${points.join("L")}`;
}

/**
 * The number of a sorted list that is nearest to a given number; null for an empty list.
 * @param {number[]} sorted
 * @param {number} wanted
 */
export function nearestOf(sorted, wanted) {
  if (!sorted.length) return null;
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= wanted) low = middle;
    else high = middle;
  }
  return wanted - sorted[low] <= sorted[high] - wanted ? sorted[low] : sorted[high];
}
