"""Runs of `strike` on a tiny model whose tokenizer has a few words of one token each."""

from helpers import tiny
from helpers.training import COMMON, lora
from nlft.core.schemes.strike import StrikeSettings
from nlft.core.spans import Span
from nlft.data.records import Example
from nlft.training.trainer import NLFTConfig, NLFTTrainer

__all__ = ["TOKENIZER", "WHOLE", "Span", "records", "trainer"]

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
