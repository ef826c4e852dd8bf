"""What recording live tokens costs: paired runs with `watch_batches` on and off, alternating, step by step.

    python benchmarks/logging_cost.py MODEL [--pairs 6] [--steps 10] [--batch 2]

The worst case is measured: every example is watched, so each row of each batch is recorded in each step. Both runs of
a pair see the same batches in the same order, so step i is compared with step i; a pair's first step is left out, and
which of the two goes first changes from pair to pair. What scoring the watched examples by themselves costs
(`watch_every`) is told by `nlft train`, and is no part of this.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from nlft.data.problems import generate_problems
from nlft.data.records import Example
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.runs.run_dir import RunDir
from nlft.training.trainer import NLFTConfig, NLFTTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each run")
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args()
    settings = ModelSettings(model_name_or_path=args.model)
    data = examples(args.batch * (args.steps + 1))
    print(f"{args.model}, {settings.dtype}, batches of {args.batch}, {torch.get_num_threads()} threads")
    pairs = []
    for number in range(args.pairs):
        order = (True, False) if number % 2 else (False, True)
        seconds = {on: step_seconds(settings, data, args, on) for on in order}
        steps = [one / other for one, other in zip(seconds[True], seconds[False], strict=True)]
        whole = sum(seconds[True]) / sum(seconds[False])
        pairs.append((whole, steps))
        print(
            f"pair {number + 1}: {statistics.median(seconds[False]):.3f} s a step without, "
            f"{statistics.median(seconds[True]):.3f} with; ratio of the runs {whole:.4f}, "
            f"median of the steps' ratios {statistics.median(steps):.4f}",
            flush=True,
        )
    wholes, all_steps = sorted(whole for whole, _ in pairs), sorted(r for _, steps in pairs for r in steps)
    quarter = len(all_steps) // 4
    print(
        json.dumps(
            {
                "pairs": args.pairs,
                "steps": args.steps,
                "median_ratio_of_runs": round(statistics.median(wholes), 4),
                "range_of_runs": [round(wholes[0], 4), round(wholes[-1], 4)],
                "median_ratio_of_steps": round(statistics.median(all_steps), 4),
                "middle_half_of_steps": [round(all_steps[quarter], 4), round(all_steps[-1 - quarter], 4)],
            }
        )
    )


def examples(count: int) -> list[Example]:
    """Generated problems; every other one is answered wrongly, by one, and judged."""
    made = []
    for index, question in enumerate(generate_problems(count, seed=11)):
        wrong = index % 2 == 1
        said = re.sub(r"(\d+)$", lambda m: str(int(m[1]) + 1), question.answer) if wrong else question.answer
        made.append(
            Example(
                id=question.id,
                prompt=question.prompt,
                completion=said,
                label=not wrong,
                answer=question.answer,
                judgment=f'"{said.splitlines()[-1]}" is miscalculated.' if wrong else None,
            )
        )
    return made


class Clock(TrainerCallback):
    """When each step was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_, **__) -> None:
        self.times.append(time.perf_counter())


def step_seconds(settings: ModelSettings, data: list[Example], args: argparse.Namespace, on: bool) -> list[float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        options = NLFTConfig(
            output_dir=folder,
            per_device_train_batch_size=args.batch,
            max_steps=args.steps + 1,
            activation_checkpointing=False,
            save_strategy="no",
            disable_tqdm=True,
            watch=len(data),
            watch_every=0,
            watch_batches=on,
        )
        trainer = NLFTTrainer(
            load_model(settings, trainable=True), options, data, processing_class=load_tokenizer(settings),
            callbacks=[clock],
        )  # fmt: skip
        # The watched examples are scored at the start and at the end; that is not what is measured here.
        trainer._watch._score = lambda *_, **__: True
        trainer.train()
        recorded = [RunDir(Path(folder)).snapshot(step) for step in RunDir(Path(folder)).snapshot_steps()]
        rows = sum(scores is not None for snapshot in recorded for scores in snapshot.scores)
        assert rows == (args.batch * (args.steps + 1) if on else 0), rows
    return [later - earlier for earlier, later in zip(clock.times, clock.times[1:], strict=False)]


if __name__ == "__main__":
    main()
