"""The trainer, its baselines, and the run directory that everything else reads."""
