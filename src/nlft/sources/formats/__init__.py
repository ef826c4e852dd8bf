"""Readers of what other tools export, one tool per file."""
