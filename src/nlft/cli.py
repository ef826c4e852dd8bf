"""The `nlft` command: finds the command, turns errors into a message and an exit code.

Exit codes: 0 done, 1 failed, 2 the user's input was wrong, 130 interrupted, 141 a command that only prints has lost the
reader of its output.
A command's module is imported only when the command is called, so that `nlft --help` is quick.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from importlib import import_module

from nlft import __version__
from nlft.errors import UserError, typed
from nlft.launch import refuse_launch
from nlft.library_errors import message_and_code
from nlft.processes import Terminated, terminable
from nlft.progress import quiet, quiet_libraries
from nlft.streams import has_no_reader, mute_stream, open_closed_streams, outliving_readers, write_any_character


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    open_closed_streams()
    write_any_character()
    with outliving_readers(*(["stderr"] if _only_prints(words) else ["stdout", "stderr"])):
        try:
            try:
                code = _run(words)
            finally:
                sys.stdout.flush()
            if code == 0 and (refused := getattr(sys.stdout, "refused", None)):
                raise refused
            return code
        except BrokenPipeError:
            if not has_no_reader(sys.stdout.fileno(), unknown=True):
                raise
            mute_stream(sys.stdout)  # what is still in the buffer must not fail once more at exit
            return 141
        except OSError as error:
            if (told := message_and_code(error)) is None:
                raise
            mute_stream(sys.stdout)
            print(told[0], file=sys.stderr)
            return 1


def _only_prints(words: Sequence[str]) -> bool:
    """Return whether a command only prints, so that it ends if nobody reads it. All other commands work on."""
    return words[:1] in ([], *([name] for name in _PRINTING)) or any(word in _HELP for word in words)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if argv[0] == "--version":
        print(f"nlft {__version__}")
        return 0
    try:
        run = find_command(argv[0])
        refuse_launch(argv[0], argv[1:])
        import_module("nlft.commands.meant").check_meant(argv[0], argv[1:])
        quiet_libraries()
        words = [word for word in argv[1:] if word != "--quiet"]
        with quiet() if len(words) < len(argv) - 1 else nullcontext(), terminable():
            run(words)
    except (KeyboardInterrupt, Terminated) as ended:
        print("terminated" if isinstance(ended, Terminated) else "interrupted", file=sys.stderr)
        if argv[0] in _ANSWERING:
            print(f"The answers so far are kept.\nnext: {typed('nlft', *argv)}", file=sys.stderr)
        return ended.exit_code if isinstance(ended, Terminated) else 130
    except Exception as error:
        told = message_and_code(error)
        if told is None:
            raise
        print(told[0], file=sys.stderr)
        return told[1]
    return 0


def find_command(name: str) -> Callable[[Sequence[str]], None]:
    """Import the command's module, and return the command's function.

    Raises:
        UserError: there is no such command. The message names the command that was probably meant.
    """
    if name not in COMMANDS:
        close = _OTHER_NAMES.get(name.lower()) or next(iter(get_close_matches(name.lower(), COMMANDS, n=1)), None)
        cure = f"Did you mean `nlft {close}`?" if close else f"Choose one of {', '.join(COMMANDS)}."
        raise UserError(f"{name!r} is not a command.\n  {cure} `nlft --help` lists the commands.")
    module, _, function = COMMANDS[name][1].partition(":")
    found: Callable[[Sequence[str]], None] = getattr(import_module(f"nlft.{module}"), function)
    return found


def help_text() -> str:
    """Return the text that `nlft --help` prints."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {summary}" for name, (summary, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nlft COMMAND [ARGUMENTS]",
            "",
            "Natural Language Fine-Tuning: train on written feedback, and see which tokens it changed.",
            "",
            *rows,
            "",
            "`nlft COMMAND --help` lists a command's arguments. --config FILE reads them from YAML.",
        ]
    )


COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("try everything once, on a small real model, in minutes", "commands.results:demo"),
    "tune": ("run all steps: sample, judge, train and compare", "commands.results:tune"),
    "import": ("turn a table, or another tool's export, into examples", "commands.importing:import_examples"),
    "sample": ("answer questions with the model, and label the answers", "commands.data:sample"),
    "label": ("say in the browser which replies you like, and why", "commands.labelling:label"),
    "judge": ("say in words what is wrong with the wrong completions", "commands.judging:judge"),
    "revise": ("ask the model for right completions in its own words", "commands.judging:revise"),
    "build": ("choose examples by size and ratio, and write them for nlft or TRL", "commands.data:build"),
    "audit": ("say what to fix in the examples before training on them", "commands.data:audit"),
    "plan": ("say what a training needs: memory, time, and which card", "commands.plan:plan"),
    "train": ("train on examples with written feedback", "commands.training:train"),
    "rounds": ("train, answer the questions again, judge, train, ...", "commands.training:rounds"),
    "replay": ("repeat a training run, with the changes made while it ran", "commands.training:replay"),
    "sft": ("train a supervised baseline on the same file", "commands.training:sft"),
    "reft": ("train by reinforcement on the same file, as a baseline", "commands.training:reft"),
    "kto": ("train on right and wrong completions, as a baseline", "commands.training:kto"),
    "evaluate": ("answer questions greedily and grade the answers", "commands.results:evaluate"),
    "compare": ("compare methods on the same examples, with intervals and a verdict", "commands.results:compare"),
    "merge": ("merge an adapter into its model, and save an ordinary model folder", "commands.results:merge"),
    "export": ("write the model for llama.cpp, Ollama, vLLM or MLX, and check it", "commands.exporting:export"),
    "card": ("write a run's model card again, with its results", "commands.card:card"),
    "chat": ("talk to the base and the trained model, side by side", "commands.chat:chat"),
    "map": ("show what the feedback did to every token", "commands.map:map"),
    "env": ("print versions, devices, and what works here or why not", "commands.env:env"),
}

_HELP = ("-h", "--help", "--help-all", "--version")
_PRINTING = ("audit", "plan", "env")
# These keep each answer in a ledger as it comes.
_ANSWERING = ("sample", "judge", "revise", "evaluate")
# Other tools' names for our commands.
_OTHER_NAMES = {
    "finetune": "train",
    "fine-tune": "train",
    "fit": "train",
    "generate": "sample",
    "answer": "sample",
    "infer": "sample",
    "predict": "sample",
    "annotate": "label",
    "grade": "evaluate",
    "eval": "evaluate",
    "test": "evaluate",
    "score": "evaluate",
    "benchmark": "compare",
    "ablate": "compare",
    "check": "audit",
    "lint": "audit",
    "validate": "audit",
    "grpo": "reft",
    "rl": "reft",
    "talk": "chat",
    "try": "chat",
    "show": "map",
    "view": "map",
    "serve": "map",
    "ui": "map",
    "convert": "import",
    "load": "import",
    "read": "import",
    "gguf": "export",
    "estimate": "plan",
    "memory": "plan",
    "version": "env",
    "info": "env",
    "resume": "train",
    "run": "tune",
    "iterate": "rounds",
}


if __name__ == "__main__":
    sys.exit(main())
