"""What to lower when a training runs out of memory, with figures by the arithmetic of `nlft plan`."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from nlft.core.condition_scores import is_noisy
from nlft.core.schemes.scheme import Scheme
from nlft.errors import NLFTError
from nlft.library_errors import MEMORY_CURE, out_of_memory
from nlft.models.sizes import ModelSizes, measured
from nlft.planning.cards import with_rows
from nlft.planning.memory import Rows, Step, memory_of
from nlft.planning.steps import reads_again, step_of
from nlft.planning.tokens import largest_batch, largest_scoring
from nlft.training.batching import KeepingBuilder
from nlft.training.token_log import LogsSums

GIB = 2**30
_LONGEST = 4096  # the longest examples, among which the largest batch is looked for: that takes seconds


@contextmanager
def telling_what_fits(trainer: Any) -> Iterator[None]:
    """Train inside this context. If the memory runs out, the error says what each setting would need.

    Raises:
        NLFTError: the memory ran out. Without figures if they cannot be computed, as for TRL's trainers.
    """
    try:
        yield
    except Exception as error:
        said = out_of_memory(error)
        if said is None:
            raise
        told = None
        with suppress(Exception):  # what explains an error must not end in one
            told = what_fits(trainer)
        raise NLFTError(f"out of memory: {said}\n  {told or MEMORY_CURE}") from error


def what_fits(trainer: Any) -> str | None:
    """Return what a step of a training needs, and what it would need with other settings.

    Args:
        trainer: one whose loss is on our own scoring forward. TRL's trainers hold all logits at once, for which there
            is no formula; then the result is None.
    """
    args = trainer.args
    step = _step_of(trainer)
    if step is None:
        return None
    sizes, samples = _sizes_of(trainer.model, step.bits is not None), int(args.per_device_train_batch_size)
    most = memory_of(sizes, step).peak
    longest = max(step.trained.length, step.conditions.length)
    ways: list[tuple[str, Step]] = []
    for fewer in sorted({samples // 2, samples // 4, 1} & set(range(1, samples)), reverse=True):
        accumulated = ceil(samples * args.gradient_accumulation_steps / fewer)
        flags = f"--per_device_train_batch_size {fewer} --gradient_accumulation_steps {accumulated}"
        ways.append((flags, with_rows(step, samples=fewer, of=samples)))
    if not step.checkpointing:
        ways.append(("--activation_checkpointing true", replace(step, checkpointing=True)))
    if step.bits is None and sizes.has_adapter and step.processes == 1 and args.device.type == "cuda":
        ways.append(("--load_in_4bit true", replace(step, bits=4)))
    half = f"rows of at most {longest // 2} tokens (the longest has {longest}; see --max_length)"
    trained, conditions = (_shortened(rows, longest // 2) for rows in (step.trained, step.conditions))
    ways.append((half, replace(step, trained=trained, conditions=conditions)))
    found = [(memory_of(sizes, way).peak, flags) for flags, way in ways]
    room = _room(args.device)
    lines = [
        f"By the arithmetic of `nlft plan`, a step needs about {_gib(most)} at --per_device_train_batch_size {samples}"
        f"{f', and {room}' if room else ''}.",
        "It would need about",
        *(f"  {_gib(peak):>9}  with {flags}" for peak, flags in sorted(found, reverse=True) if peak < most),
        "Also end other programs that use the memory.",
    ]
    return "\n  ".join(lines)


def _step_of(trainer: Any) -> Step | None:
    """Return what a process does in a step, with the largest batch that the examples can make."""
    if not isinstance(trainer, LogsSums):
        return None
    scheme: Scheme | None = getattr(trainer, "scheme", None)
    chosen = scheme, getattr(trainer, "saliency", None)
    args, size = trainer.args, int(trainer.args.per_device_train_batch_size)
    noisy = is_noisy(trainer.model)
    rows: Sequence[Any] = sorted(trainer.train_dataset, key=_length, reverse=True)[: max(_LONGEST, size)]
    again = reads_again(args, *chosen, noisy=noisy)
    trained, conditions = largest_batch(rows, trainer.data_collator, size, again=bool(again))
    if isinstance(trainer.data_collator, KeepingBuilder) and not args.scores_live:
        conditions = largest_scoring(rows, trainer.data_collator, args)
    quantised = getattr(trainer.model.config, "quantization_config", None)
    return step_of(
        args,
        *chosen,
        (trained, conditions),
        noisy=noisy,
        bits=None if quantised is None else 4 if getattr(quantised, "load_in_4bit", False) else 8,
        double=bool(getattr(quantised, "bnb_4bit_use_double_quant", True)),
        processes=args.world_size if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled else 1,
    )


def _shortened(rows: Rows, most: int) -> Rows:
    length = min(rows.length, most)
    return Rows(rows.count, length, round(rows.scored * length / max(1, rows.length)))


def _length(row: Any) -> int:
    """Return about how long an example's rows are, to find the longest examples."""
    if isinstance(row, dict):
        return len(row["input_ids"])
    parts = [getattr(row, name, None) for name in ("base", "standard", "judge", "completion", "target")]
    return sum(len(part) for part in parts if part is not None)


def _sizes_of(model: Any, quantised: bool) -> ModelSizes:
    """Measure a model that is loaded. One with quantised weights is built again without memory, since they are packed.

    Weights that are sharded count whole.
    """
    if not quantised:
        return measured(model, str(model.config.name_or_path))
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config = copy.deepcopy(base.config)
    del config.quantization_config
    with torch.device("meta"):
        built: Any = AutoModelForCausalLM.from_config(config, dtype=base.dtype, trust_remote_code=False)
        if isinstance(model, PeftModel):
            adapter = copy.deepcopy(model.peft_config[model.active_adapter])
            adapter.base_model_name_or_path = None  # PEFT would warn of any other path
            built = get_peft_model(built, adapter)
    return measured(built, str(config.name_or_path))


def _room(device: torch.device) -> str | None:
    """Return how much memory the device has, in words; None if it is not known."""
    if device.type == "cuda" and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(device)
        ours = torch.cuda.memory_reserved(device)
        beside = max(0, total - free - ours)
        return f"the GPU has {_gib(total)}, of which {_gib(beside)} are used outside of this training's tensors"
    if device.type != "cpu":
        return None
    import psutil  # type: ignore[import-untyped]  # accelerate needs it, so it is there

    memory = psutil.virtual_memory()
    return f"this machine has {_gib(memory.total)}, of which {_gib(memory.available)} are free"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
