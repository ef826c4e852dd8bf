// The reader's choices. They survive a reload, in this tab only.

export const state = {
  runs: [], // see runs.js; the first is the one that the step bar, the what-if and the controls are about
  at: 0, // the shown step, as an index into the first run's steps
  following: true, // follow new steps
  beside: null, // {run, at}: the step to compare with
  tried: null, // {scheme, settings, turned}: the what-if, and those of its settings that the reader has turned
  pins: new Set(), // ids of examples that stay on top
  readOnly: true,
  feedback: false,
  saved: [], // {example, id, label, judgment} of each example that the newest feedback file changes
  rescores: false, // whether a model scores edited feedback at once
  chat: false, // whether one can talk to the run's models
};

/** The name under which this tab keeps something of a run: of the run's folder, or of an exported file. */
export function storageName(what, about) { return `${what} ${about?.key ?? location.pathname}`; }

const VIEW = "nlft-map";

/** The choices as JSON values, for storage and for an exported file. */
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
    sessionStorage.setItem(storageName(VIEW, state.runs[0]?.about), JSON.stringify(view(choices)));
  } catch { /* without storage, the browser forgets the choices */ }
}

/** The choices before a reload of the same run's page, or those of an exported file. */
export function kept(about, carried) {
  try {
    const found = JSON.parse(sessionStorage.getItem(storageName(VIEW, about)) ?? "null");
    if (found) return found;
  } catch { /* continue without stored choices */ }
  return carried ?? {};
}
