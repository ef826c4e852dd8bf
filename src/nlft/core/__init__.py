"""Align the three conditions, then compute log-probabilities, saliency and loss."""
