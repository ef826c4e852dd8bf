"""A run's files, read and written without torch."""
