"""Whether yes means right or wrong as a judge's verdict: what the prompt asks decides."""

import re
from collections.abc import Iterator

from nlft.collect.opinion_parts import RightOrWrong
from nlft.core.marks import narrow, says_right, says_wrong

_MARKS = r"[\"'“”‘’«»*_`]{0,3}"
_WORDS = r"(?:yes|no|ja|nein|oui|non|sí|sì|sim|não|是|否)\b"
_YES = frozenset({"yes", "ja", "oui", "sí", "sì", "sim", "是"})
# "yes" if the response is right; if it is wrong, say "no"; yes = right; yes (right).
_MEANS = re.compile(
    rf"\b(?P<word>{_WORDS}){_MARKS}[ \t]{{0,2}}(?:=|:|->|→|\(|\b(?:if|when|means?|for|falls|wenn|si|se)\b|如果|若)"
    r"(?P<clause>[^.,;:?!()\n\"“”]{1,80})"
    r"|(?:\b(?:if|when|falls|wenn|si|se)\b|如果|若)(?P<before>[^.;:?!\n\"“”,]{1,80}),?[ \t]"
    rf"(?:[^\W\d_]{{1,12}}[ \t]){{0,3}}{_MARKS}(?P<after>{_WORDS})",
    re.IGNORECASE,
)
# A question that yes or no answers begins with its verb, or says "whether".
_QUESTION = re.compile(
    r"(?:^|[.!?:;,(){}\n*_\"'¿]|\b(?:and|or|then|say|decide|answer))[ \t*_\"'¿#\d.)-]{0,8}(?P<asked>(?:is|are|was|were"
    r"|does|do|did|has|have|ist|sind|hat|stimmt|enthält|est|es|è|é|tiene|hay|contiene)\b[^.!?？;\n]{1,120})(?=[?？])"
    r"|\b(?:whether|ob)\b(?P<whether>[^.!?？;\n]{1,120})"
    r"|(?P<joined>[^。.!?？;\n]{0,60}(?:是否|[吗嗎]|\best-(?:elle|il|ce)\b|\ba-t-(?:elle|il)\b)[^。.!?？;\n]{0,60})",
    re.IGNORECASE,
)
_SAME = re.compile(r"\b(?:match(?:es)?|agrees?|equals?|equivalent|consistent|same)\b", re.IGNORECASE)
_NOT_SAME = re.compile(r"\b(?:not|n't|never|differ(?:s|ent)?|disagrees?|contradicts?)\b", re.IGNORECASE)
_ASIDE = re.compile(r"\b(?:why|what|where|which|warum|was|wo|pourquoi)\b", re.IGNORECASE)  # asks for words
# Then yes says something of a label, or of the standard answer, and not of the reply.
_OF_OTHERS = re.compile(
    r"\{label\}|\blabel(?:s|led|ed)?\b"
    r"|\b(?:is|are)[ \t](?:the|this)[ \t](?:standard|reference|gold|expected)[ \t]answer\b|\{answer\}",
    re.IGNORECASE,
)


def yes_means(template: str) -> RightOrWrong | None:
    """Return whether a judge that says yes calls the reply right or wrong.

    What the prompt says of the words decides: `"yes" if it is right`. Otherwise its questions do: "Is it correct?",
    "Does it have errors?".

    Args:
        template: the judge's prompt, with its slots. Texts of an example in it would be read as questions to the judge.

    Returns:
        None if the prompt asks neither, or both.
    """
    said: set[RightOrWrong | None] = set(_meanings(narrow(template)))
    said = said or set(_questions(narrow(template)))
    return said.pop() if len(said) == 1 else None


def opposite(says: RightOrWrong) -> RightOrWrong:
    """Return the other one."""
    return "wrong" if says == "right" else "right"


def _meanings(template: str) -> Iterator[RightOrWrong]:
    for match in _MEANS.finditer(template):
        says = _about(match["clause"] or match["before"])
        if says:
            yield says if (match["word"] or match["after"]).lower() in _YES else opposite(says)


def _questions(template: str) -> Iterator[RightOrWrong | None]:
    for match in _QUESTION.finditer(template):
        question = match["asked"] or match["whether"] or match["joined"]
        if _ASIDE.search(question):
            continue
        if _OF_OTHERS.search(question):
            yield None
        elif says := _about(question):
            yield says


def _about(words: str) -> RightOrWrong | None:
    """Return what is asked or said of the reply; None if it is neither right nor wrong, or both."""
    wrong, right = says_wrong(words), says_right(words)
    if wrong == right:
        same = not wrong and _SAME.search(words) and not _NOT_SAME.search(words)
        return "right" if same else None
    return "wrong" if wrong else "right"
