"""From questions to labelled, judged examples."""
