"""Runs of `strike` on a tiny model whose tokenizer has a few words of one token each."""

import torch

from helpers import tiny
from helpers.training import COMMON, lora
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.schemes.registry import get_scheme
from nlft.core.schemes.strike import StrikeSettings
from nlft.core.spans import Span, quoted_spans
from nlft.data.records import Example
from nlft.training.trainer import NLFTConfig, NLFTTrainer

TOKENIZER = tiny.tokenizer(words=(" sleek", " modern", " flat", " pan"))


def records(count=6):
    made = []
    for i in range(count):
        word = ["sleek", "modern"][i % 2]
        made.append(
            Example(
                id=f"e{i}",
                prompt=f"Describe pan {i}.",
                completion=f"a {word} pan {i}" if i % 3 else f"a pan {i}, flat",
                label=i % 3 == 0,
                answer="a pan",
                judgment=f'It praises: "{word}".' if i % 3 else None,
            )
        )
    return made


WHOLE = StrikeSettings(stop_below=0)


def trainer(folder, data=None, saliency=WHOLE, **settings):
    args = NLFTConfig(output_dir=str(folder), **{**COMMON, "watch": 0, **settings})
    model = lora(tiny.model(vocabulary=len(TOKENIZER)))
    return NLFTTrainer(model, args, data or records(), processing_class=TOKENIZER, saliency=saliency)


STRIKE = get_scheme("strike")
SETTINGS = StrikeSettings(
    ban_weight=0.7,
    strike_weight=1.5,
    hold_weight=0.7,
    keep_weight=0.3,
    keep_mass=0.001,
    replace_weight=0.9,
    strike_temperature=1.3,
)


def example(id, completion, *marked, label=False, replace=None, listed=(), kept=False):
    found = [quoted_spans(completion, f'"{text}"').spans[0] for text in marked]
    spans = [Span(span.start, span.end, replace) for span in found]
    encoder = ConditionEncoder(TOKENIZER, listed=listed)
    return encoder.encode(
        id=id,
        prompt="Say",
        completion=completion,
        label=label,
        answer="-",
        judgment=None if label else "It praises.",
        spans=spans,
        kept=kept,
    )


def batch_of_five():
    return [
        example("a", "a sleek, modern pan", "sleek", "modern"),
        example("b", "it is sleek", "sleek", replace="flat"),
        example("c", "a flat pan", label=True, kept=True),
        example("e", "a pan", label=True),
        example("d", "no quote here, but wrong", "quote", replace=""),
    ]


def scored(net, examples, settings=SETTINGS, **options):
    plan = STRIKE.plan(examples, TOKENIZER, settings)
    builder = BatchBuilder(0, needs=STRIKE.needs(settings), plan=plan, **options)
    found = score_batch(net, builder.batch(builder(examples)), builder.needs)
    weights = STRIKE.weigh(found.conditions, settings)
    return found, STRIKE.losses(weights, found, settings), plan


def trained(family="llama", dtype=torch.float32):
    """A model whose adapter has moved away from the base."""
    net = lora(tiny.model(family, dtype=dtype, vocabulary=len(TOKENIZER)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    enable_scoring(net)
    return net.eval()


def gradients(net, loss):
    parameters = [p for p in net.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, parameters, allow_unused=True)
