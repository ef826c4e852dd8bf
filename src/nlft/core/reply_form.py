"""How a chat template writes a reply, and which tokens in a text are only text. Needs neither tokenizer nor torch."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nlft.core.thoughts import closes_thought, open_at_end, thought_tags
from nlft.errors import UserError

_HIDDEN = re.compile("\ue000(\\d+)\ue001")  # private characters, which no text has

_SWITCHES = re.compile(r"/no_think|/think|/system_override")  # SmolLM3 reads them in a system message, and removes them
_SHOWN = 30  # characters of a text that an error shows


class TemplateRefusal(UserError):
    """The chat template cannot write what it was given."""

    def __init__(self, what: str, cure: str | None = None) -> None:
        """
        Args:
            what: what is wrong; without `cure`, the whole message, as pickle gives it back.
        """
        super().__init__(what if cure is None else f"{what}\n  {cure}")

    @property
    def what(self) -> str:
        """What is wrong."""
        return str(self).partition("\n  ")[0]

    @property
    def cure(self) -> str:
        """What to do about it."""
        return str(self).partition("\n  ")[2]


class Written(NamedTuple):
    """A reply as the template writes it, up to the token that ends the turn.

    Attributes:
        before: what the template writes before the text.
        text: the text, without what the template leaves out of it.
        after: what the template writes after the text.
        start: the place in the given text at which `text` begins, in characters.
    """

    before: str
    text: str
    after: str
    start: int


class Turn(NamedTuple):
    """What the template writes around a reply.

    Attributes:
        between: from the question to the reply.
        lead: from the generation prompt to the reply; empty if the prompt has more than that.
        after: after the reply.
    """

    between: str
    lead: str
    after: str


@dataclass(frozen=True)
class ReplyForm:
    """How a chat template writes a reply. The default is a text without a template.

    Attributes:
        end: the token that ends the turn.
        end_text: that token as text.
        header: what the template writes before every reply, but does not offer as a generation prompt, because it
            ignores `add_generation_prompt`. It belongs to the prompt.
        lead: what the template writes between the generation prompt and a reply without thoughts, such as an empty
            thought. It belongs to the completion.
        opening: the tag that opens a thought at the end of the prompt, with the white space after it.
        trail: what the template writes between a reply and its end.
        trims: white space that the template removes at the start and at the end of a reply.
        is_prefix: whether a rendered reply begins with the rendered prompt.
    """

    end: int
    end_text: str
    header: str = ""
    lead: str = ""
    opening: str = ""
    trail: str = ""
    trims: tuple[str, str] = ("", "")
    is_prefix: bool = True

    def written(self, text: str) -> Written:
        """Write a reply.

        Raises:
            TemplateRefusal: the prompt opens a thought, and neither the reply nor the template closes it.
        """
        rest = text.removesuffix(self.end_text)
        if self.trims[1]:
            rest = rest.rstrip(self.trims[1])
        if not thought_tags(rest):
            if self.opening and not closes_thought(self.lead):
                raise TemplateRefusal(
                    f"the reply has no thought, but the chat template ends the prompt with {self.opening!r} and closes "
                    "no thought in a reply.",
                    "Begin the reply with its thought and the tag that closes it, or let the template write none: "
                    "--chat_template_kwargs '{\"enable_thinking\": false}', if it knows that variable.",
                )
            start = len(rest) - len(rest.lstrip(self.trims[0])) if self.trims[0] else 0
            return Written(self.lead, rest[start:], self.trail, start)
        start = self._repeated(rest)
        return Written("" if start or self.opening else self._lead_without_thought(), rest[start:], self.trail, start)

    def _repeated(self, text: str) -> int:
        """Return the number of characters with which a reply repeats the tag that the prompt ends with."""
        if not self.opening:
            return 0
        tag = self.opening.rstrip()
        blank = len(text) - len(text.lstrip())
        if not text.startswith(tag, blank):
            return 0
        end = blank + len(tag)
        space = self.opening[len(tag) :]
        return end + len(space) if space and text.startswith(space, end) else end

    def _lead_without_thought(self) -> str:
        """Return the lead of a reply that writes its own thought."""
        tags = thought_tags(self.lead)
        return self.lead[: tags[0][0]] if tags else self.lead


class ControlTokens:
    """The special tokens that structure a conversation. In the text of a message, their names are only text."""

    def __init__(self, names: Iterable[str]) -> None:
        kept = sorted({name for name in names if name.strip() and not thought_tags(name)}, key=len, reverse=True)
        self._names = kept
        self._pattern = re.compile("|".join(map(re.escape, kept))) if kept else None

    def hide(self, text: str, *, is_reply: bool = False) -> str:
        """Replace each name of a control token by a mark that `pieces` understands.

        Args:
            is_reply: keep names within the tags around a model's thoughts, because the model wrote them as tokens.
        """
        if self._pattern is None or self._pattern.search(text) is None:
            return text
        tags = thought_tags(text) if is_reply else []

        def mark(found: re.Match[str]) -> str:
            if any(start < found.end() and found.start() < end for start, end in tags):
                return found[0]
            return f"\ue000{self._names.index(found[0])}\ue001"

        return self._pattern.sub(mark, text)

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Split a text at the marks. Yield each part, and whether its special tokens are only text."""
        done = 0
        for found in _HIDDEN.finditer(text):
            if found.start() > done:
                yield text[done : found.start()], False
            yield self._names[int(found[1])], True
            done = found.end()
        if done < len(text) or not done:
            yield text[done:], False


def form_of(bare: str, opened: str, before: str, question: str, name: str) -> dict[str, object]:
    """Compare a rendered prompt with a rendered reply.

    Args:
        bare: the prompt, rendered without a generation prompt.
        opened: the prompt, rendered with one.
        before: the rendered conversation up to the reply's text.
        question: the question's text.
        name: the tokenizer's name, for messages.

    Returns:
        `header`, `lead`, `opening` and `is_prefix` of `ReplyForm`.

    Raises:
        TemplateRefusal: a reply does not follow the generation prompt.
    """
    if before.startswith(opened):
        between = before[len(opened) :]
        if opened == bare and between.strip():  # the template ignores add_generation_prompt
            return {"header": between, "opening": open_at_end(before), "is_prefix": False}
        return {"lead": between, "opening": open_at_end(opened)}
    if opened.startswith(before) and thought_tags(opened[len(before) :]):
        return {"opening": open_at_end(opened), "is_prefix": False}
    asked, said = (text.rpartition(question)[2] for text in (opened, before))
    raise TemplateRefusal(
        f"the chat template of {name} ends a prompt with {asked!r}, but writes {said!r} before a reply. A reply that "
        "was trained after one of them would not follow the other.",
        "Correct the template (chat_template.jinja beside the model), so that a reply follows the generation prompt.",
    )


def changed_text(messages: Sequence[Mapping[str, Any]], prompt: str) -> tuple[str, str] | None:
    """Return the role and the beginning of the first text that a rendered prompt does not have as it is.

    White space around a text can be missing, and so can the thoughts of earlier replies. A tool's result can be written
    as JSON.
    """
    for message in messages:
        text, role = message["content"], message["role"]
        if role == "assistant" and (tags := thought_tags(text)):
            text = text[tags[-1][1] :]
        for part in map(str.strip, _SWITCHES.split(text) if role == "system" else [text]):
            is_result = role not in ("system", "user", "assistant")
            if part in prompt or (is_result and json.dumps(part, ensure_ascii=False)[1:-1] in prompt):
                continue
            return role, part[:_SHOWN] + "…" * (len(part) > _SHOWN)
    return None


def first_difference(found: str, expected: str) -> tuple[str, str]:
    """Return both texts from the first character in which they differ, shortened for an error."""
    pairs = zip(found, expected, strict=False)
    at = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))
    return found[at : at + _SHOWN], expected[at : at + _SHOWN]
