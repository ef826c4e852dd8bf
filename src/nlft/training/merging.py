"""An adapter merged into its model: an ordinary model folder, for servers that load no adapters."""

from copy import copy
from pathlib import Path
from typing import Any

import torch

from nlft.errors import UserError, display_path
from nlft.models.loading import ModelSettings, load_model, load_tokenizer


def merge_adapter(settings: ModelSettings, out: Path) -> None:
    """Write the model with its adapter merged to `out`, in `settings.dtype`, with its tokenizer.

    The sum is made in float32 and rounded once, since an adapter's share of a weight is often below what bf16 holds.

    Raises:
        UserError: there is no adapter, its base is not known, `out` holds files, or weights come out not finite.
    """
    if not settings.adapter:
        raise UserError(
            "--adapter is missing.\n  Name what to merge: a run directory, an adapter's folder or a hub name."
        )
    if settings.load_in_4bit or settings.load_in_8bit:
        raise UserError("a quantised model cannot take an adapter in.\n  Merge without it, and quantise the result.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{display_path(out)}: is there already.\n  Choose another --out, or remove it.")
    exact = copy(settings)
    exact.dtype = "float32"
    whole = load_model(exact, trainable=False)
    try:
        merged: Any = whole.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT's: NaN or infinity in the sum
        raise UserError(
            f"--adapter {settings.adapter}: {error}\n  Train it again with a lower learning rate."
        ) from error
    kept = merged.config.dtype if settings.dtype == "auto" else getattr(torch, str(settings.dtype))
    merged.to(kept).save_pretrained(out)
    load_tokenizer(settings).save_pretrained(out)
