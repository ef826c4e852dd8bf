"""What a moved setting costs in the browser: saliency.js tags and weighs every token anew, sums up, and compares.

    python benchmarks/what_if.py [--run RUN_DIR] [--moves 50]

Each move sets one setting to another value and is timed alone, from the first (nothing is warmed up) to the last; the
page's own drawing comes on top. Besides made-up examples it takes the watched ones of a run, repeated up to 20.
"""

import argparse
import base64
import os
import re
import shutil
from dataclasses import asdict, replace
from importlib.resources import files

import numpy as np
import torch
from playwright.sync_api import sync_playwright

from nlft.core.neighbourhood import hidden_band
from nlft.core.schemes.nlft import NLFTSettings
from nlft.runs.run_dir import RunDir

# Moves that keep the verdict on most tokens, and moves that turn it; and the setting that walks depend on.
SWEEPS = {"mistake_ratio": (1.0, 4.0), "certain_threshold": (0.5, 0.99), "neighbour_similarity": (-1.0, 0.99)}

TIMER = """({ examples, settings, name, values }) => {
  const decode = (Type, text) => text && new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const kinds = { base: Float32Array, standard: Float32Array, judge: Float32Array, band: Uint16Array };
  const ready = examples.map(({ label, ...arrays }) => prepare({
    label, ...Object.fromEntries(Object.entries(arrays).map(([key, text]) => [key, decode(kinds[key], text)])),
  }));
  const weigh = (chosen) => ready.map((one) => SCHEMES.nlft.weigh(one, chosen));
  const before = weigh(settings);
  return values.map((value) => {
    const start = performance.now();
    const after = weigh({ ...settings, [name]: value });
    const found = { ...totals(ready, after), ...compare(before, after) };
    return [performance.now() - start, found.retagged];
  });
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="run directory with watched examples")
    parser.add_argument("--moves", type=int, default=50)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    default = NLFTSettings()
    cases = [
        ("1 example of 1,000 tokens", [example(rng, 1000, label=False)], default),
        ("1 right example of 1,000 tokens", [example(rng, 1000, label=True)], default),
        ("20 examples of 300 tokens", [example(rng, 300, label=i % 2 == 0) for i in range(20)], default),
        # Every token begins two walks, and each goes to the end.
        ("worst: 1,000 tokens, all salient and alike", [worst(1000)], replace(default, neighbour_similarity=-1.0)),
        ("worst: 20 of 300, all salient and alike", [worst(300)] * 20, replace(default, neighbour_similarity=-1.0)),
    ]
    if args.run:
        watched, lengths = recorded(args.run)
        cases.append((f"20 watched, {sum(lengths)} tokens", watched, default))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(f"Chromium {browser.version}; ms a move over {args.moves} moves (the clock's grain is 0.1 ms)")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}: above the cores, the longer times are waiting")
        for title, examples, settings in cases:
            for name, ends in SWEEPS.items():
                report(browser, f"{title}, {name}", examples, settings, name, np.linspace(*ends, args.moves).tolist())
        browser.close()


def report(browser, title, examples, settings, name, values) -> None:
    source = (files("nlft.page") / "static" / "saliency.js").read_text(encoding="utf-8")
    page = browser.new_page()
    page.add_script_tag(content=re.sub(r"^export ", "", source, flags=re.MULTILINE))
    given = {"examples": examples, "settings": asdict(settings), "name": name, "values": values}
    times, retagged = np.array(page.evaluate(TIMER, given)).T
    page.close()
    print(
        f"{title:65} median {np.median(times):5.1f}  p95 {np.quantile(times, 0.95):5.1f}  max {times.max():5.1f}"
        f"  least {times.min():4.1f}  first {times[0]:5.1f}  re-tagged up to {retagged.max():.0f}"
    )


def example(rng, length, *, label):
    """One sample with mistakes or certain tokens here and there, whose states resemble those around them."""
    logits = rng.normal(1.5, 2.5, (3, length))
    base, standard, judge = -np.logaddexp(0, -logits)
    standard = np.where(rng.random(length) < 0.4, standard / 50, standard)
    steps = torch.from_numpy(rng.standard_normal((1, length, 32)))
    hidden = steps + 0.3 * steps.cumsum(1)
    band = hidden_band(hidden, torch.ones(1, length, dtype=torch.bool))[0].numpy()
    return packed(label, base=base, standard=standard, judge=judge, band=band)


def worst(length):
    certain = np.full(length, -0.001)
    band = hidden_band(torch.ones(1, length, 4), torch.ones(1, length, dtype=torch.bool))[0].numpy()
    return packed(True, base=certain, standard=certain, judge=certain, band=band)


def recorded(path):
    """The last snapshot's watched examples, repeated up to 20, and their lengths."""
    run = RunDir.open(path)
    scores = run.snapshot(run.snapshot_steps()[-1]).scores
    labels = [watched.label for watched in run.watched()]
    some = [i % len(scores) for i in range(20)]
    names = ("base", "standard", "judge", "band")
    made = [packed(labels[i], **{name: getattr(scores[i], name) for name in names}) for i in some]
    return made, [len(scores[i].base) for i in some]


def packed(label, *, band, **logprobs):
    arrays = {name: None if x is None else x.astype(np.float32) for name, x in logprobs.items()}
    arrays["band"] = band
    texts = {name: x if x is None else base64.b64encode(x.tobytes()).decode() for name, x in arrays.items()}
    return {"label": label, **texts}


if __name__ == "__main__":
    main()
