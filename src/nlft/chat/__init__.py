"""Talk to a trained model and to its base, side by side."""
