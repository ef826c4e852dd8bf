"""Everything that reads texts of people and models, by name, as one call; and the texts that are slow to read."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nlft.auditing.rules import find_rules, objections
from nlft.auditing.text import text_findings
from nlft.auditing.words import tone
from nlft.chat.terminal import quoted
from nlft.collect.arithmetic import find_calculations
from nlft.collect.opinions import plain_text, quotes, read_opinion
from nlft.collect.revising import RevisionSettings, refuse_revision
from nlft.collect.rules import judge_by_rules
from nlft.core.marks import corrections, verdict, without_heading
from nlft.core.prompts import fill, without_corrections
from nlft.core.spans import WordFinder, occurrences, quoted_spans
from nlft.core.thoughts import without_thoughts
from nlft.data.checks import Check, check_reply
from nlft.data.grading import Reply as GradedReply
from nlft.data.grading import extract_flexible, extract_original, extract_strict, get_grader
from nlft.data.language import language
from nlft.data.old_feedback import feedback_note
from nlft.data.records import Example
from nlft.data.yes_or_no import says_yes
from nlft.errors import Problem, ProblemsError, printable
from nlft.models.banning import ban_outcome
from nlft.results.collateral import Pair, commoner, style
from nlft.results.collateral import Reply as BesideReply
from nlft.sources.raw_records import shown
from nlft.training.pivots import unquoted

number, choice, exact = (get_grader(name) for name in ("number", "choice", "exact"))


def example(**fields: Any) -> Example:
    known = {"id": 1, "prompt": "How many?", "completion": "It is 5.", "label": False, "answer": "5"}
    return Example(**{**known, **fields})


def audit(**fields: Any) -> None:
    list(text_findings([example(**{"judgment": "It says 5.", **fields})], number))


READERS: dict[str, Callable[[str], object]] = {
    "number": lambda t: number(t, "5"),
    "number, standard answer": lambda t: number("5", t),
    "choice": lambda t: choice(t, "B"),
    "exact": lambda t: exact(t, "Paris"),
    "other readings": lambda t: (extract_strict(t), extract_flexible(t), extract_original(t)),
    "calculations": lambda t: list(find_calculations(t)),
    "rules, question": lambda t: judge_by_rules(t, "1+1=3. It is 5.", "1+1=2 #### 6"),
    "rules, completion": lambda t: judge_by_rules("How many?", t, "1+1=2 #### 6"),
    "rules, cut off": lambda t: judge_by_rules("How many?", t, "6", truncated=True),
    "rules, answer": lambda t: judge_by_rules("How many?", "1+1=3. It is 5.", t),
    "opinion": lambda t: read_opinion(t, "stop", "Say what is wrong.", example()),
    "opinion, prompt": lambda t: read_opinion('It says "5". Bad.', "stop", t, example(prompt=t)),
    "quotes": lambda t: (quotes(t, "It is 5."), quotes('He says "5" twice', t)),
    "spans, judgment": lambda t: quoted_spans("It is 5. a b c", t),
    "spans, completion": lambda t: quoted_spans(t, 'It says "a b ... c", "3" and "- 1 -".'),
    "spans, long quote": lambda t: quoted_spans(t, f'It says "{t[:5000]}x".'),
    "words": lambda t: (occurrences(t, ["a", "not good", "3"]), WordFinder(["zz", "a 3"]).first(t)),
    "correction": lambda t: without_corrections(f'"a" is wrong.\nCorrection: {t}'),
    "marks": lambda t: (corrections(t), verdict(t), without_heading(t), without_corrections(t)),
    "thoughts": without_thoughts,
    "chat, struck words": lambda t: (quoted(f'"a{t}"'), quoted(f"a {t}")),
    "plain": lambda t: (plain_text(t), printable(t), shown(t)),
    "problems": lambda t: str(ProblemsError([Problem("x:1", t, "Mend it.")] * 6)),
    "audit, completion": lambda t: audit(completion=t),
    "audit, judgment": lambda t: audit(judgment=t),
    "audit, answer": lambda t: audit(answer=t),
    "audit, prompt": lambda t: audit(prompt=t),
    "audit, rules": lambda t: find_rules([example(judgment=t), example(id=2, judgment=t)]),
    "audit, objections": lambda t: objections([example(judgment=f'"It is" {t}'), example(completion=t, judgment="It")]),
    "tone": tone,
    "language": language,
    "yes or no": says_yes,
    "yes or no, answer": lambda t: (says_yes(f"answer:{t}"), says_yes(f"sure!{t}"), says_yes(f"yes{t}")),
    "words check": lambda t: check_reply(
        Check("c", "words", ("not good", "a a b"), must=False), GradedReply("1", "How many?", None, t, {})
    ),
    "feedback": lambda t: feedback_note([example(answer=t)] * 3),
    "templates": lambda t: (fill(t, a="b"), fill("{a}", a=t)),
    "revision": lambda t: refuse_revision(
        SimpleNamespace(text=t, tokens=1, finish_reason="stop"), "1+1=2 #### 5", number, RevisionSettings()
    ),  # type: ignore[arg-type]
    "pivots": unquoted,
    "collateral": lambda t: (
        commoner([Pair("1", "p", BesideReply("a b", 2, True), BesideReply(t, 3, True))] * 2),
        style([BesideReply(t, 3, True)]),
    ),
    "bans": lambda t: ban_outcome([t], ["zz"], 3),
}


def text_of(piece: str, size: int) -> str:
    return (piece * (size // len(piece) + 1))[:size] + "5x"
