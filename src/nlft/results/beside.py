"""Ask a model with its adapter and without it, and measure the collateral."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlft.core.base_below import refuse_leak
from nlft.core.conditions import ConditionEncoder, EncodedExample, Rows, pad_rows
from nlft.core.divergence import kl_to_base
from nlft.core.prompts import NO_INPUTS, TemplateInputs, Templates
from nlft.core.strikes import StrikePlan
from nlft.data.records import Example, completion_text, training_texts
from nlft.data.template_columns import inputs_of
from nlft.files import json_bytes, write_whole
from nlft.models.answerer import Answerer, CompletionRequest, Generated, complete
from nlft.models.ledger import Ledgered
from nlft.models.ledger_file import Ledger
from nlft.models.loaded import loaded_answerer
from nlft.models.local import LocalModel, base_of
from nlft.models.settings import CallSettings
from nlft.progress import progress
from nlft.results.collateral import Collateral, Divergence, Pair, Reply, breaches, prompt_set
from nlft.results.collateral_report import collateral_json, collateral_lines
from nlft.results.keep import near_prompts, read_keep
from nlft.results.settings import CollateralSettings

_PROMPTS, _BATCH, _LONGEST = 64, 16, 512  # of a training: its prompts, replies at a time, tokens of a reply
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
        UserError: the model has no adapter, the adapter leaves traces when it is off, or the file of prompts to keep
            is wrong.
    """
    refuse_leak(tuned.model, "--collateral")
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
        replies = [(request, p.before) for request, p in zip(requests, scored, strict=False)]
        kl = divergences(tuned, replies, reference.struck) if settings.kl_replies else None
        found[name] = prompt_set(part, kl, reference.trained_on)
    return Collateral(found)


def collateral_of_training(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    settings: CollateralSettings,
    out: Path,
    *,
    struck: Collection[int] = (),
    system_prompt: str | None = None,
    inputs: TemplateInputs = NO_INPUTS,
) -> list[str]:
    """Measure what a training changed, write collateral.json, and return lines for the terminal.

    The task's prompts are at most 64 of the training prompts, evenly spaced, without those of kept replies. A reply may
    be as long as the longest completion of the examples, but at most 512 tokens long. Finished replies are kept beside
    `out`, in NAME.calls.jsonl.

    Args:
        model: the trained model with its adapter.
        struck: ids of struck tokens, which are left out of the KL.
        inputs: what the chat template got with every prompt in training.

    Raises:
        UserError: the file of prompts to keep is wrong.
    """
    encoder = ConditionEncoder(tokenizer, Templates(system_prompt=system_prompt, inputs=inputs))
    longest = max(
        (len(encoder.completion_ids(completion_text(one), inputs_of(one.extra))) for one in examples), default=1
    )
    tuned = loaded_answerer(
        model,
        tokenizer,
        max_new_tokens=min(longest, _LONGEST),
        batch_size=_BATCH,
        system_prompt=system_prompt,
        inputs=inputs,
    )
    asking = Ledgered(tuned, Ledger(out.with_suffix(".calls.jsonl")), CallSettings())
    by_prompt = {json.dumps(one.prompt): one for one in reversed(examples) if not one.keep}
    asked = list(reversed(by_prompt.values()))
    count = min(len(asked), _PROMPTS)
    chosen = [asked[at * len(asked) // count] for at in range(count)]
    requests = [CompletionRequest(f"train:{one.id}", one.prompt, inputs_of(one.extra)) for one in chosen]
    answers = complete(requests, asking, "collateral: training prompts")
    found = measure_collateral(
        tuned, asking, requests, answers, settings, Reference(None, training_texts(examples), struck)
    )
    figures = found.figures()
    broken = breaches(figures, settings)
    shown = collateral_json(found, broken, settings)
    write_whole(out, json_bytes(shown, indent=1))
    return collateral_lines(figures, broken)


def struck_ids(plan: StrikePlan, examples: Iterable[EncodedExample]) -> set[int]:
    """Return the tokens that a plan strikes in the examples, and the words that it bans everywhere."""
    found = {one.completion[pivot] for one in examples for strike in plan.strikes(one) for pivot in strike.pivots}
    return found | set(plan.words if plan.everywhere else ())


def divergence(
    tuned: LocalModel, replies: Sequence[tuple[CompletionRequest, Reply]], struck: Collection[int] = ()
) -> Divergence:
    """Add up KL(base ‖ tuned) over the tokens of the base's replies, see `divergences`."""
    return sum(divergences(tuned, replies, struck), Divergence())


def divergences(
    tuned: LocalModel, replies: Sequence[tuple[CompletionRequest, Reply]], struck: Collection[int] = ()
) -> list[Divergence]:
    """Return for each of the base's replies the sums of KL(base ‖ tuned) over its tokens.

    A reply's text is tokenised again. The end-of-turn token counts if the model ended the reply by itself.
    """
    rows = [_row(tuned, request, reply) for request, reply in replies]
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


def _row(tuned: LocalModel, request: CompletionRequest, reply: Reply) -> tuple[list[int], list[int]]:
    encoder = tuned.encoder
    end = [encoder.form(request.inputs).end] if reply.ended else []
    return encoder.prompt_ids(request.prompt, request.inputs), [*encoder.generated_ids(reply.text), *end]


def reply_of(answer: Generated) -> Reply:
    """Return a generated answer as a reply."""
    return Reply(answer.text, answer.tokens, answer.finish_reason == "stop")
