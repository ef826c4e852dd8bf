"""The user as a judge: show the completions one by one in the terminal, and save after each."""

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from nlft.collect.arithmetic import find_calculations
from nlft.collect.judging import Judged, is_open, with_opinion
from nlft.collect.opinions import RightOrWrong, plain_text
from nlft.core.prompts import CORRECTION_MARK, prompt_text, without_corrections
from nlft.core.spans import Span, merged_spans, occurrences
from nlft.data.records import Example, completion_text
from nlft.data.relabelling import with_label
from nlft.errors import UserError

Save = Callable[[list[Example]], None]
_Move = Literal["next", "back", "quit", "stay"]

_OF_A_SUM = "Quote the first wrong step exactly."  # of a reply that calculates something
_OF_WORDS = "Quote the words that you mean, exactly."
_HELP = (
    "Say what is wrong. {quote} Finish with an empty line. Write a correction last, on a\n"
    f"line that begins with {CORRECTION_MARK} (training omits it, and what follows, from the judge prompt).\n"
    "/mark TEXT marks words without a sentence; /mark TEXT=>OTHER says what should stand there."
)
_HELP_LIKED = "Say what you like about it. Finish with an empty line. Enter alone gives no reason."
_MARK = re.compile(r"^[ \t]*correction[ \t]*:\s*", re.IGNORECASE | re.MULTILINE)


def judge_by_hand(
    examples: Sequence[Example], save: Save, *, graded: bool = False, overwrite: bool = False, check_right: bool = False
) -> Judged:
    """Show the examples one by one, and read from the terminal what is wrong with each, or what the user likes.

    Show the wrong examples, and the liked ones that nothing says why: no grader labelled them, and they have neither an
    answer nor feedback. Start at the first example without a judgment or a reason, so that a later call continues where
    an earlier one stopped.

    Args:
        save: called with all examples after each change.
        graded: whether a grader has labelled all examples. If false, a grader has labelled only the examples with the
            `verdict` right or wrong. The user cannot change a grader's label. A different opinion is stored as a
            conflict.
        overwrite: start at the first example, and show also the wrong examples with a judgment.
        check_right: show also the right examples, and start at the first.

    Raises:
        UserError: standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "--judge human asks in the terminal, but standard input is not a terminal.\n"
            "  Run the command in a terminal, or choose another --judge."
        )
    with suppress(ImportError):  # readline lets the user edit lines
        import readline  # noqa: F401
    before, examples = examples, list(examples)
    shown = [at for at, e in enumerate(examples) if check_right or not e.label or _lacks_reason(e, graded)]
    show_all = overwrite or check_right

    def following(place: int) -> int:
        remaining = (p for p in range(place, len(shown)) if show_all or is_asked(examples[shown[p]]))
        return next(remaining, len(shown))

    def is_asked(example: Example) -> bool:
        return is_open(example) or _lacks_reason(example, graded)

    place = following(0)
    any_to_show = place < len(shown)
    while any_to_show and (place < len(shown) or _goes_back()):
        if place == len(shown):
            place -= 1
            continue
        at = shown[place]
        _show(examples[at], place + 1, len(shown), _is_graded(examples[at], graded))
        move: _Move = "stay"
        while move == "stay":
            example, move = _take(examples[at], _is_graded(examples[at], graded))
            if example != examples[at]:
                examples[at] = example
                save(examples)
        if move == "quit":
            break
        place = max(0, place - 1) if move == "back" else following(place + 1)
    open_ids = {e.id: "not judged yet" for e in examples if is_open(e)}
    changed = [new.id for old, new in zip(before, examples, strict=True) if new != old]
    return Judged(examples, [*changed, *open_ids], open_ids)


def _lacks_reason(example: Example, graded: bool) -> bool:
    """Return whether a user likes the reply, and neither feedback nor an answer says why."""
    return example.label and not (example.feedback or example.answer or example.keep or _is_graded(example, graded))


def _help(example: Example) -> str:
    if example.label:
        return _HELP_LIKED
    texts = (completion_text(example), example.answer or "")
    calculates = any(any(find_calculations(text)) for text in texts)
    return _HELP.format(quote=_OF_A_SUM if calculates else _OF_WORDS)


def _is_graded(example: Example, graded: bool) -> bool:
    return graded or example.extra.get("verdict") in ("right", "wrong")


def _show(example: Example, number: int, total: int, graded: bool) -> None:
    label = f"labelled {'right' if example.label else 'wrong'}{' by the grader' if graded else ''}"
    _say(f"\n──── {number} of {total}: {plain_text(str(example.id))}, {label} ────")
    parts = [
        ("Question", prompt_text(example.prompt)),
        ("Standard answer", example.answer or ""),
        ("What a reader likes", example.feedback or ""),
        ("Response", completion_text(example)),
        ("Judgment so far", example.judgment or ""),
        ("Marked so far", _marks(example)),
    ]
    for title, text in parts:
        if text:
            # The bar separates the example's text from ours, whatever the model wrote.
            _say(f"\n{title}\n" + "\n".join(f"  │ {line}" for line in plain_text(text).split("\n")))
    commands = ["/mark", "/unmark", "/back", "/skip", "/right", "/wrong", "/quit"]
    said = example.feedback if example.label else example.judgment
    keep = f"Enter keeps the {'reason' if example.label else 'judgment'}. " if said else ""
    _say(f"\n{_help(example)}\n{keep}Commands: {'  '.join(commands)}")


def _take(example: Example, graded: bool) -> tuple[Example, _Move]:
    """Read one answer of the user. Return the changed example and the next move."""
    text = _read_text()
    if text is None:
        return example, "quit"
    command = text.strip()
    if not command:
        if not is_open(example):
            return example, "next"
        _say("You wrote nothing and marked nothing. Type /skip to leave the example as it is.")
        return example, "stay"
    if not text.startswith("/"):
        return _with_reason(example, text) if example.label else _with_judgment(example, text)
    if command in ("/right", "/wrong"):
        return _with_label(example, command == "/right", graded)
    if command.partition(" ")[0] in ("/mark", "/unmark"):
        return _with_marks(example, command), "stay"
    moves: dict[str, _Move] = {"/back": "back", "/skip": "next", "/quit": "quit"}
    if command not in moves:
        _say(f"There is no command {plain_text(command)}. To begin a judgment with /, write a space before it.")
    return example, moves.get(command, "stay")


def _with_reason(example: Example, text: str) -> tuple[Example, _Move]:
    """Store what the user likes. It is shown to the model in training, and never trained."""
    return replace(with_opinion(example, None, ""), feedback=plain_text(text).strip()), "next"


def _with_judgment(example: Example, text: str) -> tuple[Example, _Move]:
    judgment = _MARK.sub(f"{CORRECTION_MARK} ", plain_text(text)).strip()
    if not without_corrections(judgment).strip():
        _say(f"That is only a correction. Say also what is wrong, before {CORRECTION_MARK}")
        return example, "stay"
    return replace(with_opinion(example, None, ""), judgment=judgment), "next"


def _with_marks(example: Example, command: str) -> Example:
    """Mark the command's text wherever it stands in the completion, or remove all marks."""
    if command == "/unmark":
        _say(f"{len(example.spans)} marks removed.")
        return replace(example, spans=())
    text, arrow, other = command.removeprefix("/mark").partition("=>")
    words = plain_text(text).strip()
    places = occurrences(completion_text(example), [words] if words else [])
    if not places:
        _say(f"The response does not contain {words or 'an empty text'}. Nothing is marked.")
        return example
    new = [Span(span.start, span.end, plain_text(other).strip() if arrow else None) for span in places]
    changed = replace(example, spans=merged_spans(new, example.spans))
    _say(f"Marked so far: {_marks(changed)}. Now say what is wrong, mark more, or press Enter.")
    return changed


def _marks(example: Example) -> str:
    """List the marked parts on one line, each with its replacement."""
    text = completion_text(example)
    replaced = ["" if span.replace is None else f"=>{span.replace or '(nothing)'}" for span in example.spans]
    marks = zip(example.spans, replaced, strict=True)
    return plain_text("; ".join(" ".join(text[span.start : span.end].split()) + other for span, other in marks))


def _with_label(example: Example, right: bool, graded: bool) -> tuple[Example, _Move]:
    """Change the label to the user's. If a grader set it, store the user's opinion instead."""
    if graded:
        says: RightOrWrong = "right" if right else "wrong"
        changed = with_opinion(example, says, f"calls it {says}")
        if right != example.label:
            _say("The grader set this label, so it stays. Your opinion is stored as a conflict.")
    else:
        changed = with_opinion(with_label(example, right), None, "")
        if dropped := len(example.spans) - len(changed.spans):
            _say(f"{dropped} marks by a judge are removed, with its judgment.")
    if is_open(changed):
        _say("Now say what is wrong, or /skip.")
        return changed, "stay"
    if right and _lacks_reason(changed, graded):
        _say(_HELP_LIKED)
        return changed, "stay"
    return changed, "next"


def _read_text() -> str | None:
    """Read lines up to an empty line, or a command on the first line. Return None at the end of input."""
    lines: list[str] = []
    while True:
        try:
            line = input("> " if not lines else "| ")
        except EOFError:
            _say("")
            return "\n".join(lines) if lines else None
        if not lines and line.startswith("/"):
            return line
        lines += line.split("\n")  # a terminal may return several pasted lines as one
        if not line.strip():
            return "\n".join(lines)


def _goes_back() -> bool:
    """After the last example, ask whether to show it again."""
    _say("\nThat was the last example. Press Enter to finish, or type /back to see it again.")
    return (_read_text() or "").strip() == "/back"


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)
