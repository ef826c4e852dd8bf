"""How far the conditions' scores of a row move with the batch that it is scored in.

    python benchmarks/condition_rows.py MODEL FILE.jsonl [--rows 48] [--dtype bfloat16] [--attn eager]

Scores the same rows alone, in the batches that `condition_logprobs: frozen` makes, and in random batches of 8, and
prints the largest and the mean difference of a token's log-probability, and how many tokens change their tag. Then it
keeps the base's likeliest tokens, and prints the divergence of the unchanged model from them in batches of 2: what a
hold to a kept base pulls at. docs/SALIENCY.md and docs/STRIKE.md quote it.
"""

import argparse
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder, EncodedExample, judge_prompt, pad_rows
from nlft.core.hold import HoldEverything
from nlft.core.logprobs import enable_scoring, evaluating, score
from nlft.core.saliency import ConditionLogprobs
from nlft.core.schemes.registry import get_scheme
from nlft.core.snapshot import Kept, score_conditions
from nlft.data.encoding import encode_examples
from nlft.data.records import read_examples

CONDITIONS = ("base", "standard", "judge")
Scores = dict[tuple[int, str], torch.Tensor]


def rows_of(examples: list[EncodedExample]) -> list[tuple[int, str, list[int], list[int]]]:
    """Return (example, condition, prompt ids, completion ids) of every row."""
    found = []
    for at, one in enumerate(examples):
        prompts = {"base": one.base, "standard": one.standard} | ({} if one.label else {"judge": judge_prompt(one)})
        found += [(at, name, prompt, one.completion) for name, prompt in prompts.items()]
    return found


@torch.no_grad()
def scored(model: torch.nn.Module, rows: list[tuple[int, str, list[int], list[int]]], size: int, pad: int) -> Scores:
    """Score rows in batches of `size`, in the order given."""
    found: Scores = {}
    with evaluating(model):
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            logp = score(model, pad_rows([(prompt, ids) for _, _, prompt, ids in part], pad)).logp
            found |= {(at, name): logp[i, : len(ids)].float() for i, (at, name, _, ids) in enumerate(part)}
    return found


def tags(scores: Scores, examples: list[EncodedExample]) -> torch.Tensor:
    """Return the tokens that `cut` and, in right replies, `rlsd` tag: they read no hidden states."""
    found = []
    for at, one in enumerate(examples):
        base, standard = scores[at, "base"], scores[at, "standard"]
        known = ConditionLogprobs(
            base=base[None],
            mask=torch.ones(1, len(base), dtype=torch.bool),
            label=torch.tensor([one.label]),
            standard=standard[None],
            judge=scores.get((at, "judge"), base)[None],
        )
        scheme = get_scheme("rlsd" if one.label else "cut")
        found.append(scheme.weigh(known, scheme.settings()).tag[0])
    return torch.cat(found)


@torch.no_grad()
def distance_to_kept_base(model: torch.nn.Module, examples: list[EncodedExample], pad: int, mass: float) -> str:
    """Say how far the unchanged model is from its own kept base, in other batches than those that scored it."""
    needs, plan = frozenset({"hold"}), HoldEverything()
    snapshot = score_conditions(model, examples, Kept(needs, plan, mass, 1024), pad)
    builder = BatchBuilder(pad, needs=needs, live=False)
    found = []
    order = random.Random(1).sample(range(len(examples)), len(examples))
    for start in range(0, len(order), 2):
        places = order[start : start + 2]
        pair = [examples[at] for at in places]
        scored_pair = score_batch(model, builder.batch(builder(pair) | builder.known(pair, snapshot, places)), needs)
        assert scored_pair.held is not None
        found.append(scored_pair.held.kl[scored_pair.conditions.mask])
    kl, counts, tail = torch.cat(found), snapshot.tensors["top_counts"].float(), snapshot.tensors["top_tail"].exp()
    return (
        f"hold_mass {mass}: KL to its own kept base, largest {kl.max():.2g}, mean {kl.mean():.2g} nats; "
        f"{counts.mean():.0f} tokens kept on average, {int(counts.median())} in the median, "
        f"{int(counts.max())} at most; "
        f"tail mass {tail.mean():.2g} on average, {tail.max():.2g} at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--attn", default=None)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype), attn_implementation=options.attn
    )
    enable_scoring(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    every = encode_examples(read_examples(options.file), ConditionEncoder(tokenizer))
    examples = every[: options.rows // 2]
    rows = rows_of(examples)[: options.rows]
    examples = examples[: 1 + max(at for at, *_ in rows)]
    examples = [one for at, one in enumerate(examples) if sum(row[0] == at for row in rows) == 2 + (not one.label)]
    rows = rows_of(examples)
    kept = Kept(frozenset({"standard", "judge"}), HoldEverything(), 1.0, 1)
    snapshot = score_conditions(model, examples, kept, pad)
    shuffled = random.Random(0).sample(rows, len(rows))
    ways = {
        "alone": scored(model, rows, 1, pad),
        "sorted by length": {(at, name): snapshot.scores(name, at) for at, name, *_ in rows},
        "random batches of 8": scored(model, shuffled, 8, pad),
    }
    print(f"{options.model}, {options.dtype}, {model.config._attn_implementation}: {len(rows)} rows")
    for name in list(ways)[1:]:
        gaps = torch.cat([(ways[name][key] - ways["alone"][key]).abs() for key in ways["alone"]])
        other = (tags(ways[name], examples) != tags(ways["alone"], examples)).float().mean()
        print(
            f"{name} against alone: largest {gaps.max():.3g} nats, mean {gaps.mean():.2g}, "
            f"tags that differ {other:.2%} of {len(gaps)} tokens"
        )
    for mass in (0.99, 0.999):
        print(distance_to_kept_base(model, examples, pad, mass))


if __name__ == "__main__":
    main()
