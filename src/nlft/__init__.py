"""Natural Language Fine-Tuning (arXiv 2412.20382) for any causal language model."""

__version__ = "0.1.0"
