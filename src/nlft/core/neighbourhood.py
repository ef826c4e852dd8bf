"""The tokens around a salient one that belong to it, by their hidden states."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WINDOW = 16  # each join halves what earlier states weigh in the centre: beyond 16 they are below float16


def hidden_band(hidden: Tensor, mask: Tensor) -> Tensor:
    """Inner products of each token's state with its own and the next 16, in float16.

    All that the neighbourhood walk needs, so a stored run replays exactly. Divided by the sample's largest squared
    norm, which keeps float16 in range and no cosine notices.

    Args:
        hidden: (batch, completion_len, hidden_size), the states that predict the tokens.
        mask: (batch, completion_len) bool.
    Returns:
        (batch, completion_len, 17); entry [b, t, k] is ⟨h_t, h_{t+k}⟩, 0 where t+k is no completion token.
    """
    states = hidden.float() * mask[..., None]
    length = states.shape[1]
    band = states.new_zeros(*states.shape[:2], WINDOW + 1)
    for lag in range(min(WINDOW + 1, length)):
        band[:, : length - lag, lag] = (states[:, : length - lag] * states[:, lag:]).sum(-1)
    largest = band[..., 0].amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    return (band / largest[:, None, None]).half()


def neighbourhood(salient: Tensor, band: Tensor, similarity: float) -> Tensor:
    """Tokens reached from the salient ones, walking left, then right, each time from the token's own state.

    A token joins while the cosine similarity of its state to the running centre stays above `similarity`; the
    centre becomes the mean of itself and each state that joins. Never across samples.

    Args:
        salient: (batch, completion_len) bool.
        band: (batch, completion_len, 17) float16, see `hidden_band`.
    Returns:
        Bool, same shape; contains the salient tokens.
    """
    # One transfer for the whole batch, then plain arrays: no comparison waits for the device.
    reached = salient.cpu().numpy().copy()
    products = band.cpu().numpy().astype(np.float64)
    sample, start = np.nonzero(reached)
    for step in (-1, 1):
        _walk(reached, products, sample, start, step, similarity)
    return torch.from_numpy(reached).to(salient.device)


def _walk(
    reached: NDArray[np.bool_],
    band: NDArray[np.float64],
    sample: NDArray[np.intp],
    start: NDArray[np.intp],
    step: int,
    similarity: float,
) -> None:
    """Move all walkers one token at a time, and mark where they get; `band` gives every product they need."""
    length = reached.shape[1]
    norm = band[sample, start, 0]  # |centre|², which is |own state|² at first
    joined = 0
    while True:
        nxt = start + step * (joined + 1)
        inside = (nxt >= 0) & (nxt < length)
        sample, start, norm, nxt = sample[inside], start[inside], norm[inside], nxt[inside]
        if not len(sample):
            return
        own = band[sample, nxt, 0]
        # The centre is Σ 2^-lag h, over the states that joined, newest first; the walker's own state, where the
        # walk began, weighs as much as the first that joined.
        dot = np.zeros(len(sample))
        for lag in range(1, min(joined + 1, WINDOW) + 1):
            other = nxt - step * lag
            weight = 2.0 ** -min(lag, joined)
            dot += weight * band[sample, np.minimum(nxt, other), lag]
        scale = norm * own
        joins = (scale > 0) & (dot > similarity * np.sqrt(np.maximum(scale, 0)))
        sample, start, nxt = sample[joins], start[joins], nxt[joins]
        reached[sample, nxt] = True
        norm = (norm[joins] + 2 * dot[joins] + own[joins]) / 4
        joined += 1
