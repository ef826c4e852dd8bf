"""A conversation with several sides: their histories, blind order, and the reader's marks. No model, no torch."""

import random
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from nlft.core.prompts import NO_INPUTS, Message, TemplateInputs, as_messages
from nlft.core.spans import Span, merged_spans, occurrences
from nlft.data.records import Question
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.models.answerer import Generated, Reason

LETTERS = "ABC"


@dataclass(frozen=True)
class Mark:
    """What a reader says about one reply.

    Attributes:
        good: the thumb; None if there is none yet.
        why: the reader's reason in words; empty if there is none.
        spans: struck or replaced parts of the reply's text.
    """

    good: bool | None = None
    why: str = ""
    spans: tuple[Span, ...] = ()

    @property
    def label(self) -> bool:
        """Whether the reply is right. A strike without a thumb says that it is not."""
        return bool(self.good)

    def __bool__(self) -> bool:
        return self.good is not None or bool(self.spans)


@dataclass
class Reply:
    """One side's reply.

    Attributes:
        id: the id of the example that the reply becomes if it is marked.
        reason: why it ended; `unknown` while it is written, and if the reader stopped it.
    """

    side: str
    id: str
    text: str = ""
    reason: Reason = "unknown"
    mark: Mark = field(default_factory=Mark)

    def end(self, answer: Generated) -> None:
        """Take the whole reply."""
        self.text, self.reason = answer.text, answer.finish_reason

    def cut(self, shown: object) -> None:
        """Drop what the model wrote on after the reader stopped the reply.

        Args:
            shown: the number of characters (code points) that the reader saw. Anything else drops nothing.
        """
        if self.reason == "unknown" and isinstance(shown, int) and not isinstance(shown, bool):
            self.text = self.text[: max(shown, 0)]


@dataclass
class Turn:
    """A prompt, and the sides' replies to it.

    Attributes:
        messages: the user's message, or all messages of a held-out prompt.
        order: the sides in the order in which they are shown.
        blind: whether names are hidden until the reader chooses.
        rule: the rule that the side `rule` has in its prompt; None without that side.
        chosen: the sides that the reader likes best; several are tied, all of them also if none is better. None before
            the choice.
    """

    number: int
    messages: list[Message]
    order: tuple[str, ...]
    blind: bool
    rule: str | None = None
    chosen: tuple[str, ...] | None = None
    replies: dict[str, Reply] = field(default_factory=dict)

    @property
    def hidden(self) -> bool:
        """Whether the reader does not know yet which side wrote which reply."""
        return self.blind and self.chosen is None

    def heading(self, side: str) -> str:
        """Return what stands above a side's reply."""
        if not self.blind:
            return side
        letter = LETTERS[self.order.index(side)]
        return letter if self.hidden else f"{letter}: {side}"

    def names(self) -> list[str]:
        """Return the names that a reader can type for the sides, in the shown order."""
        return list(LETTERS[: len(self.order)]) if self.hidden else list(self.order)

    def side(self, name: str) -> str | None:
        """Return the side that a name or a letter stands for; None for another word."""
        if self.blind and name.upper() in list(LETTERS[: len(self.order)]):
            return self.order[LETTERS.index(name.upper())]
        return name.lower() if not self.hidden and name.lower() in self.order else None


class Talk:
    """One conversation. Each side remembers its own replies."""

    def __init__(self, sides: Sequence[str], *, seed: int = 0, blind: bool = False) -> None:
        """
        Args:
            seed: of the order of the sides in blind turns.
            blind: hide the names from the next turn on. May be changed between turns.
        """
        self.sides, self.seed, self.blind = tuple(sides), seed, blind
        self.rule: str | None = None  # of the next turn
        self.turns: list[Turn] = []
        self.number = 0
        self._question: Question | None = None

    @property
    def inputs(self) -> TemplateInputs:
        """What the held-out prompt that began the conversation gives to the chat template."""
        return inputs_of(self._question.extra) if self._question else NO_INPUTS

    def start_over(self) -> None:
        """Forget all turns."""
        self.turns, self._question = [], None

    def ask(self, asked: str | Question) -> Turn:
        """Begin a turn. A held-out prompt begins a new conversation.

        Raises:
            UserError: the text is empty.
        """
        if isinstance(asked, Question):
            self.start_over()
            self._question, messages = asked, as_messages(asked.prompt)
        elif asked.strip():
            messages = as_messages(asked)
        else:
            raise UserError("The prompt is empty.\n  Type what the models should reply to.")
        self.number += 1
        order = list(self.sides)
        if self.blind:
            text = messages[-1]["content"]
            random.Random(f"{self.seed}\0{self.number}\0{text}").shuffle(order)
        turn = Turn(self.number, messages, tuple(order), self.blind, self.rule)
        turn.replies = {side: Reply(side, f"chat-{uuid.uuid4().hex[:16]}") for side in order}
        self.turns.append(turn)
        return turn

    def messages(self, side: str, turn: Turn | None = None) -> list[Message]:
        """Return what a side is asked in a turn: its own earlier replies, and the user's message last.

        A turn in which the side wrote nothing, or was not there yet, is left out, because
        many chat templates need a reply to each message.

        Args:
            turn: default: the last turn.
        """
        turn = turn or self.turns[-1]
        found: list[Message] = []
        for earlier in self.turns[: self.turns.index(turn)]:
            reply = earlier.replies.get(side)
            if reply and reply.text:
                found += [*earlier.messages, {"role": "assistant", "content": reply.text}]
        return [*found, *turn.messages]

    def key(self, side: str) -> str:
        """Return the key of a side's random draws in the last turn. It does not depend on blind order."""
        return f"{self.turns[-1].number}#{side}"


def choose(turn: Turn, sides: Iterable[str]) -> None:
    """Take the reader's choice of the best replies. It reveals the names.

    Raises:
        UserError: the turn is not blind, has been decided, or a side wrote nothing; or no side is named.
    """
    chosen = tuple(side for side in turn.order if side in set(sides))
    if not turn.blind:
        raise UserError("This prompt was not blind, so a choice would not count.\n  /blind hides the names.")
    if turn.chosen is not None:
        raise UserError("You have already chosen for this prompt.\n  Send another one.")
    if missing := [turn.heading(side) for side in turn.order if turn.replies[side].reason == "unknown"]:
        raise UserError(f"Reply {', '.join(missing)} is not complete, so a choice would not be fair.\n  Ask again.")
    if not chosen:
        raise UserError(f"Name the best reply: {', '.join(turn.names())}. Several names are a tie.")
    turn.chosen = chosen


def struck(mark: Mark, text: str, spans: Sequence[Span]) -> Mark:
    """Add spans to a mark. A new span takes the place of those that it overlaps.

    Raises:
        UserError: there are none, or one is outside the text.
    """
    if not spans:
        raise UserError("Nothing is struck.\n  Name words of the reply.")
    if any(not 0 <= span.start < span.end <= len(text) for span in spans):
        raise UserError(f"A part of the reply lies outside its {len(text)} characters.\n  Select it again.")
    return replace(mark, spans=merged_spans(spans, mark.spans))


def places_of(text: str, words: str) -> list[Span]:
    """Find words wherever a reply says them.

    Raises:
        UserError: the reply does not say them.
    """
    found = occurrences(text, [words]) if words.strip() else ()
    if not found:
        raise UserError(f"The reply does not say {words!r}.\n  Copy the words from the reply.")
    return list(found)
