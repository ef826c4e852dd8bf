"""Read and write a run's files without torch."""
