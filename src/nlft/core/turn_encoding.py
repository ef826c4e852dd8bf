"""Prompts and replies as token ids: through the tokenizer's chat template, or as plain text if it has none."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nlft.core.chat_template import ChatTemplate
from nlft.core.prompts import NO_INPUTS, Prompt, TemplateInputs, Templates, as_messages
from nlft.core.reply_form import ControlTokens, ReplyForm
from nlft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TurnEncoder:
    """Renders prompts and replies with a tokenizer's chat template, or as plain text if it has none.

    The name of a special token within a text is text, and becomes no special token. Prompts of tokenizers without a
    chat template are the exception: there, only the text can hold special tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", templates: Templates) -> None:
        """
        Raises:
            UserError: the chat template refuses a conversation or loses a text, or the end of a turn is unknown.
        """
        self.tokenizer = tokenizer
        self.templates = templates
        self.chat: ChatTemplate | None = None
        if tokenizer.chat_template is not None:
            self.chat = ChatTemplate(tokenizer, templates.inputs, templates.system_prompt)
            self._control = self.chat.control
        else:
            self._plain_form = _plain_form(tokenizer)
            self._control = ControlTokens(tokenizer.all_special_tokens)
        self.end_of_turn_id = self.form().end

    @property
    def date(self) -> str | None:
        """The day that the chat template writes into prompts, as YYYY-MM-DD; None if it writes none."""
        return self.chat.date if self.chat else None

    def form(self, inputs: TemplateInputs = NO_INPUTS) -> ReplyForm:
        """Return how a reply is written."""
        return self._plain_form if self.chat is None else self.chat.form(inputs)

    def prompt_ids(self, prompt: Prompt, inputs: TemplateInputs = NO_INPUTS) -> list[int]:
        """Return a prompt's ids. The model's answer begins after the last one. Sampling and evaluation use this too.

        Args:
            inputs: what the prompt's own record gives to the chat template.

        Raises:
            UserError: the chat template refuses the messages, or the last one is an assistant's.
        """
        if self.chat is None:
            text = _plain(prompt, self.templates.system_prompt)
            ids: list[int] = self.tokenizer(text)["input_ids"]
            # Some tokenizers end every text with EOS. A prompt must not end with it, because the completion follows.
            if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
                ids = ids[:-1]
            return ids
        messages = as_messages(prompt, system_prompt=self.templates.system_prompt)
        # The template has already written the special tokens. Adding them again would double the first one.
        return [token for token, _ in self._tokens(self.chat.prompt(messages, inputs))]

    def names_special_token(self, prompt: Prompt) -> bool:
        """Return whether a prompt's text has the name of a special token. To nlft it is text, to other programs not.

        Raises:
            UserError: as `prompt_ids`.
        """
        if self.chat is None:
            return False
        messages = as_messages(prompt, system_prompt=self.templates.system_prompt)
        return any(is_text for _, is_text in self._control.pieces(self.chat.prompt(messages)))

    def completion_ids(self, completion: str, inputs: TemplateInputs = NO_INPUTS) -> list[int]:
        """Tokenise a completion without its prompt, as the chat template writes it, and add the end-of-turn token.

        If prompt and completion were tokenised together, a token could span their boundary, and the completion's
        length could differ between conditions.

        Args:
            inputs: what the completion's own record gives to the chat template.

        Raises:
            TemplateRefusal: the chat template cannot write such a reply.
        """
        return [*(token for token, _ in self._written(completion, inputs)), self.form(inputs).end]

    def check_reply(self, prompt: Prompt, completion: str, inputs: TemplateInputs = NO_INPUTS) -> None:
        """Check that the chat template writes a reply to this prompt as `completion_ids` does.

        Raises:
            TemplateRefusal: it writes something else.
        """
        if self.chat is not None:
            messages = as_messages(prompt, system_prompt=self.templates.system_prompt)
            self.chat.check_reply(messages, completion, inputs)

    def generated_ids(self, text: str) -> list[int]:
        """Tokenise a reply as a model wrote it after a prompt of `prompt_ids`, without an end of the turn."""
        return [token for token, _ in self._tokens(self._control.hide(text, is_reply=True))]

    def offsets(self, completion: str, inputs: TemplateInputs = NO_INPUTS) -> list[tuple[int, int]]:
        """Return the characters of each token of a completion, (start, end); `end` exclusive.

        The end of the turn has none. What the template adds stands at the text's start or end, and is empty. The text
        is the completion without the white space that the template removes around it.
        """
        return _with_left_out(completion, [place for _, place in self._written(completion, inputs)])

    def _written(self, completion: str, inputs: TemplateInputs) -> list[tuple[int, tuple[int, int]]]:
        """Return a completion's tokens without the end of the turn, each with its characters in the completion."""
        written = self.form(inputs).written(completion)
        shift = written.start - len(written.before)
        hidden = self._control.hide(written.text, is_reply=True)
        found = self._tokens(f"{written.before}{hidden}{written.after}")
        first, last = written.start, written.start + len(written.text)
        placed = [
            (token, (min(max(start + shift, first), last), min(max(end + shift, first), last)))
            for token, (start, end) in found
        ]
        # Some tokenizers leave the space before a word out of its place. At the start it belongs to the first token.
        return [(token, (first if at == 0 else start, end)) for at, (token, (start, end)) in enumerate(placed)]

    def _tokens(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Tokenise a text in which the names of control tokens are hidden.

        Returns:
            Each token with its characters, (start, end); `end` exclusive. A slow tokenizer gives (0, 0).
        """
        found, done = [], 0
        for piece, is_text in self._control.pieces(text):
            encoded = self.tokenizer(
                piece,
                add_special_tokens=False,
                split_special_tokens=is_text,
                return_offsets_mapping=self.tokenizer.is_fast,
            )
            ids = encoded["input_ids"]
            places = encoded["offset_mapping"] if self.tokenizer.is_fast else [(0, 0)] * len(ids)
            found += [(token, (start + done, end + done)) for token, (start, end) in zip(ids, places, strict=True)]
            done += len(piece)
        return found


def _with_left_out(text: str, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give each token the characters after it that belong to no token, up to white space.

    A tokenizer that composes accents (NFC) does not count an accent that is a character of its own. White space that
    is left out belongs to the token after it.
    """
    following = [*(start for start, _ in places[1:]), len(text)]
    return [
        (start, end + len(text[end:after].rstrip()) if end > start else end)
        for (start, end), after in zip(places, following, strict=False)
    ]


def _plain_form(tokenizer: "PreTrainedTokenizerBase") -> ReplyForm:
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token.\n  Set tokenizer.eos_token.")
    return ReplyForm(int(tokenizer.eos_token_id), str(tokenizer.eos_token))


def _plain(prompt: Prompt, system_prompt: str | None) -> str:
    parts = [m["content"] for m in as_messages(prompt, system_prompt=system_prompt)]
    text = "\n\n".join(parts)
    return text if text[-1:].isspace() else text + "\n"
