"""Examples, before they cost a training run: what to fix."""
