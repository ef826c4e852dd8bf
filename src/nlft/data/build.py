"""Choose examples for a dataset by number and by ratio of right to wrong, evenly over the questions."""

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
from nlft.core.prompts import SystemPromptSettings, as_messages
from nlft.data.export import NEEDS_JUDGMENTS, Form, TargetSettings, Tool
from nlft.data.joining import differing, joined
from nlft.data.records import Example, Question, completion_text, is_unfinished, judge_command, read_examples
from nlft.errors import Problem, RecordsError, UserError, display_path
from nlft.models.settings import SeedSettings
from nlft.sources.raw_records import shown


@dataclass
class SizeSettings:
    """Number of examples to choose."""

    size: Annotated[int | None, Range(1, inf)] = field(
        default=None, metadata={"help": "Number of examples (default: as many as possible)."}
    )
    ratio: str | None = field(
        default=None,
        metadata={
            "help": "Exact ratio of right to wrong examples, such as 1:2. 1:0: right ones only "
            "(default: as in the file)."
        },
    )


@dataclass
class TruncatedSettings:
    """Settings for completions that a length limit cut off."""

    keep_truncated: bool = field(
        default=False,
        metadata={"help": "Also use completions that did not end (finish_reason)."},
    )


@dataclass
class BuildSettings(SizeSettings, TruncatedSettings, TargetSettings, SeedSettings, SystemPromptSettings):
    """Settings for choosing the examples of a dataset."""

    to: Tool = field(
        default="nlft",
        metadata={
            "help": "Format of the output: nlft; sft, kto or reft for TRL; original for the paper's script. The same "
            "seed chooses the same examples in each."
        },
    )
    stratify: str | None = field(
        default=None, metadata={"help": "Keep the proportions of this field's values when choosing examples."}
    )
    form: Form = field(
        default="messages",
        metadata={"help": "Form of sft, kto and reft rows: chat messages, or text for models without chat template."},
    )

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> tuple[int, int] | None:
        """Return the ratio in lowest terms, as (right, wrong); None if no ratio is set.

        Raises:
            UserError: the setting is not a ratio.
        """
        if self.ratio is None:
            return None
        match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", self.ratio)
        right, wrong = (int(match[1]), int(match[2])) if match else (0, 0)
        if right == wrong == 0:
            raise UserError(f"--ratio {self.ratio}: this is not a ratio.\n  Write right:wrong, for example 1:2.")
        return right // gcd(right, wrong), wrong // gcd(right, wrong)


@dataclass(frozen=True)
class Pool:
    """The examples to choose from, and one line about each group of records that was left out or changed."""

    examples: list[Example]
    notes: list[str]


def read_pool(
    sources: Sequence[str | Path],
    settings: BuildSettings,
    *,
    columns: str | None = None,
    from_format: str | None = None,
) -> Pool:
    """Read the files, in the way that `read_examples` describes, and join their examples.

    If two files hold the same reply under one id, the pool holds it once, with what any of them says about it. If a
    different example has the id of an earlier one, it gets a new id: `gsm8k-7#2`.

    Raises:
        RecordsError: names every record that cannot be used, every example with two different labels, judgments or
            other texts, and every wrong example that lacks a judgment although the tool needs one.
    """
    pool: dict[str, Example] = {}
    seen: dict[tuple[str, str, str], str] = {}
    read_from: dict[str, str | Path] = {}
    problems: list[Problem] = []
    remarks = Counter[str]()
    for source in sources:
        for example in read_examples(source, require_judgment=False, columns=columns, from_format=from_format):
            where = f"{display_path(source)}: example {shown(example.id)}"
            if is_unfinished(example) and not settings.keep_truncated:
                why = "cut off by the length limit"
                if example.extra["finish_reason"] == "unknown":
                    why = "ended for a reason that is not known"
                remarks[f"left out: {why} (--keep_truncated keeps them)"] += 1
                continue
            new = _new_id(example.id, pool)
            key = str(example.id), question_of(example), completion_text(example)
            if (at := seen.setdefault(key, str(new))) in pool:
                pool[at] = _with_copy(pool[at], example, where, problems, remarks)
                continue
            remarks["given a new id, because an earlier example has the same id"] += new != example.id
            pool[at], read_from[at] = replace(example, id=new), source
    if settings.to in NEEDS_JUDGMENTS:
        problems += [
            Problem(
                f"{display_path(read_from[at])}: example {shown(example.id)}",
                "is wrong and has no judgment.",
                f"Run `{judge_command(read_from[at])}`, or drop it. sft, kto and reft need no judgments.",
            )
            for at, example in pool.items()
            if not (example.label or example.judgment or (settings.to == "nlft" and example.spans))
        ]
    if problems:
        raise RecordsError(problems)
    return Pool(list(pool.values()), [f"{n} {what}" for what, n in remarks.items() if n])


def _with_copy(first: Example, example: Example, where: str, problems: list[Problem], remarks: Counter[str]) -> Example:
    """Return an example of the pool with what a later record of the same reply adds.

    Args:
        where: the later record's file and id.
        problems, remarks: what cannot be joined, and what was done, is added here.
    """
    written, others = differing(first, example)
    if first.label != example.label:
        what = "is labelled right in one place and wrong in another."
        problems.append(Problem(where, what, "Keep only the record with the correct label."))
        return first
    for name in written:
        what = f"has another {name} than an earlier record of the same reply."
        problems.append(Problem(where, what, f"Keep only the record with the correct {name}."))
    for name in others:
        remarks[f'have another "{name}" than an earlier record of the same reply: the earlier one stays'] += 1
    whole = joined(first, example)
    added = "joined with an earlier record of the same reply, which said less"
    remarks[added if whole != first else "left out: copies of an earlier example"] += 1
    return whole


def _new_id(id: str | int, taken: Container[str]) -> str | int:
    numbered = (f"{id}#{n}" for n in count(2))
    return id if str(id) not in taken else next(new for new in numbered if new not in taken)


def question_of(example: Example | Question) -> str:
    """Return a key for the question. Equal questions have equal keys, whether the prompt is text or messages."""
    return json.dumps(as_messages(example.prompt), sort_keys=True, ensure_ascii=False)


def choose(examples: Sequence[Example], settings: BuildSettings) -> list[Example]:
    """Draw a dataset in random order. Equal examples and an equal seed give an equal dataset.

    Use every question once before using any question twice, as far as the right and wrong answers allow.
    With `stratify`, do so within each value of that field, and keep the proportions of the values close to the pool's.

    Raises:
        UserError: there are too few examples for the size and the ratio, or none at all.
    """
    right, wrong = _numbers_to_choose(examples, settings)
    random = Random(settings.seed)
    strata = _grouped(examples, lambda example: stratum_of(example, settings.stratify))
    quotas = _quotas(strata, right, wrong, weights=[len(stratum) for stratum in strata])
    used = Counter[str]()
    chosen: list[Example] = []
    for stratum, quota in zip(strata, quotas, strict=True):
        questions = _grouped(stratum, question_of)
        random.shuffle(questions)
        before = [used[question_of(question[0])] for question in questions]
        for question, counts in zip(questions, _quotas(questions, *quota, before=before), strict=True):
            for label, number in zip((True, False), counts, strict=True):
                chosen += random.sample([example for example in question if example.label == label], number)
            used[question_of(question[0])] += sum(counts)
    random.shuffle(chosen)
    return chosen


def stratum_of(example: Example, name: str | None) -> str:
    """Return the example's value of the field `name` as text.

    Return "without" if the example lacks the field or `name` is None.
    """
    if name is None or name not in example.extra:
        return "without"
    return json.dumps(example.extra[name], sort_keys=True, ensure_ascii=False)


def right_and_wrong(examples: Iterable[Example]) -> tuple[int, int]:
    """Count the right and the wrong examples."""
    labels = [example.label for example in examples]
    return sum(labels), len(labels) - sum(labels)


def _numbers_to_choose(examples: Sequence[Example], settings: BuildSettings) -> tuple[int, int]:
    """Return how many right and how many wrong examples to choose.

    Raises:
        UserError: there are too few examples, or none has the field to stratify by.
    """
    if not examples:
        raise UserError("there are no examples to choose from.\n  Give more, or keep cut-off ones: --keep_truncated.")
    name, size, parts = settings.stratify, settings.size, settings.parts()
    if name is not None and not any(name in example.extra for example in examples):
        has = ", ".join(sorted({field for example in examples for field in example.extra})) or "none"
        raise UserError(f"--stratify {name}: no example has that field.\n  The examples' fields: {has}.")
    have = right_and_wrong(examples)
    if parts is not None:
        return _in_ratio(have, parts, settings)
    if size is None:
        return have
    if size > len(examples):
        raise UserError(
            f"--size {size}: there are only {have[0]} right and {have[1]} wrong examples; {size - len(examples)} are "
            f"missing.\n  Give more, or set --size {len(examples)}."
        )
    right = (2 * size * have[0] + len(examples)) // (2 * len(examples))  # round half up
    return right, size - right


def _in_ratio(have: tuple[int, int], parts: tuple[int, int], settings: BuildSettings) -> tuple[int, int]:
    """Return how many right and wrong examples meet the ratio exactly: `size` in total, else as many as possible.

    Raises:
        UserError: the ratio cannot be met.
    """
    size, unit = settings.size, sum(parts)
    if size is not None and size % unit:
        below = size // unit * unit
        near = f"{below} or {below + unit}" if below else str(below + unit)
        raise UserError(
            f"--size {size}: {size} examples cannot have the ratio {settings.ratio} exactly.\n"
            f"  Set --size {near}: a multiple of {unit}."
        )
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
        smaller = f", set --size {most * unit} or less" if most else ""
        raise UserError(
            f"{what}: needs {right} right and {wrong} wrong examples, but there are {have[0]} right and {have[1]} "
            f"wrong: {' and '.join(missing)} are missing.\n  Give more{smaller}, or set another --ratio."
        )
    return right, wrong


def _grouped(examples: Iterable[Example], key: Callable[[Example], str]) -> list[list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(key(example), []).append(example)
    return list(groups.values())


def _quotas(
    groups: Sequence[Sequence[Example]],
    right: int,
    wrong: int,
    *,
    weights: Sequence[int] | None = None,
    before: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """Return how many right and wrong examples to take from each group.

    Together the groups give `right` and `wrong` examples, and must hold that many. Their totals are as even as the
    numbers of their examples allow. Of two groups with equal totals, the earlier one gives first. Within a group, right
    and wrong examples alternate.

    Args:
        weights: the totals are proportional to these; default: all equal.
        before: how many examples each group gave earlier; these count towards its total. Default: none.
    """
    stock = [right_and_wrong(group) for group in groups]
    weights = weights or [1] * len(groups)
    # Among the `given` examples, at least `least` must be right, and at most `most` can be.
    least = most = given = 0

    def may_give(at: int, already: int) -> bool:
        nonlocal least, most, given
        rights, wrongs = stock[at]
        more_least, more_most = least + (already >= wrongs), most + (already < rights)
        # A group that may not give now may not give later either: the feasible totals form a polymatroid.
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
    """Assign units one at a time, by Sainte-Laguë's method, and return each receiver's number of units.

    Each unit goes to the receiver that has the fewest units relative to its weight and may have one more.

    Args:
        before: units that each receiver had earlier; they count in the comparison.
        start: units that each receiver has already; they count in the result.
        may_have: whether the receiver at this place, which has this many units, may have one more.
    """
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
    assert not units, "the receivers cannot take all units"
    return have


def build_summary(pool: Pool, chosen: Sequence[Example], settings: BuildSettings) -> list[str]:
    """Describe what was chosen and what was left out, one fact per line."""
    right, wrong = right_and_wrong(chosen)
    questions, available = ({question_of(example) for example in group} for group in (chosen, pool.examples))
    lines = [
        f"{len(chosen)} of {len(pool.examples)} examples, {right} right and {wrong} wrong, from {len(questions)} of "
        f"{len(available)} questions (seed {settings.seed})"
    ]
    if settings.stratify is not None:
        values = Counter(stratum_of(example, settings.stratify) for example in chosen)
        lines.append(f"{settings.stratify}: " + ", ".join(f"{value} {n}" for value, n in sorted(values.items())))
    return lines + pool.notes
