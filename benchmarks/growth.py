"""How costs grow: a step against completion, prompt, vocabulary and batch; and a file's work against its examples.

    python benchmarks/growth.py measure [--model FOLDER] [--only step.completion,data.audit] [--most 100000]
    python benchmarks/growth.py write

`measure` adds to docs/growth.json, `write` draws docs/growth.svg and writes the table of docs/BENCHMARKS.md. Each point
has a process of its own: the least CPU seconds of three steps, or of one pass over a file; and the growth of its peak
memory. The slope is that of the points on two logarithmic axes: 1 is linear. Its last half tells more than its first,
where constant costs weigh. Times are shown relative to the smallest size, since those of a CPU tell nothing by
themselves. Steps are of a random model of 2 layers with one thread; `data.tokenise` uses the tokenizer of --model.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS, CHART = ROOT / "docs" / "growth.json", ROOT / "docs" / "growth.svg"
PAGE, BEGIN, END = ROOT / "docs" / "BENCHMARKS.md", "<!-- growth begins -->\n", "<!-- growth ends -->"
GIB, MIB = 2**30, 2**20
STEP = {"completion": 256, "prompt": 64, "vocabulary": 49_152, "batch": 2}
POINTS = {
    "step.completion": [64, 128, 256, 512, 1024, 2048],
    "step.prompt": [64, 128, 256, 512, 1024, 2048],
    "step.vocabulary": [32_768, 65_536, 131_072, 262_144],
    "step.batch": [1, 2, 4, 8, 16],
    "data.read": [50, 500, 5_000, 50_000, 100_000],
    "data.audit": [50, 500, 5_000, 50_000, 100_000],
    "data.near_duplicates": [50, 500, 5_000, 50_000, 100_000],
    "data.tokenise": [50, 500, 5_000, 50_000, 100_000],
    "data.map": [50, 500, 5_000, 50_000],
}
REPEATS = 3


def step_seconds(sizes: dict[str, int], scheme_name: str) -> float:
    """Return the least CPU seconds of a step: conditions, forward, backward."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from nlft.core.batches import BatchBuilder
    from nlft.core.beginnings import shares_beginnings
    from nlft.core.condition_scores import score_batch
    from nlft.core.conditions import EncodedExample
    from nlft.core.logprobs import enable_scoring
    from nlft.core.schemes.registry import get_scheme
    from nlft.models.loading import default_lora, wrap

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4}
    room = sizes["prompt"] + sizes["completion"] + 64
    config = LlamaConfig(vocab_size=sizes["vocabulary"], max_position_embeddings=room, **shape)
    net = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = wrap(net, default_lora(net))
    enable_scoring(model)
    scheme = get_scheme(scheme_name)
    saliency = scheme.settings()

    def ids(count: int) -> list[int]:
        return torch.randint(10, 1000, (count,)).tolist()

    prompt, completion = sizes["prompt"], sizes["completion"]
    asked = [ids(prompt) for _ in range(sizes["batch"])]  # the conditions' prompts begin alike
    examples = [
        EncodedExample(at, at % 2 == 1, base, [*base[:-4], *ids(20)], [*base[:-4], *ids(28)], ids(completion), None)
        for at, base in enumerate(asked)
    ]
    builder = BatchBuilder(0, needs=scheme.needs(saliency), share=shares_beginnings(model))
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        scored = score_batch(model, builder.batch(builder(examples)), builder.needs)
        scheme.losses(scheme.weigh(scored.conditions, saliency), scored, saliency).total.sum().backward()
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def examples_of(count: int):
    """Make right and wrong replies of 60 words to prompts of 30, as frequent as in a language. Half hold a number.

    A wrong one has a judgment that quotes two words. One in fifty nearly repeats the one before it.
    """
    from nlft.data.records import Example

    rng = random.Random(5)
    vocabulary = ["".join(rng.choices("abcdefghiklmnoprstuvw", k=rng.randint(3, 9))) for _ in range(20_000)]
    weights = list(accumulate(1 / rank for rank in range(2, len(vocabulary) + 2)))

    def words(n: int) -> str:
        return " ".join(rng.choices(vocabulary, cum_weights=weights, k=n))

    made = []
    for at in range(count):
        right, reply = at % 2 == 0, words(60)
        quoted = " ".join(reply.split()[10:12])
        judgment = None if right else f'"{quoted}" is not what a customer wants to read here. {words(6)}.'
        prompt = f"Please: {made[-1].prompt}" if at % 50 == 49 else words(30)
        prompt += f" {at}" if at % 4 < 2 else ""
        made.append(Example(f"e{at}", prompt, reply, right, answer=words(20), judgment=judgment))
    return made


def data_seconds(what: str, count: int, model: str | None) -> tuple[float, int]:
    """Return the CPU seconds of one pass over a file of `count` examples, and the growth of the peak in bytes."""
    from nlft.data.records import read_examples, write_examples

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "examples.jsonl"
        write_examples(file, examples_of(count))
        work = {"read": lambda: read_examples(file)}.get(what)
        if work is None:
            given = read_examples(file)
            work = prepared(what, given, model, Path(folder))
        Path("/proc/self/clear_refs").write_text("5")
        before, started = memory("VmRSS"), time.process_time()
        work()
        return time.process_time() - started, memory("VmHWM") - before


def prepared(what: str, examples, model: str | None, folder: Path):
    """Import what a pass needs, and return the pass."""
    if what == "near_duplicates":
        from nlft.auditing.copies import copies

        return lambda: copies(examples, 0.7)
    if what == "audit":
        from nlft.auditing.run import audit

        return lambda: audit(examples).lines()
    if what == "tokenise":
        from nlft.core.conditions import ConditionEncoder
        from nlft.data.encoding import encode_examples
        from nlft.models.loading import ModelSettings, load_tokenizer

        encoder = ConditionEncoder(load_tokenizer(ModelSettings(model_name_or_path=model)))
        return lambda: encode_examples(examples, encoder)
    from nlft.training.watching import choose_watched

    return lambda: choose_watched(examples, 8, [])


def memory(name: str) -> int:
    """Return a value of /proc/self/status in bytes. Linux only."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1]) * 1024


def slope(points: dict[str, float]) -> tuple[float, float]:
    """Return the slopes of log cost over log size: of all points by least squares, and of the last two."""
    logs = [(math.log(float(x)), math.log(y)) for x, y in points.items() if y > 0]
    if len(logs) < 2:
        return math.nan, math.nan
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    over = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    (x1, y1), (x2, y2) = logs[-2:]
    return over / sum((x - mean_x) ** 2 for x, _ in logs), (y2 - y1) / (x2 - x1)


def measure(args: argparse.Namespace) -> None:
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in args.only.split(",") if args.only else POINTS:
        for size in [one for one in POINTS[name] if one <= args.most]:
            flags = ["point", name, str(size), "--scheme", args.scheme]
            flags += ["--model", args.model] if args.model else []
            done = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, check=True)
            point = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(name, {})[str(size)] = point
            print(f"{name} {size:,}: {point['seconds']:.3g} s, {point['bytes'] / MIB:,.0f} MiB", flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def point(args: argparse.Namespace) -> None:
    kind, _, what = args.name.partition(".")
    if kind == "step":
        seconds, grown = step_seconds({**STEP, what: args.size}, args.scheme), memory("VmHWM")
    else:
        seconds, grown = data_seconds(what, args.size, args.model)
    print(json.dumps({"seconds": seconds, "bytes": grown}))


PANEL, HIGH, EDGE, COLUMNS = 250, 190, 34, 3


def write() -> None:
    """Draw one panel for each measurement, cost over size, both logarithmic, and write the table."""
    found = {name: points for name, points in json.loads(RESULTS.read_text()).items() if len(points) > 1}
    rows = -(-len(found) // COLUMNS)
    width, height = COLUMNS * PANEL, rows * HIGH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="10" role="img"><title>Cost against size, on logarithmic axes</title>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    lines = ["| cost | sizes | slope | slope of the last two | memory at the largest |", "|---|---|---|---|---|"]
    for at, (name, points) in enumerate(found.items()):
        seconds = {size: one["seconds"] for size, one in points.items()}
        whole, last = slope(seconds)
        x, y = at % COLUMNS * PANEL, at // COLUMNS * HIGH
        parts.append(f'<g transform="translate({x} {y})">{panel(name, seconds, whole)}</g>')
        sizes, grown = list(points), list(points.values())[-1]["bytes"]
        largest = f"{grown / GIB:.2f} GiB"
        lines.append(f"| `{name}` | {int(sizes[0]):,} to {int(sizes[-1]):,} | {whole:.2f} | {last:.2f} | {largest} |")
    CHART.write_text("".join(parts) + "</svg>\n", encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    page = before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]
    PAGE.write_text(page, encoding="utf-8")
    print("\n".join(lines))


def panel(name: str, seconds: dict[str, float], whole: float) -> str:
    """Return one panel's SVG. Its dashed line has slope 1 and goes through the last point."""
    places = [(math.log10(float(size)), math.log10(max(one, 1e-6))) for size, one in seconds.items()]
    low_x, high_x = places[0][0], places[-1][0]
    low_y, high_y = min(y for _, y in places), max(y for _, y in places)
    high_y = max(high_y, low_y + 0.5)

    def at(x: float, y: float) -> str:
        across = EDGE + (x - low_x) / (high_x - low_x) * (PANEL - EDGE - 14)
        down = HIGH - 30 - (y - low_y) / (high_y - low_y) * (HIGH - 64)
        return f"{across:.1f},{down:.1f}"

    # A linear cost, through the last point, from where it is inside the panel.
    begin = max(low_x, places[-1][0] - (places[-1][1] - low_y))
    linear = f"{at(begin, places[-1][1] - (places[-1][0] - begin))} {at(*places[-1])}"
    dots = "".join('<circle cx="{}" cy="{}" r="3" fill="#0072b2"/>'.format(*at(*one).split(",")) for one in places)
    (first, _), (most, _) = ends = list(seconds.items())[:: len(seconds) - 1]
    times = ends[1][1] / max(ends[0][1], 1e-9)
    return (
        f'<text x="{EDGE}" y="16" font-weight="bold">{name}</text><text x="{EDGE}" y="29">slope {whole:.2f}</text>'
        f'<polyline points="{linear}" fill="none" stroke="#999" stroke-dasharray="4 3"/>'
        f'<polyline points="{" ".join(at(*one) for one in places)}" fill="none" stroke="#0072b2"/>{dots}'
        f'<text x="{EDGE}" y="{HIGH - 8}">{int(first):,}: 1</text>'
        f'<text x="{PANEL - 14}" y="{HIGH - 8}" text-anchor="end">{int(most):,}: {times:,.3g} times</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("measure", "point", "write"):
        command = commands.add_parser(name)
        command.add_argument("--model", help="folder of a tokenizer, for data.tokenise")
        command.add_argument("--scheme", default="nlft")
        if name == "measure":
            command.add_argument("--only", help=f"of {', '.join(POINTS)}")
            command.add_argument("--most", type=int, default=10**9, help="largest size")
        if name == "point":
            command.add_argument("name")
            command.add_argument("size", type=int)
    args = parser.parse_args()
    {"measure": lambda: measure(args), "point": lambda: point(args), "write": write}[args.command]()


if __name__ == "__main__":
    main()
