// An exported file's source: what it carries.

import { bytesOfBase64 } from "./decode.js";

export function fileSource(data) {
  return {
    about: async () => ({ runs: data.runs, read_only: true, feedback: false, view: data.view }),
    changes: async (run) => data.runs[run].changes,
    stepBytes: async (run, step) => bytesOfBase64(data.runs[run].packed[step]),
  };
}
