"""Batches of a training with NLFT, for the scheme that is active."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlft.core.batches import BatchBuilder
from nlft.core.conditions import EncodedExample
from nlft.core.hold import HoldEverything, Plan
from nlft.core.schemes.scheme import Scheme


class KeepingBuilder(BatchBuilder):
    """Makes batches that include their examples and the scheme that they were built for."""

    built_for: tuple[str, frozenset[str], object, bool]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[EncodedExample],
        *,
        answers: bool,
        live: bool = True,
        share: bool = False,
    ) -> None:
        """
        Args:
            examples: the training file, of which a scheme may make a plan.
            live: whether a step scores the conditions.
            share: the model can go on from a beginning that rows share, see `shares_beginnings`.
        """
        super().__init__(tokenizer.pad_token_id, needs=frozenset(), answers=answers, live=live)
        self.tokenizer, self.examples, self.can_share = tokenizer, examples, share

    def use(self, scheme: Scheme, settings: object) -> None:
        """Build the next batches for this scheme."""
        self.needs, self.extra_rows = scheme.needs(settings), scheme.extra_rows
        # An extra loss reads the conditions' states within the pass that would keep the beginnings.
        self.share = self.can_share and scheme.extra_loss(settings) is None
        self.plan, planned = self.plan_of(scheme, settings), "hold" in self.needs
        # A plan follows from the settings, and so do its rows.
        self.built_for = scheme.name, self.needs, settings if planned else None, self.share

    def plan_of(self, scheme: Scheme, settings: object) -> Plan:
        """Return what a scheme uses the frozen base for."""
        planned = "hold" in scheme.needs(settings)
        return (scheme.plan(self.examples, self.tokenizer, settings) if planned else None) or HoldEverything()

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Any]:
        return {**super().__call__(examples), "examples": list(examples), "built_for": self.built_for}
