"""Run the commands that train: train, rounds, replay, and the baselines."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.checks import EarlyFile, examples_to_train
from nlft.commands.help import Section, rare_names
from nlft.commands.importing import early_reading
from nlft.commands.next_steps import note_next
from nlft.commands.parsing import Command, early_setting, plain_parser
from nlft.commands.stages import STARTS_WITH, claims_nothing, telling_kept
from nlft.commands.starting import (
    examples_and_run,
    file_argument,
    going_on,
    owning_output,
    refuse_input_folders,
    run_training,
    tell_end,
    training_arguments,
)
from nlft.core.prompts import SystemPromptSettings
from nlft.errors import NLFTError, UserError, display_path
from nlft.models.settings import MaxLengthSettings, ModelOptions
from nlft.outputs import refuse_inputs
from nlft.sources.settings import ReadAs, ReadingSettings, if_there, recorded_reading

if TYPE_CHECKING:
    from nlft.data.records import Example
    from nlft.runs.run_dir import RunDir


_SHOWN = ("system_prompt", "chat_template_kwargs")


def train(argv: Sequence[str]) -> None:
    """Run `nlft train`."""
    from nlft.results.settings import AfterTrainingSettings
    from nlft.training.honoured import refuse_idle_adapter
    from nlft.training.settings import EvalFileSettings, NLFTOptions, RulesSettings, SchemeSettings

    more = [SchemeSettings, EvalFileSettings, RulesSettings, AfterTrainingSettings, ReadingSettings]
    command = Command(
        "nlft train",
        "Train on examples with written feedback. --saliency.NAME sets a setting of the scheme.",
        [ModelOptions, NLFTOptions, *more],
        [*nlft_sections(EvalFileSettings, RulesSettings), ("Collateral", AfterTrainingSettings)],
        lambda: [*_nlft_classes(), *more],
        training_arguments,
        needs=["model_name_or_path"],
        scheme="nlft",
    )
    early = early_examples("nlft train", argv)
    found = command.parse(_evaluating(argv))
    model_settings, args, chosen, held_out_settings, ruled, beside, read, saliency, other = found
    refuse_idle_adapter(model_settings)
    if beside.collateral and not model_settings.use_peft:
        raise UserError(
            "--collateral with --use_peft false: there is no adapter to switch off.\n  Leave out one of them."
        )
    if ruled.rules:
        args.strike_words = _struck_words(ruled.rules, args.strike_words, chosen.scheme)
    from nlft.core.base_below import refuse_leak
    from nlft.training.sharding import refuse_collateral
    from nlft.training.start import nlft_trainer

    refuse_input_folders(args, other, model_settings, eval_file=held_out_settings.eval_file, rules=ruled.rules)
    held_out = _held_out(held_out_settings.eval_file, args, if_there(read.reading()))
    with owning_output(args):
        examples, run, checkpoint = examples_and_run(early.get(other.file), other, args)
        with claims_nothing(run.path):
            trainer = nlft_trainer(model_settings, args, examples, saliency, other.file, held_out)
            trainer.record["data"] |= read.recorded()
            trainer.record |= {"rules": str(Path(ruled.rules).resolve())} if ruled.rules else {}  # for `nlft chat`
            if beside.collateral:
                refuse_collateral(trainer)
                refuse_leak(trainer.model, "--collateral")  # before the training, and not after it
            run_training(trainer, run, checkpoint, command=going_on("nlft train", argv), other=other)
        tell_end(run, trainer)
        if beside.collateral:
            _measure_collateral(run, trainer, beside)


def early_examples(prog: str, argv: Sequence[str]) -> "EarlyFile[list[Example]]":
    """Read the command's examples before torch is imported, in the way that its flags and its --config say."""
    reading = early_reading(prog, [word.replace("--from-format", "--from_format") for word in argv])
    return EarlyFile(argv, lambda file: examples_to_train(file, reading))


def _measure_collateral(run: "RunDir", trainer: Any, settings: Any) -> None:
    """Measure in the first process what else the adapter changed, and print it."""
    from nlft.core.strikes import StrikePlan
    from nlft.results.beside import collateral_of_training, struck_ids
    from nlft.runs.model_card import write_card

    if not trainer.args.should_save:
        return
    plan = trainer.builder.plan
    lines = collateral_of_training(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class,
        trainer.examples,
        settings,
        run.collateral_path,
        struck=struck_ids(plan, trainer.builder.examples) if isinstance(plan, StrikePlan) else (),
        system_prompt=trainer.args.system_prompt,
        inputs=trainer.args.template_inputs(),
    )
    write_card(run)
    print("\n".join([*lines, f"collateral: {display_path(run.collateral_path)}"]))


def _struck_words(file: str, also: Sequence[str] | None, scheme: str) -> list[str]:
    """Return the words of a file of rules, and those of --strike_words.

    Raises:
        UserError: the scheme strikes no words.
    """
    from nlft.core.schemes.registry import get_scheme
    from nlft.data.rules_file import read_rules, words_of

    if not get_scheme(scheme).strikes:
        raise UserError(
            f"--rules {display_path(file)}: the scheme {scheme} strikes no words.\n"
            "  Add --scheme strike, or leave out --rules."
        )
    listed = words_of(read_rules(file))
    known = {word.casefold() for word in listed}
    return [*listed, *(word for word in also or () if word.casefold() not in known)]


def _evaluating(argv: Sequence[str]) -> list[str]:
    """Return the command's words with an evaluation after each epoch, if only the held-out examples are given.

    It is set before the settings are read, because transformers then compares it with those of the checkpoints.
    """
    file, strategy = (early_setting("nlft train", argv, name) for name in ("eval_file", "eval_strategy"))
    return [*argv, "--eval_strategy", "epoch"] if file is not None and strategy is None else list(argv)


def _held_out(file: str | None, args: Any, reading: ReadAs) -> list[Any] | None:
    """Read the examples to evaluate on. Evaluate after each epoch, unless --eval_strategy is set."""
    from transformers import IntervalStrategy

    from nlft.data.records import read_examples

    if file is None:
        if args.eval_strategy != "no":
            raise UserError(
                f"--eval_strategy {args.eval_strategy.value}: there is nothing to evaluate on.\n  Give --eval_file."
            )
        return None
    if args.eval_strategy == "no":
        args.eval_strategy = IntervalStrategy.EPOCH
    return read_examples(file, **reading)


def nlft_sections(*more: type) -> list[Section]:
    """Return the help's sections of a training with NLFT. The fields of `more` go under the first heading."""
    from nlft.training import settings as s

    method = [s.SchemeSettings, s.NLFTMethodSettings, SystemPromptSettings]
    return [
        ("NLFT", [name for cls in (*more, *method) for name in _shown(cls)]),
        ("Saliency map", s.WatchSettings),
        *training_sections(s.LearningSettings, s.OutputSettings, MaxLengthSettings),
    ]


def _shown(cls: type) -> list[str]:
    """Return the names of a class's settings that `--help` lists, in their order."""
    rare = rare_names(cls)
    return [f.name for f in fields(cls) if f.name not in rare]


def training_sections(*common: type) -> list[Section]:
    """Return the help's sections of every training: nlft's settings, the model, and common fields of transformers."""
    from nlft.training.settings import CommonSettings, TransformersSettings

    return [
        ("Training", [f.name for cls in (*common, CommonSettings) for f in fields(cls)]),
        ("Model and adapter", ModelOptions),
        ("Settings of transformers", TransformersSettings),
    ]


def _nlft_classes() -> list[type]:
    from nlft.models.loading import ModelSettings
    from nlft.training.trainer import NLFTConfig

    return [ModelSettings, NLFTConfig]


def rounds(argv: Sequence[str]) -> None:
    """Run `nlft rounds`."""
    from nlft.experiments.settings import RoundsSettings
    from nlft.training.settings import NLFTOptions, RulesSettings, SchemeSettings

    command = Command(
        "nlft rounds",
        "Train on the file, then on the trained model's own answers to the same questions, and so on, while accuracy "
        "on held-out questions rises.",
        [ModelOptions, NLFTOptions, RoundsSettings, SchemeSettings, RulesSettings],
        [
            ("Rounds", RoundsSettings),
            *nlft_sections(RulesSettings)[:-2],
            ("Model", ["model_name_or_path", "dtype", "lora_r"]),
        ],
        lambda: [*_nlft_classes(), RoundsSettings, SchemeSettings, RulesSettings],
        lambda parser: file_argument(parser, "examples, or questions with standard answers"),
        needs=["model_name_or_path"],
        scheme="nlft",
    )
    model_settings, args, settings, chosen, ruled, saliency, other = command.parse(argv)
    if ruled.rules:
        args.strike_words = _struck_words(ruled.rules, args.strike_words, chosen.scheme)
    if not model_settings.use_peft:
        raise UserError("--use_peft false: each round continues from an adapter.\n  Leave it out, or use `nlft train`.")
    from nlft.experiments.rounds import Rounds, plan_rounds
    from nlft.experiments.staged import model_fields

    plan = plan_rounds(settings, args, chosen.scheme, saliency)
    with claims_nothing(plan.output_dir, STARTS_WITH), telling_kept("nlft rounds", argv, plan.output_dir):
        print(Rounds(other.file, model_fields(model_settings), plan).run())
    note_next("nlft", "map", Path(plan.output_dir))


def replay(argv: Sequence[str]) -> None:
    """Run `nlft replay`."""
    parser = plain_parser("nlft replay", "Repeat a training run, with the changes that were made while it ran.")
    parser.add_argument("run", type=Path, help="a run directory of `nlft train`")
    parser.add_argument("--output_dir", type=Path, help="folder of the replay (default: RUN-replay)")
    parser.add_argument(
        "--anyway", action="store_true", help="continue even if versions, threads, device or data differ"
    )
    options = parser.parse_args(argv)

    from nlft.runs.reading import reading
    from nlft.runs.run_dir import RunDir
    from nlft.training.replay import recorded_settings

    source = RunDir.open(options.run)
    out = options.output_dir or source.path.resolve().with_name(f"{source.path.resolve().name}-replay")
    with reading(source.settings_path):
        model_settings, args, saliency, file = recorded_settings(source, out)
    refuse_inputs("--output_dir", out, {"RUN": options.run, "the training file": file})
    with owning_output(args):
        _replay(options, source, model_settings, args, saliency, file)


def _replay(options: Namespace, source: "RunDir", model_settings: Any, args: Any, saliency: Any, file: Path) -> None:
    """Train again what `recorded_settings` found, and compare the adapters."""
    from nlft.data.training_file import data_fingerprint
    from nlft.runs.reading import reading
    from nlft.training.pivots import use_pivots
    from nlft.training.replay import replay_differences
    from nlft.training.start import nlft_trainer

    read = examples_to_train(file, recorded_reading(source.settings()["data"]))
    examples, run, _ = examples_and_run(read, Namespace(file=file, overwrite=False), args)
    with reading(source.settings_path):
        found = replay_differences(source.settings(), data_fingerprint(examples), args.world_size)
    if found and not options.anyway:
        told = "\n".join(str(problem) for problem in found)
        raise UserError(f"a replay would not reach the same adapter:\n{told}\nTo train anyway, add --anyway.")
    for problem in found:
        print(f"differs: {problem.where} {problem.what}", file=sys.stderr)
    with claims_nothing(run.path):
        trainer = nlft_trainer(model_settings, args, examples, saliency, file)
    trainer.record["replay_of"] = str(source.path.resolve())
    trainer.steering.replay(source.controls())
    if "pivots" in source.settings():
        with reading(source.settings_path):
            use_pivots(trainer, source.settings()["pivots"])
    run_training(trainer, run, None)
    tell_end(run, trainer)
    if args.should_save:
        _tell_difference(source, run, options.anyway)


def _tell_difference(source: "RunDir", run: "RunDir", anyway: bool) -> None:
    """Print that a replay has the run's adapter, or fail."""
    from nlft.models.saved_adapters import WEIGHTS
    from nlft.training.replay import adapter_difference

    name = display_path(source.path)
    if not (source.adapter_path / WEIGHTS).is_file():
        print(f"{name} has no adapter to compare with")
        return
    count, unlike, largest = adapter_difference(source.adapter_path, run.adapter_path)
    if not unlike:
        print(f"the same adapter as that of {name}, bit for bit, in all {count} tensors")
        return
    told = f"{unlike} of the adapter's {count} tensors differ from those of {name}, by {largest:.3g} at most"
    if not anyway:
        raise NLFTError(
            f"{told}.\n  On a GPU this can happen, because some sums have no fixed order. "
            "If it happens on a CPU, please report it."
        )
    print(told)


def sft(argv: Sequence[str]) -> None:
    """Run `nlft sft`."""
    from nlft.data.export import TargetSettings
    from nlft.training.settings import EngineSettings, SFTOptions

    what = "Train on the answers or on completions, without feedback: supervised fine-tuning."
    own: list[Section] = [
        ("SFT", [*_names(TargetSettings), *_names(EngineSettings), *_SHOWN, *_names(MaxLengthSettings)])
    ]
    _baseline(argv, "sft", what, SFTOptions, own, "SFTSettings", "sft_trainer")


def reft(argv: Sequence[str]) -> None:
    """Run `nlft reft`."""
    from nlft.data.grading import ExtractionSettings
    from nlft.training.settings import ReFTOptions, WarmUpSettings

    what = "Warm up on the answers, then reinforce right ones, through TRL's GRPOTrainer."
    own: list[Section] = [("ReFT", [*_names(WarmUpSettings), "beta", *_names(ExtractionSettings), *_SHOWN])]
    _baseline(argv, "reft", what, ReFTOptions, own, "ReFTSettings", "ReFTBaseline")


def kto(argv: Sequence[str]) -> None:
    """Run `nlft kto`."""
    from nlft.training.settings import KTOOptions

    what = "Train on right and wrong completions, through TRL's KTOTrainer."
    own: list[Section] = [("KTO", [*_SHOWN, *_names(MaxLengthSettings)])]
    _baseline(argv, "kto", what, KTOOptions, own, "KTOSettings", "KTOBaseline")


def _names(cls: type) -> list[str]:
    return [f.name for f in fields(cls)]


def _baseline(
    argv: Sequence[str],
    name: str,
    description: str,
    options: type,
    own: Sequence[Section],
    settings: str,
    make: str,
) -> None:
    """Train one of the baselines on a file in NLFT's format.

    Args:
        options: the class of the method's settings that needs no torch.
        settings, make: names in the method's module, which is imported when the command runs. `make` is the trainer's
            class, or a function that makes the trainer.
    """
    from nlft.training.honoured import refuse_idle_adapter
    from nlft.training.settings import LearningSettings, OutputSettings

    def load() -> list[type]:
        from nlft.models.loading import ModelSettings

        return [ModelSettings, getattr(import_module(f"nlft.baselines.{name}"), settings), ReadingSettings]

    command = Command(
        f"nlft {name}",
        description,
        [ModelOptions, options, ReadingSettings],
        [*own, *training_sections(LearningSettings, OutputSettings)],
        load,
        training_arguments,
        needs=["model_name_or_path"],
    )
    early = early_examples(f"nlft {name}", argv)
    model_settings, args, read, other = command.parse(argv)
    refuse_idle_adapter(model_settings)
    from nlft.models.loading import load_model, load_tokenizer, lora_config
    from nlft.training.run_record import add_command
    from nlft.training.start import adds_adapter, note_adapter

    refuse_input_folders(args, other, model_settings)
    baseline = getattr(import_module(f"nlft.baselines.{name}"), make)
    with owning_output(args):
        examples, run, checkpoint = examples_and_run(early.get(other.file), other, args)
        model = load_model(model_settings, trainable=True)
        adapter = lora_config(model_settings, model) if adds_adapter(model_settings) else None
        with claims_nothing(run.path):
            trainer = baseline(model, args, examples, load_tokenizer(model_settings), adapter)
            note_adapter(trainer.model)
            add_command(trainer.record, model_settings, other.file)
            trainer.record["data"] |= read.recorded()
            run_training(trainer, run, checkpoint, command=going_on(f"nlft {name}", argv), other=other)
        tell_end(run, trainer)
