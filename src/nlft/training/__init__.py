"""Train with NLFT, and write the run directory."""
