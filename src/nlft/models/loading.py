"""The model to train: loaded by name, with a fresh LoRA adapter or one to go on from."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging
from trl import ModelConfig, get_quantization_config

from nlft.errors import UserError
from nlft.models.settings import ModelOptions

# What the paper's code adapts; models that name their MLP otherwise (GPT-2) get every linear layer.
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass
class ModelSettings(ModelOptions, ModelConfig):  # type: ignore[misc]
    """TRL's model settings, with the paper's LoRA as the default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model_name_or_path:
            raise UserError("--model_name_or_path is missing.\n  Give a folder or a hub name.")


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token."""
    tokenizer = _from_pretrained(AutoTokenizer, settings)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(settings: ModelSettings, *, trainable: bool) -> PreTrainedModel | PeftModel:
    """The base model, with `settings.adapter` on it if there is one.

    Args:
        trainable: whether that adapter goes on being trained.

    Raises:
        UserError: there is no such model or adapter.
    """
    quantization = get_quantization_config(settings)
    # bitsandbytes quantises on the way to the GPU, so the process's own GPU is named here.
    place = {"": PartialState().local_process_index} if torch.cuda.is_available() else None
    options: dict[str, Any] = {"quantization_config": quantization, "device_map": place}
    model = _from_pretrained(
        AutoModelForCausalLM,
        settings,
        dtype=settings.dtype,
        attn_implementation=settings.attn_implementation,
        use_safetensors=True,
        **(options if quantization else {}),
    )
    if quantization and trainable:
        model = prepare_model_for_kbit_training(model)
    return add_adapter(model, settings.adapter, trainable=trainable) if settings.adapter else model


def add_adapter(model: PreTrainedModel, adapter: str, *, trainable: bool) -> PeftModel:
    """Put a saved PEFT adapter on the model; safetensors only, since anything else is a pickle."""
    path = adapter_folder(adapter)
    try:
        return PeftModel.from_pretrained(model, path, is_trainable=trainable, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--adapter {adapter}: no PEFT adapter can be loaded from there: {_first_line(error)}\n"
            "  Give a folder with adapter_config.json and adapter_model.safetensors, a run directory, or a hub name."
        ) from error


def adapter_folder(adapter: str) -> str:
    """A run directory's adapter where a run directory is given."""
    inside = Path(adapter) / "adapter"
    return str(inside) if inside.is_dir() else adapter


def adapter_fingerprint(adapter: str | None) -> dict[str, str] | None:
    """Which adapter, by name and, where it lies on this machine, by the SHA-256 of its weights."""
    if adapter is None:
        return None
    weights = Path(adapter_folder(adapter)) / "adapter_model.safetensors"
    found = {"name": adapter}
    if weights.is_file():
        found["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return found


def lora_config(settings: ModelSettings, model: PreTrainedModel) -> LoraConfig:
    """A new adapter's shape from the settings; the paper's layers unless others are named."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_only(settings.lora_target_modules) or default_targets(model),
        target_parameters=settings.lora_target_parameters,
        modules_to_save=settings.lora_modules_to_save,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        fan_in_fan_out=_transposed(model),
        task_type="CAUSAL_LM",
    )


def default_lora(model: PreTrainedModel) -> LoraConfig:
    """The paper's adapter: r = alpha = 16 on the MLP's projections."""
    return LoraConfig(
        r=16,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=default_targets(model),
        fan_in_fan_out=_transposed(model),
        task_type="CAUSAL_LM",
    )


def default_targets(model: PreTrainedModel) -> list[str] | str:
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    found = [name for name in MLP_PROJECTIONS if name in names]
    return found or "all-linear"


def _transposed(model: PreTrainedModel) -> bool:
    """Whether the model keeps its weights as GPT-2 does."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def wrap(model: PreTrainedModel | PeftModel, peft_config: PeftConfig | None) -> PreTrainedModel | PeftModel:
    """Add a new adapter, its weights in float32 whatever the base is in; None leaves the model as it is.

    Raises:
        UserError: the model has an adapter already.
    """
    if peft_config is None:
        return model
    if isinstance(model, PeftModel):
        raise UserError("the model has an adapter already.\n  Leave `peft_config` out to go on training it.")
    return get_peft_model(model, peft_config)


def _from_pretrained(cls: Any, settings: ModelSettings, **options: Any) -> Any:
    name = settings.model_name_or_path
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # its carriage returns would pile up in a log file
    try:
        return cls.from_pretrained(name, revision=settings.model_revision, **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model_name_or_path {name}: cannot be loaded: {_first_line(error)}\n"
            "  Give a folder with config.json and safetensors weights, or a hub name."
        ) from error


def _only(names: Any) -> Any:
    # TRL turns a one-element list into its element, since "all-linear" must be a string.
    return [names] if isinstance(names, str) and names != "all-linear" else names


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
