"""The `nlft` command: finds the command, turns errors into a message and an exit code.

Exit codes: 0 done, 1 failed, 2 the user's input was wrong. A command's module is imported when it is called, so that
`nlft --help` answers at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from nlft import __version__
from nlft.errors import NLFTError, UserError
from nlft.progress import quiet_libraries


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if argv[0] == "--version":
        print(f"nlft {__version__}")
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"{argv[0]!r} is no command.\n  Choose one of {', '.join(COMMANDS)}.")
        quiet_libraries()
        module, _, function = COMMANDS[argv[0]][1].partition(":")
        getattr(import_module(f"nlft.{module}"), function)(argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NLFTError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def help_text() -> str:
    """What `nlft --help` prints."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {summary}" for name, (summary, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nlft COMMAND [ARGUMENTS]",
            "",
            "Natural Language Fine-Tuning: train on written feedback, and see which tokens it touched.",
            "",
            *rows,
            "",
            "`nlft COMMAND --help` lists a command's arguments; --config FILE reads them from YAML.",
        ]
    )


COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("everything once, on a small real model, in minutes", "commands.results:demo"),
    "tune": ("from a file to a compared model: all of the below in one go", "commands.results:tune"),
    "sample": ("answer questions with the model, and label the answers", "commands.data:sample"),
    "judge": ("say in words what is wrong with the wrong completions", "commands.data:judge"),
    "revise": ("ask the model for right completions in its own words", "commands.data:revise"),
    "build": ("choose examples by size and ratio, and write them for a tool", "commands.data:build"),
    "audit": ("say what to mend in the examples before training on them", "commands.data:audit"),
    "train": ("train on examples with written feedback", "commands.training:train"),
    "replay": ("train a run again, with what was changed while it trained", "commands.training:replay"),
    "sft": ("train a supervised baseline on the same file", "commands.training:sft"),
    "reft": ("train by reinforcement on the same file, as a baseline", "commands.training:reft"),
    "kto": ("train on right and wrong as such, as a baseline", "commands.training:kto"),
    "evaluate": ("answer questions greedily and grade the answers", "commands.results:evaluate"),
    "compare": ("every method on the same examples, with intervals and a verdict", "commands.results:compare"),
    "merge": ("merge an adapter into its model, as an ordinary model folder", "commands.results:merge"),
    "map": ("show what the feedback did to every token", "commands.results:map"),
    "env": ("versions and devices, for a bug report", "commands.results:env"),
}


if __name__ == "__main__":
    sys.exit(main())
