"""Check examples before training, and say what to fix."""
