"""Saliency schemes, one per file."""
