"""Commands that combine the other packages: tune, compare, rounds, demo."""
