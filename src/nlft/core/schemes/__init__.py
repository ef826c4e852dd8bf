"""Saliency schemes, one a file."""
