"""Talk to the base, the base with the rule, and the trained model: in the terminal and on the page."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from helpers import tiny
from nlft import cli
from nlft.chat.next_round import BAD, NextRound
from nlft.chat.score import pairings
from nlft.chat.session import Session
from nlft.chat.settings import ChatSettings
from nlft.chat.sides import Ask, Sides
from nlft.chat.talk import Mark, Talk, choose
from nlft.chat.target import find_target
from nlft.chat.terminal import Terminal, quoted
from nlft.core.spans import Span
from nlft.data.records import Question, read_examples
from nlft.errors import NLFTError, UserError
from nlft.models.answerer import CompletionRequest, Generated
from nlft.models.local import LocalModel, base_of
from nlft.runs.run_dir import RunDir

pytest_plugins = ["helpers.browser"]

LETTERS = b"abcdefghijklmnopqrstuvwxyz "
RULE = "Never say so."
OPTIONS = {"rule": RULE, "max_new_tokens": 12}


def writing(family: str = "llama", **options: Any) -> Any:
    """A tiny model that writes small letters and spaces only, so that its words can be struck."""
    net = tiny.model(family, **options)
    ids = [tiny.tokenizer().convert_tokens_to_ids("Ġ" if letter == 32 else chr(letter)) for letter in LETTERS]
    others = torch.ones(net.config.vocab_size, dtype=torch.bool)
    others[ids] = False
    with torch.no_grad():
        net.get_output_embeddings().weight[others] = 0
    return net


def save_model(folder: Path, net: Any) -> Path:
    net.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def save_adapter(folder: Path, net: Any, **options: Any) -> Path:
    """An adapter with weights that change what the model says, as a training would leave it."""
    torch.manual_seed(3)
    whole = get_peft_model(net, LoraConfig(**{"r": 4, "target_modules": "all-linear", **options}))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), writing())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> RunDir:
    """A run as a training leaves it, with a system prompt."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "a")
    save_adapter(run.adapter_path, writing())
    run.write_settings(record(model))
    return run


def record(model: Path, **more: Any) -> dict[str, Any]:
    about = {"model_name_or_path": str(model), "model": {"model_name_or_path": str(model), "dtype": "float32"}}
    return {"method": "nlft", "scheme": "strike", **about, "training": {"system_prompt": "Be brief."}, **more}


@pytest.fixture
def run(trained: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the run, so that no test finds another one's files beside it."""
    shutil.copytree(trained.path, tmp_path / "runs" / "a")
    return RunDir(tmp_path / "runs" / "a")


@pytest.fixture(scope="module")
def sides(trained: RunDir) -> Sides:
    return Sides(find_target(str(trained.path), None), ChatSettings(**OPTIONS))


def session(run: RunDir, **options: Any) -> Session:
    return Session(str(run.path), ChatSettings(**{**OPTIONS, **options}))


def replies(one: Session, *prompts: str) -> list[dict[str, str]]:
    """What each side replies to each prompt, by side."""
    talk = one.talk()
    for prompt in prompts:
        turn = talk.ask(prompt)
        list(one.write(talk, turn.order))
    return [{side: reply.text for side, reply in turn.replies.items()} for turn in talk.turns]


# The base is the base


def sides_of(folder: Path, net: Any, **adapter: Any) -> Sides:
    model = save_model(folder / "model", net)
    place = save_adapter(folder / "adapter", type(net).from_pretrained(model), **adapter)
    return Sides(find_target(str(place), str(model)), ChatSettings(**OPTIONS))


def test_with_the_adapter_off_the_base_is_proven_by_weights_switches_and_every_log_probability(sides: Sides) -> None:
    proof = sides.proof
    assert (proof.holds, sides.leak, sides.shared) == (True, None, True)
    assert proof.tensors > 20
    assert proof.layers == 14, "seven linear layers in each of two"
    assert proof.tokens > 100
    assert proof.difference == 0
    assert proof.tuned > 0.1
    told = "\n".join(sides.lines())
    assert str(proof.tensors) in told
    assert str(proof.layers) in told
    assert str(proof.tokens) in told


def test_whole_layers_and_tokens_of_an_adapter_are_switched_off_too(tmp_path: Path) -> None:
    tokens = {"embed_tokens": [70, 71, 72]}
    parts = {"target_modules": ["up_proj"], "modules_to_save": ["lm_head"], "trainable_token_indices": tokens}
    sides = sides_of(tmp_path, writing(), **parts)
    assert sides.proof.layers == 4, "two linear layers, the head, the embedding"
    assert sides.proof.holds
    check_base(sides, tmp_path / "model")


def check_base(sides: Sides, model: Path) -> None:
    """The base side says what the base's own files say, token by token."""
    request = CompletionRequest("1#base", [{"role": "user", "content": "hello"}])
    net = AutoModelForCausalLM.from_pretrained(model)
    fresh = LocalModel(net, sides.encoder, max_new_tokens=12, batch_size=1)
    ((_, expected),) = next(iter(fresh.answer([request])))
    assert whole(sides, "base") == expected.text
    assert whole(sides, "tuned") != expected.text


def whole(sides: Sides, side: str) -> str:
    asks = {side: Ask([{"role": "user", "content": "hello"}], "1#base")}
    (answer,) = [piece for _, piece in sides.write(asks) if isinstance(piece, Generated)]
    return answer.text


def test_an_adapter_that_leaks_into_the_base_is_found_and_the_base_loaded_beside_it(tmp_path: Path) -> None:
    sides = sides_of(tmp_path, writing("gpt2"), target_modules=["c_fc"], fan_in_fan_out=True, bias="all")
    assert not sides.proof.holds
    assert any("bias" in name for name in sides.proof.changed)
    assert sides.proof.difference > 1e-4
    assert not sides.shared
    assert "weights of the base" in (sides.leak or "")
    check_base(sides, tmp_path / "model")


def test_an_adapter_with_an_embedding_of_its_own_on_a_tied_model_does_not_change_the_base(tmp_path: Path) -> None:
    net = writing()
    net.config.tie_word_embeddings = True
    net.tie_weights()
    sides = sides_of(tmp_path, net, target_modules=["up_proj"], modules_to_save=["embed_tokens"])
    print(sides.proof, sides.leak)
    check_base(sides, tmp_path / "model")


def test_a_layer_that_stays_on_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LoraLayer.enable_adapters
    monkeypatch.setattr(LoraLayer, "enable_adapters", lambda self, enabled: original(self, True))
    sides = sides_of(tmp_path, writing(), target_modules=["up_proj"])
    assert len(sides.proof.still_on) == 2
    assert sides.proof.difference > 0.01
    assert not sides.shared
    monkeypatch.undo()
    check_base(sides, tmp_path / "model")
