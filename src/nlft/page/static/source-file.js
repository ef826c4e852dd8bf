// The source of an exported file: the data inside it.

import { bytesOfBase64 } from "./decode.js";

export function fileSource(data) {
  return {
    about: async () => ({ runs: data.runs, read_only: true, feedback: false, view: data.view }),
    changes: async (run) => data.runs[run].changes,
    stepBytes: async (run, step) => bytesOfBase64(data.runs[run].packed[step]),
  };
}
