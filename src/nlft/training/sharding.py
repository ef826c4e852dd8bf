"""A model that FSDP2 shards over the processes: start it, refuse what would not work, save it whole, load it again.

FSDP2's weights, gradients and optimizer states are DTensors: each process has a part. A checkpoint has the whole
tensors, in the files and under the names of a training without shards.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer

from nlft.errors import NLFTError, UserError, display_path
from nlft.launch import refuse_wrong_start

FSDP2_FROM = "2.11"
"""The lowest version of torch whose FSDP2 gathers the head's weights when its logits are computed again in backward."""

FSDP = "ACCELERATE_USE_FSDP"  # `accelerate launch` sets it


def check_start(args: Any) -> None:
    """Refuse processes that do not train together, several GPUs in one process, and sharding that would not work.

    Args:
        args: the settings of a training.

    Raises:
        UserError: says what to type.
    """
    refuse_wrong_start(args.method, args.world_size, args.n_gpu, use_cpu=bool(args.use_cpu))
    plugin = _plugin(args)
    if plugin is None:
        return
    if torch.__version__ < FSDP2_FROM:
        raise UserError(
            f"nlft needs torch {FSDP2_FROM} or newer for FSDP2, and this is {torch.__version__}.\n"
            "  Install a newer torch, or leave out FSDP."
        )
    if plugin.fsdp_version != 2:
        raise UserError(
            f"fsdp_version is {plugin.fsdp_version}, but nlft's forward does not run under FSDP1.\n"
            "  Set fsdp_version: 2, as in examples/accelerate/fsdp2.yaml."
        )
    if args.world_size == 1:
        raise UserError(
            "FSDP is on, but this process trains alone, so nothing would be sharded.\n"
            "  Start several processes (examples/accelerate/fsdp2.yaml), or leave out FSDP."
        )
    if plugin.activation_checkpointing and args.activation_checkpointing:
        raise UserError(
            "fsdp_activation_checkpointing is true, and so is --activation_checkpointing: activations would be "
            "recomputed twice.\n  Set fsdp_activation_checkpointing: false, or --activation_checkpointing false."
        )


def refuse_no_batch(args: Any, rows: Any) -> None:
    """Refuse to drop the only batch.

    Args:
        args: the settings of a training.
        rows: the rows to train on.

    Raises:
        UserError: says how many rows the batch has and needs.
    """
    needed = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and hasattr(rows, "__len__") and len(rows) < needed:
        raise UserError(
            f"the only batch has {len(rows)} of {needed} rows, and --dataloader_drop_last drops it. Nothing would be "
            "trained.\n  Leave out --dataloader_drop_last, or lower --per_device_train_batch_size."
        )


def refuse_collateral(trainer: Any) -> None:
    """Refuse to measure collateral after the training if the first process will not have the whole model.

    Raises:
        UserError: names what to run instead.
    """
    if is_sharded(trainer) or trainer.is_deepspeed_enabled:
        raise UserError(
            "--collateral measures in the first process, but the model is spread over all of them.\n"
            "  Leave it out. Afterwards, in one process:\n"
            "  nlft evaluate QUESTIONS --model_name_or_path BASE --adapter RUN --collateral"
        )


def is_sharded(trainer: Any) -> bool:
    """Return whether FSDP2 shards the model of a trainer."""
    return bool(trainer.is_fsdp_enabled)


class ShardsModel(Trainer):  # type: ignore[misc]
    """Mixin for a Trainer whose model FSDP2 may shard through accelerate."""

    is_fsdp_enabled: bool  # set by Trainer

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator. On CPUs it ignores FSDP without a word, and would copy the model; turn FSDP2 on."""
        check_start(self.args)
        super().create_accelerator_and_postprocess()
        plugin = _plugin(self.args)
        if plugin is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        from accelerate.utils import DistributedType

        state = self.accelerator.state
        if state.distributed_type != DistributedType.MULTI_CPU:
            raise NLFTError(f"accelerate does not shard a model over processes of the kind {state.distributed_type}.")
        if state.mixed_precision != "no":
            plugin.set_mixed_precision(state.mixed_precision)
        state.fsdp_plugin = plugin
        state.distributed_type = type(self.accelerator.state)._shared_state["distributed_type"] = DistributedType.FSDP
        self.is_fsdp_enabled = True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model. Under FSDP2, gather the adapter or, without one, the whole model; all processes call this."""
        if is_sharded(self):
            self._save(output_dir, state_dict=whole_weights(self.model))
        else:
            super().save_model(output_dir, _internal_call=_internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if is_sharded(self):
            load_weights(self.model if model is None else model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if is_sharded(self):
            load_weights(self.model, Path(str(self.state.best_model_checkpoint)))
        else:
            super()._load_best_model()


def whole(value: Any) -> Any:
    """Gather a sharded tensor on the CPU. All processes call this. Return other values as they are."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, if `like` is sharded. Each process has the whole tensor."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    local = value.to(like.to_local().device)
    # Without a source rank nothing is sent: each process takes its part of its own copy.
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)


def whole_weights(model: Any) -> dict[str, Tensor]:
    """Gather the weights that `save_pretrained` writes: an adapter's, or all. All processes call this."""
    found: dict[str, Tensor] = model.state_dict()
    if isinstance(model, PeftModel):
        kept = {id(weight) for weight in get_peft_model_state_dict(model, state_dict=found).values()}
        found = {name: weight for name, weight in found.items() if id(weight) in kept}
    return {name: whole(weight) for name, weight in found.items()}


def load_weights(model: Any, folder: Path) -> None:
    """Load the weights that training changes from a checkpoint into a sharded model. Each process reads the files.

    Raises:
        NLFTError: a weight is missing.
    """
    read = _readers(folder)
    names = _saved_names(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            name = name.replace("._checkpoint_wrapped_module", "")  # fsdp_activation_checkpointing
            saved = names.get(name, name)
            if saved not in read:
                raise NLFTError(f"{display_path(folder)} has no weight {saved}.\n  Resume from another checkpoint.")
            part = sharded_like(read[saved](), weight)
            weight.copy_(part)


def _saved_names(model: Any) -> dict[str, str]:
    """Return the name that each of an adapter's weights has in its file. PEFT leaves the adapter's name out."""
    if not isinstance(model, PeftModel):
        return {}
    weights = model.state_dict()
    by_weight = {id(weight): name for name, weight in weights.items()}
    return {by_weight[id(w)]: saved for saved, w in get_peft_model_state_dict(model, state_dict=weights).items()}


def _readers(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Return for each tensor of a folder's weights a function that reads it."""
    found: dict[str, Callable[[], Tensor]] = {}
    for path in [*folder.glob("adapter_model.safetensors"), *folder.glob("model*.safetensors")]:
        file = safe_open(path, framework="pt")
        for name in file.keys():  # noqa: SIM118 - a file is no dict
            found[name] = partial(file.get_tensor, name)
    return found


def _plugin(args: Any) -> Any:
    """Return accelerate's settings of FSDP, from --fsdp or from `accelerate launch`; None if neither asks for it."""
    asked = os.environ.get(FSDP, "false").lower() in ("true", "1")
    if args.fsdp_plugin_args is None and not asked:
        return None
    from accelerate.utils import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
