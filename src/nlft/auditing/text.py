"""What can be seen of an example without a model: does it end, fit its label, speak of its own completion?"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from nlft.auditing.copies import numbers
from nlft.auditing.findings import Finding, quoted, texts
from nlft.auditing.words import content, language, says_nothing, tone, words
from nlft.core.prompts import prompt_text, without_corrections
from nlft.data.grading import MARK, Grader, extract_expected
from nlft.data.records import Example, completion_text

Check = Callable[[Example], str | None]

USUAL = 0.2  # what more examples than this have in a field is the task's way of writing
_CLEAN_ENDS = 0.7  # and where fewer than this end as a text does, an open ending is
_MARKED = 0.9  # where so many state a final answer, one that ends in a figure without stating it is cut off
_REPEATS = 3

_QUOTED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|«([^»\n]+)»|`([^`\n]+)`|‘([^’\n]+)’')
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
    r"\n\s*(?:#+ *)?(?:user|human|question|instruction|assistant|Q)\s*:", re.IGNORECASE
)  # not at the very beginning
_ENDS = re.compile(r"(?:[.!?。！？…:;)\]}>»”’\"'`*$%]|-{2,})\s*$")
_OPEN_END = re.compile(
    r"(?:[,=+*/×÷(\[{<&-]|\b(?:the|a|an|of|to|in|is|are|was|and|or|but|so|with|for|from|by|at|on|that|which|has|have"
    r"|than|then|because|if|as|we|it|this|each|per|our|their))\s*$",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"(?i:\b(?:the|final|answer|result|is|solution|correct|so|thus|therefore)\b)|[#:=.*$()\[\]{}\\]|boxed"
)


def text_findings(
    examples: Sequence[Example], grader: Grader | None, special: Sequence[str] = (), shows_correction: bool = False
) -> list[Finding]:
    """All that can be said of the examples without a model, copies aside.

    Args:
        grader: holds labels to the answers; None where nothing can be graded.
        special: the tokenizer's special tokens, which text must not hold.
        shows_correction: whether the judge prompt keeps the corrections, see `Templates`.
    """
    checks: list[tuple[str, Check]] = [
        ("no-judgment", lambda e: "it has no judgment" if not e.label and not e.judgment else None),
        ("contradiction", _contradiction),
        ("foreign-answer", _foreign_answer),
        ("prompt-copy", _prompt_copy),
        ("unfinished", _unfinished(examples)),
        ("bare-answer", _bare_answer),
    ]
    if not shows_correction:
        checks.append(("correction-only", _correction_only))
    if grader is not None:
        checks += [("grader", _by(grader)), ("answer", _ungradable(grader))]
    found = [Finding(kind, e.id, what) for kind, check in checks for e in examples if (what := check(e))]
    found += [finding for e in examples if not e.label and (finding := _empty_words(e, shows_correction))]
    found += [*_garbage(examples, special), *_other_language(examples), *_differing_answers(examples, grader)]
    return _folded(found, len(examples))


def _folded(findings: list[Finding], total: int) -> list[Finding]:
    """Bare answers in most examples are one remark about the data, not hundreds about examples."""
    bare = [finding for finding in findings if finding.kind == "bare-answer"]
    if len(bare) <= max(total / 2, 2):
        return findings
    what = (
        f"{len(bare)} of {total} standard answers are a bare result, so standard can say little about the steps, "
        "and to train on them (SFT on answers, --answer_weight) is to unlearn the steps"
    )
    return [f for f in findings if f.kind != "bare-answer"] + [Finding("bare-answer", None, what)]


def shown_judgment(example: Example, shows_correction: bool = False) -> str:
    """What the judge prompt shows of the judgment."""
    judgment = example.judgment or ""
    return judgment if shows_correction else without_corrections(judgment)


def _correction_only(example: Example) -> str | None:
    if example.label or not example.judgment or shown_judgment(example).strip():
        return None
    return "nothing of its judgment is left for the judge prompt"


def _empty_words(example: Example, shows_correction: bool) -> Finding | None:
    """The worst that can be said of a wrong example's judgment itself."""
    shown = shown_judgment(example, shows_correction)
    if not shown.strip():
        return None
    if what := _echo(example, shown):
        return Finding("echo", example.id, what)
    if "praise" in tone(_QUOTED.sub(" ", shown)):
        return None  # a contradiction, or more than nothing
    if says_nothing(shown):
        return Finding("vague", example.id, f"all it says is {quoted(shown)}")
    if what := _misquoted(example, shown):
        return Finding("quote", example.id, what)
    return None


# Does the judgment fit?


def _contradiction(example: Example) -> str | None:
    if example.extra.get("conflict"):
        return f"the judge disagrees with the label: {quoted(str(example.extra['conflict']))}"
    if not example.judgment:
        return None
    found = tone(_QUOTED.sub(" x ", without_corrections(example.judgment)))
    if not example.label and found == {"praise"}:
        return f"it is labelled false, but the judgment approves: {quoted(example.judgment)}"
    if example.label and "blame" in found and "praise" not in found:
        return f"it is labelled true, but the judgment finds fault: {quoted(example.judgment)}"
    return None


def _misquoted(example: Example, shown: str) -> str | None:
    """Quotes, or else numbers, of which the example knows nothing."""
    known = [_bare(completion_text(example)), _bare(prompt_text(example.prompt)), _bare(example.answer)]
    quotes = ["".join(groups) for groups in _QUOTED.findall(shown)]
    parts = [(quote, [_bare(part) for part in _ELLIPSIS.split(quote)]) for quote in quotes]
    missing = [quote for quote, bare in parts if not all(any(part in text for text in known) for part in bare)]
    if missing and not any(all(part in known[0] for part in bare) for quote, bare in parts if quote not in missing):
        return f"the judgment quotes {quoted(missing[0])}, which the completion does not say"
    said = set(numbers(_QUOTED.sub(" ", shown)))
    strange = said.difference(
        numbers(completion_text(example)), numbers(prompt_text(example.prompt)), numbers(example.answer)
    )
    if len(said) >= 2 and len(strange) > len(said) / 2:
        return f"the judgment speaks of {', '.join(sorted(strange))}, and the example has no such number"
    return None


def _echo(example: Example, shown: str) -> str | None:
    """Nothing beyond the answer: no word of its own, no number but the answer's, nothing of the completion."""
    completion, answer = completion_text(example), example.answer
    said = f"it says no more than the answer: {quoted(shown)}"
    if len(_bare(answer)) > 2 and _bare(answer) in _bare(shown):
        rest = _bare(shown).replace(_bare(answer), " ")
        return said if says_nothing(rest) or len(rest) < 30 else None
    if any(_bare("".join(groups)) in _bare(completion) for groups in _QUOTED.findall(shown)):
        return None
    own = set(numbers(shown))
    expected = numbers(extract_expected(answer) or "")
    given = numbers(completion)[-1:]
    if own:
        repeats = set(expected) <= own <= set(numbers(answer)) and not (set(given) - set(expected)) & own
        new_words = content(shown) - content(answer) - own
        # "Subtract 35 from 64, which leaves 29" says what is right and nothing about what is wrong.
        repeats = repeats and (len(new_words) <= 1 or not tone(shown))
    else:
        repeats = len(content(shown)) >= 2 and not content(shown) - content(answer)
    return said if repeats else None


def _bare(text: str) -> str:
    """Without white space and case, signs spelt one way, and without what a quote's end may add."""
    text = re.sub(r"\s+", "", text.lower()).translate(str.maketrans("×·∗−–’", "***--'"))
    return text.strip(".,;:!?")


# Does the label fit, and the answer?


def _by(grader: Grader) -> Check:
    def check(example: Example) -> str | None:
        grade = grader(completion_text(example), example.answer)
        if grade.expected is None and grade.grade == "ungraded":
            return None  # said of the answer
        if grade.grade == "ungraded" and example.label:
            return f"it is labelled true, but cannot be graded. {grade.explanation}"
        if grade.grade != "ungraded" and (grade.grade == "right") != example.label:
            return f"it is labelled {str(example.label).lower()}, but graded {grade.grade}. {grade.explanation}"
        return None

    return check


def _ungradable(grader: Grader) -> Check:
    def check(example: Example) -> str | None:
        grade = grader(example.answer, example.answer)
        # "label" reads nothing from anything, and a function of the user's need not say what it read.
        if grade.grade != "ungraded" or (grade.expected is None and not grade.explanation.startswith("No ")):
            return None
        return f"nothing to compare with: {quoted(example.answer)}"

    return check


def _bare_answer(example: Example) -> str | None:
    for name, text in texts(example):
        told = words(re.sub(r"[\d.,]+", " ", _BARE.sub(" ", text)))
        if name in ("answer", "revision") and len(told) <= 1 and len(set(numbers(text))) <= 2:
            return f"its {name} is {quoted(text)}, without the steps that lead to it"
    return None


def _foreign_answer(example: Example) -> str | None:
    """Few of the question's numbers and few of its words in the answer.

    On GSM8K this holds for 7 of 10,000 questions with their own answers, and for 9 of 10 with another's.
    """
    question, answer = prompt_text(example.prompt), example.answer
    asked, said = set(numbers(question)), set(numbers(answer))
    if len(asked) < 2 or _bare_answer(example) or len(said) < 2:
        return None
    told = {word for word in content(answer) if len(word) > 2 and not word[0].isdigit()}
    shared = len(told & content(question)) / max(1, len(told))
    limit = 0.5 if len(told) >= 3 else 0.34
    if len(asked & said) > limit * len(asked) or shared > 0.3:
        return None
    missing = ", ".join(sorted(asked - said))
    return f"the question's numbers {missing} are not in the answer {quoted(answer)}, nor are its words"


def _differing_answers(examples: Sequence[Example], grader: Grader | None) -> Iterator[Finding]:
    """One question has one answer, where there is something to grade."""
    first: dict[str, tuple[str, Example]] = {}
    for example in examples if grader is not None else ():
        expected = grader(example.answer, example.answer).expected if grader else None
        if expected is None:
            continue
        known, other = first.setdefault(_bare(prompt_text(example.prompt)), (expected, example))
        if numbers(known) != numbers(expected) or (not numbers(known) and known != expected):
            what = f"its answer is {quoted(expected)}; to the same question example {other.id!r} has {quoted(known)}"
            yield Finding("foreign-answer", example.id, what, (other.id,))


# Does the completion end?


def _unfinished(examples: Sequence[Example]) -> Check:
    """Texts that end openly are suspicious only where most others end cleanly."""
    clean = sum(_ends_cleanly(completion_text(e)) for e in examples)
    usual = clean >= _CLEAN_ENDS * len(examples)
    marked = sum(MARK in completion_text(e) for e in examples) >= _MARKED * len(examples)

    def check(example: Example) -> str | None:
        text = completion_text(example).strip()
        if not text:
            return "it is blank"
        if example.extra.get("finish_reason") == "length":
            return "it was cut off at the token limit (finish_reason is length)"
        if loop := endless(text):
            return f"it says {quoted(loop)} over and over until it ends"
        if _MARKED_END.search(text) and (MARK in text or not marked):
            return None
        opened = _OPEN_END.search(text) or text.count("(") > text.count(")") or text.count("```") % 2
        if opened or (usual and not _ends_cleanly(text)):
            return f"it stops inside a sentence: {quoted('...' + text[-50:])}"
        return None

    return check


_MARKED_END = re.compile(rf"(?:{MARK}|\bis|[=:])\s*\$?-?[\d.,/]*\d(?:[ \t]*[\w%°]+){{0,2}}$|{MARK}[^\n]*$")


def _ends_cleanly(text: str) -> bool:
    return bool(_ENDS.search(text) or re.search(rf"{MARK}[^\n]*$", text.rstrip()) or len(words(text)) <= 3)


def endless(text: str) -> str | None:
    """What a text says again and again up to its end, at least three times; the last time may be cut short."""
    said = text.split()
    for period in range(1, len(said) // _REPEATS + 1):
        run = 0
        while run < len(said) - period and said[-1 - run] == said[-1 - run - period]:
            run += 1
        if run + period >= _REPEATS * period and run + period >= 6:
            return " ".join(said[-period:])
    return None


def _prompt_copy(example: Example) -> str | None:
    """The export took prompt and completion together, or the model goes on with questions of its own."""
    prompt, text = _bare(prompt_text(example.prompt)), completion_text(example)
    if len(prompt) >= 30 and prompt in _bare(text):
        return "it holds the whole prompt"
    if found := _NEXT_TURN.search(text):
        return f"it goes on with another turn: {quoted(text[found.start() :])}"
    return None


# Is it text?


def _garbage(examples: Sequence[Example], special: Sequence[str]) -> Iterator[Finding]:
    control = re.compile("|".join([_CONTROL.pattern, *map(re.escape, special)]))
    usual = Counter(name for e in examples for name, text in texts(e) if _HTML.search(text))
    for example in examples:
        told = []
        for name, text in (("prompt", prompt_text(example.prompt)), *texts(example)):
            if found := control.search(text):
                told.append(f"its {name} holds the control token {quoted(found[0])}")
            elif found := _BROKEN.search(text):
                told.append(f"its {name} holds broken characters: {quoted(_around(text, found))}")
            elif name == "prompt" or usual[name] > max(USUAL * len(examples), 2):
                continue
            elif (found := _HTML.search(text)) and not _HTML.search(prompt_text(example.prompt)):
                told.append(f"its {name} holds markup: {quoted(_around(text, found))}")
        if told:
            yield Finding("garbage", example.id, "; ".join(told))


def _around(text: str, found: re.Match[str]) -> str:
    return ascii(text[max(0, found.start() - 8) : found.end() + 12])[1:-1]


def _other_language(examples: Sequence[Example]) -> Iterator[Finding]:
    """A field in another language than its question and than the field mostly has."""
    spoken: dict[str, Counter[str]] = defaultdict(Counter)
    fields = []
    prompts = [language(prompt_text(e.prompt)) for e in examples]
    usual = next((name for name, _ in Counter(filter(None, prompts)).most_common(1)), None)
    for example, own in zip(examples, prompts, strict=True):
        asked = own or usual
        for name, text in texts(example):
            if found := language(text):
                spoken[name][found] += 1
                fields.append((example, name, found, asked))
    for example, name, found, asked in fields:
        if asked and found != asked and spoken[name][found] <= USUAL * len(examples):
            yield Finding("language", example.id, f"its {name} is in {found}, its question in {asked}")
