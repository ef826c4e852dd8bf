"""Make the trainer for the commands, with model, adapter and tokenizer from the settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlft.data.old_feedback import feedback_note
from nlft.data.records import Example, marked_spans, quotes_of
from nlft.models.adapters import adapted
from nlft.models.loading import ModelSettings, load_model, load_tokenizer, lora_config
from nlft.progress import note
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
    """Make the trainer of `nlft train` and `nlft replay`. Its record has everything that a replay needs.

    Args:
        file: the file of the examples.
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
    note_adapter(trainer.model)
    for line in summary_lines(trainer.examples, args.answer_weight):
        note(line)
    return trainer


def note_adapter(model: Any) -> None:
    """Print which layers the model's adapter adapts, if it has one, and their share of the weights."""
    found = adapted(model)
    if found:
        note(found.line())


def summary_lines(examples: Sequence[Example], answer_weight: float) -> list[str]:
    """Return what a user should know about the examples before they are trained on, one line for each thing."""
    plain = sum(e.answer is None and e.feedback is None for e in examples)
    silent = sum(e.answer is None and e.revision is None for e in examples)
    remarks = [
        spans_line(examples),
        plain
        and f"{plain} of {len(examples)} examples have neither answer nor feedback: the standard condition shows "
        "them the plain prompt",
        answer_weight > 0
        and silent
        and f"{silent} of {len(examples)} examples have no answer or revision for --answer_weight to train",
        feedback_note(examples),
    ]
    return [line for line in remarks if line]


def spans_line(examples: Sequence[Example]) -> str:
    """Count the marked spans, and the quotes that mark nothing. Return an empty text if there are neither."""
    marked = [count for e in examples if (count := len(marked_spans(e)))]
    lost = sum(len(quotes_of(e).missing) for e in examples)
    if not marked and not lost:
        return ""
    line = f"spans: {sum(marked)} in {len(marked)} of {len(examples)} examples"
    return f"{line}; {lost} quotes are not in their completion (nlft audit lists them)" if lost else line


def adds_adapter(settings: ModelSettings) -> bool:
    """Whether training adds a new adapter. Otherwise it continues with a saved adapter, or trains all weights."""
    return bool(settings.use_peft) and not settings.adapter
