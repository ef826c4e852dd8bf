"""The trainer as the commands start it: model, adapter and tokenizer by their settings."""

from pathlib import Path
from typing import Any

from nlft.models.loading import ModelSettings, load_model, load_tokenizer, lora_config
from nlft.training.run_record import add_command
from nlft.training.trainer import NLFTConfig, NLFTTrainer


def nlft_trainer(
    model_settings: ModelSettings,
    args: NLFTConfig,
    examples: list[Any],
    saliency: Any,
    file: Path,
    held_out: list[Any] | None = None,
) -> NLFTTrainer:
    """The trainer of `nlft train` and of `nlft replay`; its record has what a replay needs.

    Args:
        file: where the examples come from.
        held_out: examples to evaluate on.
    """
    model = load_model(model_settings, trainable=True)
    trainer = NLFTTrainer(
        model,
        args=args,
        train_dataset=examples,
        eval_dataset=held_out,
        processing_class=load_tokenizer(model_settings),
        peft_config=lora_config(model_settings, model) if adds_adapter(model_settings) else None,
        saliency=saliency,
    )
    add_command(trainer.record, model_settings, file)
    return trainer


def adds_adapter(settings: ModelSettings) -> bool:
    """Whether training adds a new adapter, rather than going on with one or training all weights."""
    return bool(settings.use_peft) and not settings.adapter
