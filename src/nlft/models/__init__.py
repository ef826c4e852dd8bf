"""Load models, local or on a server, and get answers from them."""
