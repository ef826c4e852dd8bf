"""What training with feedback costs beside plain fine-tuning: time and memory of each way, paired in one run.

    python benchmarks/bench.py run --model MODEL --out docs/bench-NAME.json     measure, and print the table
    python benchmarks/bench.py write                                            write the tables of docs/BENCHMARKS.md

Each arm trains the same rows with its own trainer, in a process of its own, from which its peak memory is read. The
arms take turns: one pass over the rows each, then again. So what slows the machine down slows all of them. A ratio is
that of two arms' passes in the same round; the tables show the median and the quartiles over the rounds.

`make bench` measures the built-in model of `nlft demo`. `--model` takes another one, and `--vocabulary` gives a small
model a large random vocabulary. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from textwrap import fill
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from bench_arms import Arm, Options

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "BENCHMARKS.md"
# Dense bfloat16 operations a second of a card, by a part of its name, in 10^12: the makers' figures without sparsity.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "4090": 165, "3090": 71}
HELP = {
    "vocabulary": "rows of a random embedding and head in place of the model's own rows beyond its tokens; 0: its own",
    "dtype": "data type of the base model; by default, the one that the commands choose",
    "prompt": "tokens of a prompt, about, without the chat template",
    "completion": "tokens of a completion, about",
    "shown": "tokens of the answer that the standard prompt shows, about",
    "judgment": "tokens of a judgment, about",
    "spread": "rows are shorter and longer than that by up to this share",
    "batch": "examples in a step",
    "batches": "steps in a pass",
    "rounds": "timed passes of each arm",
    "warm_up": "passes before those",
    "answer_weight": "weight of the added NLL of the answer, for the arms of nlft",
    "checkpointing": "compute activations again in backward",
    "weights": "what is trained",
    "cpu": "use the CPU, also where there is a GPU",
}


@dataclass
class Worker:
    """An arm's process, and the passes that it has done."""

    arm: "Arm"
    process: Any
    connection: Any
    passes: list[dict[str, Any]]
    loaded: dict[str, int] | None = None
    skipped: str | None = None

    def receive(self) -> dict[str, Any]:
        """Return the next message. Remember why an arm cannot train."""
        try:
            message: dict[str, Any] = self.connection.recv()
        except EOFError:
            self.process.join()
            message = {"skipped": f"its process ended with code {self.process.exitcode}"}
        self.skipped = message.get("skipped", self.skipped)
        return message


def measure(options: "Options", arms: Sequence["Arm"], reference: "Arm", together: int) -> list[dict[str, Any]]:
    """Measure the arms in groups. Each group has the reference.

    Args:
        together: arms whose models are in memory at the same time.

    Returns:
        Each arm's times, memory and tokens, and their ratios to the reference; or why it was skipped.
    """
    others, size = [arm for arm in arms if arm.name != reference.name], max(1, together - 1)
    groups = [others[start : start + size] for start in range(0, len(others), size)] or [[]]
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        with workers([reference, *group], options) as running:
            take_turns(running, options)
            results = {one.arm.name: result(one, options) for one in running}
        base = results[reference.name]
        if "skipped" in base:
            raise SystemExit(f"the reference {reference.name} cannot train: {base['skipped']}")
        for name, one in results.items():
            found.setdefault(name, one if "skipped" in one else {**one, **ratios(one, base)})
    return [found[arm.name] for arm in [reference, *others]]


@contextmanager
def workers(arms: Sequence["Arm"], options: "Options") -> Iterator[list[Worker]]:
    """Start a process for each arm, and end it afterwards. Wait until each has loaded its model."""
    from bench_arms import start

    # The server imports the libraries once. Its children share no model, and each has its own peak of memory.
    context = get_context("forkserver")
    context.set_forkserver_preload(["bench_worker"])
    # The server finds the module by this variable alone. If it does not, it says nothing, and each child imports all.
    known = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with patch.dict(os.environ, known), ExitStack() as stack:
        running = []
        for arm in arms:
            ours, theirs = context.Pipe()
            process = context.Process(target=start, args=(theirs, arm, options), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(process.terminate)
            running.append(Worker(arm, process, ours, []))
        for one in running:
            one.loaded = one.receive().get("loaded")
            print(f"{one.arm.name}: {one.skipped or 'ready'}", file=sys.stderr)
        yield running


def take_turns(running: Sequence[Worker], options: "Options") -> None:
    """Let each arm train one pass, then again, until all rounds are done."""
    for round_ in range(options.warm_up + options.rounds):
        for one in running:
            if one.skipped is None:
                one.connection.send("go")
                one.passes.append(one.receive())
        print(f"round {round_ + 1} of {options.warm_up + options.rounds}", file=sys.stderr)


def result(worker: Worker, options: "Options") -> dict[str, Any]:
    """Let the arm finish. Return what was measured of it."""
    arm = {"arm": worker.arm.name, "data": worker.arm.data, "settings": worker.arm.settings}
    if worker.skipped is None:
        worker.connection.send("finish")
        last = worker.receive()
    if worker.skipped is not None:
        return {**arm, "skipped": worker.skipped}
    timed = worker.passes[options.warm_up :]
    per_step = {name: [one[name] / options.batches for one in timed] for name in ("seconds", "cpu")}
    memory = {"loaded": worker.loaded, "peak": worker.passes[-1]["peak"]}
    return {**arm, **per_step, "memory": memory, **last}


def ratios(one: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return an arm's ratios to the reference: of time and CPU time with quartiles, of peak memory, of the floor."""
    where = "cuda" if "cuda" in base["memory"]["peak"] else "host"
    spread = {}
    for name in ("seconds", "cpu"):
        pairs = [ours / theirs for ours, theirs in zip(one[name], base[name], strict=True)]
        low, _, high = quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else pairs * 3
        spread[name] = {"median": median(pairs), "low": low, "high": high}
    peak, loaded = ([x["memory"][part][where] for x in (one, base)] for part in ("peak", "loaded"))
    return {
        "ratio": spread["seconds"],
        "cpu_ratio": spread["cpu"],
        "peak_ratio": peak[0] / peak[1],
        "above_loaded": [top - at for top, at in zip(peak, loaded, strict=True)],
        "floor": one["cost"] / base["cost"],
    }


def report(options: "Options", arms: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """Return everything that was measured, and on what."""
    import torch

    packages = ("nlft", "torch", "transformers", "peft", "trl")
    gpu = torch.cuda.is_available() and not options.cpu
    return {
        "command": command,
        "settings": {**asdict(options), "model": Path(options.model).name},
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "arms": arms,
    }


def section(found: dict[str, Any]) -> str:
    """One run: what was measured, and the table of its arms."""
    chosen, reference = found["settings"], found["arms"][0]
    # Seconds of a shared CPU say little; the ratios are of turns in one run.
    takes = "" if found["device"].startswith("CPU") else f"takes {median(reference['seconds']):.3g} s and "
    about = (
        f"{chosen['model']}{', vocabulary ' + format(chosen['vocabulary'], ',') if chosen['vocabulary'] else ''}: "
        f"batch {chosen['batch']}, prompts of about {chosen['prompt']} tokens, completions {chosen['completion']}, "
        f"answers {chosen['shown']}, judgments {chosen['judgment']}; activation checkpointing "
        f"{'on' if chosen['checkpointing'] else 'off'}, answer_weight {chosen['answer_weight']:g}, "
        f"{'LoRA' if chosen['weights'] == 'lora' else 'all weights'}. {found['device']}, {found['threads']} threads; "
        f"torch {found['versions']['torch']}, TRL {found['versions']['trl']}. A step of {reference['arm']} {takes}"
        f"has a peak memory of {mib(reference):,.0f} MiB. "
        f"A position at the head costs {reference['units']['head']:.2f} of a token in the decoder."
    )
    # No line of a page is over 120 characters, except in tables.
    typed = fill(found["command"], 114, break_long_words=False, break_on_hyphens=False).replace("\n", " \\\n  ")
    lines = [fill(about, 118, break_on_hyphens=False), "", "```sh", typed, "```", ""]
    rows = [one for one in found["arms"] if "skipped" not in one]
    lines += ["| arm | rows | step [quartiles] | floor | step ÷ floor | peak memory | tokens forward, backward |"]
    lines += ["|---|---|---|---|---|---|---|", *map(line, rows)]
    if not found["device"].startswith("CPU"):
        lines += ["", "| arm | milliseconds a step [quartiles] | tokens a second | MFU | peak memory, MiB |"]
        lines += ["|---|---|---|---|---|", *(absolute(one, found) for one in rows)]
    missing = [fill(f"- {one['arm']}: {one['skipped']}", 118) for one in found["arms"] if "skipped" in one]
    return "\n".join([*lines, *(["", "Not measured:", "", *missing] if missing else []), ""])


def mib(one: dict[str, Any]) -> float:
    """An arm's peak memory in MiB, on the GPU if there is one."""
    peak = one["memory"]["peak"]
    return float(peak.get("cuda", peak["host"])) / 2**20


def line(one: dict[str, Any]) -> str:
    """An arm's row of the table. Everything is relative to the reference, except its tokens."""
    ratio, tokens = one["ratio"], one["tokens"]
    step = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    counts = f"{tokens['trained'] + tokens['scored']:,}, {tokens['trained']:,}"
    cells = [one["arm"], one["data"], step, f"{one['floor']:.2f}", f"{ratio['median'] / one['floor']:.2f}"]
    cells += [f"{one['peak_ratio']:.2f}", counts]
    return f"| {' | '.join(cells)} |"


def absolute(one: dict[str, Any], found: dict[str, Any]) -> str:
    """An arm's row of the second table, which a GPU has: its own figures, relative to nothing.

    Tokens a second are the trained ones. MFU, the model FLOP utilisation, is the floor's operations over those that the
    card could do in that time; attention is left out of it.
    """
    low, middle, high = (
        quantiles(one["seconds"], n=4, method="inclusive") if len(one["seconds"]) > 1 else one["seconds"] * 3
    )
    batches = found["settings"]["batches"]
    peak = next((tera for name, tera in PEAKS.items() if name in found["device"]), None)
    done = one["cost"] * one["units"]["operations"] / batches / middle / 1e12
    utilisation = "unknown card" if peak is None else f"{done / peak:.1%}"
    step = f"{1000 * middle:.1f} [{1000 * low:.1f}, {1000 * high:.1f}]"
    cells = [one["arm"], step, f"{one['tokens']['trained'] / batches / middle:,.0f}", utilisation, f"{mib(one):,.0f}"]
    return f"| {' | '.join(cells)} |"


def page(text: str) -> str:
    """The page with the table of every run between its markers."""
    parts = text.split("<!-- generated: ")
    made = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition(" -->\n")
        kept = DOCS / f"{name}.json"
        table = section(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else "Not measured yet.\n"
        made.append(f"{name} -->\n{table}<!-- end -->{rest.partition('<!-- end -->')[2]}")
    return "<!-- generated: ".join(made)


def run(given: argparse.Namespace) -> None:
    """Measure, and write the JSON."""
    from bench_arms import REFERENCE, Options, all_arms

    model = given.model or built_in_model()
    options = Options(**{**{f.name: getattr(given, f.name) for f in fields(Options)}, "model": model})
    known = all_arms()
    wanted = [arm for arm in known if not given.arms or re.search(given.arms, arm.name) or arm is REFERENCE]
    found = report(options, measure(options, wanted, REFERENCE, given.together), command(model))
    print(section(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def built_in_model() -> str:
    """The folder of `nlft demo`'s model, which is fetched if it is not there."""
    from nlft.experiments.demo import bring_model, model_cache

    return str(bring_model(model_cache()))


def command(model: str) -> str:
    """The command as typed, with the model's name in place of its folder."""
    words = [Path(model).name if word == model else word for word in sys.argv[1:]]
    return shlex.join(["python", "benchmarks/bench.py", *words])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = made.add_subparsers(dest="what", required=True)
    what.add_parser("write", help="write the tables of docs/BENCHMARKS.md from docs/bench-NAME.json")
    runs = what.add_parser("run", help="measure", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    runs.add_argument("--model", help="folder or name of the model; by default, that of `nlft demo`")
    runs.add_argument("--out", type=Path, help="JSON file to write")
    runs.add_argument("--arms", help="regular expression: measure the arms whose names contain a match")
    runs.add_argument("--together", type=int, default=6, help="arms whose models are in memory at the same time")
    from bench_arms import Options

    for one in fields(Options)[1:]:
        kind: dict[str, Any] = {"type": type(one.default) if one.default is not None else str}
        kind = {"action": "store_true"} if one.default is False else kind
        kind |= {"choices": ["lora", "all"]} if one.name == "weights" else {}
        runs.add_argument(f"--{one.name}", default=one.default, help=HELP[one.name], **kind)
    return made


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    given = parser().parse_args()
    if given.what == "run":
        run(given)
    else:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
