"""Label replies in the browser: a page over a file, and no run."""
