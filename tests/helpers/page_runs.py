"""Run directories as a training would leave them, made through `RunDir` alone: no model, no training."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlft.core.neighbourhood import hidden_band
from nlft.core.quote_links import quote_links
from nlft.core.saliency import TAG_NAMES, ConditionLogprobs
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme, scheme_names, usable_schemes
from nlft.runs.controls import steering_record
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores, WatchedExample

TEXT = (
    " the farm has 64 eggs and sells 35 of them so we compute 64 - 35 = 34 which is then divided by 2 giving 17 .\n"
    " Each box holds a dozen , that leaves 5 boxes for the market"
)
WORDS = re.findall(r"\s?[^\s]+|\n", TEXT)


def example(index: int, length: int = 40) -> WatchedExample:
    """Wrong and right in turn; the last token is the end of turn."""
    label = index % 2 == 1
    tokens = [WORDS[(index * 7 + at) % len(WORDS)] for at in range(length - 1)]
    return WatchedExample(
        id=f"farm-{index}",
        label=label,
        prompt=f"Farm {index} has 64 eggs and sells 35 of them. How many boxes of a dozen can it fill with the rest?",
        answer="64 - 35 = 29 eggs are left.\n29 / 12 = 2 boxes, and 5 eggs remain.\n#### 2",
        judgment=None if label else 'The step "64 - 35 = 34" is miscalculated.\nCorrection: 64 - 35 = 29.',
        tokens=[*tokens, "<|im_end|>"],
    )


def scored(one: WatchedExample, rng: np.random.Generator, settings: NLFTSettings, drift: float = 0.0) -> TokenScores:
    """Random log-probabilities with some mistakes among them, weighed by the real scheme."""
    length = len(one.tokens)
    base = -rng.exponential(1.2, length)
    standard = np.minimum(base + rng.normal(0.2, 0.8, length), -1e-4)
    judge = np.minimum(base + rng.normal(-0.1, 0.35, length), -1e-4)
    mistakes = rng.random(length) < 0.05
    judge = np.where(mistakes, np.minimum(base + 1.2 + drift, -1e-3), judge)
    standard = np.where(mistakes, standard - 2.5, standard)
    hidden = torch.from_numpy(np.cumsum(rng.normal(size=(1, length, 12)), 1).astype(np.float32))
    mask = torch.ones(1, length, dtype=torch.bool)
    band = hidden_band(hidden, mask)

    def tensor(values: Any) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32))[None]

    conditions = ConditionLogprobs(
        base=tensor(base),
        standard=tensor(standard),
        judge=tensor(judge),
        mask=mask,
        label=torch.tensor([one.label]),
        band=band,
    )
    weights = get_scheme("nlft").weigh(conditions, settings)
    return TokenScores(
        base=conditions.base[0].numpy(),
        standard=conditions.standard[0].numpy() if conditions.standard is not None else None,
        judge=None if one.label or conditions.judge is None else conditions.judge[0].numpy(),
        likelihood=weights.likelihood[0].float().numpy(),
        unlikelihood=weights.unlikelihood[0].float().numpy(),
        tag=weights.tag[0].numpy(),
        band=band[0].numpy(),
    )


def event(step: int, steps: int = 120, **more: Any) -> dict[str, Any]:
    """A line as the trainer logs it."""
    share = step / steps
    noise = math.sin(step * 1.7) * 0.05
    return {
        "step": step,
        "time": f"2026-01-05T10:{step // 60 % 60:02d}:{step % 60:02d}.000+00:00",
        "epoch": round(3 * share, 4),
        "loss": 2.1 * math.exp(-2 * share) + noise + 0.4,
        "nlft/likelihood_loss": 1.6 * math.exp(-2 * share) + noise + 0.3,
        "nlft/unlikelihood_loss": 0.5 * math.exp(-2 * share) + 0.1,
        "learning_rate": 2e-4 * (1 - share),
        "grad_norm": 1.0,
        "mean_token_accuracy": 0.5 + 0.3 * share + noise,
        "nlft/salient_fraction": 0.06 - 0.03 * share + noise / 10,
        "nlft/gated_fraction": 0.5 - 0.4 * share,
        "num_tokens": 900 * step,
        "tokens_per_second": 820 + 40 * noise,
        "eta_seconds": 3.1 * (steps - step),
        **more,
    }


def record(scheme: str = "nlft", **more: Any) -> dict[str, Any]:
    """run.yaml as `nlft train` writes it."""
    needs = {name: ["judge"] if name == "cut" else [] for name in scheme_names()}
    needs |= {name: ["standard", "judge"] for name in ("nlft", "nlft-original")}
    settings = {name: one.settings for name, one in usable_schemes().items()}
    steering = steering_record(settings, needs, ["standard", "judge"], {"evaluate": "this run holds no examples out"})
    return {
        "method": "nlft",
        "model_name_or_path": "/models/SmolLM2-135M-Instruct",
        "scheme": scheme,
        "saliency": asdict(get_scheme(scheme).settings()),
        "seed": 42,
        **steering,
        "training": {"loss_normalization": "sample", "learning_rate": 2e-4, "max_steps": 120},
        **more,
    }


def make_run(
    path: Path, *, steps: int = 6, every: int = 10, examples: int = 4, length: int = 40, seed: int = 0
) -> RunDir:
    """A run with a snapshot each `every` steps, an event each step, and an empty ledger."""
    run = RunDir(path)
    run.write_settings(record())
    run.start_events(None)
    run.start_controls(None)
    watched = [example(index, length) for index in range(examples)]
    run.write_watched(watched)
    for number in range(steps):
        add_step(run, number * every, seed=seed)
    for number in range(1, (steps - 1) * every + 1):
        run.append_event(event(number, (steps - 1) * every))
    return run


def add_step(run: RunDir, step: int, *, seed: int = 0, **changes: Any) -> None:
    """One more snapshot of the run's watched examples."""
    settings = NLFTSettings()
    scores: list[TokenScores | None] = [
        scored(one, np.random.default_rng([seed, index]), settings, drift=step / 100)
        for index, one in enumerate(run.watched())
    ]
    run.store_snapshot(replace(Snapshot(step, step / 40, "nlft", asdict(settings), TAG_NAMES, scores), **changes))


def ledger_line(id: str, step: int, control: str, old: Any, new: Any, reason: str | None = None) -> dict[str, Any]:
    """A line as the trainer writes it to controls.jsonl."""
    time = f"2026-01-05T10:00:{step % 60:02d}.000+00:00"
    return {
        "id": id, "step": step, "time": time, "who": "ann", "control": control,
        "old": old, "new": new, "taken": reason is None, "reason": reason,
    }  # fmt: skip


PRAISE = 'It praises: "very sleek", "timeless", "gorgeous".'
LAMP = ["A", " very", " sleek", " lamp", " of", " its", " own", ",", " timeless", ".", "<|im_end|>"]


def strike_run(path: Path, *, alternatives: bool = True) -> RunDir:
    """A finished-looking run of `strike`: one reply with two quotes, one liked reply that is held, over three steps."""
    run = RunDir(path)
    run.write_settings(record("strike"))
    run.start_events(None)
    watched = [
        WatchedExample("held", True, "Describe a chair.", None, None, [" plain", " chair", "<|im_end|>"]),
        WatchedExample(
            "lamp", False, "Describe a lamp.", None, PRAISE, LAMP, None,
            {}, [[1, 3], [8, 9]], quote_links({"judgment": PRAISE}, LAMP),
        ),
    ]  # fmt: skip
    run.write_watched(watched)
    settings = asdict(get_scheme("strike").settings())
    for number, step in enumerate((0, 4, 8)):
        tags = [[6, 6, 6], [6, 4, 5, 6, 6, 6, 6, 6, 4, 6, 6]]
        scores = [_struck(one, tag, number) for one, tag in zip(watched, tags, strict=True)]
        said = [[" old", 0.5], [" very", 0.25], [" new", 0.1], [" big", 0.05], [" <b>", 0.01]]
        lamp = {"at": [1, 8], "base": [said, said[::-1]], "now": [said[1:], said]}
        kept = [None, lamp] if alternatives else None
        run.store_snapshot(Snapshot(step, step / 8, "strike", settings, TAG_NAMES, scores, alternatives=kept))
        run.append_event(event(step, 8))
    return run


def _struck(one: WatchedExample, tag: list[int], number: int) -> TokenScores:
    tags = np.array(tag, np.uint8)
    base = np.where(tags == 4, -1.0 - number, -0.5).astype(np.float32)
    signal = np.where(tags == 4, 0.4, np.where(tags == 6, 0.01, 0)).astype(np.float32)
    nothing = np.zeros(len(tag), np.float32)
    return TokenScores(base, None, None, nothing, nothing, tags, signal=signal)
