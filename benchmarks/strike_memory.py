"""Peak memory of one training step with `strike` against TRL's SFTTrainer, on the same batch of a large vocabulary.

    python benchmarks/strike_memory.py [--length 2048] [--vocabulary 262144]

Each runs in a process of its own, on a random model with one layer: the vocabulary decides the memory. Prints the peak
resident memory above that of the loaded model, in MiB, and the ratio.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def peak_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def step(method: str, length: int, vocabulary: int) -> float:
    """Train one step. Return how far its peak is above the memory of the loaded model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=2 * length, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    ids = torch.randint(10, vocabulary, (length,)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        trainer = strike_trainer(model, ids) if method == "strike" else sft_trainer(model, ids, folder)
        before = peak_mib()
        trainer.train()
    return peak_mib() - before


METHODS = ("strike", "sft")
COMMON = {"max_steps": 1, "per_device_train_batch_size": 1, "use_cpu": True, "save_strategy": "no", "report_to": "none"}


def strike_trainer(model, ids):
    """A trainer of `strike` on one reply of which every 50th token is struck."""
    from nlft.core.batches import BatchBuilder
    from nlft.core.condition_scores import score_batch
    from nlft.core.conditions import EncodedExample
    from nlft.core.hold import Marks, Role
    from nlft.core.logprobs import enable_scoring
    from nlft.core.schemes.registry import get_scheme

    enable_scoring(model)
    scheme = get_scheme("strike")
    settings = scheme.settings()

    class Plan:
        words, temperature = tuple(range(100, 200)), 1.0

        def rows(self, example):
            return ()

        def marks(self, example):
            count = len(example.completion)
            roles = [Role.STRUCK if at % 50 == 0 else Role.HELD for at in range(count)]
            return [Marks(roles, [self.words] * count, [False] * count)]

    example = EncodedExample("a", False, ids[:8], [], None, ids[8:], [])
    builder = BatchBuilder(0, needs=scheme.needs(settings), plan=Plan())

    class One:
        def train(self):
            scored = score_batch(model, builder.batch(builder([example])), builder.needs)
            scheme.losses(scheme.weigh(scored.conditions, settings), scored, settings).total.sum().backward()

    return One()


def sft_trainer(model, ids, folder):
    """TRL's SFTTrainer on the same tokens."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    from helpers import tiny

    data = Dataset.from_list([{"input_ids": ids, "labels": [-100] * 8 + ids[8:]}])
    args = SFTConfig(output_dir=folder, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, **COMMON)
    return SFTTrainer(model, args, train_dataset=data, processing_class=tiny.tokenizer())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=262144)
    parser.add_argument("--method", choices=METHODS)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(step(args.method, args.length, args.vocabulary)))
        return
    sizes = ["--length", str(args.length), "--vocabulary", str(args.vocabulary)]
    peaks = {}
    for method in METHODS:
        done = subprocess.run(
            [sys.executable, __file__, "--method", method, *sizes], stdout=subprocess.PIPE, check=True
        )
        peaks[method] = float(json.loads(done.stdout.splitlines()[-1]))
        ratio = peaks["strike"] / peaks[method]
        print(f"{method}: {peaks[method]:.0f} MiB above the loaded model; strike is {ratio:.2f} of it", flush=True)


if __name__ == "__main__":
    main()
