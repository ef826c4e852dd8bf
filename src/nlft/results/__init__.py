"""Results of a training: evaluation with its evidence, comparison, and statistics."""
