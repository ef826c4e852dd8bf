"""Generate word problems for trials: one or two steps of arithmetic, each with its worked answer.

The same seed gives the same problems. Every number is at least 2, so that all nouns can be plural.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import TypeVar

from nlft.data.records import Question
from nlft.errors import UserError

T = TypeVar("T")

NAMES = ("Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jonas", "Kira", "Leo")
FRIENDS = ("Mia", "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tara", "Umar", "Vera", "Will", "Zoe")
THINGS = ("beads", "buttons", "marbles", "pencils", "postcards", "shells", "stamps", "stickers", "walnuts")

# Each template is (question, step, ...). A step is "calculation: sentence". `a`, `b` and `c` are random numbers,
# and `r` is the result of the first step.
_TEMPLATES: dict[int, tuple[tuple[str, ...], ...]] = {
    1: (
        (
            "{name} has {a} {things} and gets {b} more from {friend}. How many {things} does {name} have now?",
            "a + b: With the new ones {name} has {calc} {things}.",
        ),
        (
            "{name} read {a} pages of a book on Monday and {b} pages on Tuesday. "
            "How many pages did {name} read on the two days together?",
            "a + b: On the two days {name} read {calc} pages.",
        ),
        (
            "A jar holds {a} red {things} and {b} blue {things}, and nothing else. How many {things} are in the jar?",
            "a + b: The jar holds {calc} {things}.",
        ),
        (
            "{name} has {a} {things} and gives {b} of them to {friend}. How many {things} does {name} have left?",
            "a - b: After that {name} has {calc} {things} left.",
        ),
        (
            "A baker baked {a} rolls and sold {b} of them. How many rolls were not sold?",
            "a - b: That leaves {calc} rolls.",
        ),
        (
            "{name} has saved {b} dollars and wants a game that costs {a} dollars. "
            "How many more dollars does {name} need?",
            "a - b: {name} needs {calc} more dollars.",
        ),
        (
            "{name} has {a} {things}, and {friend} has {b} {things}. "
            "How many more {things} does {name} have than {friend}?",
            "a - b: The difference is {calc} {things}.",
        ),
        (
            "There are {a} boxes with {b} {things} in each box. How many {things} are there in all?",
            "a * b: The boxes hold {calc} {things}.",
        ),
        (
            "{name} earns {a} dollars an hour and works {b} hours. How many dollars does {name} earn?",
            "a * b: For the whole time {name} earns {calc} dollars.",
        ),
        (
            "A hall has {a} rows of chairs, with {b} chairs in each row. How many chairs are in the hall?",
            "a * b: The hall has {calc} chairs.",
        ),
        (
            "One ticket costs {a} dollars. How many dollars do {b} tickets cost?",
            "a * b: The tickets cost {calc} dollars.",
        ),
        (
            "{name} shares {a} {things} equally among {b} friends and keeps none. "
            "How many {things} does each friend get?",
            "a / b: Each friend gets {calc} {things}.",
        ),
        (
            "A farmer packs {a} eggs into boxes of {b} eggs each. How many boxes does the farmer fill?",
            "a / b: The farmer fills {calc} boxes.",
        ),
        (
            "A rope that is {a} meters long is cut into {b} pieces of equal length. "
            "How many meters long is each piece?",
            "a / b: Each piece is {calc} meters long.",
        ),
        (
            "A machine makes {a} toys in {b} minutes, the same number every minute. "
            "How many toys does it make in one minute?",
            "a / b: In one minute it makes {calc} toys.",
        ),
    ),
    2: (
        (
            "{name} had {a} {things}, bought {b} more and then gave {c} to {friend}. "
            "How many {things} does {name} have now?",
            "a + b: After buying more, {name} had {calc} {things}.",
            "r - c: After giving some away, {name} has {calc} {things}.",
        ),
        (
            "A bus has {a} passengers. At the next stop {b} passengers get off and {c} others get on. "
            "How many passengers are on the bus now?",
            "a - b: After some get off, {calc} passengers are on the bus.",
            "r + c: After the others get on, it has {calc} passengers.",
        ),
        (
            "A shop had {a} lamps. It sold {b} of them in the morning and {c} in the afternoon. "
            "How many lamps are left?",
            "a - b: After the morning the shop had {calc} lamps.",
            "r - c: After the afternoon {calc} lamps are left.",
        ),
        (
            "{name} already has {c} {things} and buys {a} packs with {b} {things} in each pack. "
            "How many {things} does {name} have then?",
            "a * b: The packs hold {calc} {things}.",
            "r + c: With the old ones {name} has {calc} {things}.",
        ),
        (
            "A small library has {a} shelves with {b} books on each shelf. Visitors borrow {c} of the books. "
            "How many books are left on the shelves?",
            "a * b: The shelves hold {calc} books.",
            "r - c: After the visit {calc} books are left.",
        ),
        (
            "{name} has {c} dollars and buys {a} notebooks for {b} dollars each. "
            "How many dollars does {name} have left?",
            "a * b: The notebooks cost {calc} dollars.",
            "c - r: Then {name} has {calc} dollars left.",
        ),
        (
            "Each of {c} baskets holds {a} red apples and {b} green apples. "
            "How many apples are in the baskets altogether?",
            "a + b: One basket holds {calc} apples.",
            "r * c: All the baskets hold {calc} apples.",
        ),
        (
            "{name} has {a} {things}, and {friend} has {b} {things}. They put them together and share them "
            "equally among {c} children. How many {things} does each child get?",
            "a + b: Together they have {calc} {things}.",
            "r / c: Each child gets {calc} {things}.",
        ),
        (
            "{name} has {a} cookies, keeps {b} of them and shares the rest equally among {c} friends. "
            "How many cookies does each friend get?",
            "a - b: There are {calc} cookies to share.",
            "r / c: Each friend gets {calc} cookies.",
        ),
        (
            "A teacher shares {a} {things} equally among {b} children. {name} is one of them and already had "
            "{c} {things}. How many {things} does {name} have now?",
            "a / b: Each child gets {calc} {things}.",
            "r + c: With the earlier ones {name} has {calc} {things}.",
        ),
        (
            "A teacher shares {a} {things} equally among {b} children. {name} is one of them, had none "
            "before, and loses {c} of the new ones. How many {things} does {name} have left?",
            "a / b: Each child gets {calc} {things}.",
            "r - c: After the loss {name} has {calc} {things} left.",
        ),
        (
            "All tickets cost the same, and {b} tickets cost {a} dollars. How many dollars do {c} tickets cost?",
            "a / b: One ticket costs {calc} dollars.",
            "r * c: The tickets asked for cost {calc} dollars.",
        ),
        (
            "The {things} from {a} boxes, with {b} {things} in each box, are shared equally among {c} "
            "children. How many {things} does each child get?",
            "a * b: The boxes hold {calc} {things}.",
            "r / c: Each child gets {calc} {things}.",
        ),
        (
            "{name} earns {a} dollars every day, spends {b} dollars of them the same day and saves the rest. "
            "How many dollars does {name} save in {c} days?",
            "a - b: In one day {name} saves {calc} dollars.",
            "r * c: In all the days {name} saves {calc} dollars.",
        ),
        (
            "A house has {c} floors with {a} rooms on each floor, and every room has {b} windows. "
            "How many windows do the rooms have altogether?",
            "a * b: One floor has {calc} windows.",
            "r * c: All the floors have {calc} windows.",
        ),
    ),
}


@dataclass(frozen=True)
class _Kind:
    """One template: the one at place `index` among the templates with this many steps."""

    steps: int
    index: int

    @property
    def text(self) -> str:
        return _TEMPLATES[self.steps][self.index][0]

    @property
    def calculations(self) -> list[tuple[str, str]]:
        """Return each step's calculation and sentence."""
        return [(step[:5], step[7:]) for step in _TEMPLATES[self.steps][self.index][1:]]


_Key = tuple[_Kind, tuple[int, ...]]


def generate_problems(
    n: int, *, seed: int, steps: Sequence[int] = (1, 2), exclude: Iterable[Question] = ()
) -> list[Question]:
    """Draw word problems. The same arguments give the same problems on every machine.

    Args:
        n: how many problems to draw.
        steps: numbers of calculations in an answer. The problems use these numbers in turn.
        exclude: questions not to repeat, even with other names and objects.

    Raises:
        UserError: `n` or `steps` is invalid, or there are too few different problems.
    """
    _check(n, steps)
    rng = Random(seed)
    avoided = [str(question.prompt) for question in exclude]
    texts = set(avoided)
    keys = {key for text in avoided if (key := _recognise(text)) is not None}
    _check_space(n, steps, keys)
    questions: list[Question] = []
    while len(questions) < n:
        key = _draw(rng, steps[len(questions) % len(steps)])
        question = _write(rng, key, f"problem-{len(questions) + 1:04}")
        if key not in keys and question.prompt not in texts:
            keys.add(key)
            questions.append(question)
    return questions


def make_splits(train: int = 50, test: int = 200, seed: int = 0) -> tuple[list[Question], list[Question]]:
    """Draw training and test problems that never share a template with the same numbers.

    The test problems are drawn first, so they do not depend on the number of training problems.
    """
    tests = generate_problems(test, seed=seed)
    trains = generate_problems(train, seed=seed + 1, exclude=tests)
    return _numbered(trains, "train"), _numbered(tests, "test")


def _numbered(questions: list[Question], prefix: str) -> list[Question]:
    return [replace(question, id=f"{prefix}-{i:04}") for i, question in enumerate(questions, start=1)]


def _check(n: int, steps: Sequence[int]) -> None:
    if n < 0:
        raise UserError(f"Cannot draw {n} problems.\n  Ask for 0 or more.")
    if not steps or any(count not in _TEMPLATES for count in steps):
        raise UserError(f"There are no problems of {list(steps)} steps.\n  Choose from {list(_TEMPLATES)}.")


def _check_space(n: int, steps: Sequence[int], taken: set[_Key]) -> None:
    """Refuse to draw more than half of the existing problems, because finding new ones then takes too long."""
    for count in set(steps):
        rounds, rest = divmod(n, len(steps))
        needed = rounds * list(steps).count(count) + list(steps[:rest]).count(count)
        most = _space(count) // 2 - sum(kind.steps == count for kind, _ in taken)
        if needed > most:
            raise UserError(
                f"Cannot draw {needed} different problems of {count} step{'s' if count > 1 else ''}: too few exist.\n"
                f"  Ask for at most {most}."
            )


def _pick(rng: Random, options: Sequence[T]) -> T:
    # Python promises only for random() that later versions return the same numbers.
    return options[int(rng.random() * len(options))]


def _draw(rng: Random, steps: int) -> _Key:
    kind = _Kind(steps, _pick(rng, range(len(_TEMPLATES[steps]))))
    operators = [calculation[2] for calculation, _ in kind.calculations]
    if steps == 1:
        return kind, _pick(rng, _pairs(operators[0]))
    while True:
        pair = _pick(rng, _pairs(operators[0]))
        if thirds := _thirds(kind.calculations[1][0], _apply(operators[0], *pair)):
            return kind, (*pair, _pick(rng, thirds))


@cache
def _pairs(operator: str) -> list[tuple[int, int]]:
    """Return the operands of a first step. A model of 135M parameters sometimes calculates with them correctly."""
    small = [(a, b) for a in range(2, 11) for b in range(2, 11)]
    if operator == "+":
        return [(a, b) for a in range(2, 31) for b in range(2, 31)]
    if operator == "-":
        return [(a, b) for a in range(4, 41) for b in range(2, a - 1)]
    if operator == "*":
        return small
    return [(a * b, b) for a, b in small]


@cache
def _thirds(calculation: str, r: int) -> list[int]:
    """Return the possible values of `c` in a second step, given the first step's result `r`."""
    if calculation == "r + c":
        return list(range(2, 31))
    if calculation == "r - c":
        return list(range(2, min(31, r - 1)))
    if calculation == "c - r":
        return list(range(r + 2, 61))
    if calculation == "r * c":
        return list(range(2, 11)) if r <= 10 else []
    return [c for c in range(2, 11) if r % c == 0 and r // c > 1]


@cache
def _space(steps: int) -> int:
    """Return how many problems with this many steps differ in template or numbers."""
    total = 0
    for index in range(len(_TEMPLATES[steps])):
        calculations = [calculation for calculation, _ in _Kind(steps, index).calculations]
        pairs = _pairs(calculations[0][2])
        if steps == 1:
            total += len(pairs)
        else:
            total += sum(len(_thirds(calculations[1], _apply(calculations[0][2], a, b))) for a, b in pairs)
    return total


def _apply(operator: str, left: int, right: int) -> int:
    if operator == "/":
        assert left % right == 0, "operands are drawn to divide evenly"
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def _write(rng: Random, key: _Key, id: str) -> Question:
    kind, numbers = key
    values = dict(zip("abc", numbers, strict=False))
    words = {"name": _pick(rng, NAMES), "friend": _pick(rng, FRIENDS), "things": _pick(rng, THINGS)}
    lines = []
    for calculation, sentence in kind.calculations:
        left, operator, right = calculation.split()
        values["r"] = _apply(operator, x := values[left], y := values[right])
        lines.append(sentence.format(calc=f"{x} {operator} {y} = {values['r']}", **words))
    return Question(id, kind.text.format(**values, **words), "\n".join([*lines, f"#### {values['r']}"]))


def _recognise(text: str) -> _Key | None:
    """Return the template and the numbers of a question that this module wrote. Return None for any other question."""
    for kind, pattern in _patterns():
        if match := pattern.fullmatch(text):
            groups = match.groupdict()
            return kind, tuple(int(groups[name]) for name in "abc" if name in groups)
    return None


@cache
def _patterns() -> list[tuple[_Kind, re.Pattern[str]]]:
    return [(kind, re.compile("".join(_pattern(kind.text)))) for kind in _kinds()]


def _kinds() -> Iterator[_Kind]:
    return (_Kind(steps, index) for steps, several in _TEMPLATES.items() for index in range(len(several)))


def _pattern(text: str) -> Iterator[str]:
    for part in re.split(r"(\{\w+\})", text):
        if part in ("{a}", "{b}", "{c}"):
            yield f"(?P<{part[1]}>[0-9]+)"
        else:
            yield r"\w+" if part.startswith("{") else re.escape(part)
