"""Train with NLFT or a baseline, and write the run directory."""
