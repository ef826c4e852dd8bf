"""The commands that make a dataset: sample, judge, revise, build, audit."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from nlft.config import plain_parser
from nlft.errors import display_path


def sample(argv: Sequence[str]) -> None:
    """`nlft sample`."""
    from nlft.config import parse
    from nlft.core.conditions import ConditionEncoder, Templates
    from nlft.data.collect import SamplingSettings, sampling_grader
    from nlft.data.collect import sample as collect
    from nlft.data.local_model import LocalModel
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
    examples = collect(questions, local, settings.prompt_template, grader, per_question=settings.samples_per_question)
    write_examples(other.out, examples)
    right = sum(e.label for e in examples)
    cut = sum(e.extra["finish_reason"] == "length" for e in examples)
    print(f"{display_path(other.out)}: {len(examples)} answers, {right} right, {cut} cut off by --max_new_tokens")
    print(f"next: nlft judge {display_path(other.out)}")


def judge(argv: Sequence[str]) -> None:
    """`nlft judge`."""
    from nlft.data.judging import judge as judge_all
    from nlft.data.records import read_examples, write_examples

    parser = plain_parser("nlft judge", "Say in words what is wrong with the wrong completions.")
    parser.add_argument("file", type=Path, help="examples, as `nlft sample` writes them")
    parser.add_argument("--out", type=Path, help="file to write (default: the same file)")
    parser.add_argument("--judge", choices=["rules"], default="rules", help="rules: deterministic, offline")
    args = parser.parse_args(argv)
    examples = read_examples(args.file, require_judgment=False)
    judged = judge_all(examples)
    out = args.out or args.file
    write_examples(out, judged)
    new = sum(a.judgment != b.judgment for a, b in zip(examples, judged, strict=True))
    print(f"{display_path(out)}: {len(judged)} examples, {new} judged now")
