"""Split a judge's reply into its criticism, its correction and its verdict: in sentences, JSON, tags or a table."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from nlft.core.marks import (
    CROSS,
    TICK,
    corrections,
    names_correction,
    names_verdict,
    says_right,
    says_something,
    says_wrong,
    verdict,
    without_heading,
)
from nlft.core.named_parts import NamedParts, Record, read_parts
from nlft.core.thoughts import without_thoughts

RightOrWrong = Literal["right", "wrong"]

_UNSURE = re.compile(
    r"\b(?:part(?:ly|ially)|mostly|almost|nearly|half|or|teilweise|fast|presque|casi|quase)\b|[?？]"
    r"|[:=–—-][\s*_]{0,9}(?:no|none|false)\b\W{0,9}\Z",  # "correct: no"
    re.IGNORECASE,
)
# Yes and true affirm what was asked, perhaps "Does it have errors?". So do signs beside them.
_AFFIRMS = re.compile(
    rf"(?P<of>\b(?:response|reply|solution|calculation|result)\s(?:is|was)\s(?:not\s)?)?[{TICK}{CROSS}\ufe0f\s*_]{{0,9}}"
    r"\b(?:true|false|ciert[ao]|fals[ao]|yes|no(?=\W{0,9}(?:\Z|[.,;:!<|)—–-])))"
    rf"(?![^\W_])[{TICK}{CROSS}\ufe0f\s*_.!]{{0,9}}",
    re.IGNORECASE,
)
_CLOSING_TAG = re.compile(r"</[\w ]{1,30}(?:>|$)")
# These tags hold thoughts, unless a verdict or a correction stands beside them in tags of its own.
_REASON_TAG = re.compile(r"<(/?)(?:reason|analysis|rationale)>", re.IGNORECASE)
_CRITICISM = re.compile(
    r"(?:the |my )?(?:feedback|reasons?|reasoning|criticisms?|critique|explanation|why|problems?|errors?|mistakes?"
    r"|issues?|analysis|comments?|review|justification|rationale|description|assessment|judge?ment|evaluation|remarks?"
    r"|notes?|what is wrong|why wrong|begründung|grund|fehler|erklärung|raison|erreur|explication|razón|motivo"
    r"|explicación|erro|errore|причина|ошибка|объяснение|理由|原因|解释|解釋|说明|説明|问题|問題|错误|錯誤|誤り|이유|설명)"
)
_QUOTE = re.compile(
    r"(?:first |the )?(?:wrong |incorrect |quoted |faulty )?(?:step|quotes?|sentence|calculation|line|excerpt)"
    r"(?: quote)?"
)
_IS_RIGHT = re.compile(r"(?:is |the response is |response is )?(?:correct|right|correctness)")
_IS_WRONG = re.compile(r"(?:is |the response is |response is )?(?:wrong|incorrect)|has (?:errors?|mistakes?|an error)")
_IS_VERDICT = re.compile(r"(?:(?:final|overall) )?(?:judge?ment|assessment|evaluation|conclusion)")
_VERDICT_WORDS = 2
_TRUTH = {**dict.fromkeys(["true", "yes", *TICK], True), **dict.fromkeys(["false", "no", *CROSS], False)}


@dataclass(frozen=True)
class OpinionParts:
    """The parts of an opinion.

    Attributes:
        criticism: what the judge says, without correction and verdict.
        correction: on one line; empty if there is none.
        says: "right" or "wrong"; None if the judge says neither, or both.
        unread: a verdict without any known word.
        ended: whether there is a verdict, so that nothing of the opinion is missing.
    """

    criticism: str
    correction: str
    says: RightOrWrong | None = None
    unread: str = ""
    ended: bool = False


def opinion_parts(text: str) -> OpinionParts:
    """Split an opinion into its parts. The judge's thoughts are left out."""
    for said in (without_thoughts(_REASON_TAG.sub(r"<\1feedback>", text)), without_thoughts(text)):
        named = read_parts(said)
        if named and (parts := _by_name(named)):
            return parts
    return _by_marks(said)


def _by_name(named: NamedParts) -> OpinionParts | None:
    """Split by the names of the parts. Return None if no part is a verdict, a correction or criticism."""
    rows = [_row(record) for record in named.records]
    if not any(row.ended or row.correction or row.criticism for row in rows):
        return None
    parts = rows[0]
    if len(rows) > 1:
        # Rows that are called right hold no criticism.
        unread = next((row.unread for row in rows if row.unread), "")
        wrong = [row for row in rows if row.says == "wrong"]
        says: RightOrWrong | None = "wrong" if wrong else "right" if all(r.says == "right" for r in rows) else None
        kept = wrong or rows
        criticism, correction = ("\n".join(filter(None, words)) for words in
                                 ([row.criticism for row in kept], [row.correction for row in kept]))  # fmt: skip
        parts = OpinionParts(criticism, correction, says, unread, any(row.ended for row in rows))
    around = _by_marks(named.around)
    inner = _by_marks(parts.criticism or around.criticism)
    for other in (around, inner):
        parts = _with_verdict(parts, other)
    parts = replace(parts, criticism=inner.criticism)
    joined = [parts.correction, inner.correction, around.correction if parts.criticism else ""]
    said = dict.fromkeys(" ".join(words.split()) for words in joined if words)  # a judge can say it twice
    return replace(parts, correction=" ".join(said))


def _with_verdict(parts: OpinionParts, other: OpinionParts) -> OpinionParts:
    """Add the verdict of another part. Two that contradict each other say neither right nor wrong."""
    if not other.ended or (parts.ended and parts.says == other.says):
        return parts
    undecided = parts.ended and not parts.unread and parts.says is None
    says = None if undecided or (parts.says and other.says) else parts.says or other.says
    return replace(parts, says=says, unread=parts.unread or other.unread, ended=True)


def _row(record: Record) -> OpinionParts:
    """Read one record. Parts with other names are left out: they may hold the right answer."""
    quotes, criticism, correction = [], [], []
    verdicts: list[tuple[RightOrWrong | None, str]] = []
    expects = any(name.startswith("expected") for name, _ in record)
    for name, value in record:
        if not value or (expects and name.startswith("actual")):  # beside what was expected: what the reply said
            continue
        truth = _TRUTH.get(value.lower().strip(" .!"))
        if truth is not None and (_IS_RIGHT.fullmatch(name) or _IS_WRONG.fullmatch(name)):
            verdicts.append(("right" if truth == bool(_IS_RIGHT.fullmatch(name)) else "wrong", ""))
        elif names_verdict(name) or (_IS_VERDICT.fullmatch(name) and _is_only_verdict(value)):
            verdicts.append(_read_verdict(value))
        elif _IS_RIGHT.fullmatch(name) and not re.search(r"\d", value):
            verdicts.append((_says(value)[0], ""))
        elif names_correction(name) or name == "expected":
            correction.append(value)
        elif _CRITICISM.fullmatch(name):
            criticism.append(value)
        elif _QUOTE.fullmatch(name):
            quotes.append(value)
    said = {says for says, _ in verdicts}
    words = "\n".join(criticism)
    shown = [quote if '"' in quote or "\n" in quote else f'"{quote}"' for quote in quotes if quote not in words]
    return OpinionParts(
        ": ".join(filter(None, [" ".join(shown), words])),
        " ".join(correction),
        said.pop() if len(said) == 1 else None,
        next((unread for _, unread in verdicts if unread), ""),
        bool(verdicts),
    )


def _is_only_verdict(value: str) -> bool:
    """Return whether a value is no more than a word or two that say right or wrong, or affirm or deny something."""
    return len(value.split()) <= _VERDICT_WORDS and bool(_says(value)[0] or _AFFIRMS.fullmatch(value))


def _by_marks(text: str) -> OpinionParts:
    """Split a text by marks such as `Correction:` and `Verdict:`."""
    says: RightOrWrong | None = None
    unread, mark = "", verdict(text)
    if mark:
        before, (words, after) = text[: mark[0]], _first_line(text[mark[1] :])
        text = before if before.strip() else after
        says, unread = _read_verdict(words)
    text = without_heading(text)
    marks = corrections(text)
    stops = [start for start, _ in marks[1:]] + [len(text)]
    pieces = [text[end:stop] for (_, end), stop in zip(marks, stops, strict=False)]
    correction = " ".join(_CLOSING_TAG.sub("", " ".join(pieces)).split())
    criticism = (text[: marks[0][0]] if marks else text).strip()
    correction = correction if re.search(r"\w", correction) else ""
    return OpinionParts(criticism, correction, says, unread, mark is not None)


def _read_verdict(words: str) -> tuple[RightOrWrong | None, str]:
    """Return what a verdict says, and its words if none of them is known.

    Unlike `{"correct": true}`, `Verdict: true` is none: nobody knows what it affirms.
    """
    says, unread = _says(words)
    if says and not _says(_AFFIRMS.sub(lambda match: match[0] if match["of"] else " ", words))[0]:
        return None, " ".join(words.split())
    return says, unread


def _says(words: str) -> tuple[RightOrWrong | None, str]:
    """Return what words say of the thing that they stand beside. Otherwise it is as in `_read_verdict`."""
    wrong, right = says_wrong(words), says_right(words)
    if _UNSURE.search(words) or (wrong and right):  # "right or wrong" decides nothing
        return None, ""
    if not (wrong or right):
        return None, " ".join(words.split()) if says_something(words) else ""
    return "wrong" if wrong else "right", ""


def _first_line(text: str) -> tuple[str, str]:
    """Split a text at the end of its first line with words or signs, which may not be its first line."""
    line, _, rest = text.partition("\n")
    while rest and not says_something(line):
        line, _, rest = rest.partition("\n")
    return line, rest
