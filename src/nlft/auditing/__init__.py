"""Check examples before training, and report what to fix."""
