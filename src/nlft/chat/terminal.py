"""Talk in the terminal: prompts and commands, one a line."""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType

from nlft.chat.session import Session, thumb
from nlft.chat.settings import TUNED
from nlft.chat.talk import Mark, Reply, Turn, places_of, struck
from nlft.core.prompts import prompt_text
from nlft.core.spans import Span
from nlft.data.records import Question
from nlft.errors import UserError, printable
from nlft.progress import text_width

HELP = """\
Type a prompt, and every side replies. Each side remembers its own replies. Ctrl-C stops the replies.
A command may name a side: base, rule or tuned; in a blind prompt A, B or C. Without one it is about `tuned`.
  /good [SIDE] [WHY]                 like a reply: it becomes an example for the next round
  /bad [SIDE] [WHY]                  reject a reply
  /why [SIDE:] TEXT                  say why, in words
  /strike [SIDE] "words"             strike words
  /write [SIDE] "words" => "others"  strike words, and say what should stand there
  /undo [SIDE]                       take back what you said about a reply
  /blind, /open                      hide or show the names, from the next prompt on
  /choose NAME [NAME ...]            in a blind prompt: the best reply; several names are a tie, `tie` is a tie of all
  /rule [TEXT]                       the rule of the side `rule`, from the next prompt on; `/rule off`: no such side
  /score                             count the blind choices
  /prompt [NUMBER or ID]             ask a held-out prompt of --prompts: the next one, or this one
  /new                               begin a new conversation
  /help, /quit"""
_BETWEEN = re.compile(r'"\s*=>\s*"')


class Terminal:
    """Reads lines and answers them until the user leaves."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.talk = session.talk()
        self.marked: Reply | None = None
        self.at = 0  # the next held-out prompt
        self.stopped = False
        self.commands: dict[str, Callable[[str], None]] = {
            "good": lambda rest: self.thumb(rest, good=True),
            "bad": lambda rest: self.thumb(rest, good=False),
            "why": self.why,
            "strike": lambda rest: self.strike(rest, writes=False),
            "write": lambda rest: self.strike(rest, writes=True),
            "undo": self.undo,
            "blind": lambda _: self.set_blind(True),
            "open": lambda _: self.set_blind(False),
            "choose": self.choose,
            "rule": self.rule,
            "score": lambda _: say("\n".join(self.session.score_lines())),
            "prompt": self.held_out,
            "new": lambda _: self.start_over(),
            "help": lambda _: say(HELP),
        }

    def run(self) -> None:
        """Read lines until /quit or the end of the input."""
        say("\n".join(self.session.sides.lines()))
        if self.session.sides.rule is None:
            say("No rule was given, so there is no side `rule`. Give one with /rule TEXT, or start with --rules FILE.")
        if self.session.next_round.examples():
            say(f"{self.session.kept_line()}. What you say about replies is added.")
        if self.session.questions:
            say(f"{len(self.session.questions)} held-out prompts: /prompt asks the next one.")
        say("Type a prompt, or /help.")
        with suppress(ImportError):  # readline lets the user edit lines
            import readline  # noqa: F401
        for line in lines():
            if line.split()[:1] == ["/quit"]:
                break
            if line.strip():
                self.answer(line)

    def answer(self, line: str) -> None:
        """Answer one line. A mistake of the user is told, and the conversation goes on."""
        try:
            if not line.startswith("/"):
                self.ask(line)
                return
            name, _, rest = line[1:].partition(" ")
            if name not in self.commands:
                say(f"There is no command /{name}. /help lists them. Write a space before a prompt that begins with /.")
            else:
                self.commands[name](rest.strip())
        except UserError as error:
            say(str(error))

    def ask(self, asked: str | Question) -> None:
        """Let every side reply to a prompt, one after the other."""
        turn = self.session.ask(self.talk, asked)
        self.marked, self.stopped = None, False
        try:
            with self.stoppable():
                for side in turn.order:
                    if not self.stopped:
                        self.write(turn, side)
        except BaseException:
            self.talk.turns.pop()
            raise
        if self.stopped:
            say("Stopped. What was written stays in the conversation.")
        elif turn.hidden:
            say(f"\nWhich is best? /choose {' or '.join(turn.names())}, or /choose tie.")

    def write(self, turn: Turn, side: str) -> None:
        """Print a side's reply while it is written."""
        say(f"\n── {turn.heading(side)} " + "─" * max(0, min(text_width(), 100) - len(turn.heading(side)) - 4))
        writing = self.session.write(self.talk, [side], burst=None)
        for _, piece in writing:
            say(printable(piece), end="")
            if self.stopped:
                break
        writing.close()
        reply = turn.replies[side]
        say("" if reply.text else "(no text)")
        if reply.reason == "length":
            say(f"({self.session.cut_line()})")

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let Ctrl-C stop the replies after the current token; a second one ends the program.

        An exception in the middle of switching the adapter could leave half of it on.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def reply(self, rest: str, colon: bool = False) -> tuple[Turn, Reply, str]:
        """Return the reply that a command is about, and the rest of its line.

        Raises:
            UserError: there is no reply yet, or a blind prompt needs a letter.
        """
        if not self.talk.turns:
            raise UserError("There is no reply yet.\n  Type a prompt first.")
        turn = self.talk.turns[-1]
        first, gap, others = rest.partition(":" if colon else " ")
        side = turn.side(first.strip()) if gap or not colon else None
        if side is None and turn.hidden and not (colon and self.marked):
            raise UserError(f"Name the reply: {', '.join(turn.names())}. The names are hidden until you choose.")
        if side is None and colon and self.marked:
            return turn, self.marked, rest
        return turn, turn.replies[side or TUNED], others.strip() if side else rest

    def thumb(self, rest: str, *, good: bool) -> None:
        """Like or reject a reply, with a reason in the same line or without one."""
        turn, reply, why = self.reply(rest)
        mark = thumb(reply.mark, good)
        self.keep(turn, reply, replace(mark, why=why or mark.why))
        if not good and not reply.mark.why and not reply.mark.spans:
            say("Now say why (/why TEXT) or strike words (/strike): without them, there is little to learn from it.")

    def why(self, rest: str) -> None:
        """Say why, about the reply that was marked last or the named one."""
        turn, reply, text = self.reply(rest, colon=True)
        if not text:
            raise UserError("The reason is empty.\n  Write it after /why.")
        if not reply.mark:
            raise UserError("You have not judged this reply yet.\n  First type /good, /bad or /strike.")
        self.keep(turn, reply, replace(reply.mark, why=text))

    def strike(self, rest: str, *, writes: bool) -> None:
        """Strike words wherever the reply says them, perhaps with other words in their place."""
        turn, reply, text = self.reply(rest)
        words, other = quoted(text)
        if not words or (writes and other is None):
            form = '/write "words" => "other words"' if writes else '/strike "words"'
            raise UserError(f"Write it like this: {form}")
        spans = [Span(s.start, s.end, other if writes else None) for s in places_of(reply.text, words)]
        self.keep(turn, reply, struck(reply.mark, reply.text, spans))

    def undo(self, rest: str) -> None:
        """Take back everything that was said about a reply."""
        turn, reply, _ = self.reply(rest)
        self.keep(turn, reply, Mark())

    def keep(self, turn: Turn, reply: Reply, mark: Mark) -> None:
        """Keep a mark, and say so without the hidden name."""
        self.session.mark(self.talk, turn, reply, mark)
        self.marked = reply
        now = reply.mark
        parts = [f"{len(now.spans)} struck"] * bool(now.spans) + [now.why] * bool(now.why)
        state = ("liked" if now.label else "rejected") if now else "not marked"
        say(f"{turn.heading(reply.side)}: {'; '.join([state, *parts]).rstrip('.')}. {self.session.kept_line()}.")

    def set_blind(self, blind: bool) -> None:
        """Hide or show the names, from the next prompt on."""
        self.talk.blind = blind
        say(
            "The names are hidden from the next prompt on." if blind else "The names are shown from the next prompt on."
        )

    def rule(self, rest: str) -> None:
        """Show the rule, or set it from the next prompt on."""
        sides = self.session.sides
        if rest:
            self.session.set_rule("" if rest.lower() == "off" else rest)
        now = f"The side `rule` has this rule in its prompt: {sides.rule}" if sides.rule else "There is no side `rule`."
        say(now + (" From the next prompt on." if rest and not sides.rule else ""))

    def choose(self, rest: str) -> None:
        """Choose the best reply of a blind prompt, and reveal the names."""
        if not self.talk.turns:
            raise UserError("There is no reply yet.\n  Type a prompt first.")
        turn = self.talk.turns[-1]
        words = [word for word in re.split(r"[\s,=]+", rest) if word]
        names = turn.names() if [word.lower() for word in words] == ["tie"] else words
        sides = [turn.side(name) for name in names]
        if None in sides:
            raise UserError(f"{names[sides.index(None)]!r} is not a reply.\n  Choose from {', '.join(turn.names())}.")
        self.session.choose(turn, [side for side in sides if side], self.talk.seed)
        say("   ".join(turn.heading(side) for side in turn.order))

    def held_out(self, rest: str) -> None:
        """Ask a held-out prompt: the next one, or the one with this number or id."""
        questions = self.session.questions
        if not questions:
            raise UserError("There are no held-out prompts.\n  Start with --prompts FILE.")
        if rest:
            places = [at for at, one in enumerate(questions) if str(one.id) == rest]
            at = places[0] if places else int(rest) - 1 if rest.isdecimal() else -1
        else:
            at = self.at
        if not 0 <= at < len(questions):
            raise UserError(
                "All held-out prompts were asked.\n  /prompt 1 begins again."
                if not rest
                else f"There is no held-out prompt {rest}.\n  Give a number from 1 to {len(questions)}, or an id."
            )
        self.at = at + 1
        text = printable(prompt_text(questions[at].prompt))
        say(f"\nprompt {at + 1} of {len(questions)} ({printable(str(questions[at].id))}), a new conversation:\n{text}")
        self.ask(questions[at])

    def start_over(self) -> None:
        """Begin a new conversation."""
        self.talk.start_over()
        say("A new conversation.")


def quoted(text: str) -> tuple[str, str | None]:
    """Read `"words"` or `"words" => "others"`, with or without quotation marks. None if there are no others."""
    text = text.strip()
    if text.startswith('"'):
        if len(text) < 3 or not text.endswith('"'):
            return "", None
        between = _BETWEEN.search(text, 2)
        return (text[1 : between.start()], text[between.end() : -1]) if between else (text[1:-1], None)
    words, arrow, others = text.partition("=>")
    return (words.strip(), others.strip().strip('"')) if words and arrow else (text, None)


def lines() -> Iterator[str]:
    """Yield the user's lines until the input ends. Ctrl-C at the prompt does not end the program."""
    asks = sys.stdin.isatty()
    while True:
        try:
            yield input("\n> " if asks else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            say("\n/quit leaves.")


def say(text: str, end: str = "\n") -> None:
    """Print at once, also where the terminal's encoding lacks a character."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end=end, flush=True)
