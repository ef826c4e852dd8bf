"""Run the commands around a training: evaluate, merge, tune, compare, demo."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.checks import EarlyFile, check_out_file
from nlft.commands.data import ASKED, asking_sections, asking_settings, dry_run_told, early_needs
from nlft.commands.earlier import overwrite_flag
from nlft.commands.exporting import beside_run
from nlft.commands.help import own_first
from nlft.commands.importing import early_reading, reading_flags
from nlft.commands.json_output import json_flag, printing_json
from nlft.commands.next_steps import note_next, print_room
from nlft.commands.parsing import Command, early_setting, plain_parser
from nlft.commands.stages import STARTS_WITH, claims_nothing, print_staged_room, telling_kept
from nlft.config import QUESTIONS
from nlft.errors import NLFTError, UserError, display_path, typed
from nlft.files import read_json
from nlft.launch import asks_for_help
from nlft.outputs import is_our_json, keeping_before, refuse_foreign, refuse_inputs
from nlft.progress import note
from nlft.runs.lock import owning_file
from nlft.sources.settings import AS_IT_SAYS, ReadAs

_IS_EVALUATION = is_our_json("summary", "questions")

if TYPE_CHECKING:
    from nlft.core.conditions import ConditionEncoder
    from nlft.data.checks_grader import QuestionNeeds
    from nlft.data.records import Example, Question
    from nlft.results.beside import Reference
    from nlft.results.settings import EvaluationSettings
    from nlft.runs.run_dir import RunDir


@dry_run_told()
def evaluate(argv: Sequence[str]) -> None:
    """Run `nlft evaluate`."""
    from nlft.models.opening import model_kinds
    from nlft.results.settings import EvaluationSettings

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help=QUESTIONS)
        parser.add_argument("--out", type=Path, help="file to write (default: evaluation.json in the run directory)")
        reading_flags(parser)
        json_flag(parser)
        overwrite_flag(parser)

    command = Command(
        "nlft evaluate",
        "Answer questions greedily and grade the answers.",
        [*asking_settings(), EvaluationSettings],
        [("Evaluation", EvaluationSettings), *asking_sections()],
        lambda: [*model_kinds(), EvaluationSettings],
        add,
        needs=["model_name_or_path"],
    )
    needs = early_needs("nlft evaluate", argv)
    reading = early_reading("nlft evaluate", argv)
    early = EarlyFile(argv, lambda file: evaluation_questions(file, needs, reading))
    model_settings, backend, calls, settings, other = command.parse(argv)
    from nlft.results.evaluate import check_can_score, check_collateral, graders
    from nlft.results.keep import read_keep

    adapter = model_settings.adapter
    run = Path(adapter) if adapter and (Path(adapter) / "run.yaml").is_file() else None
    out = other.out or (run / "evaluation.json" if run else None)
    if out is None:
        raise UserError("--out is missing.\n  Name a file, or give a run directory as --adapter.")
    check_out_file(out, ".json")
    read = {"FILE": other.file, "--config": other.config, "--checks": settings.checks, "--keep": settings.keep}
    refuse_inputs("--out", out, {**read, "--ledger": calls.ledger})
    refuse_foreign("--out", out, _IS_EVALUATION, overwrite=other.overwrite)
    questions = early.get(other.file)
    if settings.checks:
        settings.make_checks(None)  # a check that needs a judge is an error before the model is loaded
    else:
        graders(settings.grader)  # and so is an unknown grader
    elsewhere = backend.backend == "openai" or backend.executor == "ray"
    check_can_score(settings, elsewhere=elsewhere)
    if settings.collateral:
        check_collateral(adapter=adapter, elsewhere=elsewhere)
        read_keep(settings.keep)  # a wrong file is an error before the model is loaded
    with printing_json(other.json) as document:
        answers = _evaluated(questions, model_settings, backend, calls, settings, other.file, out, run)
        cut = sum(answer.finish_reason == "length" for answer in answers)
        print_room("nlft evaluate", argv, settings.max_new_tokens, cut, len(answers))
        _note_after_evaluation(run, other.file, str(model_settings.model_name_or_path))
        document.update(read_json(out, "evaluate again"))


def _evaluated(
    questions: "list[Question]",
    model_settings: Any,
    backend: Any,
    calls: Any,
    settings: "EvaluationSettings",
    file: Path,
    out: Path,
    run: Path | None,
) -> "Sequence[Any]":
    """Evaluate, write `out`, and print the summary. Return the answers. `run`: the run that the adapter is of."""
    from nlft.models.opening import open_answerer
    from nlft.results.evaluate import evaluate
    from nlft.runs.card_facts import bits_of_base
    from nlft.runs.model_card import write_card
    from nlft.runs.run_dir import RunDir

    adapter = model_settings.adapter
    bits = bits_of_base(adapter)
    if bits is not None and not (model_settings.load_in_4bit or model_settings.load_in_8bit):
        note(
            f"The adapter was trained on the base in {bits} bits. Add --load_in_{bits}bit to evaluate it on that base."
        )
    model = open_answerer(
        model_settings,
        backend,
        calls,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.eval_batch_size,
        system_prompt=settings.system_prompt,
        inputs=settings.template_inputs(),
        ledger=out.with_suffix(".calls.jsonl"),
        judge_on_server=settings.judge_base_url is not None,
    )
    about = {"model": model_settings.model_name_or_path, "adapter": None, "file": str(file)}
    if adapter:
        from nlft.models.fingerprints import adapter_fingerprint  # brings torch, which asking a server does without

        about["adapter"] = adapter_fingerprint(adapter)
    if settings.collateral:
        from nlft.core.base_below import refuse_leak

        inner: Any = model.inner  # a local model, because `check_collateral` refuses others
        refuse_leak(inner.model, "--collateral")
    encoder = getattr(model.inner, "encoder", None)  # a server has none, and its collateral is refused above
    reference = _trained_on(run, encoder) if run and settings.collateral and encoder else None
    with owning_file(out), keeping_before(out, report=_IS_EVALUATION):
        found = evaluate(model, questions, settings, out, about=about, reference=reference)
    print("\n".join([*found.lines(), f"every answer: {display_path(out)}"]))
    files = RunDir(run) if run else None
    if files and files.adapter_path.is_dir() and out.resolve() == files.evaluation_path.resolve():
        print(f"model card: {display_path(write_card(files))}")
    return found.answers


def _note_after_evaluation(run: Path | None, questions: Path, model: str) -> None:
    if run is not None:
        note_next("nlft", "map", run)
    else:
        note_next("nlft", "sample", questions, "--model_name_or_path", model, "--out", "runs/answered.jsonl")


def _trained_on(folder: Path, encoder: "ConditionEncoder") -> "Reference":
    """Return a reference with the texts and struck tokens of the run's training file, if the file is still there."""
    from nlft.data.records import as_examples, training_texts
    from nlft.results.beside import Reference
    from nlft.runs.run_dir import RunDir

    run = RunDir.open(folder)
    rows = feedback_dataset(run, None)
    if rows is None:
        note(
            f"copied, struck tokens: not known, because the training file of {display_path(folder)} is missing or has "
            "changed."
        )
        return Reference()
    examples = as_examples(rows)
    return Reference(trained_on=training_texts(examples), struck=_struck(run, examples, encoder))


def _struck(run: "RunDir", examples: "list[Example]", encoder: "ConditionEncoder") -> set[int]:
    """Return the tokens that a run has struck, with the settings that it ended with."""
    from nlft.core.conditions import ConditionEncoder
    from nlft.core.schemes.registry import get_scheme, scheme_names
    from nlft.core.strikes import StrikePlan
    from nlft.data.encoding import encode_examples
    from nlft.results.beside import struck_ids
    from nlft.runs.controls import state_of
    from nlft.training.pivots import with_pivots

    record = run.settings()
    state = state_of(record, run.controls())
    # A baseline's run has no state, and the scheme of another package may be gone.
    if state is None or state.scheme not in scheme_names():
        return set()
    scheme = get_scheme(state.scheme)
    words = (record.get("training") or {}).get("strike_words") or ()
    encoded = encode_examples(examples, ConditionEncoder(encoder.tokenizer, encoder.templates, listed=words))
    try:
        encoded = with_pivots(encoded, record["pivots"]) if "pivots" in record else encoded
    except ValueError as error:
        note(f"struck tokens: not known, because the pivots in run.yaml do not fit the examples: {error}.")
        return set()
    plan = scheme.plan(encoded, encoder.tokenizer, scheme.settings(**state.settings))
    return struck_ids(plan, encoded) if isinstance(plan, StrikePlan) else set()


def evaluation_questions(
    file: str | Path, needs: "QuestionNeeds | None" = None, reading: ReadAs | None = None
) -> "list[Question]":
    """Return the file's questions, or the questions of its examples.

    Args:
        needs, reading: what the questions must have, and how they are read, as `read_questions` takes it.
    """
    from nlft.data.records import read_questions

    return read_questions(file, **(needs or {}), **(reading or AS_IT_SAYS))


def merge(argv: Sequence[str]) -> None:
    """Run `nlft merge`."""
    from nlft.models.settings import MergeOptions

    def add(parser: ArgumentParser) -> None:
        place = "a run directory: stands for --adapter and --model_name_or_path"
        parser.add_argument("run", nargs="?", help=place)
        out = "folder to write. It must be empty or new (default: RUN-merged beside the run)"
        parser.add_argument("--out", type=Path, help=out)

    given, (argv, beside) = argv, _merge_words(argv)
    what = "Merge an adapter into its model and save an ordinary model folder, for servers that cannot load adapters."
    needs = ["adapter", "model_name_or_path"]
    command = Command("nlft merge", what, [MergeOptions], [("Model", ASKED)], _merged_class, add, needs=needs)
    model_settings, other = command.parse(argv)
    out = other.out or beside
    if other.run is not None:
        raise UserError(f"nlft merge: name the run first: {typed('nlft', 'merge', other.run, '--out', 'FOLDER')}.")
    if out is None:
        raise UserError("nlft merge: --out is missing.\n  Name the folder to write, empty or new.")
    read = {"--model_name_or_path": model_settings.model_name_or_path, "--adapter": model_settings.adapter}
    refuse_inputs("--out", out, read)
    from nlft.exporting.run import serve_line
    from nlft.models.trained_on import refuse_changed_base
    from nlft.training.merging import merge_adapter

    if beside is not None and early_setting("nlft merge", given[1:], "model_name_or_path") is None:
        refuse_changed_base(str(model_settings.adapter), str(model_settings.model_name_or_path))
    merge_adapter(model_settings, out)
    print(f"model: {display_path(out)}\nnext: {serve_line(out, out.resolve().name)}")


def _merge_words(argv: Sequence[str]) -> tuple[list[str], Path | None]:
    """Return the words of `nlft merge` with a run's adapter and base as flags, and the folder that it writes then.

    Raises:
        UserError: the run has no adapter, or another adapter is named too.
    """
    words = list(argv)
    if not words or words[0].startswith("-") or asks_for_help(words):
        return words, None
    from nlft.chat.target import find_target
    from nlft.commands.checks import refuse_unfinished

    name, *rest = words
    if other := early_setting("nlft merge", rest, "adapter"):
        raise UserError(
            f"nlft merge {display_path(name)}: --adapter {other} names an adapter too.\n"
            "  Leave out the run, or --adapter (also `adapter` in the file of --config)."
        )
    refuse_unfinished(name, lambda checkpoint: typed("nlft", "merge", checkpoint, *rest))
    base = early_setting("nlft merge", rest, "model_name_or_path")
    target = find_target(name, str(base) if base else None, "merge")
    if not target.is_adapter:
        raise UserError(
            f"{display_path(name)}: the run trained all weights, so it has no adapter to merge.\n"
            f"  Its model folder is {display_path(target.tuned)}. To take it away: nlft export {display_path(name)}"
        )
    named = [] if base else ["--model_name_or_path", target.base]
    if target.revision and early_setting("nlft merge", rest, "model_revision") is None:
        named += ["--model_revision", target.revision]
    return [*rest, "--adapter", name, *named], beside_run(name, "merged")


def feedback_dataset(run: "RunDir", data: Path | None) -> list[dict[str, Any]] | None:
    """Return the examples that edited feedback is saved with.

    They come from the named file, else from the run's training file. Return None if the training file is missing or has
    changed.

    Raises:
        UserError: the named file has other replies than the run.
    """
    from nlft.data.records import as_record
    from nlft.data.training_file import is_trained_on, read_training_file, refuse_other_replies

    recorded = run.settings().get("data", {}) if run.settings_path.is_file() else {}
    if data is not None:
        found = read_training_file(data, recorded)
        refuse_other_replies(data, found, recorded, run.watched())
        return [as_record(e) for e in found]
    file = Path(recorded.get("file") or "")
    if not file.is_file():
        return None
    try:
        found = read_training_file(file, recorded)
    except NLFTError:
        return None
    return [as_record(e) for e in found] if is_trained_on(found, recorded) else None


def check_feedback(record: "dict[str, Any]") -> None:
    """Refuse an edited record that no training could read.

    Raises:
        NLFTError: the record is wrong.
    """
    from nlft.data.records import as_examples

    as_examples([record])


def tune(argv: Sequence[str]) -> None:
    """Run `nlft tune`."""
    from nlft.experiments.settings import TuneSettings

    what = (
        "Train and compare a model, starting from questions or examples: sample, judge, build, audit, train, evaluate."
    )
    _staged(argv, "tune", what, TuneSettings, "tune:Tune")


def compare(argv: Sequence[str]) -> None:
    """Run `nlft compare`."""
    from nlft.experiments.settings import CompareSettings

    what = "Compare every method on the same examples, by size and seed, with confidence intervals and a verdict."
    _staged(argv, "compare", what, CompareSettings, "compare:Compare")


def _model_class() -> list[type]:
    from nlft.models.loading import ModelSettings

    return [ModelSettings]


def _merged_class() -> list[type]:
    from nlft.models.loading import ModelSettings
    from nlft.models.settings import MergeOptions

    @dataclass
    class MergeSettings(MergeOptions, ModelSettings):
        pass

    return [MergeSettings]


def _staged(argv: Sequence[str], name: str, description: str, settings: type, engine: str) -> None:
    from nlft.models.settings import ModelOptions

    # `--help-all` lists the settings of a judge.
    shown = [name for name in own_first(settings) if not name.startswith("judge_")]

    def add(parser: ArgumentParser) -> None:
        what = "questions or examples, instead of --train_file"
        parser.add_argument("file", type=Path, nargs="?", help=what)
        json_flag(parser)

    command = Command(
        f"nlft {name}",
        description,
        [ModelOptions, settings],
        [(name.capitalize(), shown), ("Model", ["model_name_or_path", "dtype", "lora_r"])],
        lambda: [*_model_class(), settings],
        add,
        needs=["model_name_or_path"],
    )
    model_settings, chosen, other = command.parse(argv)
    if bool(other.file) == bool(chosen.train_file):
        raise UserError(f"nlft {name} takes one file.\n  Give it as FILE, or as train_file in the config.")
    from nlft.experiments.staged import model_fields

    module, _, cls = engine.partition(":")
    staged = getattr(import_module(f"nlft.experiments.{module}"), cls)
    with (
        printing_json(other.json) as document,
        claims_nothing(chosen.output_dir, STARTS_WITH),
        telling_kept(f"nlft {name}", argv, chosen.output_dir),
    ):
        work = staged(other.file or chosen.train_file, model_fields(model_settings), chosen)
        print(work.run())
        document.update(read_json(work.folder / work.report_name, "run the command again"))
        print_staged_room(f"nlft {name}", argv, chosen)
        note_next("nlft", "map", Path(chosen.output_dir))


def demo(argv: Sequence[str]) -> None:
    """Run `nlft demo`."""
    parser = plain_parser(
        "nlft demo", "The whole way once, on a small real model: notes on replies, training, comparison."
    )
    tasks = "habit: product texts, struck where a reader quoted praise. arithmetic: word problems (default: habit)"
    parser.add_argument("--task", choices=["habit", "arithmetic"], default="habit", help=tasks)
    parser.add_argument("--dir", type=Path, default=Path("demo"), help="where its files go (default: demo)")
    parser.add_argument("--model_name_or_path", help="model to use instead of SmolLM2-135M-Instruct")
    args = parser.parse_args(argv)
    from nlft.experiments.demo import run_demo

    with telling_kept("nlft demo", argv, args.dir):
        print(run_demo(args.dir, args.model_name_or_path, task=args.task))
    note_next("nlft", "map", args.dir)
