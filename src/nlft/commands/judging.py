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
    from nlft.collect.judging import Judged, JudgeSettings
    from nlft.data.checks_grader import CheckLimits, ChecksGrader
    from nlft.data.grading import Grader, ReplyGrader
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
    # A check may ask a model too, which then keeps the same limits.
    checked = not by_model and early_setting("nlft judge", argv, "judge_model") is not None
    if not by_model and (flags := {"--model_name_or_path", "--base_url", "--backend", "--executor"} & set(argv)):
        flag = flags.pop()
        raise UserError(f"{flag} needs a model as judge.\n  Add --judge self, or leave out {flag}.")
    command = Command(
        "nlft judge",
        "Say in words what is wrong with the wrong completions.",
        [JudgeSettings, *(asking_settings() if by_model else [])],
        [("Judging", JudgeSettings), *asking_sections()],
        lambda: [JudgeSettings, *(model_kinds() if by_model else asking_settings()[1:] if checked else [])],
        add,
        needs=["model_name_or_path"] if by_model else [],
    )
    reading = early_reading("nlft judge", argv)
    early = EarlyFile(argv, lambda file: examples_to_judge(file, reading))
    settings, *kinds, other = command.parse(argv)
    out = _examples_out(other, settings, kinds)
    with owning_file(out), dry_run_told() if kinds else nullcontext(), keeping_before(out):
        by_hand = settings.judge == "human"  # a person may have changed labels, too
        redone = {"judgment", *(("spans", "feedback") if by_hand else ())} if settings.overwrite else ()
        examples = taken_up(early.get(other.file), out, other.file, labels=not by_hand, redone=redone)
        _judge(examples, out, settings, kinds)


def _judge(examples: "list[Example]", out: Path, settings: "JudgeSettings", kinds: list[Any]) -> None:
    """Judge the examples, write them, and print a summary.

    Args:
        kinds: the settings of the model that judges and of its server and ledger; of the last two alone if only checks
            ask a model; empty if nothing does.
    """
    from nlft.collect import judging
    from nlft.data.records import write_examples

    dry_run = bool(kinds) and kinds[-1].dry_run
    if settings.judge == "openai":
        kinds[1].backend = "openai"
    model = _open(kinds, settings, out) if len(kinds) > 2 else None
    checks = settings.make_checks(model or _check_limits(kinds, out)) if settings.checks else None
    grader = judging.grader_for(settings, checks)
    labelled = _labelled(examples, grader, dry_run=dry_run)
    judged = _judged(labelled, out, settings, model, checks, dry_run=dry_run, graded=grader is not None)
    if dry_run:
        print("dry run: the judge has nothing to ask")
        return
    write_examples(out, judged.examples)
    lines = judging.summary_lines(examples, judged, settings)
    print("\n".join([f"{display_path(out)}: {lines[0]}", *(f"  {line}" for line in lines[1:])]))
    for line in judging.conflict_lines(judged.conflicts, display_path(out)):
        print(line)
    cure = "Try another --seed, more --tries or another judge; or write the judgments yourself: --judge human."
    if settings.judge == "human":
        cure = "Run the same command again to go on."
    judging.require_judgments(judged, cure)
    note_next("nlft", "audit", out)


def _judged(
    examples: "list[Example]",
    out: Path,
    settings: "JudgeSettings",
    model: "Ledgered | None",
    checks: "ChecksGrader | None",
    *,
    dry_run: bool,
    graded: bool,
) -> "Judged":
    """Let the judge that the settings name judge the examples.

    Args:
        graded: whether a grader has labelled them.
    """
    from nlft.collect import judging
    from nlft.collect.checks_judge import checks_judge
    from nlft.data.records import write_examples

    if settings.judge == "human" and not dry_run:
        from nlft.collect.human_judge import judge_by_hand

        return judge_by_hand(
            examples,
            lambda changed: write_examples(out, changed),
            graded=graded,
            overwrite=settings.overwrite,
            check_right=settings.check_right,
        )
    by: judging.Judge = judging.rules_judge
    if model:
        by = judging.ModelJudge(model, settings.judge_prompt, settings.tries)
    elif settings.judge == "checks" and checks:
        by = checks_judge(checks)
    check_right = settings.check_right or settings.judge == "rules"
    return judging.judge_examples(examples, by, overwrite=settings.overwrite, check_right=check_right)


def _labelled(examples: "list[Example]", grader: "Grader | ReplyGrader | None", *, dry_run: bool) -> "list[Example]":
    """Label the examples by the grader. Where it would ask a model, --dry_run counts that and leaves the labels."""
    from nlft.collect.judging import relabel

    if grader is None or not dry_run:
        return relabel(examples, grader) if grader else examples
    from nlft.models.ledger import DryRun

    try:
        return relabel(examples, grader)
    except DryRun as found:
        print(f"checks that label: {found}\nWhat follows is counted with the labels as they are.")
        return examples


def _check_limits(kinds: list[Any], out: Path) -> "Path | CheckLimits":
    """Return where the answers of the checks' judge are kept, and under which limits."""
    from nlft.data.checks_grader import CheckLimits

    ledger = out.with_suffix(".calls.jsonl")
    if not kinds:
        return ledger
    backend, calls = kinds
    return CheckLimits(Path(calls.ledger) if calls.ledger else ledger, calls, backend)


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
        redone = ("revision",) if settings.overwrite else ()
        examples = taken_up(early.get(other.file), out, other.file, redone=redone)
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
        judge_on_server=getattr(settings, "judge_base_url", None) is not None,
    )


def _examples_out(other: Any, settings: Any, kinds: list[Any]) -> Path:
    """Return --out, or else the input file. Refuse it before the work if examples cannot be written there."""
    out: Path = other.out or other.file
    check_out_file(out, ".jsonl")
    read = {"--config": other.config, "--checks": getattr(settings, "checks", None)}
    if kinds:
        read |= {"--ledger": kinds[-1].ledger, **(model_paths(kinds[0]) if len(kinds) > 2 else {})}
    refuse_inputs("--out", out, read)
    return out
