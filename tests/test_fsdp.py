"""Scores and gradients of a model sharded by FSDP2 over two processes: those of one process."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from helpers import tiny

SCRIPT = """
import json, sys
folder, out, world = sys.argv[2], sys.argv[3], int(sys.argv[4])
sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from helpers import tiny
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme
from nlft.models.loading import default_lora, wrap

options = {"dtype": torch.float32}
rank = 0
if world > 1:
    from transformers.distributed import DistributedConfig

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    options["distributed_config"] = DistributedConfig(fsdp_size=world)
model = AutoModelForCausalLM.from_pretrained(folder, **options)
kinds = sorted({type(p).__name__ for p in model.parameters()})
torch.manual_seed(0)
net = wrap(model, default_lora(model))
for name, weight in net.named_parameters():
    if "lora_B" in name:
        torch.nn.init.constant_(weight, 0.02)  # at zero, lora_A would have no gradient
enable_scoring(net, 2**12)  # small chunks: several of them
encoder = ConditionEncoder(tiny.tokenizer())
examples = [
    encoder.encode(id=i, prompt=f"Q{i}?", completion="a" * (3 + i), label=i % 3 == 0, answer="#### 4", judgment="bad")
    for i in range(4)
]
builder = BatchBuilder(0, needs=frozenset({"standard", "judge", "band", "hold"}), answers=True)
batch = builder.batch(builder(examples[rank::world]))
EVERY_TOKEN = NLFTSettings(redirect=True, contradiction=True, contradiction_base=0.0, contradiction_standard=1.0)
redirect = get_scheme("nlft").extra_loss(EVERY_TOKEN)
scored = score_batch(net, batch, builder.needs, choose=redirect.choose)
loss = -((scored.logp + 0.5 * scored.log1mp) * scored.conditions.mask).sum() - scored.answer_logp.sum()
redirected = scored.extra_losses.sum()
held = scored.held.kl.sum()
loss = loss + 10 * redirected + 100 * held
loss.backward()
gradients = {}
for name, weight in net.named_parameters():
    if weight.grad is not None:
        if world > 1:
            dist.all_reduce(weight.grad)
        gradients[name] = weight.grad.tolist()
if rank == 0:
    base = type(net.get_base_model())
    found = {"parameters": kinds, "classes": [c.__name__ for c in base.__mro__], "gradients": gradients}
    found["redirected"], found["held"] = redirected.item(), held.item()
    with open(out, "w") as file:
        json.dump(found, file)
"""


def test_a_sharded_model_has_the_gradients_of_a_whole_one(tmp_path):
    tiny.model().save_pretrained(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(processes: int) -> dict:
        out = tmp_path / f"{processes}.json"
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
        arguments = [str(Path(__file__).parent), str(tmp_path / "model"), str(out), str(processes)]
        done = subprocess.run([sys.executable, *launch, str(script), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text())

    one, two = run(1), run(2)
    assert "FSDPModule" not in one["classes"]
    assert "FSDPModule" in two["classes"], "not sharded, so nothing was tested"
    assert two["parameters"] == ["DTensor"]
    assert one["redirected"] > 0
    assert one["held"] > 1e-3
    assert len(one["gradients"]) == len(two["gradients"]) == 12
    for name, gradient in one["gradients"].items():
        whole, sharded = torch.tensor(gradient), torch.tensor(two["gradients"][name])
        assert whole.abs().max() > 1e-3
        torch.testing.assert_close(sharded, whole, atol=1e-5, rtol=1e-5)
