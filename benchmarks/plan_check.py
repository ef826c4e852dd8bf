"""How far the memory of `nlft plan` is from the measured peak of a step: the ratio of the two, at several shapes.

    python benchmarks/plan_check.py MODEL [--shapes 2x128,2x512,8x128] [--dtype bfloat16] [--schemes nlft,strike]
        [--use_dora] [--attn_implementation eager] [--bf16]

Each step runs in a process of its own, on the CPU, with the paper's LoRA and AdamW: the conditions' pass, forward,
backward and the optimizer's step. A tiny step before it lets the libraries allocate what they keep. Measured is the
peak resident memory above that. Planned is the same: the plan's peak without the weights. Prints one line for each
step, and the mean and the spread of measured / planned. Linux with glibc only: the kernel's peak is reset, and freed
blocks from 64 KiB on are given back at once, so that the peak is that of the tensors and not of what malloc keeps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

MIB = 2**20
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def memory(name: str) -> int:
    """Return a value of /proc/self/status in bytes: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux.")


def measured_and_planned(args: argparse.Namespace) -> dict[str, float]:
    """Do one step. Return the growth of the peak over the loaded model, measured and planned, in bytes."""
    import torch

    from nlft.core.batches import BatchBuilder
    from nlft.core.beginnings import shares_beginnings
    from nlft.core.logprobs import enable_scoring
    from nlft.core.schemes.registry import get_scheme
    from nlft.models.loading import ModelSettings, load_model, lora_config, wrap
    from nlft.models.sizes import measured
    from nlft.planning.memory import memory_of

    count, length = map(int, args.shape.split("x"))
    settings = ModelSettings(
        model_name_or_path=args.model,
        dtype=args.dtype,
        use_dora=args.use_dora,
        attn_implementation=args.attn_implementation,
    )
    net = load_model(settings, trainable=True)
    model = wrap(net, lora_config(settings, net))
    enable_scoring(model)
    if args.checkpointing:
        net.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    scheme = get_scheme(args.scheme)
    saliency = scheme.settings()
    builder = BatchBuilder(0, needs=scheme.needs(saliency), share=shares_beginnings(model))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model.train()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.bf16)
    with autocast:
        one_step(model, builder, scheme, saliency, 1, 16)  # what the libraries keep; no optimizer state yet
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    with autocast:
        features = one_step(model, builder, scheme, saliency, count, length)
    optimizer.step()
    after = memory("VmHWM")
    step = step_of(features, builder, checkpointing=bool(args.checkpointing), autocast=args.bf16)
    planned = memory_of(measured(model, args.model), step)
    return {"measured": after - before, "planned": planned.peak - planned.weights - planned.adapter}


def step_of(features, builder, **more):
    """Return what a process does in a step with this batch, and with further settings of a `Step`."""
    from nlft.planning.memory import Rows, Step
    from nlft.planning.tokens import rows_of

    rows = [rows_of(features, name) for name in ("", "scored_") if f"{name}input_ids" in features]
    holds, reads = "hold" in builder.needs, bool(builder.needs & {"standard", "judge"})
    rows += [] if len(rows) > 1 else [rows[0] if holds else Rows(0, 0, 0)]
    return Step(*rows, holds=holds, reads=reads, **more)


def one_step(model, builder, scheme, saliency, count: int, length: int):
    """Do forward and backward on random examples, half of them wrong. Return the batch."""
    import torch

    from nlft.core.condition_scores import score_batch
    from nlft.core.conditions import EncodedExample

    def ids(n: int) -> list[int]:
        return torch.randint(10, 1000, (n,)).tolist()

    third = length // 3
    # A prompt of another length each: rows are padded, as in a real batch. The conditions' prompts begin alike.
    prompts = [ids(third - 2 * at) for at in range(count)]
    examples = [
        EncodedExample(at, at % 2 == 0, base, [*base[:-4], *ids(12)], [*base[:-4], *ids(20)], ids(length - third), None)
        for at, base in enumerate(prompts)
    ]
    features = builder(examples)
    scored = score_batch(model, builder.batch(features), builder.needs)
    scheme.losses(scheme.weigh(scored.conditions, saliency), scored, saliency).total.sum().backward()
    return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--shapes", default="2x128,2x512,8x128", help="examples x tokens, by commas")
    parser.add_argument("--schemes", default="nlft,strike")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--use_dora", action="store_true")
    parser.add_argument("--attn_implementation")
    parser.add_argument("--bf16", action="store_true", help="autocast, as --bf16 of a training")
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    parser.add_argument("--scheme", help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.shape:
        print(json.dumps(measured_and_planned(args)))
        return
    ratios = []
    for shape in args.shapes.split(","):
        for scheme in args.schemes.split(","):
            for checkpointing in (1, 0):
                flags = ["--shape", shape, "--scheme", scheme, "--checkpointing", str(checkpointing)]
                flags += [f"--{name}" for name in ("use_dora", "bf16") if getattr(args, name)]
                if args.attn_implementation:
                    flags += ["--attn_implementation", args.attn_implementation]
                command = [sys.executable, __file__, args.model, "--dtype", args.dtype, *flags]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True,
                                      env={**os.environ, **GIVING_BACK})  # fmt: skip
                found = json.loads(done.stdout.splitlines()[-1])
                ratios.append(found["measured"] / found["planned"])
                what = f"{shape} {scheme}, checkpointing {'on' if checkpointing else 'off'}"
                sizes = f"measured {found['measured'] / MIB:.0f} MiB, planned {found['planned'] / MIB:.0f} MiB"
                print(f"{what}: {sizes}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"measured / planned: mean {statistics.mean(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
