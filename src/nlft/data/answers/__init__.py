"""Read the answers of replies: numbers whole or not at all, letters and words."""
