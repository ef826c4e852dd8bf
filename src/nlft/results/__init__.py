"""What came of it: evaluation with its evidence, and statistics."""
