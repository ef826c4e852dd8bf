"""Run the commands that add to answers: judge, revise."""

from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.checks import EarlyFile, check_out_file, examples_to_judge, examples_to_train
from nlft.commands.data import asking_sections, asking_settings, dry_run_told, model_paths
from nlft.commands.earlier import taken_up
from nlft.commands.importing import early_reading, reading_flags
from nlft.commands.next_steps import note_next, note_train
from nlft.commands.parsing import Command, early_setting
from nlft.errors import UserError, display_path
from nlft.launch import asks_for_help
from nlft.models.opening import model_kinds, open_answerer
from nlft.outputs import keeping_before, refuse_inputs
from nlft.runs.lock import owning_file

if TYPE_CHECKING:
    from nlft.collect.judging import JudgeSettings
    from nlft.data.records import Example
    from nlft.models.ledger import Ledgered


def judge(argv: Sequence[str]) -> None:
    """Run `nlft judge`."""
    from nlft.collect.judging import JudgeSettings

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="examples, as `nlft sample` writes them")
        parser.add_argument("--out", type=Path, help="file to write, .jsonl (default: the same file)")
        reading_flags(parser)

    asked = asks_for_help(argv)
    # A judge by rules needs no torch. The help shows the settings of all judges.
    by_model = asked or early_setting("nlft judge", argv, "judge") in ("self", "openai")
    if not by_model and (flags := {"--model_name_or_path", "--base_url"} & set(argv)):
        flag = flags.pop()
        raise UserError(f"{flag} needs a model as judge.\n  Add --judge self, or leave out {flag}.")
    command = Command(
        "nlft judge",
        "Say in words what is wrong with the wrong completions.",
        [JudgeSettings, *(asking_settings() if by_model else [])],
        [("Judging", JudgeSettings), *asking_sections()],
        lambda: [JudgeSettings, *(model_kinds() if by_model else [])],
        add,
        needs=["model_name_or_path"] if by_model else [],
    )
    reading = early_reading("nlft judge", argv)
    early = EarlyFile(argv, lambda file: examples_to_judge(file, reading))
    settings, *model_settings, other = command.parse(argv)
    out = _examples_out(other, settings, model_settings)
    with owning_file(out), dry_run_told() if model_settings else nullcontext(), keeping_before(out):
        labels = settings.judge != "human"  # a person may have changed some
        _judge(taken_up(early.get(other.file), out, other.file, labels=labels), out, settings, model_settings)


def _judge(examples: "list[Example]", out: Path, settings: "JudgeSettings", model_settings: list[Any]) -> None:
    """Judge the examples, write them, and print a summary."""
    from nlft.collect import judging
    from nlft.collect.checks_judge import checks_judge
    from nlft.data.records import write_examples

    cure = "Try another --seed, more --tries or another judge; or write the judgments yourself: --judge human."
    if settings.judge == "human":
        from nlft.collect.human_judge import judge_by_hand

        cure = "Run the same command again to go on."
    checks = settings.make_checks(out.with_suffix(".calls.jsonl")) if settings.checks else None
    grader = judging.grader_for(settings, checks)
    labelled = judging.relabel(examples, grader) if grader else examples
    if settings.judge == "human":
        judged = judge_by_hand(
            labelled,
            lambda changed: write_examples(out, changed),
            graded=grader is not None,
            overwrite=settings.overwrite,
            check_right=settings.check_right,
        )
    else:
        by: judging.Judge = judging.rules_judge
        if model_settings:
            if settings.judge == "openai":
                model_settings[1].backend = "openai"
            by = judging.ModelJudge(_open(model_settings, settings, out), settings.judge_prompt, settings.tries)
        elif settings.judge == "checks" and checks:
            by = checks_judge(checks)
        check_right = settings.check_right or settings.judge == "rules"
        judged = judging.judge_examples(labelled, by, overwrite=settings.overwrite, check_right=check_right)
    write_examples(out, judged.examples)
    lines = judging.summary_lines(examples, judged, settings)
    print("\n".join([f"{display_path(out)}: {lines[0]}", *(f"  {line}" for line in lines[1:])]))
    for line in judging.conflict_lines(judged.conflicts, display_path(out)):
        print(line)
    judging.require_judgments(judged, cure)
    note_next("nlft", "audit", out)


@dry_run_told()
def revise(argv: Sequence[str]) -> None:
    """Run `nlft revise`."""
    from nlft.collect.revising import RevisionSettings, revise_examples
    from nlft.data.records import write_examples

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="judged examples, as `nlft judge` writes them")
        parser.add_argument("--out", type=Path, help="file to write, .jsonl (default: the same file)")
        reading_flags(parser)

    command = Command(
        "nlft revise",
        "Ask the model for right completions in its own words, and keep those that pass the checks.",
        [RevisionSettings, *asking_settings()],
        [("Revising", RevisionSettings), *asking_sections()],
        lambda: [RevisionSettings, *model_kinds()],
        add,
        needs=["model_name_or_path"],
    )
    reading = early_reading("nlft revise", argv)
    early = EarlyFile(argv, lambda file: examples_to_train(file, reading))
    settings, *model_settings, other = command.parse(argv)
    out = _examples_out(other, settings, model_settings)
    with owning_file(out):
        examples = taken_up(early.get(other.file), out, other.file)
        revised = revise_examples(examples, _open(model_settings, settings, out), settings)
        with keeping_before(out):
            write_examples(out, revised.examples)
    print(f"{display_path(out)}: " + "\n  ".join(revised.summary_lines()))
    note_train(out, model_settings[0].model_name_or_path, "--answer_weight", "1")


def _open(model_settings: list[Any], settings: Any, out: Path) -> "Ledgered":
    """Open the model for judging or revising, with its ledger beside `out`.

    The settings of both commands have the same names.
    """
    if model_settings[2].dry_run and settings.tries > 1:
        print(f"counted is the first of up to --tries {settings.tries}; what cannot be used is asked for again")
    return open_answerer(
        *model_settings,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        temperature=settings.temperature,
        seed=settings.seed,
        system_prompt=settings.system_prompt,
        inputs=settings.template_inputs(),
        ledger=out.with_suffix(".calls.jsonl"),
    )


def _examples_out(other: Any, settings: Any, model_settings: list[Any]) -> Path:
    """Return --out, or else the input file. Refuse it before the work if examples cannot be written there."""
    out: Path = other.out or other.file
    check_out_file(out, ".jsonl")
    read = {"--config": other.config, "--checks": getattr(settings, "checks", None)}
    if model_settings:
        read |= {"--ledger": model_settings[2].ledger, **model_paths(model_settings[0])}
    refuse_inputs("--out", out, read)
    return out
