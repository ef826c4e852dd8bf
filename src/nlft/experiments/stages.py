"""Run the stages of `nlft tune`. Each reads the files of earlier stages and writes its own file as a whole."""

import json
import sys
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

from nlft.data.checks_file import read_checks
from nlft.data.checks_grader import make_grader, needs_of_questions
from nlft.data.records import Example, Question, read_examples, read_questions, write_examples
from nlft.data.template_columns import columns_of
from nlft.errors import UserError, display_path
from nlft.experiments.settings import TuneSettings
from nlft.files import json_bytes, write_whole
from nlft.sources.raw_records import TEMPLATE_COLUMNS
from nlft.sources.settings import AS_IT_SAYS, ReadAs, if_there

Job = dict[str, Any]


def split_stage(folder: Path, job: Job, *, hold_out: bool = True) -> None:
    """Write train.jsonl and test.jsonl.

    Args:
        hold_out: if there is no test file, hold out questions together with all answers to them. False is for
            cross-validation: both files then have all questions.

    Raises:
        UserError: there are too few questions to hold any out, or some lack the answers to compare by, or the field
            that `cluster` names.
    """
    from nlft.data.build import question_of
    from nlft.results.clusters import read_clusters

    settings = settings_of(job)
    reading = settings.reading()
    answered, needs = holds_examples(job["file"], reading), needs_of_questions(settings.checks)
    items: list[Any] = (
        read_examples(job["file"], require_judgment=False, **reading)
        if answered
        else read_questions(job["file"], **needs, **reading)
    )
    train = items
    _check_answers(items, settings, job["file"])
    if settings.test_file:
        test = read_questions(settings.test_file, **needs, **if_there(settings.reading()))
    elif hold_out:
        groups = list(dict.fromkeys(question_of(item) for item in items))
        Random(settings.seed).shuffle(groups)
        count = round(settings.test_share * len(groups))
        if not 0 < count < len(groups):
            raise UserError(
                f"{job['file']}: has {len(groups)} questions, too few to hold any out for the test.\n"
                "  Give more questions, or a --test_file."
            )
        held_out = set(groups[:count])
        train = [item for item in items if question_of(item) not in held_out]
        test = list({question_of(item): item for item in items if question_of(item) in held_out}.values())
    if not answered:
        train = train[: settings.limit]
    if not settings.test_file and not hold_out:
        test = train
    kept = [*needs.get("needed_fields", ()), *([settings.cluster] if settings.cluster else [])]
    asked = [question_asked(item, kept) for item in test]
    read_clusters(asked, settings.cluster)  # questions without the field are an error before anything is trained
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "test.jsonl", asked)


def question_asked(item: Example | Question, needed_fields: Collection[str]) -> Question:
    """Return the item's question.

    Of an example's other fields, keep those that are needed and the columns of the chat template: without them the
    model would be asked another prompt than in training.
    """
    if isinstance(item, Question):
        return item
    kept = {name: value for name, value in item.extra.items() if name in {*needed_fields, *TEMPLATE_COLUMNS}}
    return Question(item.id, item.prompt, item.answer, kept)


def asked_text(item: Example | Question) -> str:
    """Return the item's prompt and what it gives to the chat template, as a key. Equal keys ask the model the same."""
    return json.dumps([item.prompt, columns_of(item.extra)], sort_keys=True)


def read_test(folder: Path) -> list[Question]:
    """Return the questions that `split_stage` held out. It has checked what they need."""
    return read_questions(folder / "test.jsonl", require_answer=False)


def _check_answers(items: list[Any], settings: TuneSettings, file: str) -> None:
    """Refuse to compare by standard answers that are missing, or that seem to be feedback.

    Raises:
        UserError: the grader needs answers. The message names the items without one, or the file.
    """
    from nlft.data.gradable import check_answers, check_gradable
    from nlft.data.grading import CHECKS
    from nlft.data.old_feedback import feedback_note

    if settings.grader == CHECKS:
        return
    if settings.grader != "label":
        check_gradable(items, settings.make_grader(), settings.grader)
        return
    train = f"`nlft train {display_path(Path(file))}` trains without answers."
    why = "It trains answers and compares models by their likelihood."
    check_answers(items, "nlft tune --grader label", f"{why} {train}")
    if note := feedback_note([item for item in items if isinstance(item, Example)]):
        raise UserError(f"{display_path(Path(file))}: {note}.\n  {train}")


def sample_stage(folder: Path, job: Job) -> None:
    """Write sampled.jsonl. It holds the model's labelled answers, or the given examples unchanged."""
    from nlft.collect import sampling as collect

    settings = settings_of(job)
    if holds_examples(folder / "train.jsonl"):
        write_examples(folder / "sampled.jsonl", read_examples(folder / "train.jsonl", require_judgment=False))
        return
    if settings.grader == "label":
        raise UserError(
            "--grader label: it does not label sampled answers as right or wrong.\n"
            "  Run `nlft sample`, label and judge its file (`nlft judge --judge human`), and give that to `nlft tune`."
        )
    examples = collect.sample_answers(
        read_questions(folder / "train.jsonl", require_answer=False),
        open_answerer_of(job, folder / "sampled.calls.jsonl", settings.max_new_tokens, settings.temperature),
        settings.prompt_template,
        make_grader(settings, folder / "sampled.calls.jsonl"),
        per_question=settings.samples_per_question,
    )
    asked = len(read_questions(folder / "train.jsonl", require_answer=False)) * settings.samples_per_question
    if left_out := asked - len(examples):
        print(f"      {collect.left_out_line(left_out, settings.grader)}")
    write_examples(folder / "sampled.jsonl", examples)


def judge_stage(folder: Path, job: Job) -> None:
    """Write judged.jsonl: the examples, with judgments of the wrong ones.

    Print which wrong examples are left out because they have neither a judgment nor spans.
    """
    from nlft.collect import judging
    from nlft.collect.checks_judge import checks_judge
    from nlft.core.schemes.registry import get_scheme
    from nlft.experiments.arm_data import with_what_is_read

    settings = settings_of(job)
    examples = read_examples(folder / "sampled.jsonl", require_judgment=False)
    if settings.judge == "rules":
        judged = judging.judge_examples(examples, judging.rules_judge)
    elif settings.judge == "checks":
        judged = judging.judge_examples(examples, checks_judge(settings.make_checks(folder / "sampled.calls.jsonl")))
    else:
        more = judging.JudgeSettings(judge="self", seed=settings.seed)
        model = open_answerer_of(job, folder / "judged.calls.jsonl", more.max_new_tokens, more.temperature)
        judged = judging.judge_examples(examples, judging.ModelJudge(model, more.judge_prompt, more.tries))
    if open_ids := [str(e.id) for e in judged.examples if judging.is_open(e)]:
        print(f"      left out, without a usable judgment: {judging.shortened(open_ids)}")
    kept = [e for e in judged.examples if not judging.is_open(e)]
    if name := job["settings"].get(
        "scheme"
    ):  # rounds train with one scheme; each arm of a comparison leaves out its own
        scheme = get_scheme(name)
        kept = with_what_is_read(kept, scheme, scheme.settings(**job["settings"]["saliency"]))
    if not kept:
        raise UserError("no example is right or has a judgment.\n  Judge by hand: nlft judge --judge human.")
    write_examples(folder / "judged.jsonl", kept)


def build_stage(folder: Path, job: Job) -> None:
    """Write examples.jsonl, the examples to train on."""
    from nlft.data.build import BuildSettings, choose, read_pool

    settings = settings_of(job)
    wanted = BuildSettings(
        size=settings.size, ratio=settings.ratio, seed=settings.seed, keep_truncated=settings.keep_truncated
    )
    pool = read_pool([folder / "judged.jsonl"], wanted)
    for line in pool.notes:
        print(f"      {line}", file=sys.stderr)
    write_examples(folder / "examples.jsonl", choose(pool.examples, wanted))


def audit_stage(folder: Path, job: Job, report_name: str = "compare.json") -> None:
    """Audit the examples with the model, and write the findings to audit.json and audit.html.

    Args:
        report_name: file name of the comparison in the same folder, to whose page the audit links.
    """
    from nlft.auditing.run import audit as audit_examples
    from nlft.auditing.settings import AuditSettings
    from nlft.experiments.rule_arms import read_rules_if
    from nlft.models.loading import load_model, load_tokenizer

    settings = settings_of(job)
    model_settings = _model_settings(job)
    report = audit_examples(
        read_examples(folder / "examples.jsonl"),
        load_model(model_settings, trainable=False),
        load_tokenizer(model_settings),
        AuditSettings(
            seed=settings.seed,
            system_prompt=settings.system_prompt,
            chat_template_kwargs=settings.chat_template_kwargs,
            chat_template_date=settings.chat_template_date,
        ),
        test=read_test(folder),
        rules=read_rules_if(settings.rules),
        checks=read_checks(settings.checks) if settings.checks else [],
    )
    verdict = [report.preflight.verdict_line] if report.preflight else []
    print("\n".join([*report.closing_lines(), *verdict]), file=sys.stderr)
    write_whole(
        folder / "audit.html",
        report.html([("Comparison", Path(report_name).with_suffix(".html").name)]).encode(),
    )
    write_whole(folder / "audit.json", json_bytes(report.json(), indent=1))


def export_stage(folder: Path, arm: str) -> None:
    """Write map.html of the arm, if it was trained."""
    from nlft.page.export import export_map
    from nlft.runs.run_dir import RunDir

    if RunDir(folder / arm).events():
        export_map(RunDir.open(folder / arm), folder / "map.html")


def settings_of(job: Job) -> TuneSettings:
    """Return the settings of `nlft tune` that the job holds."""
    return TuneSettings(**{f.name: job["settings"][f.name] for f in fields(TuneSettings)})


def _model_settings(job: Job) -> Any:
    from nlft.models.loading import ModelSettings

    return ModelSettings(**job["model"])


def open_answerer_of(job: Job, ledger: Path, max_new_tokens: int, temperature: float) -> Any:
    from nlft.models.opening import open_answerer
    from nlft.models.settings import BackendSettings, CallSettings

    settings = settings_of(job)
    return open_answerer(
        _model_settings(job),
        BackendSettings(),
        CallSettings(),
        max_new_tokens=max_new_tokens,
        batch_size=settings.batch_size,
        temperature=temperature,
        seed=settings.seed,
        system_prompt=settings.system_prompt,
        inputs=settings.template_inputs(),
        ledger=ledger,
    )


def holds_examples(file: Path | str, reading: ReadAs = AS_IT_SAYS) -> bool:
    """Return whether the first record that can be an example has a completion.

    Args:
        reading: how the file is read.
    """
    from nlft.sources.reading import read_source_as

    records = read_source_as(file, reading).usable()
    return bool(records) and bool(records[0].fields.keys() & {"completion", "output"})


def write_rows(path: Path, items: list[Example] | list[Question]) -> None:
    """Write examples or questions as JSON lines."""
    if items and isinstance(items[0], Example):
        write_examples(path, items)
        return
    rows = [json.dumps(item.as_record(), ensure_ascii=False) + "\n" for item in items if isinstance(item, Question)]
    write_whole(path, "".join(rows).encode())
