"""Find the neighbourhood of salient tokens: the tokens around them with similar hidden states."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WINDOW = 16  # each join halves earlier states' weight in the centre; after 16 joins it is below float16


def hidden_band(hidden: Tensor, mask: Tensor) -> Tensor:
    """Compute the inner products of each token's state with itself and with the next 16 states, in float16.

    The neighbourhood walk reads nothing else, so a stored run can be replayed exactly. The products are divided by the
    sample's largest squared norm. This keeps them in float16's range and does not change any cosine.

    Args:
        hidden: (batch, completion_len, hidden_size), the states that predict the tokens.
        mask: (batch, completion_len) bool.
    Returns:
        (batch, completion_len, 17); entry [b, t, k] is ⟨h_t, h_{t+k}⟩, 0 where t+k is not a completion token.
    """
    states = hidden.float() * mask[..., None]
    length = states.shape[1]
    band = states.new_zeros(*states.shape[:2], WINDOW + 1)
    for lag in range(min(WINDOW + 1, length)):
        band[:, : length - lag, lag] = (states[:, : length - lag] * states[:, lag:]).sum(-1)
    largest = band[..., 0].amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    return (band / largest[:, None, None]).half()


def neighbourhood(salient: Tensor, band: Tensor, similarity: float) -> Tensor:
    """Find the tokens that walks from the salient ones reach: left, then right, each from the token's own state.

    A token joins while the cosine similarity of its state to the running centre is above `similarity`. When a state
    joins, the centre becomes the mean of itself and that state. A walk never leaves its sample.

    Args:
        salient: (batch, completion_len) bool.
        band: (batch, completion_len, 17) float16, see `hidden_band`.
    Returns:
        Bool, same shape; contains the salient tokens.
    """
    # Transfer the whole batch once and use plain arrays, so that comparisons do not wait for the device.
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
    """Move all walkers one token at a time, and mark the tokens that they reach. `band` has all products for this."""
    length = reached.shape[1]
    norm = band[sample, start, 0]  # |centre|², at first |own state|²
    joined = 0
    while True:
        nxt = start + step * (joined + 1)
        inside = (nxt >= 0) & (nxt < length)
        sample, start, norm, nxt = sample[inside], start[inside], norm[inside], nxt[inside]
        if not len(sample):
            return
        own = band[sample, nxt, 0]
        # The centre is Σ 2^-lag h over the states that joined, newest first. The walker's own state, at which the
        # walk began, has the same weight as the first state that joined.
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
