"""SmolLM2-135M-Instruct, for tests that meet a real model with its tokenizer and its template."""

from pathlib import Path

import pytest

from nlft.errors import NLFTError
from nlft.experiments.demo import bring_model, model_cache


def smollm2() -> Path:
    """Return the model's folder, or skip the test where the model cannot be brought."""
    try:
        return Path(bring_model(model_cache()))
    except NLFTError as error:
        pytest.skip(f"SmolLM2 cannot be brought here: {error}")


def first_layers(layers: int, folder: Path) -> Path:
    """Write the first layers of the model's 30 and its tokenizer to a folder. It steps many times faster."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # imports torch, which reads conftest's settings

    whole = smollm2()
    AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=layers).save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return folder
