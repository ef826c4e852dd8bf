"""From examples to a dataset: how many, right and wrong in what ratio, spread over the questions."""

import heapq
import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import gcd, inf
from pathlib import Path
from random import Random
from typing import Annotated

from nlft.config import Range
from nlft.data.export import NEEDS_JUDGMENTS, Form, SFTTarget, Tool
from nlft.data.raw_records import shown
from nlft.data.records import Example, Question, as_messages, completion_text, judge_command, read_examples
from nlft.errors import Problem, RecordsError, UserError, display_path


@dataclass
class BuildSettings:
    """What a dataset is made of."""

    to: Tool = field(
        default="nlft",
        metadata={
            "help": "For what: nlft; sft, kto or reft through TRL; or the original project's script. The same seed "
            "chooses the same examples for each."
        },
    )
    size: Annotated[int | None, Range(1, inf)] = field(
        default=None, metadata={"help": "Examples to choose; without it the most that there are."}
    )
    ratio: str | None = field(
        default=None,
        metadata={
            "help": "Right to wrong ones, met exactly: 1:2, or 1:0 for right ones alone (in YAML in quotes). Without "
            "it, as they are in the files."
        },
    )
    stratify: str | None = field(
        default=None, metadata={"help": "A field of the examples; each of its values keeps its share."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the random draws."})
    keep_truncated: bool = field(
        default=False, metadata={"help": "Also take completions that were cut off (finish_reason: length)."}
    )
    target: SFTTarget = field(
        default="answer",
        metadata={"help": "What sft trains: standard answers; right completions and revisions; or all completions."},
    )
    form: Form = field(
        default="messages",
        metadata={"help": "For sft, kto and reft: chat messages, or text for models without a chat template."},
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before prompts that have none."})

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> tuple[int, int] | None:
        """The ratio in lowest terms; None if there is none to meet.

        Raises:
            UserError: it is no ratio.
        """
        if self.ratio is None:
            return None
        found = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", self.ratio)
        right, wrong = (int(found[1]), int(found[2])) if found else (0, 0)
        if right == wrong == 0:
            raise UserError(f"--ratio {self.ratio}: is no ratio.\n  Write right:wrong, 1:2 for example.")
        return right // gcd(right, wrong), wrong // gcd(right, wrong)


@dataclass(frozen=True)
class Pool:
    """The examples that there are to choose from, and what of the files is not among them, in words."""

    examples: list[Example]
    left_out: list[str]


def read_pool(sources: Sequence[str | Path], settings: BuildSettings) -> Pool:
    """Read the files and put them together.

    An example that two files have is taken once; another one with an id that was there before gets a new id:
    `gsm8k-7#2`.

    Raises:
        RecordsError: records that cannot be used, those that contradict each other, and wrong ones without the
            judgment that the target needs: all of them.
    """
    found: dict[str, Example] = {}
    seen: dict[tuple[str, str, str], Example] = {}
    problems: list[Problem] = []
    told = Counter[str]()
    for source in sources:
        for example in read_examples(source, require_judgment=False):
            where = f"{display_path(source)}: example {shown(example.id)}"
            if example.extra.get("finish_reason") == "length" and not settings.keep_truncated:
                told["cut off by the length limit (--keep_truncated takes them)"] += 1
                continue
            first = seen.setdefault((str(example.id), question_of(example), completion_text(example)), example)
            if first is not example:
                told["found a second time"] += 1
                if first.label != example.label:
                    what = "is labelled right in one place and wrong in another."
                    problems.append(Problem(where, what, "Keep the record with the true label."))
                continue
            if settings.to in NEEDS_JUDGMENTS and not example.label and example.judgment is None:
                cure = f"Run `{judge_command(source)}`, or drop it; sft, kto and reft need no judgments."
                problems.append(Problem(where, "is wrong and has no judgment.", cure))
            new = _new_id(example.id, found)
            told["given a new id, since another file has theirs"] += new != example.id
            found[str(new)] = replace(example, id=new)
    if problems:
        raise RecordsError(problems)
    return Pool(list(found.values()), [f"{n} {what}" for what, n in told.items() if n])


def _new_id(id: str | int, taken: Container[str]) -> str | int:
    numbered = (f"{id}#{n}" for n in count(2))
    return id if str(id) not in taken else next(new for new in numbered if new not in taken)


def question_of(example: Example | Question) -> str:
    """What tells one question from another: the prompt, be it written as text or as messages."""
    return json.dumps(as_messages(example.prompt, "user"), sort_keys=True, ensure_ascii=False)


def choose(examples: Sequence[Example], settings: BuildSettings) -> list[Example]:
    """Draw a dataset, in random order: the same from the same examples and seed.

    Every question is used once before any is used twice, as far as there are right and wrong answers for it. With
    `stratify` that holds within each of the field's values, whose shares come as near as can be to the pool's.

    Raises:
        UserError: the size and the ratio cannot both be met, or there is nothing to choose from.
    """
    right, wrong = _wanted(examples, settings)
    random = Random(settings.seed)
    strata = _grouped(examples, lambda example: stratum_of(example, settings.stratify))
    shares = _share_out(strata, right, wrong, weights=[len(stratum) for stratum in strata])
    used = Counter[str]()
    chosen: list[Example] = []
    for stratum, share in zip(strata, shares, strict=True):
        questions = _grouped(stratum, question_of)
        random.shuffle(questions)
        before = [used[question_of(question[0])] for question in questions]
        for question, counts in zip(questions, _share_out(questions, *share, before=before), strict=True):
            for label, number in zip((True, False), counts, strict=True):
                chosen += random.sample([example for example in question if example.label == label], number)
            used[question_of(question[0])] += sum(counts)
    random.shuffle(chosen)
    return chosen


def stratum_of(example: Example, name: str | None) -> str:
    """The value, as text, of the field that is to keep its shares; what lacks it is a value of its own."""
    if name is None or name not in example.extra:
        return "without"
    return json.dumps(example.extra[name], sort_keys=True, ensure_ascii=False)


def right_and_wrong(examples: Iterable[Example]) -> tuple[int, int]:
    """How many are right, and how many wrong."""
    labels = [example.label for example in examples]
    return sum(labels), len(labels) - sum(labels)


def _wanted(examples: Sequence[Example], settings: BuildSettings) -> tuple[int, int]:
    """How many right and wrong ones to choose."""
    if not examples:
        raise UserError("there are no examples to choose from.\n  Give more, or take cut-off ones: --keep_truncated.")
    name, size, parts = settings.stratify, settings.size, settings.parts()
    if name is not None and not any(name in example.extra for example in examples):
        has = ", ".join(sorted({field for example in examples for field in example.extra})) or "none"
        raise UserError(f"--stratify {name}: no example has that field.\n  Name one that they have: {has}.")
    have = right_and_wrong(examples)
    if parts is not None:
        return _in_ratio(have, parts, settings)
    if size is None:
        return have
    if size > len(examples):
        raise UserError(
            f"--size {size}: there are {have[0]} right and {have[1]} wrong examples; {size - len(examples)} are "
            f"missing.\n  Give more, or take {len(examples)}."
        )
    right = (2 * size * have[0] + len(examples)) // (2 * len(examples))  # half up
    return right, size - right


def _in_ratio(have: tuple[int, int], parts: tuple[int, int], settings: BuildSettings) -> tuple[int, int]:
    """Right and wrong ones exactly in the ratio: as many as the size says, else as many as there are."""
    size, unit = settings.size, sum(parts)
    if size is not None and size % unit:
        below = size // unit * unit
        near = f"{below} or {below + unit}" if below else str(below + unit)
        raise UserError(f"--size {size}: cannot be {settings.ratio} exactly.\n  Take {near}: a multiple of {unit}.")
    most = min(number // part for number, part in zip(have, parts, strict=True) if part)
    times = max(most, 1) if size is None else size // unit
    right, wrong = times * parts[0], times * parts[1]
    missing = [
        f"{needed - there} {kind}"
        for needed, there, kind in zip((right, wrong), have, ("right", "wrong"), strict=True)
        if needed > there
    ]
    if missing:
        what = f"--size {size} at {settings.ratio}" if size is not None else f"--ratio {settings.ratio}"
        smaller = f", or take at most --size {most * unit}" if most else ""
        raise UserError(
            f"{what}: needs {right} right and {wrong} wrong examples, and there are {have[0]} right and {have[1]} "
            f"wrong: {' and '.join(missing)} are missing.\n  Give more{smaller}, or choose another ratio."
        )
    return right, wrong


def _grouped(examples: Iterable[Example], key: Callable[[Example], str]) -> list[list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(key(example), []).append(example)
    return list(groups.values())


def _share_out(
    groups: Sequence[Sequence[Example]],
    right: int,
    wrong: int,
    *,
    weights: Sequence[int] | None = None,
    before: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """How many right and wrong ones each group gives, so that all together give what is wanted, if they have it.

    The groups' totals are as even as their stock allows, for their weights (default: all alike) and with what they
    gave before; where they tie, the earlier groups give first. Among one group's, right and wrong ones come in turn.
    """
    stock = [right_and_wrong(group) for group in groups]
    weights = weights or [1] * len(groups)
    least = most = given = 0  # right ones that have to be, and that can be, among all that was given so far

    def may_give(at: int, already: int) -> bool:
        nonlocal least, most, given
        rights, wrongs = stock[at]
        more_least, more_most = least + (already >= wrongs), most + (already < rights)
        # What a group may not give now it may not give later: the totals that can be met are a polymatroid's.
        if already == rights + wrongs or more_least > right or given + 1 - more_most > wrong:
            return False
        least, most, given = more_least, more_most, given + 1
        return True

    totals = _one_at_a_time(right + wrong, before or [0] * len(groups), [0] * len(groups), weights, may_give)
    lowest = [max(0, total - wrongs) for total, (_, wrongs) in zip(totals, stock, strict=True)]
    highest = [min(total, rights) for total, (rights, _) in zip(totals, stock, strict=True)]
    chosen = _one_at_a_time(
        right - sum(lowest), [0] * len(groups), lowest, weights, lambda at, already: already < highest[at]
    )
    return [(rights, total - rights) for rights, total in zip(chosen, totals, strict=True)]


def _one_at_a_time(
    units: int,
    before: Sequence[int],
    start: Sequence[int],
    weights: Sequence[int],
    may_have: Callable[[int, int], bool],
) -> list[int]:
    """Give out units, each to whoever has least for its weight (Sainte-Laguë's method) and may still have one."""
    have = list(start)

    def turn(at: int) -> tuple[float, int]:
        return (before[at] + have[at] + 0.5) / weights[at], at

    queue = [turn(at) for at in range(len(have))]
    heapq.heapify(queue)
    while units and queue:
        _, at = heapq.heappop(queue)
        if may_have(at, have[at]):
            have[at] += 1
            units -= 1
            heapq.heappush(queue, turn(at))
    assert not units, "more was wanted than there is"
    return have


def summary(pool: Pool, chosen: Sequence[Example], settings: BuildSettings) -> list[str]:
    """What was chosen and what was not, in words, a line each."""
    right, wrong = right_and_wrong(chosen)
    questions, there = ({question_of(example) for example in group} for group in (chosen, pool.examples))
    lines = [
        f"{len(chosen)} of {len(pool.examples)} examples, {right} right and {wrong} wrong, from {len(questions)} of "
        f"{len(there)} questions (seed {settings.seed})"
    ]
    if settings.stratify is not None:
        values = Counter(stratum_of(example, settings.stratify) for example in chosen)
        lines.append(f"{settings.stratify}: " + ", ".join(f"{value} {n}" for value, n in sorted(values.items())))
    return lines + pool.left_out
