"""A Modelfile for Ollama: the chat template in Ollama's own language where that can say the same, stops, system."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlft.core.prompts import Message
from nlft.errors import UserError

_CONTEXT = 8192  # tokens; Ollama cuts longer prompts in silence, and a larger context takes more memory
_TEXT = "nlft-{role}-text"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class OllamaForm:
    """What Ollama writes around messages.

    Attributes:
        template: in Go's template language.
        default_system: the system message that the chat template writes where there is none.
    """

    template: str
    default_system: str | None


class NotSayable(Exception):
    """Ollama's language has no words for what this chat template does."""


def ollama_form(tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any], *, adds_bos: bool) -> OllamaForm:
    """Find out what the chat template writes around each message, and say it in Ollama's language.

    Ollama puts messages one after the other. So the chat template must write each message by its role alone. This is
    tried out on conversations, also with white space around a text.

    Args:
        kwargs: the template's variables.
        adds_bos: llama.cpp begins every prompt with BOS, so the template must not.

    Raises:
        NotSayable: the chat template does something else. The message says what.
    """

    def render(messages: Sequence[Message], *, ask: bool = False) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(list(messages), add_generation_prompt=ask, tokenize=False, **kwargs)
            )
        except Exception as error:  # a template is a program of its own: it may raise anything
            raise NotSayable(f"it refuses {' '.join(m['role'] for m in messages)}") from error

    bos = tokenizer.bos_token or ""
    why: NotSayable | None = None
    for start in [bos] if adds_bos else dict.fromkeys(["", bos]):
        try:
            return _form(render, start, adds_bos=adds_bos)
        except NotSayable as error:
            why = why or error
    assert why is not None
    raise why


def _form(render: Any, start: str, *, adds_bos: bool) -> OllamaForm:
    """Learn what stands around each role's text, if every conversation begins with `start`."""
    system, user, assistant = ({"role": role, "content": _TEXT.format(role=role)} for role in _ROLES)
    chats = ([system], [system, user], [system, user, assistant])
    one, two, three = (_after(render(chat), start) for chat in chats)
    around = {
        "system": _around(one, "system"),
        "user": _around(_after(two, one), "user"),
        "assistant": _around(_after(three, two), "assistant"),
    }
    end = _after(_after(render([system, user], ask=True), start), two)
    default = _default(_after(render([user]), start), around)
    _try_out(render, start, around, end, default)
    return OllamaForm(_go("" if adds_bos else start, around, end), default)


def _after(text: str, before: str) -> str:
    if not text.startswith(before):
        raise NotSayable("it writes a message differently when another follows")
    return text[len(before) :]


def _around(block: str, role: str) -> tuple[str, str]:
    before, found, after = block.partition(_TEXT.format(role=role))
    if not found or found in after:
        raise NotSayable(f"it writes the {role} message not once")
    return before, after


def _default(unsaid: str, around: Mapping[str, tuple[str, str]]) -> str | None:
    """Return the system message that the template writes of itself; None if it writes none."""
    before, after = around["system"]
    block = unsaid.removesuffix(_TEXT.format(role="user").join(around["user"]))
    if block == "":
        return None
    if block == unsaid or not (block.startswith(before) and block.endswith(after)):
        raise NotSayable("it writes something else before a conversation without a system message")
    return block[len(before) : len(block) - len(after)]


def _try_out(render: Any, start: str, around: Mapping[str, tuple[str, str]], end: str, default: str | None) -> None:
    """Render conversations with the chat template and by the parts that were found, and compare."""
    texts = ("Hello, how are you?", " with space around \n", "two\n\nlines <b> {x} 'quoted' \"words\"")
    turns: list[list[str]] = [["user"], ["system", "user"], ["user", "assistant", "user"]]
    turns.append(["system", "user", "assistant", "user", "assistant", "user"])
    for roles in turns:
        for shift in range(len(texts)):
            messages = [{"role": role, "content": texts[(n + shift) % len(texts)]} for n, role in enumerate(roles)]
            whole = messages
            if default is not None and roles[0] != "system":
                whole = [{"role": "system", "content": default}, *messages]
            ours = start + "".join(m["content"].join(around[m["role"]]) for m in whole) + end
            if render(messages, ask=True) != ours:
                raise NotSayable(f"it changes texts, or writes {' '.join(roles)} otherwise than one by one")


def _go(start: str, around: Mapping[str, tuple[str, str]], end: str) -> str:
    pieces = [start, end, *(text for pair in around.values() for text in pair)]
    if any("{{" in piece or "}}" in piece or '"""' in piece for piece in pieces):
        raise NotSayable('it writes {{ or """, which Ollama reads itself')
    told = [f"{start}{{{{ range .Messages }}}}"]
    for n, role in enumerate(_ROLES):
        before, after = around[role]
        told.append(f'{{{{ {"else " * bool(n)}if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    return "".join([*told, "{{ end }}{{ end }}", end])


def modelfile(
    weights: str,
    form: OllamaForm | None,
    *,
    system_prompt: str | None,
    stops: Sequence[str],
    generation: Any,
    context: int,
) -> str:
    """Return the text of a Modelfile.

    Args:
        weights: name of the GGUF file beside it.
        form: None leaves the template to Ollama.
        system_prompt: the run's own.
        stops: the texts of the tokens that end an answer.
        generation: the model's generation_config.
        context: number of tokens that the model can read.

    Raises:
        UserError: the system prompt cannot be written.
    """
    lines = [f"FROM ./{weights}"]
    if form is not None:
        lines.append(f'TEMPLATE """{form.template}"""')
    system = system_prompt or (form.default_system if form else None)
    if system:
        if '"""' in system:
            raise UserError('the system prompt has """, which ends a text in a Modelfile.\n  Use --to gguf.')
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines.append(f"PARAMETER num_ctx {min(context, _CONTEXT)}")
    lines += [f"PARAMETER {name} {value:g}" for name, value in _parameters(generation).items()]
    return "\n".join(lines) + "\n"


def _parameters(generation: Any) -> dict[str, float]:
    """Return how answers are drawn: as the model's generation_config says, else greedily, as nlft evaluates.

    Ollama's own defaults draw at temperature 0.8 and punish repetition.
    """
    punished = {"repeat_penalty": float(getattr(generation, "repetition_penalty", None) or 1.0)}
    if not getattr(generation, "do_sample", False):
        return {"temperature": 0.0, **punished}
    names = ("temperature", "top_p", "top_k", "min_p")
    given = {name: getattr(generation, name, None) for name in names}
    return {"temperature": 1.0} | {name: float(value) for name, value in given.items() if value is not None} | punished
