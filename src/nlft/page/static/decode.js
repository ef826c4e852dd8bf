// Decode one step's bytes, which page/steps.py packs, into typed arrays. Pure functions.

const KINDS = {
  base: Float32Array, standard: Float32Array, judge: Float32Array, likelihood: Float32Array,
  unlikelihood: Float32Array, tag: Uint8Array, band: Uint16Array, signal: Float32Array,
};

/**
 * A step: {step, sources, scores}. scores[i] is null if no step so far has scored the example, else
 * {source, alternatives, base, standard, judge, likelihood, unlikelihood, tag, band, signal} with null for each array
 * that was not scored. `alternatives` is {step, at, base, now}: what both models would say at the tokens `at`, or null.
 * A source is {step, epoch, scheme, settings, tag_names, whole}: the snapshot that the scores come from.
 */
export function decodeStep(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const start = 4 + size;
  const scores = header.scores.map((entry) => {
    if (entry === null) return null;
    const made = { source: header.sources[entry.source], alternatives: entry.alternatives ?? null };
    for (const [name, Kind] of Object.entries(KINDS)) {
      const place = entry.arrays[name];
      made[name] = place ? new Kind(buffer, start + place[0], place[1]) : null;
    }
    return made;
  });
  return { ...header.sources[0], sources: header.sources, scores };
}

export function bytesOfBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}
