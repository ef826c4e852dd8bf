"""Which tokens end an answer, and which ends a trained model names."""

import json

import pytest
import torch

from helpers import tiny
from nlft.cli import main
from nlft.core.conditions import ConditionEncoder
from nlft.models.answerer import CompletionRequest
from nlft.models.banning import BanningModel
from nlft.models.ends import answer_ends, name_trained_end
from nlft.models.loaded import loaded_answerer
from nlft.models.local import LocalModel, base_of

USER = tiny.SPECIAL.index("<|user|>")
END = tiny.SPECIAL.index("<|end|>")


def saying(text, ends=None, config_ends=None):
    """A tiny model that says the same text again and again, and names these end tokens."""
    net, tokenizer = tiny.model(), tiny.tokenizer()
    net.generation_config.eos_token_id = ends
    net.config.eos_token_id = config_ends
    said, count = tokenizer(text, add_special_tokens=False)["input_ids"], [-1]

    def next_token(head, inputs, logits):
        if count[0] < 0:  # before its first answer, what the model keeps of a row is looked at once
            count[0] = 0
        elif logits.shape[1] == 1:
            logits = torch.full_like(logits, -1e4)
            logits[..., said[count[0] % len(said)]] = 0
            count[0] += 1
        return logits

    net.get_output_embeddings().register_forward_hook(next_token)
    return net


def answer(net, how=lambda local: local):
    local = how(LocalModel(net, ConditionEncoder(tiny.tokenizer()), max_new_tokens=20, batch_size=1))
    [[(_, found)]] = list(local.answer([CompletionRequest("q", "2 + 3?")]))
    return found.text, found.finish_reason


@pytest.mark.parametrize(
    ("named", "in_config", "ended"),
    [
        ([END, USER], None, "5"),
        (USER, None, "5"),
        (None, [USER], "5"),
        (None, USER, "5"),
        (END, USER, None),  # a config's default counts only where generation_config names nothing
        (None, None, None),
    ],
)
def test_an_answer_ends_at_every_end_token_that_the_model_names(named, in_config, ended):
    text, reason = answer(saying("5<|user|>", named, in_config))
    assert (text, reason) == ("5", "stop") if ended else (text.count("5") > 1 and reason == "length")


def test_an_end_that_the_tokenizer_does_not_know_as_special_is_no_part_of_the_answer():
    semicolon = tiny.tokenizer()(";", add_special_tokens=False)["input_ids"]
    assert answer(saying("5;", semicolon)) == ("5", "stop")


def test_it_ends_so_with_banned_words_and_under_an_adapter_that_is_switched_off():
    assert answer(saying("5<|user|>", [USER]), lambda local: BanningModel(local, ["six"], 2)) == ("5", "stop")

    tuned = loaded_answerer(saying("5<|user|>", [USER]), tiny.tokenizer())
    tuned.model.disable_adapter = torch.no_grad
    [[(_, found)]] = list(base_of(tuned).answer([CompletionRequest("q", "2 + 3?")]))
    assert (found.text, found.finish_reason) == ("5", "stop")


def test_a_ledger_is_not_shared_between_models_that_end_elsewhere():
    encoder = ConditionEncoder(tiny.tokenizer())
    one, other = (
        LocalModel(saying("5", ends), encoder, max_new_tokens=4, batch_size=1).identity for ends in (END, [END, USER])
    )
    assert one != other


def test_the_trained_end_joins_the_ends_that_a_model_names():
    for named, wanted in [(None, END), (USER, [USER, END]), ([USER, END], [USER, END]), (END, END)]:
        net = tiny.model()
        net.generation_config.eos_token_id, net.config.eos_token_id = named, None
        name_trained_end(net, tiny.tokenizer())
        assert net.generation_config.eos_token_id == wanted
        assert END in answer_ends(net, ConditionEncoder(tiny.tokenizer()))


def test_a_model_whose_every_weight_was_trained_names_the_trained_end(tmp_path):
    net, tokenizer = tiny.model(), tiny.tokenizer()
    net.generation_config.eos_token_id = net.config.eos_token_id = USER
    net.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    row = {"id": "a", "prompt": "5 + 7?", "completion": "12", "label": True, "answer": "12"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    usual = ["--model_name_or_path", str(tmp_path / "base"), "--dtype", "float32", "--report_to", "none"]
    for command in ("train", "sft"):
        run = tmp_path / command
        words = [*usual, "--use_peft", "false", "--max_steps", "1", "--output_dir", str(run)]
        assert main([command, str(tmp_path / "x.jsonl"), *words]) == 0
        ends = json.loads((run / "adapter" / "generation_config.json").read_text())["eos_token_id"]
        assert {USER, END} <= set(ends)
        assert (run / "adapter" / "chat_template.jinja").read_text() == tiny.CHAT_TEMPLATE
