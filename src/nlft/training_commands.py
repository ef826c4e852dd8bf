"""The commands that need a model trained or asked: train, sft, evaluate, map, demo, env."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft import __version__
from nlft.config import plain_parser
from nlft.errors import UserError, display_path

if TYPE_CHECKING:
    from nlft.training.model import ModelSettings


def train(argv: Sequence[str]) -> None:
    """`nlft train`."""
    from nlft.config import parse
    from nlft.core.schemes import SCHEMES
    from nlft.training.checkpoints import checkpoint_to_resume
    from nlft.training.model import ModelSettings, load_model, load_tokenizer, lora_config
    from nlft.training.trainer import NLFTConfig, NLFTTrainer

    kinds = [scheme.settings for scheme in SCHEMES.values()]
    model_settings, args, *schemes, other = parse(
        "nlft train",
        "Train on examples with written feedback.",
        [ModelSettings, NLFTConfig, *kinds],
        argv,
        lambda parser: _training_arguments(parser, list(SCHEMES)),
    )
    saliency = _chosen_scheme(other.scheme, dict(zip(SCHEMES, schemes, strict=True)))
    examples, run = _examples_and_run(other, args)
    checkpoint = args.resume_from_checkpoint and checkpoint_to_resume(run, args.resume_from_checkpoint, args.world_size)
    model = load_model(model_settings, trainable=True)
    adapter = lora_config(model_settings, model) if _adds_adapter(model_settings) else None
    trainer = NLFTTrainer(
        model,
        args=args,
        train_dataset=examples,
        processing_class=load_tokenizer(model_settings),
        peft_config=adapter,
        saliency=saliency,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _done(run, trainer, trainer.watch_seconds)


def sft(argv: Sequence[str]) -> None:
    """`nlft sft`."""
    from nlft.config import parse
    from nlft.training.baselines import SFTBaseline, SFTSettings
    from nlft.training.checkpoints import checkpoint_to_resume
    from nlft.training.model import ModelSettings, load_model, load_tokenizer, lora_config

    model_settings, args, other = parse(
        "nlft sft",
        "Train a supervised baseline on the same file, through TRL's SFTTrainer.",
        [ModelSettings, SFTSettings],
        argv,
        lambda parser: _training_arguments(parser, None),
    )
    examples, run = _examples_and_run(other, args)
    checkpoint = args.resume_from_checkpoint and checkpoint_to_resume(run, args.resume_from_checkpoint, args.world_size)
    model = load_model(model_settings, trainable=True)
    adapter = lora_config(model_settings, model) if _adds_adapter(model_settings) else None
    trainer = SFTBaseline(model, args, examples, load_tokenizer(model_settings), adapter)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _done(run, trainer, None)


def _training_arguments(parser: ArgumentParser, schemes: list[str] | None) -> None:
    parser.add_argument("file", type=Path, help="examples: .jsonl, .json, or the original project's records")
    parser.add_argument("--overwrite", action="store_true", help="train anew over a run that --output_dir holds")
    if schemes:
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
    from nlft.training.run_dir import RunDir

    examples = read_examples(other.file)
    run = RunDir(args.output_dir)
    if run.events() and not args.resume_from_checkpoint:
        if not other.overwrite:
            raise UserError(
                f"{display_path(run.path)}: holds a run already.\n"
                "  Choose another --output_dir, --resume_from_checkpoint true to go on, or --overwrite."
            )
        run.clear()
    return examples, run


def _adds_adapter(settings: "ModelSettings") -> bool:
    return settings.use_peft and not settings.adapter


def _done(run: Any, trainer: Any, watch_seconds: float | None) -> None:
    if not trainer.args.should_save:
        return
    print(f"adapter: {display_path(run.adapter_path)}")
    if watch_seconds:
        print(f"scoring the watched examples took {watch_seconds:.1f} s (--watch, --watch_every)")
        print(f"map: nlft map {display_path(run.path)} --html map.html")


def evaluate(argv: Sequence[str]) -> None:
    """`nlft evaluate`."""
    from nlft.config import parse
    from nlft.core.conditions import ConditionEncoder, Templates
    from nlft.data.records import read_questions
    from nlft.results.evaluate import EvaluationSettings, evaluate
    from nlft.training.model import ModelSettings, adapter_fingerprint, load_model, load_tokenizer

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="questions with standard answers: .jsonl or .json")
        parser.add_argument("--out", type=Path, help="file to write (default: evaluation.json in the run directory)")

    model_settings, settings, other = parse(
        "nlft evaluate", "Answer questions greedily and grade the answers.", [ModelSettings, EvaluationSettings],
        argv, add,
    )  # fmt: skip
    inside = model_settings.adapter and (Path(model_settings.adapter) / "run.yaml").is_file()
    out = other.out or (Path(model_settings.adapter) / "evaluation.json" if inside else None)
    if out is None:
        raise UserError("--out is missing.\n  Name a file, or give a run directory as --adapter.")
    questions = read_questions(other.file)
    encoder = ConditionEncoder(load_tokenizer(model_settings), Templates(system_prompt=settings.system_prompt))
    about = {
        "model": model_settings.model_name_or_path,
        "adapter": adapter_fingerprint(model_settings.adapter),
        "file": str(other.file),
    }
    model = load_model(model_settings, trainable=False)
    summary = evaluate(model, encoder, questions, settings, out, about=about)
    print("\n".join(summary.lines()))
    print(f"every answer: {display_path(out)}")


def map(argv: Sequence[str]) -> None:
    """`nlft map`."""
    from nlft.page.export import export_map
    from nlft.training.run_dir import RunDir

    parser = plain_parser("nlft map", "Show what the feedback did to every token.")
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="write one self-contained page")
    args = parser.parse_args(argv)
    print(f"map: {display_path(export_map(RunDir.open(args.run), args.html))}")


def demo(argv: Sequence[str]) -> None:
    """`nlft demo`."""
    from nlft.demo import Demo

    parser = plain_parser("nlft demo", "Everything once, on a small real model: sample, judge, train, compare.")
    parser.add_argument("--dir", type=Path, default=Path("demo"), help="where its files go (default: demo)")
    parser.add_argument("--model_name_or_path", help="another model than SmolLM2-135M-Instruct")
    args = parser.parse_args(argv)
    print(Demo(args.dir, args.model_name_or_path).run())


def env(argv: Sequence[str]) -> None:
    """`nlft env`."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    plain_parser("nlft env", "Versions and devices, for a bug report.").parse_args(argv)
    print(f"nlft {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} missing")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"{torch.get_num_threads()} threads; GPUs: {', '.join(devices) or 'none'}")
