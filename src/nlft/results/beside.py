"""Ask a model with its adapter and without it, and measure the collateral."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from nlft.core.conditions import ConditionEncoder, Rows, pad_rows
from nlft.core.divergence import kl_to_base
from nlft.core.prompts import Prompt
from nlft.data.encoding import encode_examples
from nlft.data.records import Example
from nlft.models.answerer import Answerer, CompletionRequest, Generated, complete
from nlft.models.ledger import Ledgered
from nlft.models.local import LocalModel, base_of
from nlft.progress import progress
from nlft.results.collateral import Collateral, Divergence, Pair, Reply, prompt_set
from nlft.results.keep import near_prompts, read_keep
from nlft.results.settings import CollateralSettings

_ROWS = 8  # replies in one forward pass of the KL


@dataclass(frozen=True)
class Reference:
    """What an adapter is compared with.

    Attributes:
        base: answers as the model without the adapter; None: the same model with its adapter switched off.
        trained_on: the texts that the training showed the model; None if they are not known.
        struck: ids of struck tokens, which are left out of the KL.
    """

    base: Answerer | None = None
    trained_on: Collection[str] | None = None
    struck: Collection[int] = ()


def measure_collateral(
    tuned: LocalModel,
    asking: Answerer,
    asked: Sequence[CompletionRequest],
    answers: Sequence[Generated],
    settings: CollateralSettings,
    reference: Reference | None = None,
) -> Collateral:
    """Measure what the adapter changed on the task's prompts, on near-scope prompts and on the prompts to keep.

    Args:
        tuned: the model with its adapter. Both models answer greedily if it does.
        asking: `tuned` itself, or `tuned` with a ledger. The base model's answers are then kept in the same ledger.
        asked: the task's requests.
        answers: the adapter's answers to them.

    Raises:
        UserError: the model has no adapter, or the file of prompts to keep is wrong.
    """
    reference = reference or Reference()
    base = reference.base or base_of(tuned)
    if reference.base is None and isinstance(asking, Ledgered):
        base = Ledgered(base, asking.ledger, asking.calls)
    near = near_prompts([request.prompt for request in asked])
    more = {
        "near": [CompletionRequest(f"near:{q.id}", q.prompt) for q in near],
        "keep": [CompletionRequest(f"keep:{q.id}", q.prompt) for q in read_keep(settings.keep)],
    }
    sets: Mapping[str, Sequence[CompletionRequest]] = {"task": asked, **more}
    every = [request for requests in sets.values() for request in requests]
    befores = complete(every, base, "collateral: base model")
    afters = [*answers, *complete(every[len(asked) :], asking, "collateral: adapter")]
    pairs = [
        Pair(request.key, request.prompt, reply_of(before), reply_of(after))
        for request, before, after in zip(every, befores, afters, strict=True)
    ]
    found, start = {}, 0
    for name, requests in sets.items():
        part = pairs[start : start + len(requests)]
        start += len(requests)
        scored = part[: settings.kl_replies] if name == "task" else part
        replies = [(p.prompt, p.before) for p in scored]
        kl = divergences(tuned, replies, reference.struck) if settings.kl_replies else None
        found[name] = prompt_set(part, kl, reference.trained_on)
    return Collateral(found)


def struck_ids(encoder: ConditionEncoder, examples: Iterable[Example]) -> set[int]:
    """Return the tokens with which the marked spans of the examples begin."""
    encoded = encode_examples(examples, encoder)
    return {example.completion[span.start] for example in encoded for span in example.spans}


def divergence(tuned: LocalModel, replies: Sequence[tuple[Prompt, Reply]], struck: Collection[int] = ()) -> Divergence:
    """Add up KL(base ‖ tuned) over the tokens of the base's replies, see `divergences`."""
    return sum(divergences(tuned, replies, struck), Divergence())


def divergences(
    tuned: LocalModel, replies: Sequence[tuple[Prompt, Reply]], struck: Collection[int] = ()
) -> list[Divergence]:
    """Return for each of the base's replies the sums of KL(base ‖ tuned) over its tokens.

    A reply's text is tokenised again. The end-of-turn token counts if the model ended the reply by itself.
    """
    rows = [_row(tuned, prompt, reply) for prompt, reply in replies]
    found = [Divergence(replies=1)] * len(rows)
    order = sorted((at for at, row in enumerate(rows) if row[1]), key=lambda at: -len(rows[at][0]) - len(rows[at][1]))
    device = next(tuned.model.parameters()).device
    banned = torch.tensor(sorted(struck), dtype=torch.long, device=device)
    with progress("collateral: KL", len(order), "reply") as bar:
        for start in range(0, len(order), _ROWS):
            places = order[start : start + _ROWS]
            part = [rows[at] for at in places]
            padded = pad_rows(part, 0)
            batch = Rows(*(x.to(device) for x in (padded.input_ids, padded.attention_mask, padded.labels)))
            kl, mask = kl_to_base(tuned.model, batch)
            ids = torch.zeros(mask.shape, dtype=torch.long, device=device)
            ids[mask] = torch.tensor([token for _, reply in part for token in reply], device=device)
            out = mask & torch.isin(ids, banned)
            left = mask & ~out
            sums = [(kl * left).sum(1), left.sum(1), (kl * out).sum(1), out.sum(1)]
            for at, (nats, tokens, struck_nats, count) in zip(
                places, zip(*(x.tolist() for x in sums), strict=True), strict=True
            ):
                found[at] = Divergence(nats, tokens, struck_nats, count, 1)
            bar.update(len(part))
    return found


def _row(tuned: LocalModel, prompt: Prompt, reply: Reply) -> tuple[list[int], list[int]]:
    ids = tuned.encoder.completion_ids(reply.text)
    return tuned.encoder.prompt_ids(prompt), ids if reply.ended else ids[:-1]


def reply_of(answer: Generated) -> Reply:
    """Return a generated answer as a reply."""
    return Reply(answer.text, answer.tokens, answer.finish_reason == "stop")
