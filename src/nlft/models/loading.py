"""Load a model by name, with a new LoRA adapter or a saved one."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from trl import ModelConfig, get_quantization_config

from nlft.errors import UserError
from nlft.models.adapters import lora
from nlft.models.settings import ModelOptions


@dataclass
class ModelSettings(ModelOptions, ModelConfig):  # type: ignore[misc]
    """TRL's model settings, with the paper's LoRA as the default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dtype = self.dtype or fast_dtype()
        if not self.model_name_or_path:
            raise UserError("--model_name_or_path is missing.\n  Give a folder or a hub name.")


def fast_dtype() -> str:
    """Return "bfloat16" if this machine computes in it, else "float32".

    Processors without bfloat16 instructions only imitate it. Training SmolLM2 in it took 27 times as long as in float32
    on such a processor (AMD EPYC with AVX2).
    """
    if torch.cuda.is_available():
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
    elif torch.accelerator.is_available():
        computes = True
    else:
        computes = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if computes else "float32"


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer, with a padding token."""
    tokenizer = _from_pretrained(AutoTokenizer, settings)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(settings: ModelSettings, *, trainable: bool) -> PreTrainedModel | PeftModel:
    """Load the base model, with `settings.adapter` on it if there is one.

    Args:
        trainable: whether training continues with that adapter.

    Raises:
        UserError: there is no such model or adapter.
    """
    quantization = get_quantization_config(settings)
    # bitsandbytes quantises while it loads to the GPU, so the process's own GPU must be named here.
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
    """Put a saved PEFT adapter on the model. Accept only safetensors, because other formats are pickles.

    Raises:
        UserError: there is no such adapter, or it does not fit the model.
    """
    path = adapter_folder(adapter)
    try:
        return PeftModel.from_pretrained(model, path, is_trainable=trainable, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load a PEFT adapter from --adapter {adapter}: {_first_line(error)}\n"
            "  Give a folder with adapter_config.json and adapter_model.safetensors, a run directory, or a hub name."
        ) from error


def adapter_folder(adapter: str) -> str:
    """Return the adapter's folder or hub name. For a run directory, return the adapter's folder inside it."""
    inside = Path(adapter) / "adapter"
    return str(inside) if inside.is_dir() else adapter


def adapter_fingerprint(adapter: str | None) -> dict[str, str] | None:
    """Identify an adapter by its name and, if it is on this machine, by the SHA-256 of its weights."""
    if adapter is None:
        return None
    weights = Path(adapter_folder(adapter)) / "adapter_model.safetensors"
    fingerprint = {"name": adapter}
    if weights.is_file():
        fingerprint["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return fingerprint


def weights_fingerprint(name: str, commit: str | None) -> str | None:
    """Identify the weights that a model's name stands for today.

    Args:
        name: a folder or a hub name.
        commit: the hub's commit, if the model came from the hub.

    Returns:
        For a folder, a SHA-256 over samples of its safetensors files; else the commit.
    """
    files = sorted(Path(name).glob("*.safetensors"))
    if not files:
        return commit
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            # Training changes every weight of a matrix, so samples suffice. Reading 100 GB would take minutes.
            for block in range(256):
                file.seek(size * block // 256)
                digest.update(file.read(4096))
    return digest.hexdigest()


def lora_config(settings: ModelSettings, model: PreTrainedModel) -> LoraConfig:
    """Make a new adapter's configuration from the settings. The default layers are the MLP's.

    Raises:
        UserError: the default layers were not found, or a setting does not work on them.
    """
    return lora(
        model,
        settings,
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        modules_to_save=settings.lora_modules_to_save,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
    )


def default_lora(model: PreTrainedModel) -> LoraConfig:
    """Make the configuration of the paper's adapter: r = alpha = 16 on the MLP's projections.

    Raises:
        UserError: no layers to adapt were found.
    """
    return lora(model, r=16, lora_alpha=16, lora_dropout=0.0)


def wrap(model: PreTrainedModel | PeftModel, peft_config: PeftConfig | None) -> PreTrainedModel | PeftModel:
    """Add a new adapter with float32 weights, whatever the base model's data type is.

    Args:
        peft_config: the adapter's configuration; None adds no adapter.

    Raises:
        UserError: the model already has an adapter.
    """
    if peft_config is None:
        return model
    if isinstance(model, PeftModel):
        raise UserError(
            "the model already has an adapter.\n  Leave out `peft_config` to continue training that adapter."
        )
    return get_peft_model(model, peft_config)


def _from_pretrained(cls: Any, settings: ModelSettings, **options: Any) -> Any:
    name = settings.model_name_or_path
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # the bar's carriage returns would fill a log file
    try:
        return cls.from_pretrained(name, revision=settings.model_revision, **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load --model_name_or_path {name}: {_first_line(error)}\n"
            "  Give a folder with config.json and safetensors weights, or a hub name."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
