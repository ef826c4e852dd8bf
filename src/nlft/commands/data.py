"""Run the commands that make a dataset: sample, judge, revise, build, audit."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.checks import (
    EarlyFile,
    asks_for_help,
    check_out_file,
    examples_to_judge,
    examples_to_train,
    questions_to_answer,
)
from nlft.commands.earlier import holds_nothing_else, holds_only_answers, overwrite_flag, taken_up
from nlft.commands.help import Section
from nlft.commands.importing import early_reading, namespace_reading, reading_flags
from nlft.commands.json_output import STANDARD_OUTPUT, json_file_flag, printing_json, refuse_swallowed
from nlft.commands.new_rules import check_new_rules, write_new_rules
from nlft.commands.parsing import Command, early_setting
from nlft.config import QUESTIONS
from nlft.errors import UserError, display_path
from nlft.models.opening import model_kinds, open_answerer
from nlft.outputs import is_our_json, is_our_page, refuse_foreign, refuse_inputs
from nlft.progress import note

ASKED = ("model_name_or_path", "adapter", "dtype", "load_in_4bit")  # of a model that is asked and not trained

if TYPE_CHECKING:
    from nlft.auditing.report import AuditReport
    from nlft.auditing.settings import AuditSettings
    from nlft.collect.judging import JudgeSettings
    from nlft.data.checks_grader import QuestionNeeds
    from nlft.data.records import Example
    from nlft.models.ledger import Ledgered


@contextmanager
def dry_run_told() -> Iterator[None]:
    """Print the counts of --dry_run instead of asking for answers. Use this function as a decorator."""
    from nlft.models.ledger import DryRun

    try:
        yield
    except DryRun as found:
        print(found)


def asking_settings() -> list[type]:
    """Return the classes of `model_kinds` that need no torch, for the help."""
    from nlft.models.settings import BackendSettings, CallSettings, ModelOptions

    return [ModelOptions, BackendSettings, CallSettings]


def asking_sections() -> list[Section]:
    """Return the help's sections about the model that is asked."""
    _, backend, calls = asking_settings()
    return [("Model", ASKED), ("Server", backend), ("Ledger of answers, and limits", calls)]


def early_needs(prog: str, argv: Sequence[str]) -> "QuestionNeeds":
    """Return what the questions of a command must have, before the command reads its arguments.

    Raises:
        ConfigError: the file of checks has mistakes.
    """
    from nlft.data.checks_grader import needs_of_questions

    checks = None if asks_for_help(argv) else early_setting(prog, argv, "checks")
    return needs_of_questions(str(checks) if checks is not None else None)


@dry_run_told()
def sample(argv: Sequence[str]) -> None:
    """Run `nlft sample`."""
    from nlft.collect.sampling import SamplingSettings, sample_answers
    from nlft.data.checks_grader import make_grader
    from nlft.data.gradable import UNCLEAR_SHOWN, unclear_numbers
    from nlft.data.records import write_examples

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help=QUESTIONS)
        parser.add_argument("--out", type=Path, required=True, help="examples to write, .jsonl")
        reading_flags(parser)
        overwrite_flag(parser)

    command = Command(
        "nlft sample",
        "Answer questions with the model, and label the answers.",
        [*asking_settings(), SamplingSettings],
        [("Sampling", SamplingSettings), *asking_sections()],
        lambda: [*model_kinds(), SamplingSettings],
        add,
        needs=["model_name_or_path"],
    )
    needs = early_needs("nlft sample", argv)
    reading = early_reading("nlft sample", argv)
    early = EarlyFile(argv, lambda file: questions_to_answer(file, needs, reading))
    model_settings, backend, calls, settings, other = command.parse(argv)
    check_out_file(other.out, ".jsonl")
    read = {"FILE": other.file, "--config": other.config, "--ledger": calls.ledger, "--checks": settings.checks}
    refuse_inputs("--out", other.out, {**read, **_model_paths(model_settings)})
    refuse_foreign("--out", other.out, holds_only_answers, overwrite=other.overwrite)
    questions = early.get(other.file)[: settings.limit]
    model = open_answerer(
        model_settings,
        backend,
        calls,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        temperature=settings.temperature,
        seed=settings.seed,
        system_prompt=settings.system_prompt,
        inputs=settings.template_inputs(),
        ledger=other.out.with_suffix(".calls.jsonl"),
    )
    grader = make_grader(settings, model.ledger, calls)
    examples = sample_answers(
        questions, model, settings.prompt_template, grader, per_question=settings.samples_per_question
    )
    write_examples(other.out, examples)
    right = sum(e.label for e in examples)
    cut = sum(e.extra["finish_reason"] == "length" for e in examples)
    print(f"{display_path(other.out)}: {len(examples)} answers, {right} right, {cut} cut off by --max_new_tokens")
    if unknown := sum(e.extra["finish_reason"] == "unknown" for e in examples):
        print(f"{unknown} answers ended for a reason that is not known. `nlft build` leaves them out.")
    if left_out := len(questions) * settings.samples_per_question - len(examples):
        print(
            f"{left_out} more answers left out: they cannot be compared with their standard answers (docs/GRADING.md)"
        )
    for what in unclear_numbers(questions)[:UNCLEAR_SHOWN] if settings.grader == "number" else ():
        print(f"  question {what}")
    note(f"next: nlft judge {display_path(other.out)}")


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
    with dry_run_told() if model_settings else nullcontext():
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
    note(f"next: nlft train {display_path(out)}")


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
    examples = taken_up(early.get(other.file), out, other.file)
    revised = revise_examples(examples, _open(model_settings, settings, out), settings)
    write_examples(out, revised.examples)
    print(f"{display_path(out)}: " + "\n  ".join(revised.summary_lines()))
    note(f"next: nlft train {display_path(out)} --answer_weight 1")


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
        read |= {"--ledger": model_settings[2].ledger, **_model_paths(model_settings[0])}
    refuse_inputs("--out", out, read)
    return out


def _model_paths(settings: Any) -> dict[str, Any]:
    """Return the model and the adapter as inputs, by flag."""
    return {"--model_name_or_path": settings.model_name_or_path, "--adapter": settings.adapter}


def build(argv: Sequence[str]) -> None:
    """Run `nlft build`."""
    from nlft.data.build import BuildSettings, build_summary, choose, read_pool
    from nlft.data.export import export_examples, prompted
    from nlft.data.gradable import UNCLEAR_SHOWN, unclear_numbers

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", help="examples: files, or datasets by name")
        parser.add_argument(
            "--out", type=Path, required=True, help="file to write: .jsonl, or .json with --to original"
        )
        reading_flags(parser)
        overwrite_flag(parser)

    what = "Choose examples, and write them in the format of nlft, TRL or the paper's script."
    settings, other = Command("nlft build", what, [BuildSettings], [("Choice", BuildSettings)], None, add).parse(argv)
    refuse_inputs("--out", other.out, {"FILE": other.files, "--config": other.config})
    pool = read_pool(other.files, settings, **namespace_reading(other))
    refuse_foreign("--out", other.out, lambda path: holds_nothing_else(path, pool.examples), overwrite=other.overwrite)
    chosen = choose(pool.examples, settings)
    told = build_summary(pool, chosen, settings)
    chosen = prompted(chosen, settings.system_prompt, settings.template_inputs())
    made = export_examples(other.out, chosen, settings.to, target=settings.target, form=settings.form)
    print(f"{display_path(other.out)}: {len(made.rows)} rows for {settings.to}")
    print("\n".join(f"  {line}" for line in [*told, *made.notes]))
    if unclear := unclear_numbers(chosen):
        print(f"  {len(unclear)} standard answers are not clearly one number (docs/GRADING.md), for example:")
        print("\n".join(f"    example {what}" for what in unclear[:UNCLEAR_SHOWN]))
    if settings.to == "nlft":
        note(f"next: nlft train {display_path(other.out)}")


def audit(argv: Sequence[str]) -> None:
    """Run `nlft audit`."""
    import json

    from nlft.auditing.settings import AuditSettings
    from nlft.data.checks_file import read_checks
    from nlft.data.records import read_questions
    from nlft.data.rules_file import read_rules
    from nlft.files import write_output
    from nlft.models.settings import ModelOptions
    from nlft.sources.columns import Columns
    from nlft.sources.reading import read_source

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("file", help="examples: a file, or a dataset by name")
        parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page as well")
        json_file_flag(parser)
        parser.add_argument("--rules_out", type=Path, metavar="FILE", help="write the judgments' rules to a new .yaml")
        parser.add_argument("--rules", type=Path, metavar="FILE", help="rules that the preflight checks, .yaml")
        parser.add_argument("--checks", type=Path, metavar="FILE", help="checks to count instead of words, .yaml")
        reading_flags(parser)
        overwrite_flag(parser)

    command = Command(
        "nlft audit",
        "Say what to fix in the examples before training on them. With a model, also measure how "
        "judgments change token probabilities. The --saliency.NAME settings, as in `nlft train`, "
        "define which changes count as a mistake.",
        [ModelOptions, AuditSettings],
        [("Audit", AuditSettings), ("Model (optional)", ASKED)],
        lambda: [_optional_model(), AuditSettings],
        add,
        scheme="nlft",
    )
    refuse_swallowed(argv, "nlft audit")
    reading = early_reading("nlft audit", argv)
    early = EarlyFile(argv, lambda file: examples_to_judge(file, reading))
    model_settings, settings, saliency, other = command.parse(argv)
    settings.templates()  # check them before reading the files
    _check_audit_files(other, settings.test_file, model_settings)
    rules = read_rules(other.rules) if other.rules else None
    checks = read_checks(other.checks) if other.checks else []
    examples = early.get(other.file)
    records = read_source(other.file, None, Columns.parse(other.columns), other.from_format).usable()
    places = {e.id: r.where for e, r in zip(examples, records, strict=True)}
    test = read_questions(settings.test_file) if settings.test_file else None

    with printing_json(other.json == STANDARD_OUTPUT) as document:
        report = _audited(examples, model_settings, settings, test=test, saliency=saliency, places=places,
                          name=display_path(other.file), rules=rules, checks=checks)  # fmt: skip
        print("\n".join(report.lines()))
        document.update(report.json())
        files = {other.html: report.html, other.json: lambda: json.dumps(report.json(), indent=1)}
        for path, text in files.items():
            if path and path != STANDARD_OUTPUT:
                write_output(path, text().encode())
        if other.rules_out:
            write_new_rules(other.rules_out, examples, report.rules)


def _audited(examples: "list[Example]", model_settings: Any, settings: "AuditSettings", **more: Any) -> "AuditReport":
    """Load the model, if one is named, and audit the examples."""
    from nlft.auditing.run import audit as audit_examples
    from nlft.models.loading import load_model, load_tokenizer

    model = tokenizer = None
    if model_settings.model_name_or_path:
        tokenizer = load_tokenizer(model_settings)
        model = load_model(model_settings, trainable=False)
    return audit_examples(examples, model, tokenizer, settings, **more)


def _check_audit_files(other: Namespace, test_file: str | None, model: Any) -> None:
    """Refuse files to write that the audit reads, or that nlft did not write."""
    document = None if other.json == STANDARD_OUTPUT else other.json
    for path, flag in ((other.html, "--html"), (document, "--json")):
        if path:
            check_out_file(path, flag=flag)
            read = {"FILE": other.file, "--rules": other.rules, "--checks": other.checks}
            read["--test_file"] = test_file
            refuse_inputs(flag, path, {**read, "--config": other.config, **_model_paths(model)})
    refuse_foreign("--html", other.html, is_our_page, overwrite=other.overwrite)
    refuse_foreign("--json", document, is_our_json("summary", "findings", "notes"), overwrite=other.overwrite)
    if other.rules_out:
        check_new_rules(other.rules_out)


def _optional_model() -> type:
    """Return the settings of a model that may be left out."""
    from dataclasses import dataclass

    from nlft.models.loading import ModelSettings

    @dataclass
    class OptionalModel(ModelSettings):
        def __post_init__(self) -> None:
            if self.model_name_or_path:
                super().__post_init__()

    return OptionalModel
