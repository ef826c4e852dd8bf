"""Merge an adapter into its model, for servers that cannot load adapters, and check what was written."""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase

from nlft.core.limits import limits_of
from nlft.core.logprobs import causal_lm
from nlft.errors import NLFTError, UserError, display_path
from nlft.files import give_usual_modes, sync_folder, sync_tree
from nlft.models.ends import name_trained_end
from nlft.models.loading import ModelSettings, load_model, load_tokenizer, own_config
from nlft.models.quantising import quantization_record
from nlft.models.weights_check import check_finite
from nlft.progress import note
from nlft.runs.card_facts import bits_of_base
from nlft.runs.lock import owning_file
from nlft.runs.model_card import CARD, card_of_merged
from nlft.training.manifest import WRITING

# The greatest difference of a token's log-probability that a merge may leave, before it is rounded to the wanted type.
# Sums in another order leave some 1e-6 to 1e-4; a lost or doubled part of an adapter leaves more.
TOLERANCE = 1e-3
# What rounding the weights to 16 bits may add, as a mean over the tokens: a type's steps are that much coarser.
ROUNDING_TOLERANCE = {torch.float16: 0.05, torch.bfloat16: 0.25}

_TEXTS = (
    "Ines has 12 cups and gives 5 of them away. How many does she have left?",
    "12 - 5 = 7, so she has 7 cups left.\n#### 7",
    "The quick brown fox jumps over the lazy dog, and then it sleeps until noon.",
    "def double(value):\n    return 2 * value\n",
)


def merge_adapter(settings: ModelSettings, out: Path) -> None:
    """Write the merged model to `out`, in `settings.dtype`, with its tokenizer. Print how it compares.

    Add the weights in float32 and round once, because bf16 is often too coarse for an adapter's part of a weight. Load
    the written model again and compare its log-probabilities with those of model + adapter. If anything fails, leave
    nothing at `out`.

    Raises:
        UserError: there is no adapter, it cannot be merged, the model is quantised, `out` is not empty, or some merged
            weights are not finite.
        NLFTError: the written model's log-probabilities are not those of model + adapter.
    """
    _check_settings(settings, out)
    tokenizer = load_tokenizer(settings)
    exact = copy(settings)
    exact.dtype = "float32"
    whole: Any = load_model(exact, trainable=False)
    kept = own_type(settings) if settings.dtype == "auto" else getattr(torch, str(settings.dtype))
    said = [_log_probs(whole, tokenizer)]  # by model + adapter; merged; rounded; written and loaded again
    merged = merged_model(whole, settings.adapter)
    del whole
    said.append(_log_probs(merged, tokenizer))
    for weight in merged.parameters():  # not the buffers: rotary frequencies are never stored, so never rounded
        weight.data = weight.data.to(kept)
    check_finite(merged.named_parameters(), f"--dtype {kept}".replace("torch.", ""), "Choose --dtype float32.")
    name_trained_end(merged, tokenizer)
    with whole_folder(out) as place:
        merged.save_pretrained(place)
        tokenizer.save_pretrained(place)
        card = card_of_merged(settings.adapter, str(settings.model_name_or_path), place, out.resolve().name)
        (place / CARD).write_text(card, encoding="utf-8")
        said.append(_log_probs(merged.float(), tokenizer))
        del merged
        written = ModelSettings(model_name_or_path=str(place), dtype="float32")
        said.append(_log_probs(load_model(written, trainable=False), tokenizer))
        _compare(said, kept, settings)
    if (bits := bits_of_base(settings.adapter)) is not None:
        note(
            f"The adapter was trained on the base in {bits} bits, and is merged into the base in full precision. The "
            "comparison above is with that base. Evaluate the merged model before you use it."
        )


def _check_settings(settings: ModelSettings, out: Path) -> None:
    if not settings.adapter:
        raise UserError("--adapter is missing.\n  Give a run directory, an adapter's folder or a hub name.")
    if quantization_record(own_config(settings)) is not None:
        raise UserError(
            f"--model_name_or_path {settings.model_name_or_path}: by its config.json its weights are quantised, and an "
            "adapter cannot be merged into them.\n  Give the model that it was made from, and quantise the result."
        )
    if settings.load_in_4bit or settings.load_in_8bit:
        raise UserError(
            "an adapter cannot be merged into a quantised model.\n"
            "  Leave out --load_in_4bit and --load_in_8bit, and quantise the result."
        )
    if out.exists() and (not out.is_dir() or any(path.name != WRITING for path in out.iterdir())):
        raise UserError(f"{display_path(out)} already exists.\n  Choose another --out, or remove it.")


def own_type(settings: ModelSettings) -> torch.dtype:
    """Return the data type of the base model's own files. A loaded model's config has the type that was asked for."""
    name, revision = settings.model_name_or_path, settings.model_revision
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    found = config.dtype or config.get_text_config().dtype
    return getattr(torch, found.removeprefix("torch.")) if isinstance(found, str) else found or torch.float32


def merged_model(whole: Any, adapter: str | None) -> Any:
    """Merge the adapter into its model.

    The adapter changes input and output embeddings apart, also where the model has one matrix for both. Then the
    merged model gets two.
    """
    lm = causal_lm(whole)
    tied = _untie(lm)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(no longer tied|tie_word_embeddings)")  # settled below
            merged: Any = whole.merge_and_unload(safe_merge=True)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
        if "allocate memory" in str(error):
            raise
        cure = "Serve the adapter itself, or train one of a kind that can be merged, such as plain LoRA."
        if "NaN" in str(error):  # PEFT's words for NaN or infinity in the sum
            cure = "Train it again with a lower learning rate."
        raise UserError(f"--adapter {adapter} cannot be merged: {error}\n  {cure}") from error
    if tied:
        head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
        alike = torch.equal(head.weight, embedding.weight)
        if alike:
            head.weight = embedding.weight
        for config in (merged.config, merged.config.get_text_config()):
            config.tie_word_embeddings = alike
    return merged


def _untie(lm: Any) -> bool:
    """Give the output embedding its own copy of a matrix that it shares with the input embedding.

    Returns:
        Whether they shared one.
    """
    shared = _inner(lm.get_input_embeddings()).weight
    head = lm.get_output_embeddings()
    modules = [] if head is None else [m for m in head.modules() if m._parameters.get("weight") is shared]
    for module in modules:
        module.weight = torch.nn.Parameter(shared.detach().clone(), requires_grad=False)
    return bool(modules)


def _inner(module: Any) -> Any:
    """Return the model's own layer under PEFT's."""
    module = getattr(module, "original_module", module)
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


@torch.inference_mode()
def _log_probs(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """Return the log-probabilities of every next token of a few texts, one tensor (length, vocabulary) per text."""
    limits = limits_of(model)
    found = []
    for text in _TEXTS:
        ids = [id for id in tokenizer(text)["input_ids"] if limits.rows is None or id < limits.rows]
        ids = ids[: limits.positions]
        device = next(model.parameters()).device
        logits = model.eval()(input_ids=torch.tensor([ids], device=device)).logits[0]
        found.append(logits.float().log_softmax(-1).cpu())
    return found


def _compare(said: list[list[Tensor]], kept: torch.dtype, settings: ModelSettings) -> None:
    """Print the differences, and refuse those above the tolerances.

    Args:
        said: log-probabilities by model + adapter, merged in float32, rounded, and written and loaded again.
    """
    whole, merged, rounded, written = said
    exact = max(_greatest(whole, merged), _greatest(rounded, written))
    rounding = _mean(merged, rounded)
    limit = ROUNDING_TOLERANCE.get(kept, ROUNDING_TOLERANCE[torch.bfloat16])
    name = str(kept).removeprefix("torch.")
    told = f"log-probabilities on {len(_TEXTS)} texts against model + adapter: they differ by at most {exact:.2g}"
    told += f" (tolerance {TOLERANCE:g})"
    if kept != torch.float32:
        told += f"; rounding to {name} adds {rounding:.2g} on average (tolerance {limit:g})"
    if not exact <= TOLERANCE:
        raise NLFTError(
            f"the merged model is not {settings.model_name_or_path} with --adapter {settings.adapter}: {told}.\n"
            "  Nothing was written. Serve the adapter itself, or report this with the output of `nlft env`."
        )
    if not rounding <= limit:
        raise NLFTError(f"{name} is too coarse for this model: {told}.\n  Merge with --dtype float32.")
    note(told)


def _greatest(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def _mean(one: list[Tensor], other: list[Tensor]) -> float:
    return float(torch.cat([(a - b).abs().flatten() for a, b in zip(one, other, strict=True)]).mean())


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write into. Its files move to `out` at the end; after an error, nothing is left.

    Raises:
        UserError: another process writes `out`.
    """
    with owning_file(out):
        yield from _whole_folder(out)


def _whole_folder(out: Path) -> Iterator[Path]:
    is_new = not out.exists()
    place = out / WRITING
    shutil.rmtree(place, ignore_errors=True)  # of a command that was killed
    place.mkdir(parents=True)
    done = False
    try:
        yield place
        give_usual_modes(place)
        sync_tree(place)
        # config.json makes the folder a model, so it comes last.
        for path in sorted(place.iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, out / path.name)
        sync_folder(out)
        done = True
    finally:
        shutil.rmtree(out if is_new and not done else place, ignore_errors=True)
