// What a run is doing, in words and numbers. Every place that shows a run's state asks here.

import { formatDuration } from "./text.js";

const WORDS = {
  waiting: "waiting for the first step", training: "training", paused: "paused", stopping: "stopping",
  stalled: "no sign of life", finished: "finished", interrupted: "interrupted", diverged: "diverged",
  failed: "failed", dead: "dead: its process is gone",
};

/**
 * A run's state: {state, words, step, of, left}.
 *
 * of: the number of steps, or null if it is not known; left: seconds, or null.
 */
export function stateOf(run) {
  if (run.about.preview) return { state: "waiting", words: "before training", step: null, of: null, left: null };
  const step = run.last("step");
  const words = [WORDS[run.state] ?? run.state];
  const of = stepsOf(run, step);
  if (step !== null) words.push(of ? `step ${step} of ${of}` : `step ${step}`);
  const left = run.state === "training" ? run.last("eta_seconds") : null;
  if (left !== null) words.push(`${formatDuration(left)} left`);
  return { state: run.state, words: words.join(" · "), step, of, left };
}

/** How many steps the run has: as it was asked for, else from the epochs so far. */
function stepsOf(run, step) {
  const { max_steps: most, epochs } = run.about;
  if (run.state === "finished") return null;
  if (most > 0) return most;
  const epoch = run.last("epoch");
  return epoch > 0 && epochs > 0 ? Math.max(step, Math.round((step * epochs) / epoch)) : null;
}
