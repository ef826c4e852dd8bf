"""Merge an adapter into its model, for servers that cannot load adapters."""

from copy import copy
from pathlib import Path
from typing import Any

import torch

from nlft.errors import UserError, display_path
from nlft.files import give_usual_modes
from nlft.models.loading import ModelSettings, load_model, load_tokenizer


def merge_adapter(settings: ModelSettings, out: Path) -> None:
    """Write the merged model to `out`, in `settings.dtype`, with its tokenizer.

    Add the weights in float32 and round once, because bf16 is often too coarse for an adapter's part of a weight.

    Raises:
        UserError: there is no adapter, the model is quantised, `out` is not empty, or some merged weights are not
            finite.
    """
    if not settings.adapter:
        raise UserError("--adapter is missing.\n  Give a run directory, an adapter's folder or a hub name.")
    if settings.load_in_4bit or settings.load_in_8bit:
        raise UserError(
            "an adapter cannot be merged into a quantised model.\n"
            "  Leave out --load_in_4bit and --load_in_8bit, and quantise the result."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{display_path(out)} already exists.\n  Choose another --out, or remove it.")
    exact = copy(settings)
    exact.dtype = "float32"
    whole = load_model(exact, trainable=False)
    try:
        merged: Any = whole.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT raises it for NaN or infinity in the sum
        raise UserError(
            f"--adapter {settings.adapter}: {error}\n  Train it again with a lower learning rate."
        ) from error
    kept = merged.config.dtype if settings.dtype == "auto" else getattr(torch, str(settings.dtype))
    merged.to(kept).save_pretrained(out)
    load_tokenizer(settings).save_pretrained(out)
    give_usual_modes(out)
