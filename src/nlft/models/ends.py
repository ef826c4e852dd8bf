"""The tokens that end an answer: those that the model names, and the one that training teaches."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlft.core.conditions import end_of_turn_id
from nlft.core.logprobs import causal_lm
from nlft.core.turn_encoding import TurnEncoder


def named_ends(model: PreTrainedModel) -> list[int]:
    """Return the end tokens of the model's generation_config, or those of its config if the former names none.

    A config class has a default of its own, which may be an ordinary word of this tokenizer. So config counts only
    where transformers' own `generate` would read it.
    """
    lm: Any = causal_lm(model)
    for config in (getattr(lm, "generation_config", None), lm.config.get_text_config()):
        ends = getattr(config, "eos_token_id", None)
        if ends is not None:
            return [ends] if isinstance(ends, int) else [int(end) for end in ends]
    return []


def answer_ends(model: PreTrainedModel, encoder: TurnEncoder) -> frozenset[int]:
    """Return every token that ends an answer: those of `named_ends`, the chat template's end of a turn, and EOS."""
    own = {encoder.end_of_turn_id, encoder.tokenizer.eos_token_id} - {None}
    return frozenset(own | set(named_ends(model)))


def name_trained_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the token that training ends every reply with to the model's generation_config.

    Servers and `generate` stop where generation_config says. Base models name only their end of a text there, so a
    model that was trained to end its turn would write on.
    """
    lm: Any = causal_lm(model)
    trained, named = end_of_turn_id(tokenizer), named_ends(model)
    if getattr(lm, "generation_config", None) is not None and trained not in named:
        lm.generation_config.eos_token_id = [*named, trained] if named else trained
