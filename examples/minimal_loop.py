"""NLFT's loss in plain PyTorch, without a trainer: three examples, one adapter, a few steps.

python examples/minimal_loop.py FOLDER_OR_NAME_OF_A_SMALL_MODEL
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights

# A wrong completion has a judgment: it says in words what is wrong. A right completion needs none.
EXAMPLES = [
    {"prompt": "What is 64 - 35?", "completion": "64 - 35 = 34\n#### 34", "label": False,
     "answer": "64 - 35 = 29\n#### 29", "judgment": 'The step "64 - 35 = 34" is miscalculated.'},
    {"prompt": "What is 17 + 8?", "completion": "17 + 8 = 25\n#### 25", "label": True,
     "answer": "17 + 8 = 25\n#### 25"},
    {"prompt": "What is 6 * 7?", "completion": "6 * 7 = 48\n#### 48", "label": False,
     "answer": "6 * 7 = 42\n#### 42", "judgment": 'The step "6 * 7 = 48" is miscalculated.'},
]  # fmt: skip
NEEDS = frozenset({"standard", "judge", "band"})  # what the scheme `nlft` reads besides base


def losses(model, tokenizer, examples, steps=4, learning_rate=1e-2):
    """Train on all examples at each step, and return each step's loss before its update."""
    encoder = ConditionEncoder(tokenizer)
    # Each completion's tokens follow three prompts: base, standard (shows the answer), judge (shows the judgment).
    encoded = [encoder.encode(id=number, **example) for number, example in enumerate(examples)]
    builder = BatchBuilder(tokenizer.pad_token_id, needs=NEEDS)
    batch = builder.batch(builder(encoded))
    enable_scoring(model)  # teaches the model's forward to return log-probabilities instead of logits
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    model.train()
    history = []
    for _ in range(steps):
        # 1. Score the same tokens under the three conditions. Only base has a gradient.
        scored = score_batch(model, batch, NEEDS)
        # 2. Compare the conditions: each token gets a weight that pulls it up, or one that pushes it down.
        weights = nlft_weights(scored.conditions, NLFTSettings())
        # 3. Weights times logarithms, a mean over each sample's tokens, then a mean over the samples.
        pull = -(weights.likelihood * scored.logp).sum(1)
        push = -(weights.unlikelihood * scored.log1mp).sum(1)
        loss = ((pull + push) / scored.lengths).mean()
        # 4. An ordinary optimizer step.
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def main(name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for step, loss in enumerate(losses(model, tokenizer, EXAMPLES), 1):
        print(f"step {step}: loss {loss:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
