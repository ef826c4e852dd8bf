"""`nlft rounds`: sample answers from the model, grade, judge and train, then repeat with the trained model."""

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, replace
from math import ceil
from pathlib import Path
from typing import Any

from nlft import __version__
from nlft.core.schemes.registry import get_scheme
from nlft.data.checks_grader import needs_of_questions
from nlft.data.records import Question, marked_spans, read_examples, read_questions, write_examples
from nlft.errors import NLFTError, Problem, ProblemsError, UserError, display_path
from nlft.experiments import stages
from nlft.experiments.inputs import StageRecord, digest
from nlft.experiments.settings import RoundsPlan, RoundsSettings, TuneSettings
from nlft.experiments.staged import Stage, Staged
from nlft.files import json_bytes, read_json, sync_tree, write_whole
from nlft.results.evaluate import deciding_reading, evaluate
from nlft.results.settings import as_asked
from nlft.results.stats import Proportion, wilson
from nlft.runs.lock import owning
from nlft.runs.run_dir import RunDir
from nlft.training.manifest import put_in_place

Job = dict[str, Any]

ON_TRAINING = "training-questions.json"  # a round's answers to the training questions


def plan_rounds(settings: RoundsSettings, args: Any, scheme: str, saliency: Any) -> RoundsPlan:
    """Make the plan from the command's settings.

    Args:
        args: the `NLFTConfig`. Each round trains with it, in a run directory of its own.

    Raises:
        ProblemsError: some settings cannot be used with rounds.
    """
    own_folders = ("output_dir", "run_name", "resume_from_checkpoint", "push_to_hub", "hub_token")
    problems = [
        Problem(f"--{name}", "is not possible with rounds", cure)
        for name, cure in {
            "resume_from_checkpoint": "Leave it out: finished work in --output_dir is not repeated.",
            "push_to_hub": "Push the best round's adapter when the rounds are done.",
        }.items()
        if getattr(args, name)
    ]
    if args.world_size > 1:
        problems.append(Problem("nlft rounds", "runs in one process", "Start without accelerate launch or torchrun."))
    if settings.grader == "label":
        cure = "Choose another --grader, or label and train round by round with `nlft sample` and `nlft judge`."
        problems.append(Problem("--grader label", "does not label answers as right or wrong", cure))
    if problems:
        raise ProblemsError(problems)
    # The values of run.yaml, from which a replay makes the same NLFTConfig.
    recorded = json.loads(args.to_json_string())
    training = {f.name: recorded[f.name] for f in fields(args) if f.init and f.name in recorded}
    shared = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "held_out_share"}
    # The plan shows the training's value of each setting that both have.
    same = {f.name for f in fields(TuneSettings)} & training.keys() - shared.keys()
    return RoundsPlan(
        **shared,
        **{name: getattr(args, name) for name in same},
        test_share=settings.held_out_share,
        trainer={name: value for name, value in training.items() if name not in own_folders},
        scheme=scheme,
        saliency=asdict(saliency),
    )


class Rounds(Staged):
    """Rounds in one folder.

    `round-0` is for the model before training. `round-N` is for its N-th training, with all data of that training.
    """

    settings: RoundsPlan
    may_change = ("rounds", "patience")

    def work(self) -> str:
        """Run all rounds that are not done yet. Return the result in words.

        For the errors, see `Staged.run_stages`.
        """
        if stages.holds_examples(self.file, self.settings.reading()) and self.settings.prompt_template != "{prompt}":
            raise UserError("--prompt_template: the file has examples, so their prompts are complete.\n  Leave it out.")
        self.record_settings()
        first = self.data_stages()[0]
        self.run_stages([first])
        accuracies = [self._round(0, None).accuracy()]
        for number in range(1, self.settings.rounds + 1):
            self._ask_again(number)
            last = self.folder / f"round-{number - 1}" / "run" if number > 1 else None
            accuracies.append(self._round(number, last).accuracy())
            summary = self._finish(accuracies)  # after each round, so that an interruption leaves a usable result
            if over(accuracies, self.settings.patience):
                break
        return summary

    def _round(self, number: int, last: Path | None) -> "Round":
        """
        Args:
            last: the run that this round continues from. None: start from the given model.
        """
        folder = self.folder / f"round-{number}"
        # Each round has its own seed; otherwise an unchanged model would repeat itself.
        plan = replace(self.settings, output_dir=str(folder), seed=self.settings.seed + number)
        model = self.model if last is None else {**self.model, "adapter": str(last)}
        return Round(self.file, model, plan, number)

    def _ask_again(self, number: int) -> None:
        """Write round-N/train.jsonl. In the first round it has the file's content, later only the file's questions."""
        folder, source = self.folder / f"round-{number}", self.folder / "train.jsonl"
        path, record = folder / "train.jsonl", StageRecord(folder, {"train.jsonl": ("../train.jsonl",)})
        state, _ = record.state(path.name)
        if state in ("done", "edited"):
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._write_questions(number, source, path)
        record.record(path.name, record.inputs(path.name))

    def _write_questions(self, number: int, source: Path, path: Path) -> None:
        if number == 1 or not stages.holds_examples(source):
            write_whole(path, source.read_bytes())
            return
        needs = needs_of_questions(self.settings.checks)
        stages.write_rows(path, questions_of(source, needs.get("needed_fields", ())))

    def _finish(self, accuracies: Sequence[Proportion]) -> str:
        """Write rounds.json and the best round's adapter. Return both in words."""
        best = best_round(accuracies)
        held_out = stages.read_test(self.folder)
        rounds = [self._row(number, accuracy) for number, accuracy in enumerate(accuracies)]
        ended = "under way" if len(accuracies) <= self.settings.rounds else "all rounds were trained"
        if over(accuracies, self.settings.patience):
            ended = "accuracy did not rise"
        report = {
            "nlft": __version__,
            **self.job(),
            "held_out": len(held_out),
            "rounds": rounds,
            "best": best,
            "ended": ended,
        }
        copy_adapter(RunDir(self.folder / f"round-{best}" / "run"), self.folder / "adapter")
        write_whole(self.folder / "rounds.json", json_bytes(report, indent=1))
        lines = [
            f"round {row['round']}: {accuracies[row['round']]} of {len(held_out)} held out"
            + (f", after {row['examples']} examples, {row['right']} right" if row["round"] else ", before training")
            for row in rounds
        ]
        for row in rounds[1:]:
            before, after = rounds[row["round"] - 1].get("violations"), row.get("violations")
            if before is not None and after is not None and after > before:
                lines.append(
                    f"round {row['round']} ended with more violations on the training prompts than it began with: "
                    f"{before:.1%} → {after:.1%}. Give it more steps."
                )
        if accuracies[best].count <= accuracies[0].count:
            lines.append("No round is better than the model before training on the held-out questions.")
        lines.append(f"{ended}; best: round {best}, chosen on the held-out questions, so test it on others")
        return "\n".join([*lines, f"adapter: {display_path(self.folder / 'adapter')}"])

    def _row(self, number: int, accuracy: Proportion) -> dict[str, Any]:
        row = {"round": number, "accuracy": {"value": accuracy.value, **asdict(accuracy)}}
        folder = self.folder / f"round-{number}"
        if number:
            examples = read_examples(folder / "examples.jsonl")
            row |= {"examples": len(examples), "right": sum(e.label for e in examples)}
        if (folder / ON_TRAINING).exists():
            row["violations"] = 1 - _accuracy(folder / ON_TRAINING, self.settings.extraction).value
        return row


class Round(Staged):
    """One round in its folder, with examples.jsonl, run, evaluation.json, and the files of the earlier stages."""

    settings: RoundsPlan

    def __init__(self, file: str, model: dict[str, Any], plan: RoundsPlan, number: int) -> None:
        super().__init__(file, model, plan)
        self.number = number

    def accuracy(self) -> Proportion:
        """Train and evaluate the round, if this is not done yet. Return its accuracy on the held-out questions."""
        evaluating: list[Stage] = [
            ("held-out questions", "evaluation.json", self.own_process(evaluate_round, self.number, "evaluation.json"))
        ]
        if get_scheme(self.settings.scheme).strikes:
            done = self.own_process(evaluate_round, self.number, ON_TRAINING)
            evaluating.append(("training questions", ON_TRAINING, done))
        training = ("training", "trained.json", self.own_process(train_round, self.number))
        work: list[Stage] = [*self.data_stages()[1:], training, *evaluating] if self.number else evaluating
        named = f"round {self.number}" if self.number else "before training"
        self.run_stages([(f"{named}: {title}", done, function) for title, done, function in work])
        return _accuracy(self.folder / "evaluation.json", self.settings.extraction)

    def stage_record(self) -> StageRecord:
        """Return what the round's stages wrote and read. A later round reads what the one before it trained."""
        before = (f"../round-{self.number - 1}/trained.json",) if self.number > 1 else ()
        reads = {
            "sampled.jsonl": ("train.jsonl", *before),
            "trained.json": ("examples.jsonl", *before),
            "evaluation.json": ("trained.json", "../test.jsonl"),
            ON_TRAINING: ("trained.json", "../train.jsonl"),
        }
        return StageRecord(self.folder, reads)

    def discard(self, done: str) -> None:
        """Remove the run of a training that is done again: it would go on from its checkpoint."""
        if done == "trained.json":
            RunDir(self.folder / "run").clear()


def _accuracy(evaluation: Path, extraction: str) -> Proportion:
    again = "remove it, and run the command again: the questions are asked again"
    found = read_json(evaluation, again)
    try:
        accuracy = found["summary"]["accuracy"]
        deciding = accuracy[deciding_reading(accuracy, extraction)]
        return wilson(deciding["count"], deciding["n"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{display_path(evaluation)}: has no accuracy.\n  To go on, {again}.") from error


def round_examples(folder: Path, number: int, scheme: str, max_steps: int) -> tuple[Path, int]:
    """Return the file that round `number` trains on, and its number of steps.

    A scheme that strikes trains on the replies of all rounds. Few of the later replies carry a strike, so that equal
    steps over all replies would undo the earlier ones. So a round takes as many more steps as there are more struck
    replies.

    Args:
        max_steps: steps of the first round; 0 or less if epochs decide.
    """
    own = folder / "examples.jsonl"
    if number == 1 or not get_scheme(scheme).strikes:
        return own, max_steps
    every = [read_examples(folder.parent / f"round-{at}" / own.name) for at in range(1, number + 1)]
    together = [replace(one, id=f"{one.id}@{at}") for at, some in enumerate(every, start=1) for one in some]
    path = folder / "accumulated.jsonl"
    write_examples(path, together)
    first, all_rounds = (sum(bool(marked_spans(one)) for one in some) for some in (every[0], together))
    return path, ceil(max_steps * all_rounds / first) if first and max_steps > 0 else max_steps


def train_round(folder: Path, job: Job, number: int) -> None:
    """Train the round, from its last checkpoint if it was interrupted. Write run/ and trained.json."""
    run = RunDir(folder / "run")
    with owning(run.path):
        _train_round(folder, job, number, run)


def _train_round(folder: Path, job: Job, number: int, run: RunDir) -> None:
    from nlft.models.loading import ModelSettings
    from nlft.planning.shortage import telling_what_fits
    from nlft.training.interrupts import interruptible
    from nlft.training.start import nlft_trainer, own_checkpoint
    from nlft.training.trainer import NLFTConfig

    settings = job["settings"]
    file, steps = round_examples(folder, number, settings["scheme"], settings["trainer"]["max_steps"])
    trainer = nlft_trainer(
        ModelSettings(**job["model"]),
        NLFTConfig(**{**settings["trainer"], "max_steps": steps}, output_dir=str(run.path)),
        read_examples(file),
        get_scheme(settings["scheme"]).settings(**settings["saliency"]),
        file,
    )
    checkpoint = own_checkpoint(trainer, run)
    with interruptible(trainer, run, tell=False), telling_what_fits(trainer):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    write_whole(
        folder / "trained.json", json.dumps({"steps": trainer.state.global_step, "examples": digest(file)}).encode()
    )


def evaluate_round(folder: Path, job: Job, number: int, name: str) -> None:
    """Write the trained model's greedy answers to the held-out questions, or to those of training, as `name`."""
    from nlft.models.fingerprints import adapter_fingerprint
    from nlft.models.loading import ModelSettings, load_model, load_tokenizer

    given = job["model"] if number == 0 else {**job["model"], "adapter": str(folder / "run")}
    model = ModelSettings(**given)
    folder.mkdir(parents=True, exist_ok=True)
    evaluate(
        load_model(model, trainable=False),
        training_questions(folder.parent, job) if name == ON_TRAINING else stages.read_test(folder.parent),
        as_asked(stages.settings_of(job)),
        folder / name,
        tokenizer=load_tokenizer(model),
        about={"model": model.model_name_or_path, "adapter": adapter_fingerprint(model.adapter), "round": number},
    )


def over(accuracies: Sequence[Proportion], patience: int) -> bool:
    """Return whether the last `patience` rounds brought no new best accuracy.

    The first of `accuracies` is the accuracy before training.
    """
    counts = [accuracy.count for accuracy in accuracies]
    last_rise = max(at for at in range(len(counts)) if at == 0 or counts[at] > max(counts[:at]))
    return len(counts) - 1 - last_rise >= patience


def best_round(accuracies: Sequence[Proportion]) -> int:
    """Return the number of the trained round with the highest accuracy, counted from 1.

    Of several rounds with that accuracy, return the earliest.
    """
    if len(accuracies) < 2:
        raise NLFTError("no round was trained.")
    return max(range(1, len(accuracies)), key=lambda at: (accuracies[at].count, -at))


def questions_of(file: Path, needed_fields: Collection[str] = ()) -> list[Question]:
    """Return the distinct questions of a file of examples.

    Each question has the id, the answer, the needed fields and the columns of the chat template of its first example.
    """
    questions: dict[tuple[str, str | None], Question] = {}
    for example in read_examples(file, require_judgment=False):
        key = (stages.asked_text(example), example.answer)
        questions.setdefault(key, stages.question_asked(example, needed_fields))
    return list(questions.values())


def training_questions(folder: Path, job: Job) -> list[Question]:
    """Return the questions that every round trains on."""
    file, needs = folder / "train.jsonl", needs_of_questions(job["settings"]["checks"])
    if stages.holds_examples(file):
        return questions_of(file, needs.get("needed_fields", ()))
    return read_questions(file, require_answer=False)


def copy_adapter(run: RunDir, to: Path) -> None:
    """Copy the run's adapter to `to`, and replace the old content.

    The folder never holds a half-copied adapter.
    """
    aside = to.with_name(f".{to.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(run.adapter_path, aside)
    sync_tree(aside)
    put_in_place(aside, to)
