"""Mutation testing: change one place of a copy of the code, and see whether a test notices."""
