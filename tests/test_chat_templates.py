"""Chat templates: what a template writes is what is trained and asked, or it is refused in a sentence."""

import json
from argparse import Namespace
from datetime import date
from pathlib import Path

import pytest

from helpers import chats_kept, tiny
from helpers.kept import changed
from helpers.real_templates import REAL, real_tokenizer
from nlft.cli import main
from nlft.commands.starting import examples_and_run
from nlft.core.chat_template import ChatTemplate
from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import ChatTemplateSettings, TemplateInputs, Templates
from nlft.core.reply_form import ControlTokens, form_of
from nlft.core.spans import Span
from nlft.data.encoding import check_targets, encode
from nlft.data.records import Example, read_examples
from nlft.errors import ProblemsError, RecordsError, UserError
from nlft.models.answerer import CompletionRequest
from nlft.models.ledger import request_hash
from nlft.models.local import LocalModel
from nlft.models.server import ServerModel
from nlft.models.settings import BackendSettings
from nlft.training.prompting import training_encoder
from nlft.training.trainer import NLFTConfig

OPENS = "{% for m in messages %}<|{{ m.role }}|>"
CLOSES = "<|end|>{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
PLAIN = f"<s>{OPENS}{{{{ m.content }}}}{CLOSES}{ASKS}"
IN_PARTS = (
    f"<s>{OPENS}{{% for c in m.content %}}{{% if c.type == 'text' %}}{{{{ c.text }}}}{{% endif %}}{{% endfor %}}"
    f"{CLOSES}{ASKS}"
)
ONLY_FIRST_PART = f"<s>{OPENS}{{{{ m.content[0]['text'] }}}}{CLOSES}{ASKS}"
NO_HEADER = f"<s>{OPENS}{{{{ m.content }}}}{CLOSES}"
# An empty thought before a reply that has none, and another end of the prompt when thinking is switched off.
EMPTY_THOUGHT = (
    f"<s>{OPENS}{{% if m.role == 'assistant' and '</think>' not in m.content %}}<think>\n\n</think>\n\n{{% endif %}}"
    f"{{{{ m.content }}}}{CLOSES}{{% if add_generation_prompt %}}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPEN_THOUGHT = (  # the prompt opens a thought, and earlier thoughts are taken out
    f"<s>{OPENS}{{% if m.role == 'assistant' %}}{{{{ m.content.split('</think>')[-1].lstrip('\\n') }}}}"
    f"{{% else %}}{{{{ m.content }}}}{{% endif %}}{CLOSES}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
CHANNELS = (  # the reply stands in a channel that the prompt does not open
    f"<s>{OPENS}{{% if m.role == 'assistant' %}}<|channel|>final<|message|>{{% endif %}}"
    f"{{{{ m.content }}}}{CLOSES}{ASKS}"
)
TRIMS = f"<s>{OPENS}{{{{ m.content | trim }}}}{CLOSES}{ASKS}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
DROPS_SYSTEM = (
    f"<s>{{% for m in messages if m.role != 'system' %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}{CLOSES}{ASKS}"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{% endfor %}" + PLAIN
)
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}"
    + PLAIN
)
WITH_TOOLS = "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}" + EMPTY_THOUGHT
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
WRONG = {"id": "a", "prompt": "2 + 3?", "completion": "It is 6.", "label": False, "judgment": "6 is wrong."}


def tokenizer(template, **options):
    made = tiny.own_tokenizer()
    made.chat_template = template
    for name, value in options.items():
        setattr(made, name, value)
    return made


def encoder(template, *, system_prompt=None, **kwargs):
    return ConditionEncoder(tokenizer(template), Templates(system_prompt=system_prompt, inputs=TemplateInputs(kwargs)))


def trained(made, completion="5", prompt="2 + 3?", **more):
    """The text of base prompt and completion, as the model reads them."""
    encoded = made.encode(id=1, prompt=prompt, completion=completion, label=True, **more)
    return made.tokenizer.decode(encoded.base + encoded.completion)


def rendered(template, completion, prompt="2 + 3?", **kwargs):
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return tokenizer(template).apply_chat_template(turns, tokenize=False, **kwargs)


@pytest.mark.parametrize("template", [PLAIN, NO_HEADER, EMPTY_THOUGHT, CHANNELS, TRIMS])
@pytest.mark.parametrize("completion", ["5", "It is 5.\nYes."])
def test_what_is_trained_is_what_the_template_writes(template, completion):
    assert trained(encoder(template), completion) == rendered(template, completion)


def test_names_of_control_tokens_are_hidden_and_without_any_a_text_stays():
    assert ControlTokens(["<|end|>"]).hide("a <|end|> b") == "a \ue0000\ue001 b"
    assert ControlTokens(["<|end|>"]).hide("a b") == ControlTokens([]).hide("a b") == "a b"


def test_a_turn_ends_at_eos_and_not_at_another_token_that_the_template_writes_before_it():
    closing = tokenizer(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|system|>{% endif %}"
        "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert closing.eos_token == "<|end|>"
    form = ChatTemplate(closing).form(TemplateInputs({}))
    assert (form.end, form.trail) == (closing.eos_token_id, "<|system|>")
    end, closing.eos_token = closing.eos_token_id, "<s>"  # which ends no turn here; the other ends questions too
    form = ChatTemplate(closing).form(TemplateInputs({}))
    assert (form.end, form.trail) == (end, "<|system|>")


def test_a_header_of_a_template_that_ignores_the_generation_prompt_is_told():
    told = form_of(bare="U", opened="U", before="U<A>", question="q", name="t")
    assert told == {"header": "<A>", "opening": "", "is_prefix": False}


def test_white_space_that_the_template_removes_is_not_trained():
    assert trained(encoder(TRIMS), " \n5 \n") == rendered(TRIMS, "5") == rendered(TRIMS, " \n5 \n")
    assert trained(encoder(PLAIN), " 5 ") == rendered(PLAIN, " 5 ")


@pytest.mark.parametrize("white", [" \n", "\t", "\r\n", "\u00a0", "\u2003\x1f\u3000"])
def test_all_white_space_is_removed_where_the_template_removes_all(white):
    assert trained(encoder(TRIMS), f"{white}5{white}") == rendered(TRIMS, "5")
    assert trained(encoder(PLAIN), f"{white}5{white}") == rendered(PLAIN, f"{white}5{white}")
    lines = PLAIN.replace("m.content", "m.content.strip('\\n')")
    assert trained(encoder(lines), f"\n{white}5") == rendered(lines, f"\n{white}5")


def of_replies(change, prompt="m.content"):
    """A template that changes replies, and prompts as well if it is said how."""
    body = f"{{% if m.role == 'assistant' %}}{change}{{% else %}}{{{{ {prompt} }}}}{{% endif %}}"
    return f"<s>{OPENS}{body}{CLOSES}{ASKS}"


LONG = "How many cups has Ines if she has 12 and gets 5 more?"
CHANGED = [  # the prompt's text, the reply's text, and a text that the template leaves as it is
    ("m.content[:40]", LONG, "2 + 3?"),
    ("m.content.split('</think>')[-1]", "What does </think> do?", "What is HTML?"),
    ("m.content | e", "Is 2 < 3?", "Is 2 more?"),
    ("m.content | tojson", 'Say "5".', "Say 5."),
    ("m.content.replace('\\n\\n', '\\n')", "a\n\nb", "a\nb"),
    ("m.content | lower", "How?", "how?"),
    ("m.content | wordwrap(20)", LONG, "2 + 3?"),
    ("m.content | striptags", "a <b> c", "a b c"),
    ("m.content.split('####')[0]", "5\n#### 5", "5"),
    ("m.content.split('\\n')[0]", "5\nor 6", "5 or 6"),
]


@pytest.mark.parametrize(("change", "changed", "kept"), CHANGED)
def test_a_prompt_whose_text_the_template_cuts_or_changes_is_refused_by_id(change, changed, kept):
    made = encoder(of_replies("{{ m.content }}", change))
    assert kept in trained(made, prompt=kept)
    with pytest.raises(ProblemsError, match=r"example 1: .*the user message"):
        trained(made, prompt=changed)
    turns = [("user", kept), ("assistant", "5"), ("user", changed)]
    with pytest.raises(ProblemsError, match=r"example 1: .*the user message"):
        trained(made, prompt=[{"role": role, "content": text} for role, text in turns])


@pytest.mark.parametrize(("change", "changed", "kept"), [one for one in CHANGED if "</think>" not in one[1]])
def test_a_reply_that_the_template_writes_otherwise_is_refused_by_id(change, changed, kept):
    template = of_replies(f"{{{{ {change} }}}}")
    made = encoder(template)
    assert trained(made, kept) == rendered(template, kept)
    with pytest.raises(ProblemsError, match=r"example 1: .*this reply"):
        trained(made, changed)
    encoded = made.encode(id="q", prompt="2 + 3?", completion=kept, label=True, answer=changed)
    assert encoded.target is None
    assert "this reply" in encoded.target_refused.what


@pytest.mark.parametrize(
    "change",
    [
        "({{ m.content | length }}) {{ m.content }}",
        "{% if m.content.startswith('12') %}NUM {% endif %}{{ m.content }}",
        "{{ m.content }}{% if '12' in m.content %} units{% endif %}",
    ],
)
def test_what_the_template_writes_beside_some_replies_only_is_not_left_out(change):
    made = encoder(of_replies(change))
    with pytest.raises(ProblemsError, match=r"example 1: .*this reply"):
        trained(made, "12 cups")


def test_turns_with_numbers_are_what_the_template_writes():
    numbered = (
        f"<s>{{% for m in messages %}}<|{{{{ m.role }}}}|>{{{{ loop.index }}}}: {{{{ m.content }}}}{CLOSES}"
        "{% if add_generation_prompt %}<|assistant|>{{ messages | length + 1 }}: {% endif %}"
    )
    turns = [{"role": role, "content": text} for role, text in (("user", "1?"), ("assistant", "2"), ("user", "3?"))]
    assert trained(encoder(numbered), prompt=turns).endswith("<|user|>3: 3?<|end|><|assistant|>4: 5<|end|>")


def test_a_tools_result_may_be_written_as_json():
    template = of_replies("{{ m.content }}", "m.content if m.role == 'user' else m.content | tojson")
    turns = [{"role": "user", "content": "2?"}, {"role": "tool", "content": 'a "b"'}]
    assert trained(encoder(template), prompt=turns).endswith("<|assistant|>5<|end|>")


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("more", ["</answer>", "</answer>\n"])
def test_an_added_token_that_a_reply_ends_with_does_not_end_the_turn(special, more):
    made = tokenizer(of_replies(f"{{{{ m.content }}}}{more}"))
    made.add_tokens(["</answer>"], special_tokens=special)
    encoded = ConditionEncoder(made).encode(id=1, prompt="2 + 3?", completion="5", label=True)
    assert made.decode(encoded.completion) == f"5{more}<|end|>"
    assert encoded.completion[-1] == made.eos_token_id


AWKWARD = ["5", " 5 \n", '2 < 3 & "so"', "a\n\nb\r\n", "say <|im_end|> [INST]", "{{ x }} {% y %}", "#### 5", "\tTab"]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("name", REAL)
def test_no_text_is_refused_by_the_templates_of_real_models(name, text):
    *_, end, has_system = REAL[name]
    made = ConditionEncoder(real_tokenizer(name))
    turns = [("system", f"Be terse. {text}")] * has_system
    turns += [("user", text), ("assistant", f"<think>\nhm\n</think>\n\n{text}"), ("user", text)]
    for prompt in (text, [{"role": role, "content": said} for role, said in turns]):
        encoded = made.encode(id=1, prompt=prompt, completion=text, label=True, answer=f"{text} or so")
        assert encoded.target_refused is None
        assert encoded.completion[-1] == made.tokenizer.convert_tokens_to_ids(end)
    if name == "smollm 3":
        asked = {"role": "user", "content": text}
        made.encode(id=1, prompt=[{"role": "system", "content": "So. /no_think"}, asked], completion="5", label=True)


@pytest.mark.parametrize("template", [IN_PARTS, ONLY_FIRST_PART])
def test_content_goes_in_parts_into_a_template_that_takes_only_parts(template):
    turns = [{"role": role, "content": text} for role, text in (("user", "1?"), ("assistant", "2"), ("user", "3?"))]
    assert trained(encoder(template)) == "<s><|user|>2 + 3?<|end|><|assistant|>5<|end|>"
    assert trained(encoder(template), prompt=turns).startswith("<s><|user|>1?<|end|><|assistant|>2<|end|><|user|>3?")


def test_a_header_that_only_replies_have_ends_the_prompt_of_a_question_too():
    made = encoder(NO_HEADER)
    assert made.tokenizer.decode(made.prompt_ids("2 + 3?")) == "<s><|user|>2 + 3?<|end|><|assistant|>"


def test_an_empty_thought_belongs_to_the_completion_and_moves_no_span():
    made = encoder(EMPTY_THOUGHT)
    encoded = made.encode(**WRONG, spans=[Span(6, 7, replace="5")])
    text = made.tokenizer.decode
    assert text(encoded.base) == "<s><|user|>2 + 3?<|end|><|assistant|>"
    assert text(encoded.completion) == "<think>\n\n</think>\n\nIt is 6.<|end|>"
    [span] = encoded.spans
    assert text(encoded.completion[span.start : span.end]) == "6"
    assert text(encoded.patched.ids) == "<think>\n\n</think>\n\nIt is 5.<|end|>"
    [place] = encoded.patched.places
    assert text(encoded.patched.ids[slice(*place)]) == "5"


def test_a_reply_with_a_thought_of_its_own_gets_no_empty_one():
    thought = "<think>\nadd\n</think>\n\n5"
    assert trained(encoder(EMPTY_THOUGHT), thought) == rendered(EMPTY_THOUGHT, thought)


def test_the_thought_that_a_prompt_opens_is_not_opened_twice():
    expected = "<s><|user|>2 + 3?<|end|><|assistant|><think>\nadd\n</think>\n\n5<|end|>"
    for completion in ("<think>\nadd\n</think>\n\n5", "add\n</think>\n\n5"):
        assert trained(encoder(OPEN_THOUGHT), completion) == expected


def test_a_reply_without_a_thought_is_refused_by_name_where_the_prompt_opens_one():
    with pytest.raises(ProblemsError, match=r"example 1: .*<think>") as told:
        trained(encoder(OPEN_THOUGHT), "5")
    assert "enable_thinking" in str(told.value)


def test_a_standard_answer_without_a_thought_is_refused_only_if_it_is_trained():
    made = encoder(OPEN_THOUGHT)
    encoded = made.encode(id="q", prompt="2 + 3?", completion="add\n</think>\n\n5", label=True, answer="2 + 3 = 5")
    assert encoded.target is None
    check_targets([encoded], 0.0)
    with pytest.raises(RecordsError, match="example 'q'"):
        check_targets([encoded], 1.0)


def test_a_prompt_that_switches_thinking_off_is_trained_as_it_is_asked(capsys):
    answered = "{% if add_generation_prompt %}<|assistant|><think>\n\n</think>\n\n{% endif %}"
    template = f"<s>{OPENS}{{{{ m.content }}}}{CLOSES}{answered}"
    assert trained(encoder(template)) == "<s><|user|>2 + 3?<|end|><|assistant|><think>\n\n</think>\n\n5<|end|>"
    assert "</think>" in capsys.readouterr().err


REFUSED = [
    ("{% for m in messages %}<|{{ m.role }}|>?<|end|>{% endfor %}", ["the question", "the reply"]),
    ("<s>{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", ["the reply"]),
    (f"{{{{ messages[0].nothing.at.all }}}}{PLAIN}", ["nothing"]),
    ("{% for m in messages %", ["chat template"]),
    (f"<s>{OPENS}{{{{ m.content }}}}<|im_end|>{{% endfor %}}{ASKS}", ["<|im_end|>"]),
    (f"<s>{OPENS}{{{{ m.content }}}}{CLOSES}{{% if add_generation_prompt %}}<|system|>{{% endif %}}", ["<|system|>"]),
]


@pytest.mark.parametrize(("template", "said"), REFUSED)
def test_a_template_that_cannot_be_trained_is_refused_before_the_first_example(template, said):
    with pytest.raises(UserError) as told:
        ConditionEncoder(tokenizer(template))
    assert any(one in str(told.value) for one in said)
    assert "\n  " in str(told.value), "a cure"


def test_a_template_is_tried_out_when_it_is_made_and_not_at_its_first_use():
    with pytest.raises(UserError, match="the reply"):
        ChatTemplate(tokenizer(REFUSED[0][0]))


def test_a_template_that_writes_nothing_after_a_reply_ends_with_the_end_of_sequence_and_that_is_said(capsys):
    template = f"<s>{OPENS}{{{{ m.content }}}}{{% if m.role == 'user' %}}<|end|>{{% endif %}}{{% endfor %}}{ASKS}"
    assert trained(encoder(template)) == "<s><|user|>2 + 3?<|end|><|assistant|>5<|end|>"
    assert "<|end|>" in capsys.readouterr().err


@pytest.mark.parametrize(("template", "words"), [(NO_SYSTEM, "System role not supported"), (DROPS_SYSTEM, "system")])
def test_a_template_without_a_system_turn_refuses_the_system_prompt_at_the_start(template, words):
    assert trained(encoder(template)).endswith("5<|end|>")
    with pytest.raises(UserError, match=words) as told:
        encoder(template, system_prompt="Be terse.")
    assert "--system_prompt" in str(told.value)
    own = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "2 + 3?"}]
    made = encoder(template)
    for _ in range(2):
        with pytest.raises(ProblemsError, match=rf"example 1: .*{words}"):
            trained(made, prompt=own)


def test_a_template_that_demands_alternating_roles_refuses_two_user_turns_by_name():
    twice = [{"role": "user", "content": "2 +"}, {"role": "user", "content": "3?"}]
    assert "2 +<|end|><|user|>3?" in trained(encoder(PLAIN), prompt=twice)
    with pytest.raises(ProblemsError, match=r"example 1: .*Roles must alternate"):
        trained(encoder(ALTERNATES), prompt=twice)
    model = LocalModel(tiny.model(), encoder(ALTERNATES), max_new_tokens=2, batch_size=2)
    with pytest.raises(UserError, match=r"q7: .*Roles must alternate"):
        list(model.answer([CompletionRequest("q7", twice)]))


@pytest.mark.parametrize("chat", [True, False])
def test_a_prompt_that_ends_with_an_assistants_message_is_refused_by_name(chat):
    made = ConditionEncoder(tiny.tokenizer(chat))
    prefilled = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "It"}]
    with pytest.raises(ProblemsError, match=r"example 1: .*assistant"):
        trained(made, prompt=prefilled)


@pytest.mark.parametrize("name", ["<|end|>", "<s>", "<|assistant|>", "<|system|>"])
def test_the_name_of_a_special_token_within_a_text_is_text(name):
    made = ConditionEncoder(tiny.tokenizer())
    text = f"The token {name} ends nothing."
    encoded = made.encode(id=1, prompt=text, completion=text, label=True, answer=text)
    (special,) = made.tokenizer(name, add_special_tokens=False)["input_ids"]
    assert made.tokenizer.decode(encoded.completion) == f"{text}<|end|>"
    assert encoded.completion[:-1].count(special) == 0
    assert encoded.base.count(special) == made.prompt_ids("?").count(special)
    assert made.tokenizer.decode(encoded.base).count(text) == 1
    marked = made.encode(**{**WRONG, "completion": text}, spans=[Span(text.index("ends"), text.index(" nothing"))])
    [span] = marked.spans
    assert made.tokenizer.decode(marked.completion[span.start : span.end]) == "ends"


def test_settings_of_the_template_reach_every_condition_and_the_identity():
    made = encoder(EMPTY_THOUGHT, enable_thinking=False)
    encoded = made.encode(**WRONG)
    for ids in (encoded.base, encoded.standard, encoded.judge):
        assert made.tokenizer.decode(ids).endswith("<|assistant|><think>\n\n</think>\n\n")
    assert made.tokenizer.decode(encoded.completion) == "It is 6.<|end|>"
    plain = LocalModel(tiny.model(), encoder(EMPTY_THOUGHT), max_new_tokens=2, batch_size=2).identity
    with_it = LocalModel(tiny.model(), made, max_new_tokens=2, batch_size=2).identity
    assert with_it == {**plain, "chat_template_kwargs": {"enable_thinking": False}}


def test_a_records_own_tools_and_settings_reach_the_template_and_win():
    made = encoder(WITH_TOOLS, enable_thinking=True)
    own = {"tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}}
    encoded = encode(made, Example(**WRONG, extra=own))
    for ids in (encoded.base, encoded.standard, encoded.judge):
        text = made.tokenizer.decode(ids)
        assert text.startswith("[weather]<s>")
        assert text.endswith("<think>\n\n</think>\n\n")
    assert made.tokenizer.decode(encoded.completion) == "It is 6.<|end|>"
    plain = encode(made, Example(**WRONG))
    assert made.tokenizer.decode(plain.completion).startswith("<think>")


def test_tools_and_settings_that_the_template_does_not_use_are_named(capsys):
    trained(encoder(EMPTY_THOUGHT, enable_thinking=False, speed=1), inputs=TemplateInputs(tools=(TOOL,)))
    told = capsys.readouterr().err
    assert "speed" in told
    assert "tools" in told
    assert "enable_thinking" not in told
    trained(encoder(WITH_TOOLS, enable_thinking=False), inputs=TemplateInputs(tools=(TOOL,)))
    assert capsys.readouterr().err == ""


def test_a_request_with_tools_has_another_hash_and_one_without_keeps_its_own():
    with_tools = CompletionRequest("q", "2 + 3?", TemplateInputs(tools=(TOOL,)))
    assert request_hash({}, with_tools) != request_hash({}, CompletionRequest("q", "2 + 3?"))
    assert request_hash({}, CompletionRequest("q", "2 + 3?")) == request_hash(
        {}, CompletionRequest("q", "2 + 3?", TemplateInputs())
    )


def test_a_server_gets_settings_and_tools_in_the_body():
    settings = BackendSettings(base_url="http://localhost:1/v1")
    inputs = TemplateInputs({"enable_thinking": False})
    model = ServerModel("m", settings, max_new_tokens=2, inputs=inputs)
    body = model.body(CompletionRequest("q", "2 + 3?", TemplateInputs({"effort": "low"}, (TOOL,))))
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "effort": "low"}
    assert body["tools"] == [TOOL]
    assert model.identity["chat_template_kwargs"] == {"enable_thinking": False}
    assert "tools" not in model.body(CompletionRequest("q", "2 + 3?"))
    with pytest.raises(UserError, match="--chat_template_date"):
        ServerModel("m", settings, max_new_tokens=2, inputs=TemplateInputs(date="2024-07-26"))


def test_a_dated_template_writes_the_given_day_or_today():
    def start(day):
        made = ConditionEncoder(tokenizer(DATED), Templates(inputs=TemplateInputs(date=day)))
        return made.date, made.tokenizer.decode(made.prompt_ids("?"))

    assert start("2024-07-26") == ("2024-07-26", "26 Jul 2024<s><|user|>?<|end|><|assistant|>")
    before = date.today()
    day, text = start(None)
    assert before.isoformat() <= day <= date.today().isoformat()
    assert text.startswith(date.fromisoformat(day).strftime("%d %b %Y"))
    assert ConditionEncoder(tokenizer(PLAIN)).date is None
    own = ConditionEncoder(tokenizer(DATED), Templates(inputs=TemplateInputs({"date_string": "a day"})))
    assert own.tokenizer.decode(own.prompt_ids("?")).startswith("a day<s>")


@pytest.mark.parametrize("given", ["{", "[1]", "enable_thinking", "1"])
def test_template_settings_that_are_no_json_object_are_refused(given):
    with pytest.raises(UserError, match="--chat_template_kwargs"):
        ChatTemplateSettings(given).template_inputs()


@pytest.mark.parametrize("name", ["tokenize", "messages", "add_generation_prompt", "tools"])
def test_a_template_setting_with_the_name_of_an_argument_is_refused(name):
    with pytest.raises(UserError, match=f"chat_template_kwargs: {name} is no variable"):
        encoder(PLAIN, **{name: True})


def model_of(template, folder):
    tiny.model().save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return str(folder)


FLAGS = "--dtype float32 --watch 0 --report_to none --max_steps 1 --save_strategy no --per_device_train_batch_size 2"


def write(rows, path="x.jsonl"):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_records_settings_and_date_of_the_template_and_a_replay_repeats_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = model_of(DATED.replace(PLAIN, EMPTY_THOUGHT), tmp_path / "m")
    file = write([{**WRONG, "id": "a"}, {**WRONG, "id": "b", "chat_template_kwargs": {"enable_thinking": True}}])
    flags = [
        *FLAGS.split(),
        "--chat_template_date",
        "2024-07-26",
        "--chat_template_kwargs",
        '{"enable_thinking": false}',
    ]
    assert main(["train", file, "--model_name_or_path", folder, "--output_dir", "run", *flags]) == 0
    import yaml

    record = yaml.safe_load(Path("run/run.yaml").read_text())["training"]
    assert record["chat_template_kwargs"] == {"enable_thinking": False}
    assert record["chat_template_date"] == "2024-07-26"
    assert main(["replay", "run"]) == 0
    assert "bit for bit" in capsys.readouterr().out
    again = yaml.safe_load(Path("run-replay/run.yaml").read_text())["training"]
    assert (again["chat_template_kwargs"], again["chat_template_date"]) == ({"enable_thinking": False}, "2024-07-26")
    then, now = "2024-07-26", date.today().isoformat()
    for resumes, day in (("run/checkpoints/checkpoint-1", then), ("auto", then), ("false", now), (None, now)):
        args = NLFTConfig(output_dir="run", resume_from_checkpoint=resumes)
        training_encoder(tokenizer(DATED), args, None)
        assert args.chat_template_date == day
    args = NLFTConfig(output_dir="new")
    examples_and_run([], Namespace(file=file, resume=True, overwrite=False), args)
    assert args.resume_from_checkpoint == "auto", "with --resume, too"


@pytest.mark.parametrize("command", ["train", "sft", "kto", "reft"])
def test_every_training_refuses_a_system_prompt_that_the_template_refuses(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = model_of(NO_SYSTEM, tmp_path / "m")
    rows = [{**WRONG, "answer": "#### 5"}, {**WRONG, "id": "b", "completion": "5", "label": True, "answer": "#### 5"}]
    flags = [flag for flag in FLAGS.split() if command == "train" or flag not in ("--watch", "0")]
    flags += ["--num_generations", "2"] if command == "reft" else []
    asked = [command, write(rows), "--model_name_or_path", folder, "--output_dir", "run", "--system_prompt", "Terse."]
    assert main([*asked, *flags]) == 2
    assert "System role not supported" in capsys.readouterr().err


def test_kto_takes_the_columns_and_refuses_what_trl_would_render_otherwise(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{**WRONG, "id": str(n), "label": n % 2 == 0, "tools": [TOOL]} for n in range(4)]
    flags = [flag for flag in FLAGS.split() if flag not in ("--watch", "0")]

    def kto(template, rows, *more):
        folder = model_of(template, tmp_path / "m")
        asked = ["kto", write(rows), "--model_name_or_path", folder, "--output_dir", "run", "--overwrite"]
        return main([*asked, *flags, *more])

    assert kto(WITH_TOOLS, rows, "--chat_template_kwargs", '{"enable_thinking": false}') == 0
    assert kto(OPEN_THOUGHT, [{**row, "completion": "so\n</think>\n\n6"} for row in rows]) == 2
    mixed = [{**row, "chat_template_kwargs": {"enable_thinking": False} if row["label"] else {}} for row in rows]
    assert kto(WITH_TOOLS, mixed) == 2
    assert "enable_thinking" in capsys.readouterr().err


def test_the_columns_survive_sampling_judging_building_and_exporting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = model_of(WITH_TOOLS, tmp_path / "m")
    own = {"tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}}
    write([{"id": "q", "prompt": "2 + 3?", "answer": "2 + 3 = 5\n#### 5", **own}], "q.jsonl")
    asked = ["sample", "q.jsonl", "--model_name_or_path", folder, "--out", "s.jsonl", "--max_new_tokens", "3"]
    assert main([*asked, "--dtype", "float32"]) == 0
    assert main(["judge", "s.jsonl"]) == 0
    assert main(["build", "s.jsonl", "--out", "b.jsonl", "--keep_truncated"]) == 0
    [example] = read_examples("b.jsonl")
    assert {name: example.extra[name] for name in own} == own
    more = ["--keep_truncated", "--chat_template_kwargs", '{"effort": "low", "enable_thinking": true}']
    assert main(["build", "b.jsonl", "--out", "k.jsonl", "--to", "kto", *more]) == 0
    row = json.loads(Path("k.jsonl").read_text())
    assert row["tools"] == [TOOL]
    assert row["chat_template_kwargs"] == {"effort": "low", "enable_thinking": False}


def test_a_template_that_cuts_a_text_is_not_given_a_list_which_it_would_write_as_python_shows_it():
    with pytest.raises(UserError, match="leaves the reply out"):
        encoder(f"<s>{OPENS}{{{{ m.content[:12] }}}}{CLOSES}{ASKS}")


def test_nothing_that_is_written_under_a_template_has_changed_unseen():
    assert not changed(chats_kept.found(), chats_kept.KEPT)
