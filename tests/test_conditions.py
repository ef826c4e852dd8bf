"""Rendering and alignment: one completion, the same ids under every prompt."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from helpers import tiny
from nlft.collect.rules import judge_by_rules
from nlft.core.conditions import IGNORE_INDEX, ConditionEncoder, end_of_turn_id, pad_rows
from nlft.core.limits import ModelLimits
from nlft.core.prompts import PromptSettings, TemplateInputs, Templates, without_corrections
from nlft.core.spans import Span
from nlft.errors import ProblemsError, UserError

WRONG = {
    "id": "a",
    "prompt": "How many?",
    "completion": "64 - 35 = 34",
    "label": False,
    "answer": "64 - 35 = 29",
    "judgment": 'The step "64 - 35 = 34" is miscalculated.\nCorrection: 64 - 35 = 29.',
}


@pytest.mark.parametrize("chat", [True, False])
def test_the_same_completion_follows_every_prompt_and_ends_the_turn(chat):
    tokenizer = tiny.tokenizer(chat)
    encoded = ConditionEncoder(tokenizer).encode(**WRONG)
    assert tokenizer.decode(encoded.completion) == "64 - 35 = 34<|end|>"
    texts = {name: tokenizer.decode(getattr(encoded, name)) for name in ("base", "standard", "judge")}
    assert "29" not in texts["base"]
    assert "29" in texts["standard"]
    assert '"64 - 35 = 34" is miscalculated' in texts["judge"]
    assert all("How many?" in text for text in texts.values())


def test_chat_models_go_through_their_template_and_base_models_get_plain_text():
    chat = ConditionEncoder(tiny.tokenizer(True))
    assert chat.tokenizer.decode(chat.prompt_ids("Hi")) == "<s><|user|>Hi<|end|><|assistant|>"
    plain = ConditionEncoder(tiny.tokenizer(False))
    assert plain.tokenizer.decode(plain.prompt_ids("Hi")) == "Hi\n"


def test_messages_and_a_string_render_alike():
    encoder = ConditionEncoder(tiny.tokenizer(True))
    assert encoder.prompt_ids("Hi") == encoder.prompt_ids([{"role": "user", "content": "Hi"}])


def test_only_the_last_message_goes_into_the_templates():
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "second"},
    ]
    encoder = ConditionEncoder(tiny.tokenizer(True))
    encoded = encoder.encode(**{**WRONG, "prompt": turns})
    text = encoder.tokenizer.decode(encoded.judge)
    assert text.startswith("<s><|user|>first<|end|><|assistant|>reply<|end|><|user|>second\n")
    assert text.count("miscalculated") == 1


def test_a_system_prompt_goes_before_prompts_that_have_none():
    encoder = ConditionEncoder(tiny.tokenizer(True), Templates(system_prompt="Be brief."))
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]
    assert "<|system|>Be brief.<|end|><|user|>Hi" in encoder.tokenizer.decode(encoder.prompt_ids("Hi"))
    assert "Be brief" not in encoder.tokenizer.decode(encoder.prompt_ids(own))


def test_corrections_stay_out_of_the_judge_prompt_unless_asked_for():
    tokenizer = tiny.tokenizer()
    hidden = tokenizer.decode(ConditionEncoder(tokenizer).encode(**WRONG).judge)
    shown = tokenizer.decode(ConditionEncoder(tokenizer, Templates(judge_shows_correction=True)).encode(**WRONG).judge)
    assert "29" not in hidden
    assert "Correction: 64 - 35 = 29." in shown


def test_a_correction_within_a_line_goes_too():
    assert without_corrections("A is wrong. Correction: B.\nC is wrong.") == "A is wrong.\nC is wrong."


LEAKS = [
    "correction: 12 + 5 = 17",
    "CORRECTIONS: 17",
    "Correction:\n12 + 5 = 17",
    "Correction:\n\n17",
    "Correction: it should be\n12 + 5 = 17.",
    "Correction: first 12 + 5 = 17.\nThen 17 * 2 = 34.",
    "**Correction:** 17",
    "**Correction**: 17",
    "__correction :__\n17",
    "### Correction\n12 + 5 = 17",
    "- Correction (step 2): 17",
    "2. Correction for step 2: 17",
    "Correction – 17",
    "Correction：17",
    "Ｃｏｒｒｅｃｔｉｏｎ：17",
    "The correct answer: 17",
    "Corrected step: 12 + 5 = 17",
    "更正：17",
    "Korrektur: 17",
    "Correction:\n```\n12 + 5\n\n= 17\n```",
]


@pytest.mark.parametrize("correction", LEAKS)
def test_no_part_of_a_correction_is_shown_however_it_is_written(correction):
    assert without_corrections(f"The sum is wrong.\n{correction}") == "The sum is wrong."
    assert without_corrections(f"{correction}\n\nThe sum is wrong.") == "The sum is wrong."


def test_words_that_only_speak_of_a_correction_stay():
    for words in ("The correction that it makes is wrong.", "It autocorrects: wrongly.", "It is not correct: 3 < 2."):
        assert without_corrections(words) == words


def test_what_the_rules_find_after_a_correction_is_shown():
    completion = "We add. We add. We add.\n12 + 5 = 16\n#### 16"
    judgment = judge_by_rules("How many?", completion, "12 + 5 = 17\n#### 17", truncated=True)
    shown = without_corrections(judgment)
    assert shown.split("\n") == [line for line in judgment.split("\n") if not line.startswith("Correction:")]
    assert len(shown.split("\n")) == 3
    assert "17" not in shown


def test_a_judgment_of_corrections_alone_is_refused_by_name():
    with pytest.raises(ProblemsError, match="example 'a': has no judgment to show"):
        ConditionEncoder(tiny.tokenizer()).encode(**{**WRONG, "judgment": "Correction: 29."})


def test_braces_and_slots_in_the_users_text_stay_as_they_are():
    tokenizer = tiny.tokenizer()
    odd = {**WRONG, "prompt": "{answer} {judgment} {0}", "answer": "{prompt} }{"}
    encoded = ConditionEncoder(tokenizer).encode(**odd)
    assert "{prompt} }{" in tokenizer.decode(encoded.standard)
    assert "{answer} {judgment} {0}" in tokenizer.decode(encoded.base)
    assert tokenizer.decode(encoded.standard).count("{answer} {judgment} {0}") == 1


def test_what_does_not_fit_is_an_error_that_names_the_example_and_is_never_cut():
    encoder = ConditionEncoder(tiny.tokenizer(), max_length=60)
    with pytest.raises(
        ProblemsError, match=r"example 'a': takes .* tokens under the standard prompt, over max_length 60"
    ):
        encoder.encode(**WRONG)


LONG = " and so on" * 9


@pytest.mark.parametrize(
    ("row", "long"),
    [
        ("base", {"completion": f"64 - 35 = 34{LONG}", "answer": None, "label": True, "judgment": None}),
        ("standard", {"answer": f"64 - 35 = 29{LONG}", "revision": "29"}),
        ("judge", {"judgment": f"It is wrong{LONG}."}),
        ("base", {"label": True, "judgment": None, "answer": None, "revision": f"64 - 35 = 29{LONG}"}),
        ("base", {"judgment": None, "answer": None, "spans": [Span(10, 12, replace=f"29{LONG}")]}),
    ],
    ids=["completion", "standard", "judge", "target", "patched"],
)
def test_each_row_may_have_max_length_tokens_and_no_more(row, long):
    example = {**WRONG, **long}
    encoded = ConditionEncoder(tiny.tokenizer()).encode(**example)
    texts = [(encoded.base, encoded.target or []), (encoded.base, encoded.patched.ids if encoded.patched else [])]
    texts += [(prompt or [], encoded.completion) for prompt in (encoded.base, encoded.standard, encoded.judge)]
    longest = max(len(prompt) + len(text) for prompt, text in texts)
    assert ConditionEncoder(tiny.tokenizer(), max_length=longest).encode(**example) == encoded
    with pytest.raises(ProblemsError) as told:
        ConditionEncoder(tiny.tokenizer(), max_length=longest - 1).encode(**example)
    [problem] = told.value.problems
    assert problem.where == "example 'a'"
    assert f"takes {longest} tokens under the {row} prompt" in problem.what
    assert str(longest - 1) in problem.what


def marking_tokenizer(chat):
    """A tokenizer that writes <s> before and </s> after every text, and whose turns end with another token."""
    made = tiny.own_tokenizer()
    made.add_special_tokens({"eos_token": "</s>"})
    begin, end = made.convert_tokens_to_ids(["<s>", "</s>"])
    made._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    made.chat_template = made.chat_template if chat else None
    assert made("Hi")["input_ids"][0] == begin
    assert made("Hi")["input_ids"][-1] == end
    return made


def test_the_template_writes_the_special_tokens_and_the_tokenizer_adds_none():
    made = ConditionEncoder(marking_tokenizer(True))
    encoded = made.encode(**WRONG)
    text = made.tokenizer.decode
    assert text(made.prompt_ids("Hi")) == "<s><|user|>Hi<|end|><|assistant|>"
    assert text(encoded.completion) == "64 - 35 = 34<|end|>"
    assert text(encoded.target) == "64 - 35 = 29<|end|>"


def test_the_end_of_a_turn_is_what_the_template_writes_and_not_the_end_of_sequence():
    made = marking_tokenizer(True)
    assert made.eos_token == "</s>"
    assert end_of_turn_id(made) == made.convert_tokens_to_ids("<|end|>") != made.eos_token_id
    plain = marking_tokenizer(False)
    assert end_of_turn_id(plain) == plain.eos_token_id


def test_a_plain_prompt_keeps_the_tokenizers_first_mark_and_not_its_last_one():
    made = ConditionEncoder(marking_tokenizer(False))
    assert made.tokenizer.decode(made.prompt_ids("Hi")) == "<s>Hi\n"
    assert made.tokenizer.decode(made.completion_ids("Ho")) == "Ho</s>"


def test_a_template_without_its_slot_is_refused():
    with pytest.raises(ProblemsError, match=r"--judge_prompt_template: has no \{judgment\}"):
        Templates(judge="{prompt}")


def test_a_completion_that_ends_its_turn_already_gets_no_second_end():
    tokenizer = tiny.tokenizer()
    encoder = ConditionEncoder(tokenizer)
    assert encoder.completion_ids("Yes<|end|>") == encoder.completion_ids("Yes")
    assert encoder.completion_ids("Yes")[-1] == end_of_turn_id(tokenizer)


def test_the_revision_is_what_answer_weight_trains_where_there_is_one():
    tokenizer = tiny.tokenizer()
    encoder = ConditionEncoder(tokenizer)
    assert tokenizer.decode(encoder.encode(**WRONG).target) == "64 - 35 = 29<|end|>"
    revised = encoder.encode(**WRONG, revision="It is 29.")
    assert tokenizer.decode(revised.target) == "It is 29.<|end|>"


def test_a_padding_token_beyond_the_embedding_is_refused_when_the_encoder_is_made():
    tokenizer = tiny.tokenizer()
    assert tokenizer.pad_token_id is not None
    ConditionEncoder(tokenizer, limits=ModelLimits(rows=tokenizer.pad_token_id + 1, positions=None, trained=None))
    with pytest.raises(UserError, match=f"has the id {tokenizer.pad_token_id}.* only {tokenizer.pad_token_id} rows"):
        ConditionEncoder(tokenizer, limits=ModelLimits(rows=tokenizer.pad_token_id, positions=None, trained=None))


@pytest.mark.parametrize(
    "inputs", [TemplateInputs({"a": 1}), TemplateInputs(tools=({},)), TemplateInputs(date="2024-07-26")]
)
def test_template_inputs_count_if_any_is_given(inputs):
    assert inputs
    assert not TemplateInputs()


def test_settings_without_template_inputs_have_none_and_hide_corrections():
    assert PromptSettings().template_inputs() == TemplateInputs()
    assert not PromptSettings().templates().judge_shows_correction


def test_padded_rows_label_the_completion_alone():
    rows = pad_rows([([5, 6], [7, 8, 9]), ([5], [6])], pad_token_id=0)
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]]
    assert rows.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    x = IGNORE_INDEX
    assert rows.labels.tolist() == [[x, x, 7, 8, 9], [x, 6, x, x, x]]
    assert rows.labels.dtype == torch.int64
