"""Run the commands that make a dataset: sample, build, audit."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.checks import (
    EarlyFile,
    check_out_file,
    examples_with_places,
    questions_to_answer,
)
from nlft.commands.earlier import (
    holds_answers,
    holds_nothing_else,
    kept_additions,
    kept_notes,
    overwrite_flag,
    readable,
)
from nlft.commands.help import Section
from nlft.commands.importing import early_reading, namespace_reading, reading_flags, reading_words
from nlft.commands.json_output import STANDARD_OUTPUT, json_file_flag, printing_json, refuse_swallowed
from nlft.commands.new_rules import check_new_rules, write_new_rules
from nlft.commands.next_steps import note_next, note_train, print_room
from nlft.commands.parsing import Command, early_setting
from nlft.config import QUESTIONS
from nlft.errors import display_path
from nlft.launch import asks_for_help
from nlft.models.opening import model_kinds, open_answerer
from nlft.outputs import is_our_json, is_our_page, keeping_before, refuse_foreign, refuse_inputs
from nlft.runs.lock import owning_file
from nlft.sources.settings import if_there

_IS_AUDIT = is_our_json("summary", "findings", "notes")
ASKED = ("model_name_or_path", "adapter", "dtype", "load_in_4bit")  # of a model that is asked and not trained

if TYPE_CHECKING:
    from nlft.auditing.report import AuditReport
    from nlft.auditing.settings import AuditSettings
    from nlft.data.checks_grader import QuestionNeeds
    from nlft.data.records import Example


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
    from nlft.collect.sampling import SamplingSettings, left_out_line, sample_answers
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
    refuse_inputs("--out", other.out, {**read, **model_paths(model_settings)})
    refuse_foreign("--out", other.out, holds_answers, overwrite=other.overwrite)
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
        judge_on_server=settings.judge_base_url is not None,
    )
    grader = make_grader(settings, model)
    with owning_file(other.out):
        examples = sample_answers(
            questions, model, settings.prompt_template, grader, per_question=settings.samples_per_question
        )
        examples = kept_notes(examples, other.out, overwrite=other.overwrite)
        with keeping_before(other.out):
            write_examples(other.out, examples)
    right = sum(e.label for e in examples)
    cut = sum(e.extra["finish_reason"] == "length" for e in examples)
    print(f"{display_path(other.out)}: {len(examples)} answers, {right} right, {cut} cut off by --max_new_tokens")
    if unknown := sum(e.extra["finish_reason"] == "unknown" for e in examples):
        print(f"{unknown} answers ended for a reason that is not known. `nlft build` leaves them out.")
    if left_out := len(questions) * settings.samples_per_question - len(examples):
        print(left_out_line(left_out, settings.grader))
    for what in unclear_numbers(questions)[:UNCLEAR_SHOWN] if settings.grader == "number" else ():
        print(f"  question {what}")
    print_room("nlft sample", argv, settings.max_new_tokens, cut, len(examples))
    if examples:
        note_next("nlft", "judge", other.out)


def model_paths(settings: Any) -> dict[str, Any]:
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
    pool = read_pool(other.files, settings, columns=other.columns, from_format=other.from_format)
    for_us = settings.to == "nlft"
    same_kind = readable if for_us else lambda path: holds_nothing_else(path, pool.examples)
    refuse_foreign("--out", other.out, same_kind, overwrite=other.overwrite)
    chosen = choose(pool.examples, settings)
    told = build_summary(pool, chosen, settings)
    chosen = prompted(chosen, settings.system_prompt, settings.template_inputs())
    if for_us:
        chosen = kept_additions(chosen, pool.examples, other.out, overwrite=other.overwrite)
    with keeping_before(other.out):
        made = export_examples(other.out, chosen, settings.to, target=settings.target, form=settings.form)
    print(f"{display_path(other.out)}: {len(made.rows)} rows for {settings.to}")
    print("\n".join(f"  {line}" for line in [*told, *made.notes]))
    if unclear := unclear_numbers(chosen):
        print(f"  {len(unclear)} standard answers are not clearly one number (docs/GRADING.md), for example:")
        print("\n".join(f"    example {what}" for what in unclear[:UNCLEAR_SHOWN]))
    if for_us:
        note_next("nlft", "audit", other.out)
    else:
        note_next("head", "-c", "600", other.out)


def audit(argv: Sequence[str]) -> None:
    """Run `nlft audit`."""
    import json

    from nlft.auditing.settings import AuditSettings
    from nlft.data.checks_file import read_checks
    from nlft.data.records import read_questions
    from nlft.data.rules_file import read_rules
    from nlft.files import write_output
    from nlft.models.settings import ModelOptions

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
    early = EarlyFile(argv, lambda file: examples_with_places(file, reading))
    model_settings, settings, saliency, other = command.parse(argv)
    settings.templates()  # check them before reading the files
    _check_audit_files(other, settings.test_file, model_settings)
    rules = read_rules(other.rules) if other.rules else None
    checks = read_checks(other.checks) if other.checks else []
    examples, places = early.get(other.file)
    test = read_questions(settings.test_file, **if_there(namespace_reading(other))) if settings.test_file else None

    with printing_json(other.json == STANDARD_OUTPUT) as document:
        report = _audited(examples, model_settings, settings, test=test, saliency=saliency, places=places,
                          name=display_path(other.file), rules=rules, checks=checks)  # fmt: skip
        print("\n".join(report.lines()))
        document.update(report.json())
        out = None if other.json == STANDARD_OUTPUT else other.json
        with keeping_before(other.html, report=is_our_page), keeping_before(out, report=_IS_AUDIT):
            for path, text in ((other.html, report.html), (out, lambda: json.dumps(report.json(), indent=1))):
                if path:
                    write_output(path, text().encode())
        if other.rules_out:
            write_new_rules(other.rules_out, examples, report.rules)
        _note_after(report, other, model_settings.model_name_or_path)


def _note_after(report: "AuditReport", other: Namespace, model: str | None) -> None:
    """Print the command that the report recommends, if it recommends one for these examples."""
    ready, more = report.preflight, reading_words(other)
    if ready is not None and not ready.says_train:
        return
    if ready is not None and ready.verdict == "train on what is liked":
        if ready.has_enough_liked:
            note_train(other.file, model, "--target", "completion", *more, command="sft")
    elif (file := other.rules_out or other.rules) or any(not rule.remark for rule in report.rules):
        rules = ["--rules", str(file)] if file else []
        note_train(other.file, model, "--scheme", "strike", *rules, *more)
    else:
        note_train(other.file, model, *more)


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
            refuse_inputs(flag, path, {**read, "--config": other.config, **model_paths(model)})
    refuse_foreign("--html", other.html, is_our_page, overwrite=other.overwrite)
    refuse_foreign("--json", document, _IS_AUDIT, overwrite=other.overwrite)
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
