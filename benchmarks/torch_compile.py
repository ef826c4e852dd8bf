"""Does torch.compile pay off in training? One step's CPU time with it and without, at lengths as they come.

    python benchmarks/torch_compile.py MODEL [--steps 6] [--lengths 128,320,224] [--layers 4]

Each layer is compiled, as Trainer's `torch_compile` with regional compilation does, in a model with the paper's LoRA.
Both models do forward and backward of the decoder on the same tokens, in turn. Prints for each length the CPU seconds
of a step, the seconds that compiling took, and the number of graphs: a new graph for a length means a recompilation.
"""

import argparse
import time

import torch
from peft import get_peft_model
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

from nlft.models.loading import default_lora, fast_dtype


def model_of(name: str, layers: int | None, *, compiled: bool):
    torch.manual_seed(0)
    fewer = {} if layers is None else {"num_hidden_layers": layers}
    base = AutoModelForCausalLM.from_pretrained(name, dtype=fast_dtype(), **fewer)
    model = get_peft_model(base, default_lora(base))
    if compiled:
        for layer in base.model.layers:
            layer.compile(dynamic=True)
    return model


def step_seconds(model, ids: torch.Tensor) -> float:
    """Do one forward and backward of the decoder. Return its CPU seconds."""
    started = time.process_time()
    states = model.base_model.model.model(input_ids=ids).last_hidden_state
    states.float().square().mean().backward()
    model.zero_grad()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=6, help="steps at each length, after the first")
    parser.add_argument("--lengths", default="128,320,224")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--layers", type=int, help="only the model's first layers, since compiling takes minutes")
    args = parser.parse_args()
    models = {name: model_of(args.model, args.layers, compiled=name == "compiled") for name in ("eager", "compiled")}
    for length in map(int, args.lengths.split(",")):
        ids = torch.randint(10, 10_000, (args.batch, length))
        first = {name: step_seconds(model, ids) for name, model in models.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(args.steps):
            for name, model in models.items():
                seconds[name].append(step_seconds(model, ids))
        least = {name: min(found) for name, found in seconds.items()}
        graphs = counters["stats"]["unique_graphs"]
        print(
            f"length {length}: eager {least['eager']:.2f} s, compiled {least['compiled']:.2f} s "
            f"(ratio {least['compiled'] / least['eager']:.2f}); first step {first['eager']:.1f} s and "
            f"{first['compiled']:.1f} s; {graphs} graphs so far",
            flush=True,
        )


if __name__ == "__main__":
    main()
