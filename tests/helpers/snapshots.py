"""Scores of tokens as a run directory keeps them, made up."""

import numpy as np

from nlft.runs.run_dir import Snapshot, TokenScores


def scores(n=3, judge=True):
    f = np.linspace(-2, -0.1, n, dtype=np.float32)
    return TokenScores(
        base=f,
        standard=f / 2,
        judge=f / 3 if judge else None,
        likelihood=np.ones(n, np.float32),
        unlikelihood=np.zeros(n, np.float32),
        tag=np.arange(n, dtype=np.uint8),
        band=np.ones((n, 17), np.float16),
    )


def snapshot(step):
    return Snapshot(step, 0.5, "nlft", {"mistake_ratio": 1.5}, ["plain", "salient"], [scores(), scores(5, judge=False)])
