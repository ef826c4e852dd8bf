"""Checks that need no model. Does the completion end? Do label and judgment fit the completion? Is everything text?"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from nlft.auditing.copies import numbers
from nlft.auditing.endings import unfinished
from nlft.auditing.findings import Finding, quoted, texts
from nlft.auditing.words import content, says_nothing, tone
from nlft.core.prompts import prompt_text, without_corrections
from nlft.data.answers.final_answers import read_standard
from nlft.data.answers.quantities import Value
from nlft.data.gradable import why_unclear
from nlft.data.grading import IN_SENTENCE, Grader, needs_answers
from nlft.data.language import language, words
from nlft.data.records import Example, completion_text, quotes_of

Check = Callable[[Example], str | None]

USUAL = 0.2  # markup or a language that more than this proportion of the examples has belongs to the task


# A quote never holds its own opening mark: otherwise a row of them would be read again from each one.
_QUOTED = re.compile(r'"([^"\n]+)"|“([^“”\n]+)”|«([^«»\n]+)»|`([^`\n]+)`|‘([^‘’\n]+)’')
# A number that counts steps and the like is not an answer: step 2, line 3, #4.
_PLACE = re.compile(r"(?:\b(?:step|line|sentence|part|equation|point|item|paragraph|no\.)s?\s*|#)\d+\b", re.IGNORECASE)
_ELLIPSIS = re.compile(r"\.\.\.|…")
_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|</s>|<s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[UNK\]"
)
_HTML = re.compile(
    r"</?(?:div|span|p|br|hr|b|i|u|em|strong|ul|ol|li|table|tr|td|th|h[1-6]|font|img|a|script|style|html|body|pre|sup"
    r"|sub|blockquote)(?:\s[^<>]*)?/?>|&(?:nbsp|lt|gt|amp|quot|apos|#\d{1,6}|#x[0-9a-fA-F]{1,6});"
)
_BROKEN = re.compile(r"�|Ã[-¿©¨ª«¼½¶±¡ŸœŠ–\"]|â€[-¿œ™˜“”¦\"]|Â[ -¿]|[\x00-\x08\x0b\x0c\x0e-\x1f]")
_NEXT_TURN = re.compile(
    r"\n[^\S\n]*+(?:#++ *+)?(?:user|human|question|instruction|assistant|Q)\s*+:", re.IGNORECASE
)  # never matches at the beginning of the text
_BARE = re.compile(
    r"(?i:\b(?:the|final|answer|result|is|solution|correct|so|thus|therefore)\b)|[#:=.*$()\[\]{}\\]|boxed"
)


def text_findings(
    examples: Sequence[Example], grader: Grader | None, special: Sequence[str] = (), shows_correction: bool = False
) -> list[Finding]:
    """Run all checks that need no model, except the search for copies.

    Args:
        grader: compares the labels with the answers; None if nothing can be graded.
        special: the tokenizer's special tokens; the texts must not hold them.
        shows_correction: whether the judge prompt keeps the corrections; see `Templates`.
    """
    checks: list[tuple[str, Check]] = [
        ("no-judgment", lambda e: "it has no judgment" if not (e.label or e.judgment or e.spans) else None),
        ("contradiction", _contradiction),
        ("foreign-answer", _foreign_answer),
        ("prompt-copy", _prompt_copy),
        ("unfinished", unfinished(examples)),
        ("bare-answer", _bare_answer),
    ]
    if not shows_correction:
        checks.append(("correction-only", _correction_only))
    if grader is not None:
        checks += [("grader", _by(grader)), ("answer", _ungradable(grader))]
    findings = [Finding(kind, e.id, what) for kind, check in checks for e in examples if (what := check(e))]
    findings += [finding for e in examples if not e.label and (finding := _weak_judgment(e, shows_correction))]
    if not shows_correction:
        echoes = {finding.id for finding in findings if finding.kind == "echo"}
        findings += [Finding("leak", e.id, what) for e in examples if e.id not in echoes and (what := _leak(e))]
    misquoted = {finding.id for finding in findings if finding.kind == "quote"}
    findings += [Finding("lost-quote", e.id, what) for e in examples if e.id not in misquoted and (what := _lost(e))]
    findings += [*_garbage(examples, special), *_other_language(examples), *_differing_answers(examples, grader)]
    return _folded(findings, len(examples))


def _folded(findings: list[Finding], total: int) -> list[Finding]:
    """If most examples have a `bare-answer` finding, replace these findings by one about the whole data."""
    bare = [finding for finding in findings if finding.kind == "bare-answer"]
    if len(bare) <= max(total / 2, 2):
        return findings
    what = (
        f"{len(bare)} of {total} standard answers are a bare result. So the standard condition can say little about "
        "the steps, and training on these answers (SFT on answers, --answer_weight) teaches the model to skip steps"
    )
    return [f for f in findings if f.kind != "bare-answer"] + [Finding("bare-answer", None, what)]


def shown_judgment(example: Example, shows_correction: bool = False) -> str:
    """Return the part of the judgment that the judge prompt shows."""
    judgment = example.judgment or ""
    return judgment if shows_correction else without_corrections(judgment)


def _correction_only(example: Example) -> str | None:
    if example.label or not example.judgment or example.spans or shown_judgment(example).strip():
        return None
    return "without its corrections, the judgment is empty, so the judge prompt has nothing to show"


def _leak(example: Example) -> str | None:
    """Report a judgment that shows the expected number outside its corrections, and not as a quote of the completion.

    A model that sees the right number may avoid the wrong one, and then no token shows the mistake.
    """
    expected = _value(example.answer or "")
    if example.label or expected is None:
        return None
    completion, prompt = _bare(completion_text(example)), prompt_text(example.prompt)

    def without(match: re.Match[str]) -> str:
        return " " if _bare("".join(filter(None, match.groups()))) in completion else match[0]

    shown = _PLACE.sub(" ", _QUOTED.sub(without, shown_judgment(example)))
    leaked = next((n for n in _numbers_of(shown) if _value(n) == expected), None)
    if leaked is None or expected in map(_value, _numbers_of(prompt)):
        return None
    return f"the judge prompt would show {leaked}, the right answer: {quoted(shown_judgment(example))}"


def _numbers_of(text: str) -> dict[str, None]:
    """Return a text's numbers as written, each once: a judge that loops writes one of them thousands of times."""
    return dict.fromkeys(IN_SENTENCE.findall(text))


def _value(text: str) -> Value | None:
    """Return the number that a standard answer, or a number in a sentence, stands for."""
    stated = read_standard(text)
    return stated.value if stated else None


def _weak_judgment(example: Example, shows_correction: bool) -> Finding | None:
    """Return the worst finding about the judgment of a wrong example: echo, vague or quote."""
    shown = shown_judgment(example, shows_correction)
    if not shown.strip():
        return None
    if what := _echo(example, shown):
        return Finding("echo", example.id, what)
    if "praise" in tone(_QUOTED.sub(" ", shown)):
        return None  # it has content, or another check reports a contradiction
    if says_nothing(shown):
        return Finding("vague", example.id, f"the whole judgment is {quoted(shown)}")
    if what := _misquoted(example, shown):
        return Finding("quote", example.id, what)
    return None


# Check whether the judgment fits.


def _contradiction(example: Example) -> str | None:
    if example.extra.get("conflict"):
        return f"the judge disagrees with the label: {quoted(str(example.extra['conflict']))}"
    if not example.judgment:
        return None
    tones = tone(_QUOTED.sub(" x ", without_corrections(example.judgment)))
    if not example.label and tones == {"praise"}:
        return f"it is labelled false, but the judgment praises it: {quoted(example.judgment)}"
    if example.label and "blame" in tones and "praise" not in tones:
        return f"it is labelled true, but the judgment criticises it: {quoted(example.judgment)}"
    return None


def _misquoted(example: Example, shown: str) -> str | None:
    """Report a quote that the example does not contain. If there is none, report numbers that it does not contain.

    The numbers are reported only if the judgment mentions at least two and the example lacks more than half of them.
    """
    known = [_bare(completion_text(example)), _bare(prompt_text(example.prompt)), _bare(example.answer or "")]
    quotes = ["".join(groups) for groups in _QUOTED.findall(shown)]
    parts = [(quote, [_bare(part) for part in _ELLIPSIS.split(quote)]) for quote in quotes]
    missing = [quote for quote, bare in parts if not all(any(part in text for text in known) for part in bare)]
    if missing and not any(all(part in known[0] for part in bare) for quote, bare in parts if quote not in missing):
        return f"the judgment quotes {quoted(missing[0])}, but the completion does not contain it"
    stated = set(numbers(_QUOTED.sub(" ", shown)))
    unknown = stated.difference(
        numbers(completion_text(example)), numbers(prompt_text(example.prompt)), numbers(example.answer or "")
    )
    if len(stated) >= 2 and len(unknown) > len(stated) / 2:
        return f"the judgment mentions {', '.join(sorted(unknown))}, but the example does not contain these numbers"
    return None


def _lost(example: Example) -> str | None:
    """Report the quotes that mark nothing, because the completion does not contain them."""
    missing = [quoted(quote) for quote in quotes_of(example).missing]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"the completion does not contain {', '.join(missing[:3])}{more}" if missing else None


def _echo(example: Example, shown: str) -> str | None:
    """Report a judgment that only repeats the answer.

    Such a judgment has no words or numbers that the answer lacks, and no quote from the completion.
    """
    completion, answer = completion_text(example), example.answer or ""
    what = f"the judgment says no more than the answer: {quoted(shown)}"
    if len(_bare(answer)) > 2 and _bare(answer) in _bare(shown):
        rest = _bare(shown).replace(_bare(answer), " ")
        return what if says_nothing(rest) or len(rest) < 30 else None
    if any(_bare("".join(groups)) in _bare(completion) for groups in _QUOTED.findall(shown)):
        return None
    own = set(numbers(shown))
    stated = read_standard(answer)
    expected = numbers(stated.text) if stated else []
    given = numbers(completion)[-1:]
    if own:
        repeats = set(expected) <= own <= set(numbers(answer)) and not (set(given) - set(expected)) & own
        new_words = content(shown) - content(answer) - own
        # "Subtract 35 from 64, which leaves 29" describes the right step, but not the mistake.
        repeats = repeats and (len(new_words) <= 1 or not tone(shown))
    else:
        repeats = len(content(shown)) >= 2 and not content(shown) - content(answer)
    return what if repeats else None


def _bare(text: str) -> str:
    """Normalise a text for comparison: no white space, no case, one form of each sign, no punctuation at the ends."""
    text = re.sub(r"\s+", "", text.lower()).translate(str.maketrans("×·∗−–’", "***--'"))
    return text.strip(".,;:!?")


# Check whether the label and the answer fit.


def _by(grader: Grader) -> Check:
    """Make a check that compares the label with the grade."""

    def check(example: Example) -> str | None:
        if example.answer is None and needs_answers(grader):
            return None  # the audit's notes count these examples
        grade = grader(completion_text(example), example.answer)
        if grade.grade == "ungraded" and (grade.expected is None or why_unclear(example.answer or "", grader)):
            return None  # `_ungradable` reports it
        if grade.grade == "ungraded" and example.label:
            return f"it is labelled true, but cannot be graded. {grade.explanation}"
        if grade.grade != "ungraded" and (grade.grade == "right") != example.label:
            return f"it is labelled {str(example.label).lower()}, but graded {grade.grade}. {grade.explanation}"
        return None

    return check


def _ungradable(grader: Grader) -> Check:
    """Make a check that reports a standard answer that the grader cannot read."""

    def check(example: Example) -> str | None:
        if not example.answer:
            return None
        why = why_unclear(example.answer, grader)
        return why and f"the grader cannot compare {quoted(example.answer)}: {why}"

    return check


def _bare_answer(example: Example) -> str | None:
    """Report an answer or a revision that has a result, but no steps."""
    for name, text in texts(example):
        other_words = words(re.sub(r"[\d.,]+", " ", _BARE.sub(" ", text)))
        if name in ("answer", "revision") and len(other_words) <= 1 and len(set(numbers(text))) <= 2:
            return f"its {name} is {quoted(text)}, without the steps that lead to it"
    return None


def _foreign_answer(example: Example) -> str | None:
    """Report an answer that contains few of the question's numbers and few of its words.

    On GSM8K this reports 7 of 10,000 questions with their own answer, and 9 of 10 questions with another's answer.
    """
    question, answer = prompt_text(example.prompt), example.answer or ""
    in_question, in_answer = set(numbers(question)), set(numbers(answer))
    if len(in_question) < 2 or _bare_answer(example) or len(in_answer) < 2:
        return None
    answer_words = {word for word in content(answer) if len(word) > 2 and not word[0].isdigit()}
    shared = len(answer_words & content(question)) / max(1, len(answer_words))
    limit = 0.5 if len(answer_words) >= 3 else 0.34
    if len(in_question & in_answer) > limit * len(in_question) or shared > 0.3:
        return None
    missing = ", ".join(sorted(in_question - in_answer))
    return f"the answer {quoted(answer)} has neither the question's numbers {missing} nor its words"


def _differing_answers(examples: Sequence[Example], grader: Grader | None) -> Iterator[Finding]:
    """Report equal questions with different answers, if there is a grader."""
    first: dict[str, tuple[str, Example]] = {}
    for example in examples if grader is not None else ():
        expected = grader(example.answer, example.answer).expected if grader and example.answer else None
        if expected is None:
            continue
        known, other = first.setdefault(_bare(prompt_text(example.prompt)), (expected, example))
        if numbers(known) != numbers(expected) or (not numbers(known) and known != expected):
            what = (
                f"its answer is {quoted(expected)}, but example {other.id!r} with the same question has {quoted(known)}"
            )
            yield Finding("foreign-answer", example.id, what, (other.id,))


# Check whether everything is text.


def _prompt_copy(example: Example) -> str | None:
    """Report a completion that contains its prompt (a wrong export) or another turn (the model did not stop)."""
    prompt, text = _bare(prompt_text(example.prompt)), completion_text(example)
    if len(prompt) >= 30 and prompt in _bare(text):
        return "it holds the whole prompt"
    if match := _NEXT_TURN.search(text):
        return f"it continues with another turn: {quoted(text[match.start() :])}"
    return None


def _garbage(examples: Sequence[Example], special: Sequence[str]) -> Iterator[Finding]:
    """Report control tokens, broken characters, and markup in fields that usually have none."""
    control = re.compile("|".join([_CONTROL.pattern, *map(re.escape, special)]))
    usual = Counter(name for e in examples for name, text in texts(e) if _HTML.search(text))
    for example in examples:
        remarks = []
        for name, text in (("prompt", prompt_text(example.prompt)), *texts(example)):
            if match := control.search(text):
                remarks.append(f"its {name} holds the control token {quoted(match[0])}")
            elif match := _BROKEN.search(text):
                remarks.append(f"its {name} holds broken characters: {quoted(_around(text, match))}")
            elif name == "prompt" or usual[name] > max(USUAL * len(examples), 2):
                continue
            elif (match := _HTML.search(text)) and not _HTML.search(prompt_text(example.prompt)):
                remarks.append(f"its {name} holds markup: {quoted(_around(text, match))}")
        if remarks:
            yield Finding("garbage", example.id, "; ".join(remarks))


def _around(text: str, match: re.Match[str]) -> str:
    """Return the match with a few characters on both sides, as printable ASCII."""
    return ascii(text[max(0, match.start() - 8) : match.end() + 12])[1:-1]


def _other_language(examples: Sequence[Example]) -> Iterator[Finding]:
    """Report a field in a language that differs from its question's and is unusual for that field."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    fields = []
    prompts = [language(prompt_text(e.prompt)) for e in examples]
    usual = next((name for name, _ in Counter(filter(None, prompts)).most_common(1)), None)
    for example, own in zip(examples, prompts, strict=True):
        expected = own or usual
        for name, text in texts(example):
            if actual := language(text):
                counts[name][actual] += 1
                fields.append((example, name, actual, expected))
    for example, name, actual, expected in fields:
        if expected and actual != expected and counts[name][actual] <= USUAL * len(examples):
            yield Finding("language", example.id, f"its {name} is in {actual}, its question in {expected}")
