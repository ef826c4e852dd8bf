"""Load a model by name, with a new LoRA adapter or a saved one."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

from nlft.config import closest
from nlft.core.conditions import end_of_turn_id
from nlft.core.heads import DEFAULT_CHUNK_BYTES
from nlft.core.logprobs import enable_scoring
from nlft.errors import UserError
from nlft.models.adapters import lora, target_names
from nlft.models.machine import fast_dtype
from nlft.models.named import NamedModel
from nlft.models.own_tokenizer import own_tokenizer
from nlft.models.quantising import (
    check_own_quantization,
    check_quantization,
    freeze_quantised,
    quantization_config,
    quantization_record,
)
from nlft.models.saved_adapters import add_adapter, check_layer_names
from nlft.models.trained_on import note_other_base
from nlft.models.weights_check import check_loaded, loaded


@dataclass
class ModelSettings(NamedModel):
    """A model to load here: `dtype` is chosen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dtype = self.dtype or fast_dtype()


def load_tokenizer(settings: NamedModel) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer, or the one of `settings.adapter` if it differs, with a padding token."""
    tokenizer: PreTrainedTokenizerBase = _from_pretrained(AutoTokenizer, settings)
    if settings.adapter:
        tokenizer = own_tokenizer(settings.adapter, tokenizer, str(settings.model_name_or_path)) or tokenizer
    if tokenizer.pad_token_id is None:
        end = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer))
        tokenizer.pad_token = end
    return tokenizer


def load_model(settings: NamedModel, *, trainable: bool) -> PreTrainedModel | PeftModel:
    """Load the base model, with `settings.adapter` on it if there is one.

    Args:
        trainable: whether training continues with that adapter.

    Raises:
        UserError: there is no such model or adapter, or it cannot be quantised here.
    """
    check_quantization(settings, trainable=trainable)
    check_attention(settings.attn_implementation)
    quantization = quantization_config(settings)
    # bitsandbytes quantises while it loads to the GPU, so the process's own GPU must be named here.
    place = {"": PartialState().local_process_index} if torch.cuda.is_available() else None
    options: dict[str, Any] = {"quantization_config": quantization, "device_map": place} if quantization else {}
    config = own_config(settings)
    if config is not None:
        check_own_quantization(config, settings, trainable=trainable)
        if quantization_record(config) is not None:
            options.pop("quantization_config", None)  # the files' own is followed; transformers would warn of a second
        elif getattr(config, "quantization_config", None) is not None:
            del config.quantization_config  # empty: transformers would look for a method in it
            options["config"] = config
    model, info = _from_pretrained(
        AutoModelForCausalLM,
        settings,
        dtype=settings.dtype or fast_dtype(),
        attn_implementation=settings.attn_implementation,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `check_loaded` refuses them, and names both sizes
        **options,
    )
    check_loaded(model, info, f"--model_name_or_path {settings.model_name_or_path}")
    if quantization and trainable:
        freeze_quantised(model)
    if not settings.adapter:
        return model
    # First, since the adapter of another base may not fit.
    name = model.config._name_or_path
    other = note_other_base(settings.adapter, name, getattr(model.config, "_commit_hash", None))
    adapted = add_adapter(model, settings.adapter, trainable=trainable)
    if other and trainable:  # what is trained from here on belongs to this base
        own = adapted.peft_config["default"]
        own.base_model_name_or_path, own.revision = name, settings.model_revision
    return adapted


def own_config(settings: NamedModel) -> Any:
    """Return the model's configuration; None if it cannot be read. Then the loader says what is wrong."""
    name, revision = str(settings.model_name_or_path), settings.model_revision
    with suppress(Exception):
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    return None


def check_attention(name: str | None) -> None:
    """Refuse the name of an attention that transformers does not have. A kernel of the hub, `owner/name`, passes.

    Args:
        name: value of `--attn_implementation`.

    Raises:
        UserError: names those that it has.
    """
    known = ["eager", *(one for one in sorted(ALL_ATTENTION_FUNCTIONS.valid_keys()) if not one.startswith("paged|"))]
    if name is None or name in known or "/" in name:
        return
    near = closest(name, known)
    cure = f"Did you mean {near}?" if near else f"Choose one of {', '.join(known)}."
    raise UserError(
        f"--attn_implementation {name}: transformers has no such attention for a model's own pass.\n  {cure}"
    )


def lora_config(settings: ModelSettings, model: PreTrainedModel) -> LoraConfig:
    """Make a new adapter's configuration from the settings. The default layers are the MLP's.

    Raises:
        UserError: the model has no layer of a given name, the default layers were not found, or a setting does not
            work on them.
    """
    check_layer_names(model, "--lora_target_modules", target_names(settings.lora_target_modules))
    check_layer_names(model, "--lora_modules_to_save", settings.lora_modules_to_save)
    check_layer_names(model, "--lora_target_parameters", settings.lora_target_parameters, parameters=True)
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


def wrap_to_score(
    model: PreTrainedModel | PeftModel,
    peft_config: PeftConfig | None,
    *,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    checkpoints: bool,
) -> PreTrainedModel | PeftModel:
    """Add a new adapter, and the scoring forward of `core.logprobs`, for a training.

    Args:
        peft_config, chunk_bytes: see `wrap` and `enable_scoring`.
        checkpoints: whether the training recomputes activations in backward.

    Raises:
        UserError: the model already has an adapter, or its adapter cannot be scored.
    """
    wrapped = wrap(model, peft_config)
    enable_scoring(wrapped, chunk_bytes)
    if checkpoints and isinstance(wrapped, PeftModel):
        # Trainer should do this, but does not: https://github.com/huggingface/transformers/issues/42489
        wrapped.enable_input_require_grads()
    return wrapped


def _from_pretrained(cls: Any, settings: NamedModel, **options: Any) -> Any:
    name = settings.model_name_or_path
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # the bar's carriage returns would fill a log file
    # Without `trust_remote_code`, transformers would ask at the terminal whether to run a model's own code.
    options |= {"revision": settings.model_revision, "trust_remote_code": False}
    cure = "Give a folder with config.json and safetensors weights, or a hub name."
    flag, weights = f"--model_name_or_path {name}", cls is AutoModelForCausalLM
    return loaded(lambda: cls.from_pretrained(name, **options), flag, Path(str(name)), cure, weights=weights)
