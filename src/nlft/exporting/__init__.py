"""Take a trained model away: merged, as GGUF, for Ollama, for vLLM, for mlx-lm; each loaded again and compared."""
