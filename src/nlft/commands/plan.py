"""Run `nlft plan`: memory, tokens, time and cards of a training, from the model's config alone."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from nlft.commands.checks import examples_to_train
from nlft.commands.json_output import json_flag, printing_json
from nlft.commands.next_steps import note_train, with_flags
from nlft.commands.parsing import Command
from nlft.errors import UserError
from nlft.sources.settings import ReadingSettings

_TRAINING = ("per_device_train_batch_size", "max_length", "activation_checkpointing", "answer_weight", "scheme")
_LENGTH = ("num_train_epochs", "max_steps", "gradient_accumulation_steps")
_MODEL = ("dtype", "load_in_4bit", "use_peft", "lora_r", "lora_target_modules")


def plan(argv: Sequence[str]) -> None:
    """Run `nlft plan`."""
    from nlft.planning.settings import PlannedModelOptions, PlanSettings
    from nlft.training.settings import NLFTOptions, SchemeSettings

    def add(parser: ArgumentParser) -> None:
        parser.add_argument(
            "model", action=_Model, help="the model: a folder with config.json, or a hub name. No weights are loaded"
        )
        parser.add_argument("file", type=Path, nargs="?", help="examples to train on, for tokens and time")
        json_flag(parser)

    command = Command(
        "nlft plan",
        "Say what a training needs before anything is rented: memory part by part, tokens, time, and what fits on "
        "which card. All settings of `nlft train` count.",
        [PlannedModelOptions, NLFTOptions, SchemeSettings, PlanSettings, ReadingSettings],
        [("Plan", PlanSettings), ("Training", [*_TRAINING, *_LENGTH]), ("Model and adapter", _MODEL)],
        _classes,
        add,
        scheme="nlft",
    )
    model_settings, args, chosen, settings, read, saliency, other = command.parse(_with_model(argv))
    from nlft.core.schemes.registry import get_scheme
    from nlft.planning.plan import make_plan

    examples = examples_to_train(other.file, read.reading()) if other.file else None
    with printing_json(other.json) as document:
        made = make_plan(model_settings, args, get_scheme(chosen.scheme), saliency, settings, examples)
        print("\n".join(made.lines()))
        document.update(made.json())
        if other.file:
            note_train(other.file, model_settings.model_name_or_path, *_training_words(argv, other.model, other.file))


class _Model(Action):
    """Gives the model's name to the settings, too."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: object, option: str | None = None) -> None:
        namespace.model = namespace.model_name_or_path = values


def _training_words(argv: Sequence[str], model: str, file: Path) -> list[str]:
    """Return the words of a plan that are flags of the training, without those that only the plan has."""
    from nlft.planning.settings import PlanSettings

    words = list(argv)
    words.remove(model)
    flags = [word for word in words if word != "--json" and Path(word) != file]
    return with_flags(flags, **dict.fromkeys([*(field.name for field in fields(PlanSettings)), "output_dir"]))


def _with_model(argv: Sequence[str]) -> list[str]:
    """Give the model's name to the settings at once if it comes first: then it is checked before torch is imported.

    Raises:
        UserError: the model is named as in other commands.
    """
    if any(word.replace("-", "_").startswith("__model_name_or_path") for word in argv):
        raise UserError("nlft plan takes the model without a flag.\n  Type: nlft plan MODEL [FILE]")
    named = bool(argv) and not argv[0].startswith("-")
    return [*argv, "--model_name_or_path", argv[0]] if named else list(argv)


def _classes() -> list[type]:
    from dataclasses import dataclass

    from nlft.models.loading import ModelSettings
    from nlft.planning.planned import PlannedConfig
    from nlft.planning.settings import PlannedModelOptions, PlanSettings
    from nlft.training.settings import SchemeSettings

    @dataclass
    class PlannedModel(PlannedModelOptions, ModelSettings):
        pass

    return [PlannedModel, PlannedConfig, SchemeSettings, PlanSettings, ReadingSettings]
