"""Wrong completions with a mistake at a known place: planted in a right one, or found in a model's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from nlft.collect.arithmetic import find_calculations
from nlft.collect.rules import judge_by_rules
from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import fill
from nlft.data.problems import generate_problems
from nlft.data.records import Question, read_questions

ASK = "{prompt}\n\nAnswer in one or two short sentences that show the calculation, then write #### and the number."
LONGEST = {"question": 260, "answer": 230}  # characters of a GSM8K example: short ones, so that it takes minutes
SLIPS = (-10, -3, -2, -1, 1, 2, 3, 10)
RIGHT, MISTAKE, FOLLOWS, UNKNOWN = range(4)


@dataclass(frozen=True)
class Wrong:
    """A wrong completion with its mistake.

    Attributes:
        mistake: characters of the wrong number, from the first that is not the right number's.
        follows: the same of each later number that is wrong because this one is.
        until: characters that are known to be right or wrong; what comes later is not judged.
    """

    prompt: str
    answer: str
    completion: str
    judgment: str
    mistake: tuple[int, int]
    follows: tuple[tuple[int, int], ...]
    until: int


def plant(question: Question, rng: Random) -> Wrong | None:
    """The worked answer with the result of one step changed, and with what follows from it recalculated.

    None where it cannot be told which later numbers follow: the right result turns up before, a later step does not
    come out even, or the rules have anything else to say of it.
    """
    text = question.answer
    if re.search(r"\d[,.]\d", text):
        return None
    found = list(re.finditer(r"\d+", text))
    was = [m[0] for m in found]
    results = [at for c in find_calculations(text) if (at := _result(text, found, c.written)) is not None]
    if not results:
        return None
    planted = results[int(rng.random() * len(results))]
    slips = [n for d in SLIPS if (n := int(was[planted]) + d) > 0 and len(str(n)) == len(was[planted])]
    if not slips:
        return None
    now = _carried_on(text, was, planted, str(slips[int(rng.random() * len(slips))]), str(question.prompt))
    if now is None or now[-1] == was[-1]:
        return None
    completion, starts = _written(text, found, now)
    prompt = fill(ASK, prompt=str(question.prompt))
    judgment = judge_by_rules(prompt, completion, text) or ""
    if judgment.count("miscalculated") != 1 or not re.match(rf'The step "[^"]*\b{now[planted]}', judgment):
        return None
    spans = [_departure(starts[i], was[i], now[i]) for i in range(len(now)) if was[i] != now[i]]
    return Wrong(prompt, text, completion, judgment, spans[0], tuple(spans[1:]), len(completion) + 1)


def _carried_on(text: str, was: list[str], planted: int, wrong: str, question: str) -> list[str] | None:
    """All numbers of the text with a wrong one planted: later copies follow it, later results are recalculated."""
    found = list(re.finditer(r"\d+", text))
    now, at = list(was), planted
    for _ in range(10):
        earlier = {*re.findall(r"\d+", question), *was[:at]}
        if was[at] in earlier:
            return None
        now[at:] = [wrong if old == was[at] else new for old, new in zip(was[at:], now[at:], strict=True)]
        changed = _written(text, found, now)[0]
        off = [c for c in find_calculations(changed) if not c.right]
        places = [_result(changed, list(re.finditer(r"\d+", changed)), c.written) for c in off]
        if planted not in places or None in places:
            return None
        later = [(place, c) for place, c in zip(places, off, strict=True) if place != planted]
        if not later:
            return now
        at, step = later[0]
        if at is None or at < planted or step.value.denominator != 1 or step.value <= 0:
            return None
        wrong = str(step.value)
    return None


def _written(text: str, found: Sequence[re.Match[str]], now: Sequence[str]) -> tuple[str, list[int]]:
    """The text with other numbers, and where each begins."""
    pieces, starts, length, end = [], [], 0, 0
    for match, number in zip(found, now, strict=True):
        pieces += [text[end : match.start()], number]
        starts.append(length + match.start() - end)
        length += match.start() - end + len(number)
        end = match.end()
    return "".join(pieces) + text[end:], starts


def _result(text: str, found: Sequence[re.Match[str]], written: str) -> int | None:
    """Which number of the text is this calculation's result; None if it stands there twice."""
    if text.count(written) != 1:
        return None
    begin = text.index(written)
    return max(i for i, m in enumerate(found) if begin <= m.start() < begin + len(written))


def _departure(start: int, right: str, wrong: str) -> tuple[int, int]:
    """Characters of a wrong number from the first on that is not the right one's."""
    same = next((i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), min(len(right), len(wrong)))
    return start + min(same, len(wrong) - 1), start + len(wrong)


def planted_examples(questions: Sequence[Question], count: int, seed: int) -> list[Wrong]:
    """The first `count` questions that a mistake can be planted in."""
    rng = Random(seed)
    made = (plant(question, rng) for question in questions)
    return [wrong for wrong in made if wrong is not None][:count]


def question_sets(gsm8k: Path | None, *, fresh: bool) -> dict[str, list[Question]]:
    """Questions by source; `fresh` ones share none with those that the templates are chosen on."""
    dev = generate_problems(200, seed=101)
    sets = {"problems": generate_problems(600, seed=202, exclude=dev) if fresh else dev}
    if gsm8k:
        short = [q for q in read_questions(gsm8k) if len(q.answer) <= LONGEST["answer"]]
        short = [q for q in short if len(str(q.prompt)) <= LONGEST["question"]][int(fresh) :: 2]
        Random(303).shuffle(short)
        sets["GSM8K"] = short
    return sets


def own_mistakes(model: Any, encoder: ConditionEncoder, questions: Sequence[Question], count: int) -> list[Wrong]:
    """The model's own greedy answers whose first wrong step is the solution's, wrongly calculated.

    Only so is everything before its result right; what comes after is not judged.
    """
    from nlft.models.answerer import CompletionRequest
    from nlft.models.local import LocalModel

    prompts = [fill(ASK, prompt=str(q.prompt)) for q in questions]
    answerer = LocalModel(model, encoder, max_new_tokens=64, batch_size=100)
    said = {i: a.text for batch in answerer.answer([CompletionRequest(p, p) for p in prompts]) for i, a in batch}
    made = (_own(prompts[i], questions[i].answer, said[i]) for i in range(len(prompts)))
    return [wrong for wrong in made if wrong is not None][:count]


def _own(prompt: str, answer: str, text: str) -> Wrong | None:
    judgment = judge_by_rules(prompt, text, answer) or ""
    solution = {c.value for c in find_calculations(answer)}
    steps = list(find_calculations(text))
    wrong = next((c for c in steps if not c.right), None)
    if wrong is None or wrong.value not in solution or not {c.value for c in steps[: steps.index(wrong)]} <= solution:
        return None
    if text.count(wrong.written) != 1 or not judgment.startswith(f'The step "{wrong.written}" is miscalculated'):
        return None
    number = re.search(r"\d+$", wrong.written)
    if number is None or wrong.result.denominator != 1 or wrong.value.denominator != 1:
        return None
    start = text.index(wrong.written) + number.start()
    mistake = _departure(start, str(wrong.value), number[0])
    return Wrong(prompt, answer, text, judgment, mistake, (), mistake[1])


def shuffled(judgments: Sequence[str], seed: int) -> list[str]:
    """Every judgment with another example (Sattolo 1986: one cycle through all, so none stays)."""
    order, rng = list(range(len(judgments))), Random(seed)
    for i in range(len(order) - 1, 0, -1):
        j = int(rng.random() * i)
        order[i], order[j] = order[j], order[i]
    return [judgments[i] for i in order]


def token_kinds(wrong: Wrong, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """What each token is, from the characters that it stands for; the closing token begins where the text ends."""
    kinds = []
    for begin, end in offsets:
        if begin < wrong.mistake[1] and end > wrong.mistake[0]:
            kinds.append(MISTAKE)
        elif any(begin < b and end > a for a, b in wrong.follows):
            kinds.append(FOLLOWS)
        else:
            kinds.append(RIGHT if begin < wrong.until else UNKNOWN)
    return kinds
