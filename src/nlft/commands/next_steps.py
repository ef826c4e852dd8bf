"""What a command ends with: one line that the user can paste to go on."""

from collections.abc import Sequence
from pathlib import Path

from nlft.errors import typed
from nlft.progress import note

SMALL_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model in a line that needs one, where the user has named none: it is small enough to try."""


def note_next(*words: str | Path) -> None:
    """Print the next command. Paths and names with spaces are quoted for the shell.

    Args:
        words: the command's words. A `Path` is shown as the user would type it here.
    """
    note(f"next: {typed(*words)}")


def note_train(file: Path | str, model: str | None, *more: str, command: str = "train") -> None:
    """Print the command that trains on a file, into a folder that does not exist yet.

    Args:
        model: the base model; None: one that is small enough to try.
        more: further flags and values.
    """
    name = Path(file).stem or "run"
    tries = (Path("runs") / (name if at == 1 else f"{name}-{at}") for at in range(1, 1000))
    out = next(path for path in tries if not path.exists())
    note_next(
        "nlft", command, file, "--model_name_or_path", model or SMALL_MODEL, *more, "--output_dir", str(out)
    )  # fmt: skip


def print_room(prog: str, argv: Sequence[str], tokens: int, cut: int, of: int, **changed: str) -> None:
    """Print what to type so that replies end by themselves, if some were cut off.

    Twice the room is a guess: nobody knows how long a reply that was cut off would have become.

    Args:
        prog: the command as the user types it, such as `nlft sample`.
        argv: the words after it.
        tokens: its --max_new_tokens.
        cut, of: number of replies that were cut off, and number of all replies.
        changed: other flags to replace, by name.
    """
    if cut:
        again = with_flags(argv, max_new_tokens=str(2 * tokens), **changed)
        print(f"{cut} of {of} replies ({cut / of:.0%}) were cut off at --max_new_tokens {tokens}. To let them end:")
        print(f"  {typed(*prog.split(), *again)}")


def with_flags(argv: Sequence[str], **flags: str | None) -> list[str]:
    """Return a command's words with other values of some flags; None: without the flag."""
    words, kept = list(argv), list[str]()
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") in flags:
            if not equals and words:
                words.pop(0)
        else:
            kept.append(word)
    return [*kept, *(word for name, value in flags.items() if value is not None for word in (f"--{name}", value))]
