"""What a model can read: which token ids, and how many tokens at most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from nlft.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tables with one row for each position: GPT-2, OPT and BERT-like names, and GPT-J's sines.
_POSITION_TABLES = {"wpe", "embed_positions", "position_embeddings", "position_embedding"}


@dataclass(frozen=True)
class ModelLimits:
    """What a model can read.

    Attributes:
        rows: number of rows of the embedding, which token ids must stay below; None if unknown.
        positions: number of tokens that the model has positions for; None if its positions need no table.
        trained: number of tokens that config.json gives as the context; None if it gives none. Rotary positions work
            beyond it, but badly.
    """

    rows: int | None
    positions: int | None
    trained: int | None

    def has_room(self, length: int) -> bool:
        """Whether one more token fits after `length` tokens."""
        return self.positions is None or length < self.positions

    def problems(
        self, where: str, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase", length: int | None = None
    ) -> list[Problem]:
        """Say why the model cannot read these tokens. Return an empty list if it can.

        Args:
            where: what the tokens are of, for the message.
            length: number of tokens that must fit together; default: the number of `ids`.
        """
        length = len(ids) if length is None else length
        found = []
        if self.rows is not None and (highest := max(ids, default=0)) >= self.rows:
            what = f"has the token {tokenizer.convert_ids_to_tokens(highest)!r} with the id {highest}, but the model's "
            found.append(Problem(where, f"{what}embedding has only {self.rows} rows", _no_row(len(tokenizer))))
        if self.positions is not None and length > self.positions:
            what = f"takes {length} tokens, but the model's context has only {self.positions}"
            found.append(Problem(where, what, "Shorten or drop it, or use a model with a longer context."))
        return found

    def beyond_training(self, lengths: Sequence[int]) -> str | None:
        """Say how many of the lengths exceed the context that the model was trained for. Return None if none does."""
        over = sum(length > self.trained for length in lengths) if self.trained is not None else 0
        if not over:
            return None
        return (
            f"warning: {over} of {len(lengths)} texts are longer than the model's context of {self.trained} tokens "
            f"(max_position_embeddings in config.json): up to {max(lengths)}. Expect worse results for them."
        )

    def check_padding(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Refuse a padding token that the model has no row for.

        Raises:
            UserError: names the token.
        """
        pad = tokenizer.pad_token_id
        if self.rows is not None and pad is not None and pad >= self.rows:
            raise UserError(
                f"the padding token {tokenizer.pad_token!r} has the id {pad}, but the model's embedding has only "
                f"{self.rows} rows.\n  Set pad_token in tokenizer_config.json to the end-of-sequence token, or "
                + _no_row(len(tokenizer)).removeprefix("Either ")
            )


def limits_of(model: nn.Module) -> ModelLimits:
    """Read a causal LM's limits, bare or under PEFT."""
    whole: Any = model
    lm = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    config = lm.config.get_text_config()
    trained = None if _is_stretched(config) else getattr(config, "max_position_embeddings", None)
    trained = trained if isinstance(trained, int) and trained > 0 else None
    return ModelLimits(_rows(lm), trained if _has_position_table(lm) else None, trained)


def _is_stretched(config: Any) -> bool:
    """Whether rotary positions are scaled to a context longer than the one that config.json gives."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    return kind in ("yarn", "dynamic", "linear")


def _rows(lm: Any) -> int | None:
    try:
        embedding = lm.get_input_embeddings()
    except NotImplementedError:
        return None
    embedding = getattr(embedding, "original_module", embedding)  # PEFT's modules_to_save
    embedding = getattr(embedding, "base_layer", embedding)  # PEFT's layers
    rows = getattr(embedding, "num_embeddings", None)
    return rows if isinstance(rows, int) else None


def _has_position_table(lm: nn.Module) -> bool:
    tables = [name for name, module in lm.named_modules() if isinstance(module, nn.Embedding)]
    tables += [name for name, _ in lm.named_buffers()]
    return any(name.rpartition(".")[2] in _POSITION_TABLES for name in tables)


def _no_row(tokens: int) -> str:
    return (
        f"Either call `model.resize_token_embeddings({tokens})` and save the model, or take the tokenizer that belongs "
        "to the model."
    )
