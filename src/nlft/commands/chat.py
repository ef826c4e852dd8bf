"""Talk to a run's models: `nlft chat`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlft.commands.checks import check_names
from nlft.commands.help import own_first
from nlft.commands.parsing import Command
from nlft.config import check_ranges
from nlft.errors import UserError
from nlft.progress import note

_FLAGS = ("rule", "rules", "prompts", "examples_out", "max_new_tokens")


def chat(argv: Sequence[str]) -> None:
    """Run `nlft chat`."""
    from nlft.chat.settings import ChatSettings

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("run", help="run directory, checkpoint, adapter's folder or hub name")

    command = Command(
        "nlft chat",
        "Talk to the base, to the base with the rule in its prompt, and to the trained model. Feedback on a reply "
        "becomes an example for the next round.",
        [ChatSettings],
        [("Chat", own_first(ChatSettings))],
        add_arguments=add,
    )
    settings, other = command.parse(argv)
    from nlft.chat.session import Session
    from nlft.chat.terminal import Terminal

    session = Session(other.run, settings)
    Terminal(session).run()
    if session.choices.rows():
        print("\n".join(session.score_lines()))
    if session.next_round.examples():
        print(session.kept_line())
    note(f"next: {session.next_line()}")


def chat_flags(parser: ArgumentParser) -> None:
    """Add the flags of `nlft map` for its conversation."""
    parser.add_argument("--chat", action="store_true", help="load the run's models, to talk to them in the page")
    parser.add_argument("--rule", metavar="TEXT", help="--chat: rule that the base has in its prompt on one side")
    parser.add_argument("--rules", metavar="FILE", help="--chat: the same from a file of rules")
    parser.add_argument("--prompts", metavar="FILE", help="--chat: held-out prompts to try")
    parser.add_argument(
        "--max_new_tokens", type=int, metavar="N", help="--chat: maximum length of a reply (default: 512)"
    )
    parser.add_argument("--examples_out", metavar="FILE", help="--chat: file for examples from your feedback")


def chat_settings(args: Namespace) -> dict[str, Any] | None:
    """Return the settings of the page's conversation. None without `--chat`.

    Raises:
        UserError: the flags do not go together, or a file is wrong.
    """
    from nlft.chat.settings import ChatSettings

    given = [f"--{name}" for name in _FLAGS if getattr(args, name)]
    if not args.chat:
        if given:
            raise UserError(f"{', '.join(given)} needs --chat.\n  Add --chat, or leave it out.")
        return None
    if args.html or args.csv or args.read_only:
        raise UserError(
            "--chat loads models and keeps feedback, but --html, --csv and --read_only do not.\n"
            "  Leave out one of them."
        )
    if args.rules:
        check_names({"rules": args.rules})
    if args.prompts:
        from nlft.data.records import read_questions

        read_questions(args.prompts)
    files = {name: getattr(args, name) and str(Path(getattr(args, name))) for name in ("rules", "prompts")}
    settings = {"model_name_or_path": args.model, "rule": args.rule, "out": args.examples_out, **files}
    settings["max_new_tokens"] = args.max_new_tokens
    given_ones = {name: value for name, value in settings.items() if value is not None}
    check_ranges(ChatSettings(**given_ones))
    return given_ones
