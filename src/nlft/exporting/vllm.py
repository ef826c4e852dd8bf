"""The command that serves the adapter with vLLM, and the adapters that vLLM does not take."""

import json
import shlex
from pathlib import Path

from nlft.errors import UserError
from nlft.exporting.served import read_base, told_end
from nlft.exporting.source import Trained, refuse_adapter
from nlft.models.trained_on import note_other_base

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for --max-lora-rank."""


def vllm_command(trained: Trained) -> tuple[str, list[str]]:
    """Return the line that serves base and adapter, and what is to be said about it.

    Raises:
        UserError: vLLM does not take the adapter, or the base's folder is gone.
    """
    if trained.adapter is None:
        return shlex.join(["vllm", "serve", trained.base, "--served-model-name", trained.name]), []
    refuse_adapter(trained, "vLLM", one_scale=True)
    rank = int(trained.config["r"])
    limit = next((size for size in RANKS if size >= rank), None)
    if limit is None:
        raise UserError(f"vLLM takes ranks up to {RANKS[-1]}, and this adapter has {rank}.\n  Use --to merged.")
    adapter = str(Path(trained.adapter).resolve()) if Path(trained.adapter).is_dir() else trained.adapter
    line = ["vllm", "serve", trained.base, "--enable-lora", "--lora-modules", f"{trained.name}={adapter}"]
    line += ["--max-lora-rank", str(limit)]
    if trained.settings.model_revision not in (None, "main"):
        line += ["--revision", str(trained.settings.model_revision)]
    served, told = read_base(trained), []
    if isinstance(served, str):
        told = [f"NOT checked: does vLLM end a reply where the training does? {served}"]
    else:
        note_other_base(adapter, trained.base)
        stop = f'Send "stop_token_ids": [{served.trained_end[1]}] with every request'
        told = told_end(served, "vLLM", stop, trained)
        line += ["--tokenizer", adapter] if served.own is not None else []
    kwargs = trained.templates().inputs.kwargs
    if kwargs:
        line += ["--default-chat-template-kwargs", json.dumps(dict(kwargs))]
    return shlex.join(line), told
