"""How long Python takes to import nlft, and the command to print its help or to come to its first step.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --model FOLDER --examples FILE

Prints the CPU seconds of a fresh process, the least of several starts each, and of `python -c pass`, which the others
contain. With a model it also starts `nlft train` and a plain script with TRL's SFTTrainer in turn, on the same
examples, and prints the CPU and the wall seconds that each takes until its first step.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

STARTS = {
    "python -c pass": ["-c", "pass"],
    "import nlft": ["-c", "import nlft"],
    "nlft --help": ["-m", "nlft.cli", "--help"],
    "nlft train --help": ["-m", "nlft.cli", "train", "--help"],
    "nlft compare --help": ["-m", "nlft.cli", "compare", "--help"],
}

# Both end the process in place of the first step.
FIRST_STEP = """
import os, sys, time
from {module} import {trainer}

def first(*_, **__):
    print("first step", flush=True)
    os._exit(0)

{trainer}.training_step = first
"""

NLFT = """
from nlft.cli import main
main(["train", sys.argv[1], "--model_name_or_path", sys.argv[2], "--output_dir", sys.argv[3]])
"""

TRL = """
import json
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig
rows = [json.loads(line) for line in open(sys.argv[1])]
rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
config = SFTConfig(output_dir=sys.argv[3], report_to=[], use_cpu=True, completion_only_loss=True)
SFTTrainer(sys.argv[2], config, train_dataset=Dataset.from_list(rows), peft_config=LoraConfig()).train()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--model", help="a model's folder")
    parser.add_argument("--examples", help="examples to train on, .jsonl")
    options = parser.parse_args()
    for name, arguments in STARTS.items():
        print(f"{name:20} {min(seconds(arguments)[0] for _ in range(options.times)):.2f} s")
    if options.model:
        first_steps(options.model, options.examples, options.times)


def first_steps(model: str, examples: str, times: int) -> None:
    """Print what the two trainings take until their first step, and their ratio in each pair of starts."""
    scripts = {
        "nlft train": FIRST_STEP.format(module="nlft.training.trainer", trainer="NLFTTrainer") + NLFT,
        "TRL's SFTTrainer": FIRST_STEP.format(module="trl", trainer="SFTTrainer") + TRL,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
    for _ in range(times):
        for name, script in scripts.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(seconds(["-c", script, examples, model, os.path.join(folder, "run")]))
    for name, taken in found.items():
        cpu, wall = (statistics.median(one) for one in zip(*taken, strict=True))
        print(f"{name:20} {cpu:.1f} s CPU, {wall:.1f} s wall until its first step")
    ratios = [ours[1] / theirs[1] for ours, theirs in zip(*found.values(), strict=True)]
    print(json.dumps({"wall, nlft : TRL": [round(one, 2) for one in sorted(ratios)]}))


def seconds(arguments: list[str]) -> tuple[float, float]:
    """CPU seconds, user and system, and wall seconds of one Python process and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=environment, text=True)
    if "training_step" in arguments[1]:
        assert "first step" in done.stdout, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


if __name__ == "__main__":
    main()
