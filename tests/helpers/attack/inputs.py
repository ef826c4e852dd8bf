"""Rows 21 and 27 to 29: settings, models, data and texts that are not what they should be, and secrets."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from helpers import tiny
from helpers.attack import Place, nlft, refused, row
from helpers.attack.processes import train
from helpers.degenerate import WORST
from helpers.fault_proxy import AnsweringServer
from helpers.fuzz_targets import TARGETS
from helpers.fuzzing import SLOWEST, fuzz
from helpers.limits import cpu_limit
from helpers.readers import READERS, text_of
from helpers.training import examples
from nlft.data.records import write_examples
from nlft.runs.run_dir import RunDir

SETTINGS: list[tuple[str, object]] = [
    *(("learning_rate", value) for value in ("inf", "nan", "-1", "1e30", "1e400")),
    *(("answer_weight", value) for value in ("inf", "nan", "-1", "9" * 400)),
    *(("num_train_epochs", value) for value in ("inf", "nan", "-1", "1e300")),
    *(("seed", value) for value in ("-1", "1e9", "9" * 40)),
    *(("lora_r", value) for value in ("0", "-3", "x")),
    *(("lora_dropout", value) for value in ("2", "nan")),
    *(("per_device_train_batch_size", value) for value in ("0", "-1")),
    *(("gradient_accumulation_steps", value) for value in ("0", "1.5")),
    *(("max_length", value) for value in ("0", "3")),
    *(("optim", value) for value in ("nosuch", "adamw_bnb_8bit")),
    *(("dtype", value) for value in ("nosuch", "int8")),
    ("lora_target_modules", "nosuch"),
    ("lr_scheduler_type", "nosuch"),
    ("lr_scheduler_kwargs", '{"nosuch": 1}'),
    ("load_in_4bit", "true"),
    ("attn_implementation", "flash_attention_2"),
    ("deepspeed", "nosuch.json"),
    ("accelerator_config", "nosuch.json"),
    ("fsdp", "full_shard"),
    ("fp16", "true"),
    ("warmup_steps", "-1"),
    ("save_steps", "0"),
    ("logging_steps", "0"),
    ("max_grad_norm", "nan"),
    ("weight_decay", "inf"),
    ("label_smoothing_factor", "0.1"),
    ("neftune_noise_alpha", "5"),
    ("resume_from_checkpoint", "no/such/place"),
    ("scheme", "nosuch"),
    ("saliency.gate_fraction", "9"),
    ("saliency.nosuch", "1"),
    ("watch", "-1"),
    ("guard", "loss=shout"),
    ("eval_file", "nosuch.jsonl"),
    ("eval_strategy", "steps"),
    ("adapter", "nosuch"),
    ("model_name_or_path", "no/such/model"),
    ("push_to_hub", "true"),
    ("torch_compile_backend", "nosuch"),
    ("nosuch", "1"),
    ("condition_logprobs", "nosuch"),
    ("loss_normalization", "nosuch"),
    ("train_sampling_strategy", "nosuch"),
    ("max_steps", "1e300"),
]
MAY_TRAIN = {"save_steps", "fsdp", "fp16", "max_grad_norm", "seed", "optim", "logging_steps", "lora_dropout"}
MAY_TRAIN |= {"neftune_noise_alpha"}  # its noise is for the loss alone
"""Settings that may be taken, if the adapter is finite then."""


def configured(folder: Path, file: str = "config.json", **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def reweighted(path: Path, value: float) -> None:
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, path, metadata={"format": "pt"})


def more_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["40"])
    tokenizer.save_pretrained(folder)


MODELS: dict[str, Callable[[Path], object]] = {
    "no weights": lambda at: (at / "model.safetensors").unlink(),
    "cut weights": lambda at: cut(at / "model.safetensors", 5000),
    "empty weights": lambda at: cut(at / "model.safetensors", 0),
    "NaN": lambda at: reweighted(at / "model.safetensors", float("nan")),
    "infinity": lambda at: reweighted(at / "model.safetensors", float("inf")),
    "another size": lambda at: configured(at, hidden_size=64),
    "fewer layers": lambda at: configured(at, num_hidden_layers=1),
    "more layers": lambda at: configured(at, num_hidden_layers=5),
    "no config": lambda at: (at / "config.json").unlink(),
    "a config that is no JSON": lambda at: (at / "config.json").write_text("{"),
    "an unknown family": lambda at: configured(at, model_type="nosuch"),
    "no tokenizer": lambda at: [path.unlink() for path in at.glob("tokenizer*")],
    "a cut tokenizer": lambda at: cut(at / "tokenizer.json", 900),
    "tokens without rows": more_tokens,
    "a pointer": lambda at: (at / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
    "a template that fails": lambda at: (at / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
    "a template that is cut": lambda at: (at / "chat_template.jinja").write_text("{% for m in messages %}"),
    "a template without the reply": lambda at: (at / "chat_template.jinja").write_text("<s>{{ messages[0].content }}"),
}
GOOD = {"id": 1, "prompt": "5 + 7?", "completion": "It is 11.", "label": False, "judgment": '"11" is wrong.'}
GOOD |= {"answer": "#### 12"}
DATA: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n\n",
    "no JSON": b"hello\n",
    "a list": b"[1, 2]",
    "binary": bytes(range(256)),
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "no label": json.dumps({**GOOD, "label": None}).encode(),
    "a label in words": json.dumps({**GOOD, "label": "perhaps"}).encode(),
    "no prompt": json.dumps({**GOOD, "prompt": ""}).encode(),
    "a number as text": json.dumps({**GOOD, "completion": 5}).encode(),
    "twice the id": (json.dumps(GOOD) + "\n").encode() * 2,
    "spans outside": json.dumps({**GOOD, "spans": [{"start": 0, "end": 999}]}).encode(),
    "no judgment": json.dumps({**GOOD, "judgment": None}).encode(),
    "deep": b"[" * 30_000,
    "long digits": b'{"id": ' + b"9" * 6000 + b"}",
}


@row(21, "guards: settings, models, adapters, data, paths", "24 tracebacks, 2 hangs, 8 bad results of 84", slow=True)
def _(place: Place) -> str:
    tally = {"refused": 0, "trained": 0}
    write_examples(place.folder / "examples.jsonl", examples())

    faults: list[str] = []

    def attempt(name: str, words: list[object], *, may_train: bool = False) -> None:
        out = Path(str(words[words.index("--output_dir") + 1]))
        try:
            told = nlft(*words, seconds=60)
            if told.code == 0:
                assert may_train, told.text[-500:]
                weights = load_file(RunDir(out).adapter_path / "adapter_model.safetensors")
                assert all(bool(torch.isfinite(one).all()) for one in weights.values())
            else:
                refused(told)
                assert not os.path.exists(out / "adapter")  # Path.exists raises if a name is too long
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {str(error)[:700]}")
        else:
            tally["refused" if told.code else "trained"] += 1
        shutil.rmtree(out, ignore_errors=True)

    out = place.folder / "out"
    for name, value in SETTINGS:
        few = {} if name == "num_train_epochs" else {"max_steps": 3}
        words = train(place, out, **few | {name: value})
        attempt(f"--{name} {str(value)[:20]}", words, may_train=name in MAY_TRAIN)
    for name, spoil in MODELS.items():
        folder = Path(shutil.copytree(place.model, place.folder / name.replace(" ", "-")))
        spoil(folder)
        attempt(name, train(replace(place, model=str(folder)), out, max_steps=2))
    for name, content in DATA.items():
        file = place.folder / "data.jsonl"
        file.write_bytes(content)
        attempt(name, ["train", file, *train(place, out, max_steps=1)[2:]])
    refusals = tally["refused"]
    adapters(place, attempt)
    paths(place, attempt)
    assert not faults, "\n".join(faults)
    assert refusals >= 80
    return f"{tally['refused']} refused in a sentence, {tally['trained']} finite adapters; no traceback, no hang"


def adapters(place: Place, attempt: Callable[..., None]) -> None:
    """Adapters that are damaged or of another model."""
    assert nlft(*train(place, place.folder / "first", max_steps=1)).code == 0
    first, out = place.folder / "first" / "adapter", place.folder / "out"
    (first / "manifest.json").unlink(missing_ok=True)
    for name, spoil in {
        "adapter, cut": lambda at: cut(at / "adapter_model.safetensors", 300),
        "adapter, NaN": lambda at: reweighted(at / "adapter_model.safetensors", float("nan")),
        "adapter, no config": lambda at: (at / "adapter_config.json").unlink(),
        "adapter, other rank": lambda at: configured(at, "adapter_config.json", r=3),
    }.items():
        folder = Path(shutil.copytree(first, place.folder / name.replace(" ", "-")))
        spoil(folder)
        attempt(name, train(place, out, max_steps=1, adapter=folder))
    other = place.folder / "gpt2"
    tiny.model("gpt2").save_pretrained(other)
    tiny.tokenizer().save_pretrained(other)
    attempt("adapter of another family", train(replace(place, model=str(other)), out, max_steps=1, adapter=first))


def paths(place: Place, attempt: Callable[..., None]) -> None:
    """Odd places for output and input, of which some are fine."""
    (place.folder / "a file").write_text("mine")
    attempt("output is a file", train(place, place.folder / "a file", max_steps=1))
    (place.folder / "loop").symlink_to(place.folder / "loop")
    attempt("output is a loop", train(place, place.folder / "loop" / "r", max_steps=1))
    attempt("name too long", train(place, place.folder / ("x" * 300), max_steps=1))
    for odd in ("a b", "läufe 你好", "-x", "a'b\"c", "[1]*?"):
        attempt(odd, train(place, place.folder / odd, max_steps=1), may_train=True)
    assert (place.folder / "a file").read_text() == "mine"


@row(27, "fuzzing of readers, each with 30 inputs; 200,000 in tests/test_fuzz.py", "1,385 faults in 110,550")
def _(place: Place) -> str:
    inputs, slowest = 0, 0.0
    for target in TARGETS:
        folder = place.folder / f"{inputs}"
        folder.mkdir()
        target.read_once(folder)
        found = fuzz(target, 30 if target.share >= 0.3 else 5, folder, seed=71)
        assert not found.faults, (target.name, found.faults)
        inputs, slowest = inputs + found.inputs, max(slowest, found.slowest[0])
    assert slowest < SLOWEST
    return f"{inputs} inputs of {len(TARGETS)} readers: 0 faults, the slowest {slowest:.2f} s"


@row(28, "texts of loops, 1, 10 and 100 kB", "46 of 2,685 calls over 1 s", slow=True)
def _(place: Place) -> str:
    calls, worst = 0, (0.0, "")
    for name, read in READERS.items():
        for piece in WORST:
            for size in (1_000, 10_000, 100_000):
                start = time.process_time()
                with cpu_limit(3):
                    read(text_of(piece, size))
                took, calls = time.process_time() - start, calls + 1
                worst = max(worst, (took, f"{name}, {piece!r}, {size}"))
    assert worst[0] < 1.0, worst
    return f"{calls} calls, the slowest {worst[0]:.2f} s"


@row(29, "secrets: environment, echoes, errors, flags, URLs, YAML", "wandb kept a flag's token")
def _(place: Place) -> str:
    key, tries = "sk-canary-4f1d7e0b9a", []
    questions, config = place.folder / "q.jsonl", place.folder / "c.yaml"
    questions.write_text('{"id": 1, "prompt": "2 + 3?", "answer": "5"}\n')
    config.write_text(f"hub_token: {key}\n")

    def echo(body: dict, headers: dict) -> tuple[int, str]:
        return 401, f"Incorrect API key provided: {headers.get('authorization')}"

    def tried(name: str, *words: object, code: int | None = None) -> None:
        told = nlft(*words)
        assert key not in told.text, (name, told.text)
        assert code is None or told.code == code, (name, told.text)
        tries.append(name)

    def ask(url: str, out: str, *more: object) -> list[object]:
        words = ["sample", questions, "--model_name_or_path", "m", "--base_url", url, "--out", place.folder / out]
        return [*words, *more]

    with mock.patch.dict(os.environ, {"OPENAI_API_KEY": key, "HF_TOKEN": key, "WANDB_MODE": "offline"}):
        with AnsweringServer() as server:
            tried("environment", *ask(server.url, "1.jsonl"), code=0)
            assert server.headers[0]["authorization"] == f"Bearer {key}"
            tried("in the URL", *ask(server.url.replace("//", f"//user:{key}@"), "2.jsonl"))
            tried("in the URL's query", *ask(f"{server.url}?key={key}", "3.jsonl"))
            tried("as a name", *ask(server.url, "4.jsonl", "--api_key_env", key), code=2)
            tried("as a flag", *ask(server.url, "5.jsonl", "--api_key", key), code=2)
        with AnsweringServer(echo) as server:
            tried("echoed in an error", *ask(server.url, "6.jsonl"))
        out = place.folder / "run"
        tried("hub_token as a flag", *train(place, out, max_steps=1), "--hub_token", key, code=2)
        tried("hub_token in YAML", *train(place, out, max_steps=1), "--config", config, code=2)
        tried("a training", *train(place, out, max_steps=1), code=0)
    config.unlink()
    files = [path for path in place.folder.rglob("*") if path.is_file()]
    for path in files:
        assert key.encode() not in path.read_bytes(), path
    return f"{len(tries)} ways, {len(files)} files: the key is in no file and no message"
