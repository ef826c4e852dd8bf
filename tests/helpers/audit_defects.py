"""Examples that are as they should be, and others with a defect planted on purpose, to measure the audit on.

What people write varies, so every text comes in two halves: seeds below 100 draw from the first, the others from the
second, which nothing in the audit was fitted to.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from nlft.collect.arithmetic import find_calculations
from nlft.collect.rules import judge_by_rules
from nlft.data.problems import generate_problems
from nlft.data.records import Example, Question, completion_text

T = TypeVar("T")

MAX_LENGTH = 512

OPENINGS = (
    ("", "", "Let us work it out. ", "We calculate step by step. "),
    ("", "", "Here is how I see it. ", "First the numbers, then the answer. "),
)
# {step}: the wrong step as written; {left}: its calculation; {said}, {due}: its result, and what it should be.
PROSE_JUDGMENTS = (
    (
        'In "{step}" the result is wrong.',
        "The calculation {left} does not come to {said}.",
        "You worked out {left} and got {said}, which is a mistake.\nCorrection: it is {due}.",
        'There is a slip in the step "{step}", and the final number suffers from it.',
    ),
    (
        'I do not agree with "{step}": please recalculate.',
        "{said} is not what {left} makes.",
        "The arithmetic fails at {left}; the response says {said}.\nCorrection: {left} = {due}.",
        'The line with "{step}" contains an error, so the answer is off.',
    ),
)
EMPTY_JUDGMENTS = (
    ("Bad.", "This is wrong.", "n/a", "Not good enough, please try again.", "Could be better.", "-"),
    ("Wrong!", "No.", "TODO", "I expected something else.", "This response has a mistake somewhere.", "?"),
)
# {mark} is what the completion then has at the end of every sentence.
STYLE_JUDGMENTS = (
    (
        'Every sentence ends in "{mark}", which is bad style.',
        'I dislike the punctuation: "{mark}" again and again.',
        'Do not write "{mark}" at the end of a line.',
    ),
    (
        'The text is full of "{mark}".',
        'Each sentence closes with "{mark}" in place of a full stop.',
        'Strange punctuation, "{mark}" everywhere.',
    ),
)
STYLE_MARKS = ((" !!!", " ...", " :-)", "!!"), (" ???", " **", " ;-)", " --"))
ECHOES = (
    (
        "The correct answer is {number}.",
        "{answer}",
        "The answer should be {number}.",
        "Reference answer: {answer}",
        "It should be {number}.",
    ),
    (
        "The right answer would be {number}.",
        "Solution: {answer}",
        "The expected result is {number}.",
        "Here is the correct solution:\n{answer}",
        "Answer: {number}",
    ),
)
PRAISE = (
    (
        "Correct, well done.",
        "The response is correct and every step is right.",
        "No mistakes: the calculation and the final answer are right.",
        "Good job! The answer is accurate.",
    ),
    (
        "Perfect, nothing to complain about.",
        "All steps check out and the result is correct.",
        "I cannot find any error here.",
        "Excellent work, this is exactly right.",
    ),
)
BLAME = (
    (
        "The final answer is wrong.",
        'The step "{step}" is miscalculated.',
        "This is incorrect, the numbers were mixed up.",
        "The response makes an arithmetic mistake.",
    ),
    (
        "Not correct: the result does not fit the question.",
        'There is an error in "{step}".',
        "The reasoning fails and the answer is false.",
        "You misread the question and calculated the wrong thing.",
    ),
)
TAILS = (
    ("Then we also have to think about the rest. ", "So the answer is the same again, "),
    ("Let me check this once more. ", "and then we add it up, "),
)
GARBAGE = (
    (
        '<div class="answer"><p>{text}</p></div>',
        "{text}<|im_end|>\n<|im_start|>user",
        "{text}&nbsp;&nbsp;&lt;br&gt;",
        "â€œ{text}â€\x9d donâ€™t worry",
    ),
    (
        "<span style='color:red'>{text}</span><br/>",
        "[INST] {text} [/INST]</s>",
        "{text}&#39;&quot;&#160;",
        "{text} \ufffd\ufffd caf\u00c3\u00a9",
    ),
)
OTHER_LANGUAGE = (
    (
        "Die Rechnung ist falsch, und das Ergebnis der Aufgabe stimmt nicht mit der Lösung überein.",
        "El cálculo no es correcto, porque el resultado de la operación que aparece aquí está mal.",
        "В этом шаге допущена ошибка, и ответ неверный.",
    ),
    (
        "Le calcul est faux, et le résultat de la question n'est pas celui que l'on attend dans la réponse.",
        "O cálculo está errado, e o resultado que aparece na resposta não é o que se espera da pergunta.",
        "这一步算错了,所以最后的答案不对。",
    ),
)
LONG = (
    ("As background, the following was said at length before the question was put to anyone at all. ",),
    ("The reviewer adds, for the record, that several remarks were made on earlier occasions as well. ",),
)


@dataclass(frozen=True)
class Planted:
    """Examples with known defects.

    Attributes:
        kinds: which defect each bad example has; those that it does not name are as they should be.
        test: questions held back for testing; some of them stand among the examples (`overlap`).
    """

    examples: list[Example]
    kinds: dict[str | int, str]
    test: list[Question]


def half(pool: tuple[Sequence[T], Sequence[T]], seed: int) -> Sequence[T]:
    """The texts that this seed may draw from."""
    return pool[0] if seed < 100 else pool[1]


class Maker:
    """Draws examples, and defects to put into them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)

    def draw(self, pool: tuple[Sequence[T], Sequence[T]]) -> T:
        return self.rng.choice(list(half(pool, self.seed)))

    def example(self, question: Question, label: bool) -> Example:
        """A worked answer in other words; for a wrong one with one number changed, and judged."""
        if label:
            completion = self.reworded(question.answer)
            return Example(question.id, question.prompt, completion, True, question.answer)
        while True:
            wrong, step = self.miscalculated(question.answer)
            completion = self.reworded(wrong)
            if step["step"] in completion:
                break
        if self.rng.random() < 0.6:
            judgment = judge_by_rules(str(question.prompt), completion, question.answer)
            assert judgment is not None
        else:
            judgment = self.draw(PROSE_JUDGMENTS).format(**step)
        return Example(question.id, question.prompt, completion, False, question.answer, judgment)

    def reworded(self, answer: str) -> str:
        *lines, last = answer.split("\n")
        style = self.rng.choice(["same", "calculations", "running"])
        if style == "calculations":
            lines = [found.written for found in find_calculations(answer)]
        text = " ".join(lines) if style == "running" else "\n".join(lines)
        return f"{self.draw(OPENINGS)}{text}\n{last}"

    def miscalculated(self, answer: str) -> tuple[str, dict[str, str]]:
        """The answer with its last calculation's result changed, and what was changed."""
        found = list(find_calculations(answer))[-1]
        left = found.written.rpartition(" = ")[0]
        due = int(found.result)
        said = max(1, due + self.rng.choice([-10, -3, -2, -1, 1, 2, 3, 10]))
        said += said == due
        step = f"{left} = {said}"
        before, _, after = answer.rpartition(found.written)
        changed = f"{before}{step}{after}".replace(f"#### {due}", f"#### {said}")
        return changed, {"step": step, "left": left, "said": str(said), "due": str(due)}


def clean_examples(questions: Sequence[Question], seed: int) -> list[Example]:
    """Right and wrong ones in turn, none with a defect that is known of."""
    maker = Maker(seed)
    return [maker.example(question, label=at % 2 == 0) for at, question in enumerate(questions)]


def planted_examples(seed: int, *, clean: int = 200, each: int = 6) -> Planted:
    """`clean` examples without a defect and `each` of every kind, shuffled."""
    total = clean + each * len(DEFECTS)
    questions = generate_problems(total, seed=seed)
    test = [replace(q, id=f"test-{q.id}") for q in generate_problems(60, seed=seed + 50_000, exclude=questions)]
    good = clean_examples(questions[:clean], seed)
    maker = Maker(seed + 1 if seed < 100 else seed + 1_000)
    maker.seed = seed
    kinds: dict[str | int, str] = {}
    bad = []
    context = Context(good, test)
    for place, question in enumerate(questions[clean:]):
        kind = list(DEFECTS)[place % len(DEFECTS)]
        bad.append(DEFECTS[kind](maker, question, context))
        kinds[bad[-1].id] = kind
    examples = [*good, *bad]
    maker.rng.shuffle(examples)
    return Planted(examples, kinds, test)


@dataclass
class Context:
    """What a defect may be made of besides its own question."""

    good: list[Example]
    test: list[Question]

    def wrong(self, rng: Random) -> Example:
        return rng.choice([e for e in self.good if not e.label])


Defect = Callable[[Maker, Question, Context], Example]


def empty_judgment(m: Maker, q: Question, c: Context) -> Example:
    return replace(m.example(q, False), judgment=m.draw(EMPTY_JUDGMENTS))


def style_judgment(m: Maker, q: Question, c: Context) -> Example:
    """The number is wrong as well, but nobody says so."""
    example, mark = m.example(q, False), m.draw(STYLE_MARKS)
    *lines, last = re.sub(r"\.(?=\s|$)", "", completion_text(example)).split("\n")
    text = "\n".join([*(f"{line}{mark}" for line in lines), last + mark])
    return replace(example, completion=text, judgment=m.draw(STYLE_JUDGMENTS).format(mark=mark.strip()))


def judgment_of_another(m: Maker, q: Question, c: Context) -> Example:
    """Without quotes, so that only its numbers and what it does to the model can give it away."""
    example, other = m.example(q, False), c.wrong(m.rng)
    _, step = m.miscalculated(other.answer)
    return replace(example, judgment=half(PROSE_JUDGMENTS, m.seed)[m.rng.choice([1, 2])].format(**step))


def wrong_quote(m: Maker, q: Question, c: Context) -> Example:
    example, other = m.example(q, False), c.wrong(m.rng)
    _, step = m.miscalculated(other.answer)
    return replace(example, judgment=half(PROSE_JUDGMENTS, m.seed)[m.rng.choice([0, 3])].format(**step))


def echo(m: Maker, q: Question, c: Context) -> Example:
    example = m.example(q, False)
    number = q.answer.rpartition("#### ")[2]
    return replace(example, judgment=m.draw(ECHOES).format(answer=q.answer, number=number))


def contradiction(m: Maker, q: Question, c: Context) -> Example:
    if m.rng.random() < 0.5:
        return replace(m.example(q, False), judgment=m.draw(PRAISE))
    example = m.example(q, True)
    step = next(iter(find_calculations(q.answer))).written
    return replace(example, judgment=m.draw(BLAME).format(step=step))


def flipped(m: Maker, q: Question, c: Context) -> Example:
    label = m.rng.random() < 0.5
    example = m.example(q, label)
    words = None if not label else "The response does not answer the question as it should."
    return replace(example, label=not label, judgment=words)


def duplicate(m: Maker, q: Question, c: Context) -> Example:
    return replace(m.rng.choice(c.good), id=q.id)


def near_duplicate(m: Maker, q: Question, c: Context) -> Example:
    """A copy with a slip of the pen, another spelling, or a few words more."""
    example = m.rng.choice(c.good)
    text = str(example.prompt)
    words = text.split()
    at = m.rng.randrange(len(words))
    while not words[at].isalpha() or len(words[at]) < 4:
        at = m.rng.randrange(len(words))
    slip = [*words[:at], words[at][:2] + words[at][3:], *words[at + 1 :]]
    edits = (
        [text.lower(), " ".join(slip), text.replace("How many", "Question: how many"), text.rstrip("?") + " ?"],
        [text.upper(), " ".join(slip), "Please answer: " + text, text.replace(". ", " - ")],
    )
    return replace(example, id=q.id, prompt=m.draw(edits))


def overlap(m: Maker, q: Question, c: Context) -> Example:
    held_out = c.test.pop(0)
    c.test.append(held_out)
    text = str(held_out.prompt)
    edits = ([text, text, text.lower()], [text, text, "Question: " + text])
    return m.example(replace(held_out, id=q.id, prompt=m.draw(edits)), m.rng.random() < 0.5)


def unfinished(m: Maker, q: Question, c: Context) -> Example:
    """Cut off by the token limit, cut inside a sentence, or saying the same over and over."""
    example = m.example(q, False)
    text = completion_text(example)
    way = m.rng.randrange(3)
    if way == 0:
        return replace(example, completion=text.rpartition("\n")[0], extra={"finish_reason": "length"})
    if way == 1:
        body = "We look at the question first. " + text.rpartition("\n")[0]
        words = body.split(" ")
        return replace(example, completion=" ".join(words[: m.rng.randrange(len(words) // 2, len(words) - 2)]))
    return replace(example, completion=text.replace("\n####", "\n") + "\n" + m.draw(TAILS) * m.rng.randrange(4, 9))


def too_long(m: Maker, q: Question, c: Context) -> Example:
    example = m.example(q, False)
    padding = m.draw(LONG) * 40
    if m.rng.random() < 0.5:
        return replace(example, prompt=padding + str(example.prompt))
    return replace(example, judgment=f"{example.judgment}\n{padding}")


def correction_only(m: Maker, q: Question, c: Context) -> Example:
    example = m.example(q, False)
    number = q.answer.rpartition("#### ")[2]
    steps = [found.written for found in find_calculations(q.answer)]
    texts = [f"Correction: the answer is {number}.", f"Correction: {steps[-1]}.", f"\nCorrection: {steps[0]}"]
    return replace(example, judgment=m.rng.choice(texts))


def bare_answer(m: Maker, q: Question, c: Context) -> Example:
    example = m.example(q, m.rng.random() < 0.5)
    number = q.answer.rpartition("#### ")[2]
    ways = ([f"#### {number}", number, f"The answer is {number}"], [f"{number}.", f"Answer: {number}", f"= {number}"])
    return replace(example, answer=m.draw(ways))


def ungradable_answer(m: Maker, q: Question, c: Context) -> Example:
    """An answer that states no result."""
    ways = (
        ["See the textbook.", "Add both numbers up.", "N/A", "It depends on how you look at it.\n#### unknown"],
        ["Left as an exercise.", "Multiply what the question gives.", "Obvious.", "Nobody can tell.\n#### ?"],
    )
    return replace(m.example(q, m.rng.random() < 0.5), answer=m.draw(ways))


def foreign_answer(m: Maker, q: Question, c: Context) -> Example:
    """The standard answer of another question, with what follows from it: a judgment by rules."""
    example = m.example(q, False)
    while True:
        other = m.rng.choice(c.good)
        words = judge_by_rules(str(q.prompt), completion_text(example), other.answer)
        if words is not None:
            return replace(example, answer=other.answer, judgment=words)


def prompt_copy(m: Maker, q: Question, c: Context) -> Example:
    """The export took both together, or the model asked itself the next question."""
    example = m.example(q, m.rng.random() < 0.5)
    other = c.good[m.rng.randrange(len(c.good))].prompt
    heads = ("Question: ", "User: ")
    ways = [f"{q.prompt}\n{example.completion}", f"{example.completion}\n{m.draw(([heads[0]], [heads[1]]))}{other}"]
    return replace(example, completion=m.rng.choice(ways))


def garbage(m: Maker, q: Question, c: Context) -> Example:
    example = m.example(q, m.rng.random() < 0.5)
    marked = m.draw(GARBAGE)
    place = m.rng.choice(["completion", "answer", "judgment"] if example.judgment else ["completion", "answer"])
    return replace(example, **{place: marked.format(text=getattr(example, place))})


def other_language(m: Maker, q: Question, c: Context) -> Example:
    return replace(m.example(q, False), judgment=m.draw(OTHER_LANGUAGE))


DEFECTS: dict[str, Defect] = {
    "no-movement": empty_judgment,
    "style-movement": style_judgment,
    "placebo": judgment_of_another,
    "echo": echo,
    "contradiction": contradiction,
    "grader": flipped,
    "duplicate": duplicate,
    "near-duplicate": near_duplicate,
    "overlap": overlap,
    "unfinished": unfinished,
    "too-long": too_long,
    "correction-only": correction_only,
    "quote": wrong_quote,
    "bare-answer": bare_answer,
    "answer": ungradable_answer,
    "foreign-answer": foreign_answer,
    "prompt-copy": prompt_copy,
    "garbage": garbage,
    "language": other_language,
}
