"""Show the saliency map of a run directory. No module here imports torch."""
