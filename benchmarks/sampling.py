"""Local sampling against one question at a time, in one run: throughput, and how far the texts agree.

    python benchmarks/sampling.py MODEL [--questions FILE] [--n 64] [--batch 32] [--rounds 3]

"One at a time" is transformers' own `generate` on single prompts, as the paper's scripts sample. Both are held to the
same number of new tokens for each question (end-of-turn is not honoured), so that the ratio compares like with like;
agreement is measured apart from it, with turns that end.
"""

import argparse
import statistics
import time

import torch

from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import fill_prompt
from nlft.data.problems import generate_problems
from nlft.data.records import read_questions
from nlft.models.answerer import CompletionRequest
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.models.local import LocalModel

TEMPLATE = "{prompt}\n\nAnswer in a few short sentences, then write #### and the number."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--questions", help="questions file (default: generated problems)")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settings = ModelSettings(model_name_or_path=args.model)
    encoder, model = ConditionEncoder(load_tokenizer(settings)), load_model(settings, trainable=False)
    questions = read_questions(args.questions)[: args.n] if args.questions else generate_problems(args.n, seed=7)
    requests = [CompletionRequest(str(q.id), fill_prompt(q.prompt, TEMPLATE)) for q in questions]
    print(f"{args.model}, {model.dtype}, {len(requests)} questions, {torch.get_num_threads()} threads")
    throughput(model, encoder, requests, args)
    joining(model, encoder, requests, args)
    agreement(model, encoder, requests, args)


def throughput(model, encoder, requests, args) -> None:
    batched = LocalModel(model, encoder, max_new_tokens=args.new_tokens, batch_size=args.batch)
    batched._ends = set()
    ratios = []
    for number in range(args.rounds):
        start = time.perf_counter()
        tokens = sum(answer.tokens for batch in batched.answer(requests) for _, answer in batch)
        together = time.perf_counter() - start
        assert tokens == len(requests) * args.new_tokens
        # A part of the questions is enough alone: each costs the same.
        alone = requests[number :: max(args.rounds, len(requests) // 8)]
        start = time.perf_counter()
        for request in alone:
            one_at_a_time(model, encoder, request, args.new_tokens)
        single = (time.perf_counter() - start) / len(alone) * len(requests)
        ratios.append(single / together)
        print(
            f"round {number + 1}: {tokens / together:.0f} tokens/s in batches of {args.batch}, "
            f"{tokens / single:.0f} one at a time: {ratios[-1]:.1f} times"
        )
    print(f"ratio: median {statistics.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f}")


def joining(model, encoder, requests, args) -> None:
    """How much time it saves that waiting prompts take the places of answers that have ended, in the same rounds."""
    ratios = []
    for _ in range(args.rounds):
        seconds = {}
        for joins in (True, False):
            local = LocalModel(model, encoder, max_new_tokens=4 * args.new_tokens, batch_size=args.batch)
            local._may_share = joins and local._may_share
            start = time.perf_counter()
            lengths = [answer.tokens for batch in local.answer(requests) for _, answer in batch]
            seconds[joins] = time.perf_counter() - start
        ratios.append(seconds[True] / seconds[False])
    print(
        f"answers of {min(lengths)} to {max(lengths)} tokens: {statistics.median(ratios):.2f} of the time of batches "
        f"that end together, from {min(ratios):.2f} to {max(ratios):.2f}"
    )


@torch.inference_mode()
def one_at_a_time(model, encoder, request, new_tokens) -> None:
    ids = torch.tensor([encoder.prompt_ids(request.prompt)], device=model.device)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        pad_token_id=encoder.tokenizer.pad_token_id,
    )


def agreement(model, encoder, requests, args) -> None:
    """How many texts are the same, to the letter, when only the batch's shape differs."""
    for temperature in (0.0, 0.8):
        texts = {}
        for size, order in ((args.batch, 1), (args.batch, -1), (args.batch // 2, 1)):
            local = LocalModel(model, encoder, max_new_tokens=args.new_tokens, batch_size=size, temperature=temperature)
            asked = requests[::order]
            found = {asked[at].key: answer.text for batch in local.answer(asked) for at, answer in batch}
            texts[size, order] = found
        first = texts[args.batch, 1]
        for (size, order), other in list(texts.items())[1:]:
            same = sum(first[key] == other[key] for key in first)
            what = "in another order" if order == -1 else f"in batches of {size}"
            print(f"temperature {temperature}: {same} of {len(first)} texts the same {what}")


if __name__ == "__main__":
    main()
