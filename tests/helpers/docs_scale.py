"""The tables of docs/SCALE.md: what `nlft plan` computes for models of 8 and 70 billion weights.

python tests/helpers/docs_scale.py --write
"""

import sys
from pathlib import Path
from types import SimpleNamespace

from nlft.planning.cards import CARDS, fit
from nlft.planning.memory import Rows, Step, memory_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "SCALE.md"
MARKS = ("<!-- plan begins -->\n", "<!-- plan ends -->\n")
GIB = 2**30
# Rows of two wrong examples under `nlft`: base with gradient, standard and judge without.
STEP = Step(trained=Rows(2, 1024, 1364), conditions=Rows(4, 1024, 2728))
PARTS = (
    "weights",
    "adapter",
    "gradients",
    "optimizer",
    "gathered",
    "activations",
    "working",
    "head",
    "beginnings",
    "conditions",
)


def llama(hidden, inner, layers, keys, vocabulary=128_256, *, rank=16):
    """The sizes of a Llama 3 with the paper's adapter; without an adapter if the rank is 0."""
    linear = hidden * (2 * hidden + 2 * keys + 3 * inner)
    head, norms = vocabulary * hidden, 2 * hidden
    everything = layers * (linear + norms) + 2 * head + hidden
    return SimpleNamespace(
        all_weights=everything, linear=layers * linear, head=head, layer=linear + norms,
        trained=layers * 3 * rank * (hidden + inner) if rank else everything, tensors=6 * layers, width=2,
        trained_width=4 if rank else 2, has_adapter=bool(rank), vocabulary=vocabulary, hidden=hidden, layers=layers,
        attention=hidden, keys=keys, shares=True, norms=norms, inner=inner, gated=True, cast=2 * hidden + inner,
        shared=hidden + inner if rank else 3 * hidden + inner, rank=3 * rank, trained_small=0, trained_edges=0,
        matrices=0, dropout=False, dora=0, dora_outputs=0, dora_weights=0, bits=None,
    )  # fmt: skip


def models(rank=16):
    return {
        "8B": llama(4096, 14336, 32, 1024, rank=rank),
        "70B": llama(8192, 28672, 80, 1024, rank=rank),
    }


def ways(name):
    """Each way to train, with its step."""
    four = Step(STEP.trained, STEP.conditions, bits=4)
    eight = {"8B": 2, "70B": 8}[name]
    sharded = Step(STEP.trained, STEP.conditions, processes=eight)
    return {"16 bits": STEP, "4 bits": four, f"FSDP2, {eight} cards": sharded}


def tables():
    lines = ["| part, GiB on each card |", "|---|"]
    columns = [(name, way, memory_of(model, step)) for name, model in models().items()
               for way, step in ways(name).items()]  # fmt: skip
    lines[0] += "".join(f" {name}, {way} |" for name, way, _ in columns)
    lines[1] += "---|" * len(columns)
    for part in (*PARTS, "peak"):
        sizes = "".join(f" {getattr(memory, part) / GIB:.2f} |" for _, _, memory in columns)
        lines.append(f"| {part} |{sizes}")
    lines += ["", "| card | 8B: what fits | largest batch | 70B: what fits | largest batch |", "|---|---|---|---|---|"]
    for card in CARDS:
        found = [fit(model, STEP, 2, card, lambda _: 0.0, None) for model in models().values()]
        cells = "".join(f" {one.setup or 'nothing'} | {one.batch or ''} |" for one in found)
        lines.append(f"| {card.name} |{cells}")
    return "\n".join(lines) + "\n"


def page_with_tables():
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}{tables()}{MARKS[1]}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page_with_tables(), encoding="utf-8")
    else:
        print(tables())
