"""The stages of `nlft tune`: each reads the files of those before it and leaves its own, whole."""

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from random import Random
from typing import Any

from nlft.data.records import Example, Question, read_examples, read_questions, write_examples
from nlft.errors import UserError
from nlft.experiments.settings import TuneSettings
from nlft.files import write_whole

Job = dict[str, Any]


def split(folder: Path, job: Job, *, hold_out: bool = True) -> None:
    """train.jsonl and test.jsonl. Without a test file, questions are held out, with all that was answered to them;
    or, for cross-validation, none is: what is trained on is tested on, in turn."""
    from nlft.data.build import question_of

    settings = settings_of(job)
    answered = holds_examples(job["file"])
    items: list[Any] = read_examples(job["file"], require_judgment=False) if answered else read_questions(job["file"])
    train = items
    if settings.test_file:
        test = read_questions(settings.test_file)
    elif hold_out:
        groups = list(dict.fromkeys(question_of(item) for item in items))
        Random(settings.seed).shuffle(groups)
        count = round(settings.test_share * len(groups))
        if not 0 < count < len(groups):
            raise UserError(
                f"{job['file']}: of {len(groups)} questions, none can be held out for the test.\n"
                "  Give more, or a --test_file."
            )
        held_out = set(groups[:count])
        train = [item for item in items if question_of(item) not in held_out]
        test = list({question_of(item): item for item in items if question_of(item) in held_out}.values())
    if not answered:
        train = train[: settings.limit]
    if not settings.test_file and not hold_out:
        test = train
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "test.jsonl", [Question(item.id, item.prompt, item.answer) for item in test])


def sample(folder: Path, job: Job) -> None:
    """sampled.jsonl: the model's answers, labelled; or the examples as they are, if the file held examples."""
    from nlft.collect import sampling as collect

    settings = settings_of(job)
    if holds_examples(folder / "train.jsonl"):
        write_examples(folder / "sampled.jsonl", read_examples(folder / "train.jsonl", require_judgment=False))
        return
    if settings.grader == "label":
        raise UserError(
            "with --grader label nobody can tell right answers from wrong ones.\n"
            "  Run `nlft sample`, label and judge its file (`nlft judge --judge human`), and give that to `nlft tune`."
        )
    examples = collect.sample_answers(
        read_questions(folder / "train.jsonl"),
        _answerer(job, folder / "sampled.calls.jsonl", settings.max_new_tokens, settings.temperature),
        settings.prompt_template,
        settings.make_grader(),
        per_question=settings.samples_per_question,
    )
    write_examples(folder / "sampled.jsonl", examples)


def judge(folder: Path, job: Job) -> None:
    """judged.jsonl: the examples with a judgment on the wrong ones; those that got none are left out, aloud."""
    from nlft.collect import judging

    settings = settings_of(job)
    examples = read_examples(folder / "sampled.jsonl", require_judgment=False)
    if settings.judge == "rules":
        judged = judging.judge_examples(examples, judging.rules_judge)
    else:
        more = judging.JudgeSettings(judge="self", seed=settings.seed)
        model = _answerer(job, folder / "judged.calls.jsonl", more.max_new_tokens, more.temperature)
        judged = judging.judge_examples(examples, judging.ModelJudge(model, more.judge_prompt, more.tries))
    if judged.failed:
        print(f"      left out, without a usable judgment: {judging.shortened(list(map(str, judged.failed)))}")
    kept = [e for e in judged.examples if e.label or e.judgment]
    if not kept:
        raise UserError(
            "no example is left that has a judgment or is right.\n  Judge by hand: nlft judge --judge human."
        )
    write_examples(folder / "judged.jsonl", kept)


def build(folder: Path, job: Job) -> None:
    """examples.jsonl: what is trained on."""
    from nlft.data.build import BuildSettings, choose, read_pool

    settings = settings_of(job)
    wanted = BuildSettings(
        size=settings.size, ratio=settings.ratio, seed=settings.seed, keep_truncated=settings.keep_truncated
    )
    pool = read_pool([folder / "judged.jsonl"], wanted)
    for line in pool.notes:
        print(f"      {line}", file=sys.stderr)
    write_examples(folder / "examples.jsonl", choose(pool.examples, wanted))


def audit(folder: Path, job: Job) -> None:
    """audit.json and audit.html: what to mend in the examples, by the model's own reading of the judgments."""
    from nlft.auditing.run import audit as audit_examples
    from nlft.auditing.settings import AuditSettings
    from nlft.models.loading import load_model, load_tokenizer

    settings = settings_of(job)
    model_settings = _model_settings(job)
    found = audit_examples(
        read_examples(folder / "examples.jsonl"),
        load_model(model_settings, trainable=False),
        load_tokenizer(model_settings),
        AuditSettings(seed=settings.seed, system_prompt=settings.system_prompt),
        test=read_questions(folder / "test.jsonl"),
    )
    print("\n".join(found.lines()[-3:]), file=sys.stderr)
    write_whole(folder / "audit.html", found.html().encode())
    write_whole(folder / "audit.json", json.dumps(found.json(), indent=1, ensure_ascii=False).encode())


def export(folder: Path) -> None:
    """map.html."""
    from nlft.page.export import export_map
    from nlft.runs.run_dir import RunDir

    if RunDir(folder / "nlft").events():
        export_map(RunDir.open(folder / "nlft"), folder / "map.html")


def settings_of(job: Job) -> TuneSettings:
    """The settings of tune, as the job carries them."""
    return TuneSettings(**{f.name: job["settings"][f.name] for f in fields(TuneSettings)})


def _model_settings(job: Job) -> Any:
    from nlft.models.loading import ModelSettings

    return ModelSettings(**job["model"])


def _answerer(job: Job, ledger: Path, max_new_tokens: int, temperature: float) -> Any:
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
        ledger=ledger,
    )


def holds_examples(file: Path | str) -> bool:
    """Whether the file's first record has a completion."""
    from nlft.data.sources import read_source

    records = read_source(file).records
    return bool(records) and bool(records[0].fields.keys() & {"completion", "output"})


def write_rows(path: Path, items: list[Example] | list[Question]) -> None:
    """Write examples or questions as JSON lines."""
    if items and isinstance(items[0], Example):
        write_examples(path, items)
        return
    rows = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items]
    write_whole(path, "".join(rows).encode())
