"""Models, local or on a server, and the answers they give."""
