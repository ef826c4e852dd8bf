"""The commands that train: train, replay, and the baselines."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.config import plain_parser
from nlft.errors import NLFTError, UserError, display_path

if TYPE_CHECKING:
    from nlft.models.loading import ModelSettings


def train(argv: Sequence[str]) -> None:
    """`nlft train`."""
    from nlft.config import parse
    from nlft.core.schemes.registry import get_scheme, scheme_names, usable_schemes
    from nlft.experiments.settings import RoundsSettings
    from nlft.models.loading import ModelSettings
    from nlft.training.checkpoints import checkpoint_to_resume
    from nlft.training.start import nlft_trainer
    from nlft.training.trainer import NLFTConfig

    usable = usable_schemes()
    kinds = [scheme.settings for scheme in usable.values()]
    model_settings, args, rounds, *schemes, other = parse(
        "nlft train",
        "Train on examples with written feedback.",
        [ModelSettings, NLFTConfig, RoundsSettings, *kinds],
        argv,
        lambda parser: _training_arguments(parser, scheme_names()),
    )
    get_scheme(other.scheme)  # says why, if its package is broken
    saliency = _chosen_scheme(other.scheme, dict(zip(usable, schemes, strict=True)))
    rounds.check_unused()
    if rounds.rounds > 1:
        _train_rounds(model_settings, args, rounds, saliency, other)
        return
    held_out = _held_out(other.eval_file, args)
    examples, run = _examples_and_run(other, args)
    checkpoint = args.resume_from_checkpoint and checkpoint_to_resume(run, args.resume_from_checkpoint, args.world_size)
    trainer = nlft_trainer(model_settings, args, examples, saliency, other.file, held_out)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _done(run, trainer, trainer.watch_seconds)


def _held_out(file: Path | None, args: Any) -> list[Any] | None:
    """The examples to evaluate on: after each epoch, unless --eval_strategy says otherwise."""
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
    return read_examples(file)


def _train_rounds(model_settings: "ModelSettings", args: Any, settings: Any, saliency: Any, other: Namespace) -> None:
    """`nlft train --rounds`."""
    from nlft.experiments.rounds import Rounds, plan_rounds
    from nlft.experiments.staged import model_fields

    if other.eval_file:
        raise UserError("--eval_file: rounds hold out questions of the file.\n  Set --held_out_share instead.")
    if other.overwrite:
        raise UserError("--overwrite: not with --rounds.\n  Remove the folder, or choose another --output_dir.")
    if not model_settings.use_peft:
        raise UserError("--use_peft false: rounds go on from an adapter.\n  Leave it out, or train without --rounds.")
    plan = plan_rounds(settings, args, other.scheme, saliency)
    print(Rounds(other.file, model_fields(model_settings), plan).run())


def replay(argv: Sequence[str]) -> None:
    """`nlft replay`."""
    parser = plain_parser("nlft replay", "Train a run again, with what was changed while it trained.")
    parser.add_argument("run", type=Path, help="a run directory of `nlft train`")
    parser.add_argument("--output_dir", type=Path, help="where the replay goes (default: RUN-replay)")
    parser.add_argument("--anyway", action="store_true", help="go on though versions, threads, device or data differ")
    options = parser.parse_args(argv)

    from nlft.runs.run_dir import RunDir
    from nlft.training.replay import differences, recorded_settings
    from nlft.training.run_record import data_fingerprint
    from nlft.training.start import nlft_trainer

    source = RunDir.open(options.run)
    out = options.output_dir or source.path.with_name(f"{source.path.resolve().name}-replay")
    model_settings, args, saliency, file = recorded_settings(source, out)
    examples, run = _examples_and_run(Namespace(file=file, overwrite=False), args)
    found = differences(source.settings(), data_fingerprint(examples), args.world_size)
    if found and not options.anyway:
        told = "\n".join(str(problem) for problem in found)
        raise UserError(f"a replay would not reach the same adapter:\n{told}\nOr train it all the same, with --anyway.")
    for problem in found:
        print(f"differs: {problem.where} {problem.what}", file=sys.stderr)
    trainer = nlft_trainer(model_settings, args, examples, saliency, file)
    trainer.record["replay_of"] = str(source.path.resolve())
    trainer.steering.replay(source.controls())
    trainer.train()
    _done(run, trainer, trainer.watch_seconds)
    if args.should_save:
        _tell_difference(source, run, options.anyway)


def _tell_difference(source: Any, run: Any, anyway: bool) -> None:
    """Print that a replay has the run's adapter, or fail."""
    from nlft.training.replay import WEIGHTS, adapter_difference

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
        raise NLFTError(f"{told}.\n  On a GPU some sums have no fixed order; on CPUs please report it.")
    print(told)


def sft(argv: Sequence[str]) -> None:
    """`nlft sft`."""
    from nlft.training.sft import SFTBaseline, SFTSettings

    _baseline(argv, "sft", "Train a supervised baseline, through TRL's SFTTrainer.", SFTSettings, SFTBaseline)


def reft(argv: Sequence[str]) -> None:
    """`nlft reft`."""
    from nlft.training.reft import ReFTBaseline, ReFTSettings

    what = "Warm up on the answers, then reinforce right ones, through TRL's GRPOTrainer."
    _baseline(argv, "reft", what, ReFTSettings, ReFTBaseline)


def kto(argv: Sequence[str]) -> None:
    """`nlft kto`."""
    from nlft.training.kto import KTOBaseline, KTOSettings

    _baseline(argv, "kto", "Train on right and wrong completions, through TRL's KTOTrainer.", KTOSettings, KTOBaseline)


def _baseline(argv: Sequence[str], name: str, description: str, settings: type[Any], baseline: Any) -> None:
    """Train one of the baselines on the same file that NLFT takes."""
    from nlft.config import parse
    from nlft.models.loading import ModelSettings, load_model, load_tokenizer, lora_config
    from nlft.training.checkpoints import checkpoint_to_resume
    from nlft.training.start import adds_adapter

    model_settings, args, other = parse(
        f"nlft {name}",
        description,
        [ModelSettings, settings],
        argv,
        lambda parser: _training_arguments(parser, None),
    )
    examples, run = _examples_and_run(other, args)
    checkpoint = args.resume_from_checkpoint and checkpoint_to_resume(run, args.resume_from_checkpoint, args.world_size)
    model = load_model(model_settings, trainable=True)
    adapter = lora_config(model_settings, model) if adds_adapter(model_settings) else None
    trainer = baseline(model, args, examples, load_tokenizer(model_settings), adapter)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _done(run, trainer, None)


def _training_arguments(parser: ArgumentParser, schemes: list[str] | None) -> None:
    parser.add_argument("file", type=Path, help="examples: .jsonl, .json, or the original project's records")
    parser.add_argument("--overwrite", action="store_true", help="train anew over a run that --output_dir holds")
    if schemes:
        parser.add_argument("--eval_file", type=Path, help="held-out examples: their loss, after each epoch")
        parser.add_argument("--scheme", choices=schemes, default="nlft", help="saliency scheme (default: nlft)")


def _chosen_scheme(name: str, settings: dict[str, Any]) -> Any:
    """The named scheme's settings; a setting of another scheme would do nothing, so it is refused."""
    stray = [
        f"--{field}"
        for other, value in settings.items()
        if other != name and value != type(value)()
        for field in value.__dataclass_fields__
        if getattr(value, field) != getattr(type(value)(), field)
    ]
    if stray:
        raise UserError(f"{', '.join(stray)}: no setting of scheme {name}.\n  Leave it out, or choose its --scheme.")
    return settings[name]


def _examples_and_run(other: Namespace, args: Any) -> tuple[list[Any], Any]:
    """The file's examples and the run directory, which must not hold another run's files."""
    from nlft.data.records import read_examples
    from nlft.runs.run_dir import RunDir

    examples = read_examples(other.file)
    cut_off = [example.id for example in examples if example.extra.get("finish_reason") == "length"]
    if cut_off:
        first = ", ".join(str(id) for id in cut_off[:3])
        print(
            f"warning: {other.file}: {len(cut_off)} of {len(examples)} completions were cut off by a length limit "
            f"({first}{', ...' if len(cut_off) > 3 else ''}), and are trained on.\n"
            "  `nlft build` leaves them out; `nlft sample --max_new_tokens` with more lets them end.",
            file=sys.stderr,
        )
    run = RunDir(args.output_dir)
    if run.events() and not args.resume_from_checkpoint:
        if not other.overwrite:
            raise UserError(
                f"{display_path(run.path)}: holds a run already.\n"
                "  Choose another --output_dir, --resume_from_checkpoint true to go on, or --overwrite."
            )
        run.clear()
    return examples, run


def _done(run: Any, trainer: Any, watch_seconds: float | None) -> None:
    if not trainer.args.should_save:
        return
    print(f"adapter: {display_path(run.adapter_path)}")
    if watch_seconds:
        print(f"scoring the watched examples took {watch_seconds:.1f} s (--watch, --watch_every)")
        print(f"map: nlft map {display_path(run.path)} --html map.html")
