"""Turn questions into labelled, judged examples."""
