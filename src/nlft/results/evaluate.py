"""Evaluation: greedy answers to questions, graded, every one with its evidence.

Grading is `data.grading`'s, the same that labelled the training examples. Interrupted, it goes on where it was.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from nlft.collect.sampling import SamplingSettings, ask
from nlft.config import Range
from nlft.core.conditions import ConditionEncoder, pad_rows
from nlft.core.logprobs import enable_scoring, score
from nlft.core.prompts import Prompt, Templates
from nlft.data.grading import Grader, get_grader
from nlft.data.records import Question
from nlft.files import write_whole
from nlft.models.answerer import Generated, Request
from nlft.models.local import LocalModel
from nlft.progress import progress
from nlft.results.stats import Proportion, wilson
from nlft.runs.run_dir import read_jsonl

FORMAT_VERSION = 1


@dataclass
class EvaluationSettings:
    """How questions are asked and answers graded."""

    grader: str = field(
        default="number",
        metadata={"help": "number, exact, choice, regex, label, or a Python function's dotted path."},
    )
    prompt_template: str = field(
        default="{prompt}",
        metadata={"help": "What the model is asked; {prompt} is the question. Ask as in training."},
    )
    max_new_tokens: Annotated[int, Range(1, 1_000_000)] = field(
        default=256, metadata={"help": "Longest answer, in tokens."}
    )
    eval_batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Questions answered at a time."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before prompts that have none."})
    limit: Annotated[int | None, Range(1, 1_000_000_000)] = field(
        default=None, metadata={"help": "Only the first so many questions."}
    )


@dataclass(frozen=True)
class Summary:
    """What an evaluation says in a few numbers.

    Attributes:
        accuracy: by reading, `strict` and `flexible` for numbers, else `accuracy`; answers that could not be graded
            count as not right, and their share is told apart.
        graded_share: share of answers that could be graded, by reading.
        mean_tokens: mean length of the answers, in tokens.
        finished_share: share of answers that the model ended itself.
        answer_logp: mean log-likelihood of a standard answer's token, where nothing can be graded.
    """

    questions: int
    accuracy: dict[str, Proportion]
    graded_share: dict[str, float]
    mean_tokens: float
    finished_share: float
    answer_logp: float | None = None

    def lines(self) -> list[str]:
        """For the terminal."""
        length = f"mean length {self.mean_tokens:.0f} tokens, {self.finished_share:.0%} finished"
        if self.answer_logp is not None:
            told = f"nothing was graded; mean log-likelihood of a standard answer's token {self.answer_logp:.3f}"
            return [f"{self.questions} questions: {told}", length]
        rows = [
            f"{name:9} {share} of {self.questions}; {self.graded_share[name]:.0%} could be graded"
            for name, share in self.accuracy.items()
        ]
        return [*rows, length]


def graders(name: str) -> dict[str, Grader]:
    """The readings that an evaluation reports: numbers are read strictly and flexibly, all else in one way."""
    if name == "number":
        return {reading: get_grader("number", extraction=reading) for reading in ("strict", "flexible")}
    return {"accuracy": get_grader(name)}


def evaluate(
    model: Any,
    encoder: ConditionEncoder,
    questions: Sequence[Question],
    settings: EvaluationSettings,
    out: Path,
    *,
    about: dict[str, Any],
    desc: str = "evaluating",
) -> Summary:
    """Answer every question greedily, grade the answers, and write `out`.

    Args:
        out: evaluation.json; beside it a log of finished answers lives until it is written.
        about: what was evaluated (model, adapter, file); answers of an interrupted run are used again only if it
            is the same.
    """
    readings = graders(settings.grader)
    questions = questions[: settings.limit]
    about = {**about, **asdict(settings)}
    prompts = [Request(str(q.id), ask(q, settings.prompt_template)) for q in questions]
    asked = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    answers = _answer(model, encoder, prompts, settings, out, {**about, "asked": asked}, desc)
    entries = [
        _entry(question, prompt, answer, readings)
        for question, (_, prompt), answer in zip(questions, prompts, answers, strict=True)
    ]
    logp = _answer_logp(model, encoder, prompts, questions) if settings.grader == "label" else None
    summary = _summarize(entries, list(readings), logp)
    payload = {
        "format_version": FORMAT_VERSION,
        **about,
        "summary": asdict(summary),
        "questions": entries,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(payload, indent=1, ensure_ascii=False).encode())
    _log_path(out).unlink(missing_ok=True)
    return summary


def evaluate_as_asked(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    asking: SamplingSettings,
    out: Path,
    *,
    about: dict[str, Any],
) -> Summary:
    """`evaluate` with questions asked and answers graded as they were where the training examples come from.

    Args:
        asking: `limit`, `temperature` and `samples_per_question` count for nothing: all are answered, once, greedily.
    """
    settings = EvaluationSettings(
        grader=asking.grader,
        prompt_template=asking.prompt_template,
        max_new_tokens=asking.max_new_tokens,
        eval_batch_size=asking.batch_size,
        system_prompt=asking.system_prompt,
    )
    encoder = ConditionEncoder(tokenizer, Templates(system_prompt=asking.system_prompt))
    return evaluate(model, encoder, questions, settings, out, about=about)


def _answer(
    model: Any,
    encoder: ConditionEncoder,
    prompts: list[Request],
    settings: EvaluationSettings,
    out: Path,
    about: dict[str, Any],
    desc: str,
) -> list[Generated]:
    """Answers in the order of the prompts; each finished batch is logged, and a rerun asks for the rest only."""
    log = _log_path(out)
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = read_jsonl(log)
    done: dict[int, Generated] = {}
    if lines and lines[0] == {"about": about}:
        done = {line["index"]: Generated(**line["answer"]) for line in lines[1:]}
    else:
        write_whole(log, json.dumps({"about": about}).encode() + b"\n")
    local = LocalModel(model, encoder, max_new_tokens=settings.max_new_tokens, batch_size=settings.eval_batch_size)
    open_ = [i for i in range(len(prompts)) if i not in done]
    with progress(desc, len(prompts), "question") as bar, log.open("ab") as file:
        bar.update(len(done))
        for batch in local.answer([prompts[i] for i in open_]):
            for at, answer in batch:
                done[open_[at]] = answer
                line = {"index": open_[at], "answer": asdict(answer)}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(batch))
    return [done[i] for i in range(len(prompts))]


def _entry(question: Question, prompt: Prompt, answer: Generated, readings: dict[str, Grader]) -> dict[str, Any]:
    grades = {name: asdict(grader(answer.text, question.answer)) for name, grader in readings.items()}
    return {
        "id": question.id,
        "prompt": prompt,
        "answer": question.answer,
        "output": answer.text,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
        "grades": grades,
    }


def _summarize(entries: list[dict[str, Any]], readings: list[str], logp: float | None) -> Summary:
    n = len(entries)

    def count(reading: str, verdict: str) -> int:
        return sum(e["grades"][reading]["verdict"] == verdict for e in entries)

    return Summary(
        questions=n,
        accuracy={name: wilson(count(name, "right"), n) for name in readings},
        graded_share={name: 1 - count(name, "ungraded") / max(n, 1) for name in readings},
        mean_tokens=sum(e["tokens"] for e in entries) / max(n, 1),
        finished_share=sum(e["finish_reason"] == "stop" for e in entries) / max(n, 1),
        answer_logp=logp,
    )


@torch.no_grad()
def _answer_logp(model: Any, encoder: ConditionEncoder, prompts: list[Request], questions: Sequence[Question]) -> float:
    """Mean log-likelihood of the standard answers' tokens, each answer weighing by its length."""
    enable_scoring(model)
    total, tokens = 0.0, 0
    for (_, prompt), question in zip(prompts, questions, strict=True):
        rows = pad_rows([(encoder.prompt_ids(prompt), encoder.completion_ids(question.answer))], 0)
        device = next(model.parameters()).device
        rows = type(rows)(*(x.to(device) for x in (rows.input_ids, rows.attention_mask, rows.labels)))
        scored = score(model, rows)
        total, tokens = total + float(scored.logp.sum()), tokens + int(scored.mask.sum())
    return total / max(tokens, 1)


def _log_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.partial.jsonl")
