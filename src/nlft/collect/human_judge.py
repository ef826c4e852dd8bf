"""The user as a judge: one completion after the other in the terminal, saved after each."""

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from nlft.collect.judging import Judged, with_opinion
from nlft.collect.opinions import RightOrWrong, plain_text
from nlft.core.prompts import CORRECTION_MARK, prompt_text, without_corrections
from nlft.data.records import Example, completion_text, read_examples
from nlft.errors import UserError, display_path

Save = Callable[[list[Example]], None]
_Move = Literal["next", "back", "quit", "stay"]

_HELP = (
    "Say what is wrong, quoting the first wrong step as it is written; an empty line ends it. What it should be\n"
    f"goes on a line of its own that begins {CORRECTION_MARK} (training leaves that line out of the judge prompt)."
)
_MARK = re.compile(r"^[ \t]*correction[ \t]*:\s*", re.IGNORECASE | re.MULTILINE)


def judge_by_hand(
    examples: Sequence[Example], save: Save, *, graded: bool = False, overwrite: bool = False, check_right: bool = False
) -> Judged:
    """Show the wrong examples one by one, and take their judgments from the terminal.

    It starts at the first without a judgment, so a later call goes on where an earlier one was left.

    Args:
        save: called with all examples after each change.
        graded: a grader has labelled all of them; else only those whose `verdict` is right or wrong. Their labels
            the user cannot change; a different opinion is noted as a conflict.
        overwrite: start at the first, and pass over none.
        check_right: show the right ones as well, from the first.
    Raises:
        UserError: there is no terminal to ask in.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "--judge human asks in the terminal, and this is none.\n  Run it in one, or choose another judge."
        )
    with suppress(ImportError):  # lines can be edited where there is readline
        import readline  # noqa: F401
    before, examples = examples, list(examples)
    shown = [at for at, e in enumerate(examples) if check_right or not e.label]
    everyone = overwrite or check_right

    def following(place: int) -> int:
        left = (p for p in range(place, len(shown)) if everyone or is_open(examples[shown[p]]))
        return next(left, len(shown))

    place = following(0)
    some = place < len(shown)
    while some and (place < len(shown) or _goes_back()):
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
    left = {e.id: "not yet" for e in examples if is_open(e)}
    changed = [new.id for old, new in zip(before, examples, strict=True) if new != old]
    return Judged(examples, [*changed, *left], left)


def is_open(example: Example) -> bool:
    """Whether a judgment is still wanted."""
    return not example.label and not example.judgment


def taken_up(examples: Sequence[Example], out: Path) -> list[Example]:
    """The examples as an earlier session left them in `out`, if there was one.

    Raises:
        UserError: `out` holds others, whose judgments would be overwritten.
    """
    if not out.exists():
        return list(examples)
    earlier = read_examples(out, require_judgment=False)
    if [(e.id, e.prompt, e.completion) for e in earlier] != [(e.id, e.prompt, e.completion) for e in examples]:
        raise UserError(f"{display_path(out)}: holds other examples.\n  Give another --out, or move the file away.")
    return earlier


def _is_graded(example: Example, graded: bool) -> bool:
    return graded or example.extra.get("verdict") in ("right", "wrong")


def _show(example: Example, number: int, total: int, graded: bool) -> None:
    label = f"labelled {'right' if example.label else 'wrong'}{' by the grader' if graded else ''}"
    _say(f"\n──── {number} of {total}: {plain_text(str(example.id))}, {label} ────")
    parts = [
        ("Question", prompt_text(example.prompt)),
        ("Standard answer", example.answer),
        ("Response", completion_text(example)),
        ("Judgment so far", example.judgment or ""),
    ]
    for title, text in parts:
        if text:
            # The bar tells what is shown from what is told, whatever a model writes.
            _say(f"\n{title}\n" + "\n".join(f"  │ {line}" for line in plain_text(text).split("\n")))
    commands = ["/back", "/skip", "/right", "/wrong", "/quit"]
    keep = "Enter keeps the judgment. " if example.judgment else ""
    _say(f"\n{_HELP}\n{keep}Or: {'  '.join(commands)}")


def _take(example: Example, graded: bool) -> tuple[Example, _Move]:
    """One answer of the user: the example as it is now, and where to go."""
    text = _read_text()
    if text is None:
        return example, "quit"
    command = text.strip()
    if not command:
        if example.judgment or example.label:
            return example, "next"
        _say("Nothing was written. /skip leaves it as it is.")
        return example, "stay"
    if not text.startswith("/"):
        return _with_judgment(example, text)
    if command in ("/right", "/wrong"):
        return _with_label(example, command == "/right", graded)
    moves: dict[str, _Move] = {"/back": "back", "/skip": "next", "/quit": "quit"}
    if command not in moves:
        _say(f"There is no {plain_text(command)}. (A judgment that begins with / is written with a space before it.)")
    return example, moves.get(command, "stay")


def _with_judgment(example: Example, text: str) -> tuple[Example, _Move]:
    judgment = _MARK.sub(f"{CORRECTION_MARK} ", plain_text(text)).strip()
    if not without_corrections(judgment).strip():
        _say(f"That is only a correction. Say what is wrong before {CORRECTION_MARK}")
        return example, "stay"
    return replace(with_opinion(example, None, ""), judgment=judgment), "next"


def _with_label(example: Example, right: bool, graded: bool) -> tuple[Example, _Move]:
    """The user's label where no grader decides, else the user's opinion beside it."""
    if graded:
        says: RightOrWrong = "right" if right else "wrong"
        changed = with_opinion(example, says, f"calls it {says}")
        if right != example.label:
            _say("The label is the grader's, and stays; that you disagree is noted.")
    else:
        changed = replace(with_opinion(example, None, ""), label=right)
    if is_open(changed):
        _say("Now say what is wrong, or /skip.")
        return changed, "stay"
    return changed, "next"


def _read_text() -> str | None:
    """Lines up to an empty one, or a command on the first; None at the end of input."""
    lines: list[str] = []
    while True:
        try:
            line = input("> " if not lines else "| ")
        except EOFError:
            _say("")
            return "\n".join(lines) if lines else None
        if not lines and line.startswith("/"):
            return line
        lines += line.split("\n")  # a terminal may hand over pasted lines as one
        if not line.strip():
            return "\n".join(lines)


def _goes_back() -> bool:
    """After the last example: whether the user wants to see it again."""
    _say("\nThat was the last one. Enter ends, /back shows it again.")
    return (_read_text() or "").strip() == "/back"


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)
