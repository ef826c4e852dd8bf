"""The `nlft` command: reads arguments, calls the modules, turns errors into a message and an exit code.

Exit codes: 0 done, 1 failed, 2 the user's input was wrong. Heavy imports stand inside the commands that need them,
so that `nlft --help` answers at once.
"""

import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft import __version__
from nlft.errors import NLFTError, UserError, display_path

if TYPE_CHECKING:
    from nlft.training.model import ModelSettings

Argv = Sequence[str]


def main(argv: Argv | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if argv[0] == "--version":
        print(f"nlft {__version__}")
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"{argv[0]!r} is no command.\n  Choose one of {', '.join(COMMANDS)}.")
        quiet_libraries()
        COMMANDS[argv[0]][1](argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NLFTError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def help_text() -> str:
    """What `nlft --help` prints."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {summary}" for name, (summary, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nlft COMMAND [ARGUMENTS]",
            "",
            "Natural Language Fine-Tuning: train on written feedback, and see which tokens it touched.",
            "",
            *rows,
            "",
            "`nlft COMMAND --help` lists a command's arguments; --config FILE reads them from YAML.",
        ]
    )


def _train(argv: Argv) -> None:
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


def _sft(argv: Argv) -> None:
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


def _sample(argv: Argv) -> None:
    from nlft.config import parse
    from nlft.core.conditions import ConditionEncoder, Templates
    from nlft.data.collect import SamplingSettings, sample, sampling_grader
    from nlft.data.generation import LocalModel
    from nlft.data.records import read_questions, write_examples
    from nlft.training.model import ModelSettings, load_model, load_tokenizer

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="questions with standard answers: .jsonl or .json")
        parser.add_argument("--out", type=Path, required=True, help="examples to write, .jsonl")

    model_settings, settings, other = parse(
        "nlft sample", "Answer questions with the model, and label the answers.", [ModelSettings, SamplingSettings],
        argv, add,
    )  # fmt: skip
    questions = read_questions(other.file)[: settings.limit]
    grader = sampling_grader(settings)
    encoder = ConditionEncoder(load_tokenizer(model_settings), Templates(system_prompt=settings.system_prompt))
    local = LocalModel(
        load_model(model_settings, trainable=False),
        encoder,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        temperature=settings.temperature,
        seed=settings.seed,
    )
    examples = sample(questions, local, settings.prompt_template, grader)
    write_examples(other.out, examples)
    right = sum(e.label for e in examples)
    cut = sum(e.extra["finish_reason"] == "length" for e in examples)
    print(f"{display_path(other.out)}: {len(examples)} answers, {right} right, {cut} cut off by --max_new_tokens")
    print(f"next: nlft judge {display_path(other.out)}")


def _judge(argv: Argv) -> None:
    from nlft.data.collect import judge
    from nlft.data.records import read_examples, write_examples

    parser = _plain_parser("nlft judge", "Say in words what is wrong with the wrong completions.")
    parser.add_argument("file", type=Path, help="examples, as `nlft sample` writes them")
    parser.add_argument("--out", type=Path, help="file to write (default: the same file)")
    parser.add_argument("--judge", choices=["rules"], default="rules", help="rules: deterministic, offline")
    args = parser.parse_args(argv)
    examples = read_examples(args.file, require_judgment=False)
    judged = judge(examples)
    out = args.out or args.file
    write_examples(out, judged)
    new = sum(a.judgment != b.judgment for a, b in zip(examples, judged, strict=True))
    print(f"{display_path(out)}: {len(judged)} examples, {new} judged now")


def _evaluate(argv: Argv) -> None:
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


def _map(argv: Argv) -> None:
    from nlft.page.export import export_map
    from nlft.training.run_dir import RunDir

    parser = _plain_parser("nlft map", "Show what the feedback did to every token.")
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="write one self-contained page")
    args = parser.parse_args(argv)
    print(f"map: {display_path(export_map(RunDir.open(args.run), args.html))}")


def _demo(argv: Argv) -> None:
    from nlft.demo import Demo

    parser = _plain_parser("nlft demo", "Everything once, on a small real model: sample, judge, train, compare.")
    parser.add_argument("--dir", type=Path, default=Path("demo"), help="where its files go (default: demo)")
    parser.add_argument("--model_name_or_path", help="another model than SmolLM2-135M-Instruct")
    args = parser.parse_args(argv)
    print(Demo(args.dir, args.model_name_or_path).run())


def _env(argv: Argv) -> None:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    _plain_parser("nlft env", "Versions and devices, for a bug report.").parse_args(argv)
    print(f"nlft {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} missing")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"{torch.get_num_threads()} threads; GPUs: {', '.join(devices) or 'none'}")


class _PlainParser(ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{self.prog}: {message}\n  `{self.prog} --help` lists all arguments.")


def _plain_parser(prog: str, description: str) -> ArgumentParser:
    return _PlainParser(prog=prog, description=description, allow_abbrev=False)


def quiet_libraries() -> None:
    """Keep other packages' notes to developers away from users."""
    # PEFT 0.21 and TRL 1.16 ask transformers 5.23 for gradient checkpointing by its older name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated", category=FutureWarning)
    # Bars for a few milliseconds of work, one a step of TRL's preparation.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns at each fork


COMMANDS: dict[str, tuple[str, Callable[[Argv], None]]] = {
    "demo": ("everything once, on a small real model, in minutes", _demo),
    "sample": ("answer questions with the model, and label the answers", _sample),
    "judge": ("say in words what is wrong with the wrong completions", _judge),
    "train": ("train on examples with written feedback", _train),
    "sft": ("train a supervised baseline on the same file", _sft),
    "evaluate": ("answer questions greedily and grade the answers", _evaluate),
    "map": ("show what the feedback did to every token", _map),
    "env": ("versions and devices, for a bug report", _env),
}


if __name__ == "__main__":
    sys.exit(main())
