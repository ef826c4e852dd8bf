"""Talk for the page, in a process of its own, so that the page's server needs no torch.

    run_module("nlft.chat.worker", RUN, SETTINGS)

SETTINGS is a JSON object of `ChatSettings`. Each line of the input is a JSON object. It has `n`, the request's number,
and `do`: `ask`, `mark`, `choose` or `about`; or only `cancel`, the number of an `ask` that nobody waits for any more.
Each line of the output is a JSON object with the `n` that it answers. An `ask` gets many lines, all others get one.
The first line of the output answers no request. It has `ready`, or `error`.
"""

import json
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from safetensors import SafetensorError

from nlft.chat.session import Session
from nlft.chat.settings import ChatSettings
from nlft.chat.talk import Mark, Talk, Turn, struck
from nlft.core.prompts import prompt_text
from nlft.core.spans import Span
from nlft.data.records import Question
from nlft.errors import NLFTError, UserError
from nlft.files import json_object
from nlft.progress import quiet_libraries
from nlft.streams import outliving_readers

MOST_TALKS = 64  # conversations in memory; the one that was used longest ago goes first
LONGEST_TITLE = 200  # characters of a held-out prompt in the page's list
LONGEST_WHY, MOST_SPANS = 20_000, 1000
_FAILURES = (NLFTError, LookupError, TypeError, ValueError, OSError, RuntimeError, SafetensorError)
Say = Callable[[dict[str, Any]], None]


class Worker:
    """Answers requests. Replies are written in the main thread; everything else is answered meanwhile."""

    def __init__(self, session: Session, say: Say) -> None:
        """
        Args:
            say: sends one line. It is called from two threads.
        """
        self.session, self.say = session, say
        self.talks: OrderedDict[str, Talk] = OrderedDict()
        self.asked: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.cancelled: set[int] = set()
        self.writing: Turn | None = None

    def ready(self) -> dict[str, Any]:
        """Return what the page needs to know before the first prompt."""
        titles = [{"id": one.id, "text": prompt_text(one.prompt)[:LONGEST_TITLE]} for one in self.session.questions]
        return {
            "lines": self.session.sides.lines(),
            "rule": self.session.sides.rule,
            "sides": list(self.session.sides.names),
            "questions": titles,
            "blind": self.session.settings.blind,
            "score": self.session.score_lines(),
            **self.kept(),
        }

    def kept(self) -> dict[str, str]:
        """Return what the file for the next round holds, and the command that trains on it."""
        return {"kept": self.session.kept_line(), "next": self.session.next_line()}

    def read(self, lines: Iterable[str]) -> None:
        """Take requests until the input ends. Queue those for replies, and answer the others at once."""
        for line in lines:
            if (request := json_object(line)) is None:
                continue
            if "cancel" in request:
                self.cancelled.add(request["cancel"])
            elif request["do"] == "ask":
                self.asked.put(request)
            else:
                self.answer(request, lambda request: self.say({"n": request["n"], **self.quick(request)}))
        self.cancelled.add(-1)  # whatever is being written
        self.asked.put(None)

    def write_replies(self) -> None:
        """Write the replies that are asked for, one request after the other, until the input ends."""
        while (request := self.asked.get()) is not None:
            self.answer(request, self.ask)

    def answer(self, request: dict[str, Any], how: Callable[[dict[str, Any]], None]) -> None:
        """Answer a request. A faulty one gets an `error`, and the process goes on."""
        try:
            how(request)
        except _FAILURES as error:
            self.say({"n": request.get("n"), "error": str(error)})

    def quick(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request that needs no model."""
        if request["do"] == "about":
            return {"ready": self.ready()}
        talk = self.talks.get(request["talk"])
        turns = talk.turns if talk else []
        turn = next((one for one in turns if one.number == request["turn"]), None)
        if talk is None or turn is None:
            raise UserError("This conversation is no longer in memory.\n  Begin a new one.")
        if turn is self.writing:
            raise UserError("The replies are still being written.\n  Wait for their end, or stop them.")
        if request["do"] == "choose":
            self.session.choose(turn, [turn.order[at] for at in request["at"]], talk.seed)
            return {"headings": headings(turn), "score": self.session.score_lines()}
        reply = turn.replies[turn.order[request["at"]]]
        reply.cut(request.get("shown"))
        self.session.mark(talk, turn, reply, read_mark(request, reply.text))
        return self.kept()

    def ask(self, request: dict[str, Any]) -> None:
        """Write the replies to one prompt."""
        number = request["n"]
        if number in self.cancelled:
            return
        talk = self.talk(request)
        last = [one for one in talk.turns if one.number == request.get("turn")]
        replies = [turn.replies[side] for turn in last for side in turn.order]
        for reply, shown in zip(replies, request.get("shown") or (), strict=False):
            reply.cut(shown)
        talk.blind = bool(request.get("blind"))
        if isinstance(request.get("rule"), str):
            self.session.set_rule(request["rule"])
        turn = self.session.ask(talk, self.prompt(request))
        self.writing = turn
        self.say({"n": number, "turn": turn.number, "headings": headings(turn), "hidden": turn.hidden})
        try:
            stopped = self.write(number, talk, turn)
        except BaseException:
            talk.turns.remove(turn)
            raise
        finally:
            self.writing = None
            self.cancelled.discard(number)
        self.say({"n": number, "done": True, "stopped": stopped})

    def write(self, number: int, talk: Talk, turn: Turn) -> bool:
        """Write a turn's replies, and send each piece. Return whether the reader stopped them."""
        writing = self.session.write(talk, turn.order)
        for side, piece in writing:
            reply, at = turn.replies[side], turn.order.index(side)
            if piece:
                self.say({"n": number, "at": at, "piece": piece})
            else:
                cut = {"cut": self.session.cut_line()} if reply.reason == "length" else {}
                self.say({"n": number, "at": at, "end": reply.reason, "text": reply.text, **cut})
            if self.cancelled & {number, -1}:
                writing.close()
                return True
        return False

    def talk(self, request: dict[str, Any]) -> Talk:
        """Return the conversation of a request, or begin it."""
        name = str(request["talk"])
        known = self.talks.pop(name, None)
        if known is None and request.get("turn"):  # its turns would get the numbers of others that the page shows
            raise UserError("This conversation is no longer in memory.\n  Begin a new one.")
        talk = known or self.session.talk()
        self.talks[name] = talk
        while len(self.talks) > MOST_TALKS:
            self.talks.popitem(last=False)
        return talk

    def prompt(self, request: dict[str, Any]) -> str | Question:
        """Return the user's text or the held-out prompt."""
        at: int | None = request.get("question")
        return str(request["text"]) if at is None else self.session.questions[at]


def headings(turn: Turn) -> list[str]:
    """Return what stands above each reply, in the shown order."""
    return [turn.heading(side) for side in turn.order]


def read_mark(request: dict[str, Any], text: str) -> Mark:
    """Read what the page says about a reply: the whole mark, which takes the place of the earlier one.

    Raises:
        UserError: it is not a mark.
    """
    good, why, spans = request.get("good"), request.get("why") or "", request.get("spans") or []
    is_mark = isinstance(good, bool | None) and isinstance(why, str) and isinstance(spans, list)
    if not is_mark or len(why) > LONGEST_WHY or len(spans) > MOST_SPANS or not all(map(_is_span, spans)):
        raise UserError(
            f"A mark is a thumb, a reason of at most {LONGEST_WHY} characters, and at most {MOST_SPANS} parts.\n"
            "  Reload the page."
        )
    mark = Mark(good, why.strip())
    found = [Span(one["start"], one["end"], one.get("replace")) for one in spans]
    return struck(mark, text, sorted(found, key=lambda span: span.start)) if found else mark


def _is_span(one: object) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("replace"), str | None):
        return False
    return all(isinstance(one.get(name), int) and not isinstance(one[name], bool) for name in ("start", "end"))


@outliving_readers("stderr")
def main(argv: list[str]) -> None:
    """Answer the lines of the input until it ends. It ends when the server ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not mix with the answers
    quiet_libraries()
    run, settings = argv
    lock = threading.Lock()

    def say(line: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(line) + "\n")
            out.flush()

    try:
        worker = Worker(Session(run, ChatSettings(**json.loads(settings))), say)
    except _FAILURES as error:
        say({"error": str(error)})
        return
    say({"ready": worker.ready()})
    threading.Thread(target=worker.read, args=(sys.stdin,), daemon=True).start()
    worker.write_replies()
