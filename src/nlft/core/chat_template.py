"""Render chat messages with a tokenizer's template, and learn how it writes a reply. Needs no torch."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

from nlft.core.prompts import NO_INPUTS, Message, TemplateInputs
from nlft.core.reply_form import (
    ControlTokens,
    ReplyForm,
    TemplateRefusal,
    Turn,
    changed_text,
    first_difference,
    form_of,
)
from nlft.core.thoughts import thought_tags
from nlft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED, _SAID = "nlft-asked-this", "nlft-said-this"
_TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
_CORRECT = "Correct the template (chat_template.jinja beside the model), or use another model."
ENDS_WITH_REPLY = (
    "the prompt ends with an assistant's message, so a reply would follow a reply.",
    "End the prompt with another message, and put the assistant's text into the completion.",
)
_NO_SYSTEM = "Leave out --system_prompt and system messages, or put their text into the prompts."
_WHITE = "".join(char for char in map(chr, range(0x3001)) if char.isspace())  # what `trim` removes


class ChatTemplate:
    """A tokenizer's chat template, tried out when this is made.

    Attributes:
        date: the day that the template writes, as YYYY-MM-DD; None if it writes none.
        control: the tokens that are only text in the text of a message.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        inputs: TemplateInputs = NO_INPUTS,
        system_prompt: str | None = None,
    ) -> None:
        """
        Args:
            inputs: what the template gets with every prompt.
            system_prompt: the system message of prompts that have none.

        Raises:
            UserError: the template refuses a conversation, loses a text, or writes no end of a turn.
        """
        self.tokenizer = tokenizer
        self._name = str(getattr(tokenizer, "name_or_path", "") or "this tokenizer")
        self._inputs = inputs
        self._in_parts = False
        self._forms: dict[str, ReplyForm] = {}
        self._turns: dict[str, Turn] = {}
        self._lost: dict[str, str | None] = {}  # an order of roles -> the role whose text the template leaves out
        templates = tokenizer.chat_template
        sources = templates.values() if isinstance(templates, dict) else [templates]
        is_dated = any("strftime_now" in (source or "") for source in sources)
        self.date = (inputs.date or date.today().isoformat()) if is_dated else None
        if any(re.search(r"strftime_now\s*\(", _TODAY.sub("", source or "")) for source in sources):
            _warn(
                f"the chat template of {self._name} writes the date in a form that is not known before it is rendered, "
                "so --chat_template_date does not change it. A replay on another day can differ."
            )
        self._find_content_form()
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.control = ControlTokens([*special, *tokenizer.all_special_tokens, *self._structure()])
        self.form()
        if system_prompt:
            self.prompt([{"role": "system", "content": _SAID}, {"role": "user", "content": _ASKED}])

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer depends on besides the template's text and the request, as JSON; empty if there is nothing."""
        found = self._inputs.as_json()
        found.pop("chat_template_date", None)
        return found | ({"chat_template_date": self.date} if self.date else {})

    def prompt(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> str:
        """Render a prompt. A reply begins after its last character.

        Args:
            messages: texts without marks; `control.pieces` splits the result.
            inputs: a record's own, see `TemplateInputs.updated`.

        Raises:
            TemplateRefusal: the template refuses the messages, or leaves out the text of one.
        """
        if messages[-1]["role"] == "assistant":
            raise TemplateRefusal(*ENDS_WITH_REPLY)
        self._check_none_lost(messages, inputs)
        hidden = self._hidden(messages)
        text = self._render(hidden, inputs, generation=True)
        if changed := changed_text(hidden, text):
            role, part = changed
            raise TemplateRefusal(
                f"the chat template of {self._name} cuts or changes the text of the {role} message {part!r}.", _CORRECT
            )
        return text + self.form(inputs).header

    def check_reply(self, messages: Sequence[Message], reply: str, inputs: TemplateInputs = NO_INPUTS) -> None:
        """Render a prompt with its reply, and check that the reply is written as `form` says.

        A reply with thoughts is not checked: templates take thoughts out of earlier turns.

        Args:
            messages: the prompt.

        Raises:
            TemplateRefusal: the template changes the text, or writes something else around it.
        """
        form, turn = self.form(inputs), self._turns[_key(inputs)]
        reply = reply.removesuffix(form.end_text)
        if thought_tags(reply):
            return
        hidden, said = self._hidden(messages), self.control.hide(reply, is_reply=True)
        try:
            full = self._render([*hidden, {"role": "assistant", "content": said}], inputs, generation=False)
        except TemplateRefusal:
            return  # it takes the prompt, and only that is asked
        written = self.control.hide(form.written(reply).text, is_reply=True) + turn.after
        is_question = messages[-1]["role"] == "user"
        expected = turn.between + written if is_question else written
        if is_question and full.endswith(expected):
            return
        opened = self._render(hidden, inputs, generation=True)
        if full.startswith(opened):  # a turn can be numbered, or can follow a tool's
            full, expected = full[len(opened) :], turn.lead + written
        if full != expected and (is_question or not full.endswith(expected)):
            found, wanted = first_difference(full[-len(expected) :] if len(full) > len(expected) else full, expected)
            raise TemplateRefusal(
                f"the chat template of {self._name} writes this reply otherwise than it writes other replies: "
                f"{found!r} and not {wanted!r}.",
                _CORRECT,
            )

    def _hidden(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        return [{**m, "content": self.control.hide(m["content"], is_reply=m["role"] == "assistant")} for m in messages]

    def form(self, inputs: TemplateInputs = NO_INPUTS) -> ReplyForm:
        """Return how the template writes a reply.

        Raises:
            TemplateRefusal: it loses the text, writes no end, or a reply does not follow the generation prompt.
        """
        key = _key(inputs)
        if key not in self._forms:
            self._forms[key] = self._learn(inputs)
        return self._forms[key]

    def _learn(self, inputs: TemplateInputs) -> ReplyForm:
        bare, opened = (self._probe(None, inputs, generation) for generation in (False, True))
        before, after = self._around(_SAID, inputs)
        self._name_unused(inputs, opened + before)
        found: dict[str, Any] = form_of(bare, opened, before, _ASKED, self._name)
        if not found.get("is_prefix", True) and "header" not in found and not found["opening"]:
            _warn(
                f"the chat template of {self._name} ends a prompt with {opened[len(before) :]!r}, which it writes "
                "before no reply. Replies are trained after it, as the model is asked."
            )
        between = before.rpartition(_ASKED)[2]
        self._turns[_key(inputs)] = Turn(between, before[len(opened) :], after)
        end, trail = self._end(after, between)
        trims = self._trims(before, after, inputs)
        form = ReplyForm(end, str(self.tokenizer.convert_ids_to_tokens(end)), trail=trail, trims=trims, **found)
        if form.lead and not form.lead.strip() and self._adds_space(opened, form, before + _SAID + after):
            return ReplyForm(**{**vars(form), "lead": ""})
        return form

    def _trims(self, before: str, after: str, inputs: TemplateInputs) -> tuple[str, str]:
        """Return the white space that the template removes before a reply and after it."""

        def around(said: str) -> tuple[str, str] | None:
            try:
                return self._around(said, inputs)
            except TemplateRefusal:  # it cuts what is long
                return None

        def removed(text: Callable[[str], str], plain: tuple[str, str]) -> str:
            whole = around(text(_WHITE))
            if whole == (before, after):
                return _WHITE
            # Where the whole stays, its outer character can still hide an inner one that is removed.
            tried = " \t\n\r" if whole == plain else _WHITE
            return "".join(char for char in tried if around(text(char)) == (before, after))

        return (
            removed(lambda white: white + _SAID, (before + _WHITE, after)),
            removed(lambda white: _SAID + white, (before, _WHITE + after)),
        )

    def _name_unused(self, own: TemplateInputs, rendered: str) -> None:
        """Warn about tools and variables that do not change what the template writes."""
        inputs, kept = self._inputs.updated(own), self._inputs
        less = {name: {n: v for n, v in inputs.kwargs.items() if n != name} for name in inputs.kwargs}
        others = {name: replace(inputs, kwargs=kwargs) for name, kwargs in less.items()}
        others |= {"tools": replace(inputs, tools=())} if inputs.tools else {}
        try:
            for name, other in others.items():
                self._inputs = other
                if self._probe(None, generation=True) + self._around(_SAID, NO_INPUTS)[0] == rendered:
                    _warn(f"the chat template of {self._name} does not use {name}: it writes the same without it.")
        except TemplateRefusal:
            return  # the template needs it
        finally:
            self._inputs = kept

    def _adds_space(self, opened: str, form: ReplyForm, full: str) -> bool:
        """Whether the tokenizer itself writes the white space between the prompt and a reply, as SentencePiece does."""
        reply = self._ids(_SAID + form.trail)
        joined = [*self._ids(opened), *reply]
        return self._ids(full)[: len(joined)] == joined

    def _end(self, after: str, between: str) -> tuple[int, str]:
        """Return the token that ends a turn, and the text before it.

        The template can write other added tokens before it, such as `</answer>`. So the first token counts that is EOS
        or ends the question too, else the first special token, else the first added one.

        Args:
            after: what the template writes after a reply.
            between: what it writes between the question and the reply.

        Raises:
            TemplateRefusal: there is none.
        """
        tokenizer = self.tokenizer
        special = set(tokenizer.all_special_ids)
        ids = sorted(special | set(tokenizer.added_tokens_decoder))
        names = {str(name): id for id, name in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)}
        places = []
        for name, id in names.items():
            if name.strip() and (at := after.find(name)) >= 0:
                is_end = id == tokenizer.eos_token_id or name in between
                places.append((not is_end, id not in special, at, -len(name), name))
        if places:
            *_, at, _, name = min(places)
            return names[name], after[:at]
        if after.strip():
            raise TemplateRefusal(
                f"the chat template of {self._name} writes {after!r} after a reply, and none of it is a special token. "
                "A model could not learn where a reply ends.",
                "Add the end of a turn to the tokenizer as a special token, or " + _CORRECT[0].lower() + _CORRECT[1:],
            )
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token.\n  Set tokenizer.eos_token.")
        _warn(
            f"the chat template of {self._name} writes nothing after a reply. It ends with {self.tokenizer.eos_token}."
        )
        return int(self.tokenizer.eos_token_id), ""

    def _around(self, said: str, inputs: TemplateInputs) -> tuple[str, str]:
        """Return what the template writes before and after a reply.

        Raises:
            TemplateRefusal: the question or the reply is not there.
        """
        text = self._probe(said, inputs)
        before, found, after = text.rpartition(_SAID)
        if not found or _ASKED not in before:
            lost = "the question" if found else "the reply"
            raise TemplateRefusal(
                f"the chat template of {self._name} leaves {lost} out of a conversation of one question and one reply.",
                _CORRECT,
            )
        return before, after

    def _probe(self, said: str | None, inputs: TemplateInputs = NO_INPUTS, generation: bool = False) -> str:
        """Render a question, and a reply unless it is None."""
        messages = [{"role": "user", "content": _ASKED}]
        messages += [] if said is None else [{"role": "assistant", "content": said}]
        return self._render(messages, inputs, generation=generation)

    def _find_content_form(self) -> None:
        """Find out whether the template takes a text, or a list of parts.

        Raises:
            TemplateRefusal: the template refuses a question and a reply, or loses one, in both forms.
        """
        try:
            self._around(_SAID, NO_INPUTS)
        except TemplateRefusal as error:
            self._in_parts = True
            try:
                around = self._around(_SAID, NO_INPUTS)
            except TemplateRefusal:
                raise error from None
            if any("'type'" in part for part in around):  # the list itself was written, as Python shows it
                raise error from None

    def _structure(self) -> list[str]:
        """Return the added tokens that the template writes around texts."""
        text = self._probe(_SAID) + self._probe(None, generation=True)
        return [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.content in text]

    def _check_none_lost(self, messages: Sequence[Message], inputs: TemplateInputs) -> None:
        """Check once for each order of roles that the template writes the text of every message.

        Raises:
            TemplateRefusal: it leaves one out.
        """
        roles = [message["role"] for message in messages]
        key = json.dumps([roles, inputs.as_json()], sort_keys=True)
        if key not in self._lost:
            self._lost[key] = self._lost_role(messages, inputs)
        if role := self._lost[key]:
            raise TemplateRefusal(
                f"the chat template of {self._name} leaves out the {role} message without a word.",
                _NO_SYSTEM if role == "system" else _CORRECT,
            )

    def _lost_role(self, messages: Sequence[Message], inputs: TemplateInputs) -> str | None:
        marked = [{**message, "content": f"nlft-{at}-text"} for at, message in enumerate(messages)]
        try:
            text = self._render(marked, inputs, generation=True)
        except TemplateRefusal:
            return None  # the messages themselves tell whether the template takes them
        return next((message["role"] for message in marked if message["content"] not in text), None)

    def _render(self, messages: Sequence[Mapping[str, Any]], own: TemplateInputs, *, generation: bool) -> str:
        inputs = self._inputs.updated(own)
        if self._in_parts:
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        self._check_names(inputs.kwargs)
        tools: Any = list(inputs.tools) or None
        try:
            source = self.tokenizer.get_chat_template(None, tools)
            text = self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                chat_template=self._dated(source, inputs.date),
                add_generation_prompt=generation,
                tokenize=False,
                **inputs.kwargs,
            )
        except Exception as error:  # a template is a program of its own: it may raise anything
            roles = " ".join(str(message["role"]) for message in messages)
            words = " ".join(str(error).split()) or type(error).__name__
            what = (
                f"the chat template of {self._name} refuses a conversation with these roles: {roles}. It says: {words}"
            )
            raise TemplateRefusal(what, _NO_SYSTEM if "system" in roles else _CORRECT) from error
        return str(text)

    def _dated(self, source: str, day: str | None) -> str:
        """Write the day into the template where it asks for today's."""
        if self.date is None:
            return source
        today = date.fromisoformat(day or self.date)
        return _TODAY.sub(lambda found: json.dumps(today.strftime(found[2])), source)

    def _check_names(self, kwargs: Mapping[str, Any]) -> None:
        taken = {"messages", *inspect.signature(type(self.tokenizer).apply_chat_template).parameters} - {"documents"}
        if wrong := sorted(taken & set(kwargs)):
            raise UserError(
                f"chat_template_kwargs: {', '.join(wrong)} is no variable of a chat template.\n"
                "  Give variables that the template itself reads, such as enable_thinking."
            )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _key(inputs: TemplateInputs) -> str:
    return json.dumps(inputs.as_json(), sort_keys=True)
