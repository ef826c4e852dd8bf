"""Alignment of the three conditions, then pure mathematics: log-probabilities, saliency, loss."""
