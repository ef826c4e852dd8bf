// What the reader has chosen to see. It outlives a reload, in this tab alone.

export const state = {
  runs: [], // see runs.js; the first is the one that the step bar, the what-if and the controls are about
  at: 0, // the shown step, as an index into the first run's steps
  following: true, // go along with new steps
  beside: null, // {run, at}: what is shown beside it
  tried: null, // {scheme, settings}: the what-if
  pins: new Set(), // ids of examples that stay on top
  readOnly: true,
  feedback: false,
  saved: [], // {example, id, label, judgment} of each that the newest feedback file has another way than the run
  rescores: false, // a model says at once what edited feedback changes
};

const VIEW_KEY = "nlft-map";

/** The choices as plain values: to be kept, and to be put into an exported file. */
export function view(choices) {
  const run = state.runs[0];
  const other = state.beside && state.runs[state.beside.run];
  return {
    step: state.following ? null : run?.steps[state.at] ?? null,
    beside: other ? { run: state.beside.run, step: other.steps[state.beside.at] ?? null } : null,
    tried: state.tried,
    pins: [...state.pins],
    ...choices,
  };
}

export function keep(choices) {
  try {
    sessionStorage.setItem(VIEW_KEY, JSON.stringify({ run: state.runs[0]?.about.run, view: view(choices) }));
  } catch { /* a browser that keeps nothing only forgets the choices */ }
}

/** The choices made before a reload of the same run's page, or those that came with an exported file. */
export function kept(run, carried) {
  try {
    const found = JSON.parse(sessionStorage.getItem(VIEW_KEY) ?? "null");
    if (found?.run === run) return found.view ?? {};
  } catch { /* as if there were none */ }
  return carried ?? {};
}
