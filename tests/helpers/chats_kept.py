"""How prompts and replies are written under many chat templates, or why they are refused, as recorded.

`--write` records them anew. Other tests say what is right; this one says what changed.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers import tiny
from helpers.kept import write
from helpers.real_templates import REAL, real_tokenizer
from nlft.core.prompts import TemplateInputs, Templates
from nlft.core.reply_form import form_of
from nlft.core.turn_encoding import TurnEncoder
from nlft.errors import UserError

KEPT = Path(__file__).parents[1] / "golden" / "chats.json"
OPENS, CLOSES = "<s>{% for m in messages %}<|{{ m.role }}|>", "<|end|>{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
SAID = "{{ m.content }}"
ODD = {
    "plain": f"{OPENS}{SAID}{CLOSES}{ASKS}",
    "no header": f"{OPENS}{SAID}{CLOSES}",
    "no end": f"{OPENS}{SAID}\n{{% endfor %}}{ASKS}",
    "nothing around": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "numbered": f"{OPENS}{{{{ loop.index }}}}:{SAID}{CLOSES}"
    "{% if add_generation_prompt %}<|assistant|>{{ messages | length + 1 }}:{% endif %}",
    "trims": f"{OPENS}{{{{ m.content | trim }}}}{CLOSES}{ASKS}",
    "trims the start": f"{OPENS}{{{{ m.content.lstrip() }}}}{CLOSES}{ASKS}",
    "trims new lines": f"{OPENS}{{{{ m.content.rstrip('\\n') }}}}{CLOSES}{ASKS}",
    "a space before replies": f"{OPENS}{{{{ ' ' * (m.role == 'assistant') + m.content }}}}{CLOSES}{ASKS}",
    "a tag after replies": f"{OPENS}{SAID}{{{{ '</answer>' * (m.role == 'assistant') }}}}{CLOSES}{ASKS}",
    "opens a thought": f"{OPENS}{SAID}{CLOSES}{{% if add_generation_prompt %}}<|assistant|><think>\n{{% endif %}}",
    "an empty thought": f"{OPENS}{{% if m.role == 'assistant' %}}"
    f"<think>\n\n</think>\n\n{{% endif %}}{SAID}{CLOSES}{ASKS}",
    "a channel": f"{OPENS}{{% if m.role == 'assistant' %}}<|channel|>final<|message|>{{% endif %}}{SAID}{CLOSES}{ASKS}",
    "cuts": f"{OPENS}{{{{ m.content[:12] }}}}{CLOSES}{ASKS}",
    "capitals": f"{OPENS}{{{{ m.content | upper }}}}{CLOSES}{ASKS}",
    "loses replies": f"{OPENS}{{{{ m.content * (m.role != 'assistant') }}}}{CLOSES}{ASKS}",
    "asks the user": f"{OPENS}{SAID}{CLOSES}{{% if add_generation_prompt %}}<|user|>{{% endif %}}",
    "only parts": f"{OPENS}{{{{ m.content[0]['text'] }}}}{CLOSES}{ASKS}",
    "a mood": f"{{{{ mood | default('') }}}}{OPENS}{SAID}{CLOSES}{ASKS}",
    "a date": f"{{{{ strftime_now('%d %b') }}}}{OPENS}{SAID}{CLOSES}{ASKS}",
}
PROMPTS: dict[str, Any] = {
    "asked": "2 + 3?",
    "special": "a <|end|> b <s>",
    "system": [{"role": "system", "content": "be /no_think nice"}, {"role": "user", "content": "hi"}],
    "thought": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think>t</think>r"},
        {"role": "user", "content": "x"},
    ],
    "ends with a reply": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " r "}],
    "ends with a result": [{"role": "user", "content": "q"}, {"role": "tool", "content": '{"a": "b"}'}],
}
CHECKED = ("asked", "thought", "ends with a result")
REPLIES = (
    "5",
    " 5 \n",
    "<think>\nhm\n</think>\n\n5",
    "<think>\nhm",
    "hm</think>5",
    "It <|end|> is",
    "5<|end|>",
    "e\u0301",
)

FORMS = [
    (bare, opened, before)
    for bare in ("Q", "Qa")
    for opened in ("Q", "Qa", "Qa<think>", "Qa<think>\n")
    for before in ("Q", "Qa", "Qa<think>\n\n</think>", "Qb", "Q ")
]


def found() -> dict[str, Any]:
    """Return what is written under each template, by what is asked or replied.

    With a system prompt and variables, only what they change is named.
    """
    made: dict[str, Any] = {}
    for name in (*REAL, *ODD, "no template"):
        usual = dict(_of(name, Templates(inputs=TemplateInputs(date="2024-02-03"))))
        more = TemplateInputs({"enable_thinking": False, "mood": "x"}, date="2024-02-03")
        other = dict(_of(name, Templates(system_prompt="sys", inputs=more)))
        made |= {f"{name}: {what}": one for what, one in usual.items() if one}
        made |= {f"{name}, with more: {what}": one for what, one in other.items() if one != usual.get(what)}
    for bare, opened, before in FORMS:
        made[f"form of {bare!r}, {opened!r} and {before!r}"] = _tried(lambda: form_of(bare, opened, before, "Q", "n"))  # noqa: B023
    return json.loads(json.dumps(made))


def _of(name: str, templates: Templates) -> Iterator[tuple[str, Any]]:
    encoders: list[TurnEncoder] = []
    yield "made", _tried(lambda: _made(encoders, name, templates))
    for encoder in encoders:
        for asked, prompt in PROMPTS.items():
            yield asked, _tried(lambda: encoder.tokenizer.decode(encoder.prompt_ids(prompt)))  # noqa: B023
            yield f"{asked} names", _tried(lambda: encoder.names_special_token(prompt))  # noqa: B023
        for reply in REPLIES:
            yield repr(reply), _tried(lambda: _written(encoder, reply))  # noqa: B023
            for asked in CHECKED:
                yield f"{reply!r} to {asked}", _tried(lambda: encoder.check_reply(PROMPTS[asked], reply))  # noqa: B023


def _made(encoders: list[TurnEncoder], name: str, templates: Templates) -> list[Any]:
    tokenizer = real_tokenizer(name) if name in REAL else tiny.own_tokenizer()
    if name not in REAL:
        tokenizer.chat_template = ODD.get(name)
    encoders.append(encoder := TurnEncoder(tokenizer, templates))
    form = {key: value for key, value in vars(encoder.form()).items() if value}
    return [form, encoder.date, encoder.chat and encoder.chat.identity]


def _written(encoder: TurnEncoder, reply: str) -> list[Any]:
    ids = encoder.completion_ids(reply)
    places = encoder.offsets(reply)
    whole = [place for place in places if place[1] - place[0] != 1]  # a token is a byte or a special one
    return [encoder.tokenizer.decode(ids), len(places), whole, encoder.tokenizer.decode(encoder.generated_ids(reply))]


def _tried(work: Callable[[], Any]) -> Any:
    """Return a result, or what an error says; with what was written to the terminal."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        try:
            result = work()
        except UserError as error:
            result = f"{type(error).__name__}: {error}"
    return [result, told.getvalue()] if told.getvalue() else result


if __name__ == "__main__" and "--write" in sys.argv:
    write(found(), KEPT)
