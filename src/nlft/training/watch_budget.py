"""Which watched examples a training can afford to score by themselves: counted in tokens, before they are scored."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from nlft.core.base_below import find_peft
from nlft.core.batches import BatchBuilder
from nlft.core.conditions import EncodedExample

SAMPLE = 256  # number of training examples to count; their mean stands for all
BACKWARD = 1  # a backward pass, in forward passes: with an adapter it makes no gradients of the frozen weights
ACCELERATOR_LEAST = 1024  # tokens; on a GPU a smaller pass takes about as long as one of this size


class WatchBudget:
    """Counts the work of training and of watching, in tokens that pass through the model.

    The count needs no clock, so a training scores the same examples whenever it is repeated, and on all ranks. It
    favours the training: padding, the optimizer and activation checkpointing are not counted.

    The examples that the user named are scored at both ends, whatever they cost.

    Attributes:
        costs: the cost of scoring each watched example once.
        step: the cost of one optimizer step.
        spent: the cost of all scorings so far.
    """

    def __init__(self, trainer: Any, watched: Sequence[EncodedExample], steps: int) -> None:
        """
        Args:
            trainer: an `NLFTTrainer`. The costs are those of its scheme at this moment.
            steps: number of optimizer steps that this training is sure to take.
        """
        builder, args = trainer.builder, trainer.args
        on_cpu = next(trainer.model.parameters()).device.type == "cpu"
        self._least, self._share, self._steps = 0 if on_cpu else ACCELERATOR_LEAST, args.watch_share, steps
        # Scores that were kept before the first step cost no pass, here or in training.
        holds = builder.live and "hold" in builder.needs
        alone = BatchBuilder(builder.pad_token_id, needs=builder.needs, plan=builder.plan, live=builder.live)
        # What both models would say takes two passes, unless the scoring has the logits already.
        adapted = find_peft(trainer.model) is not None
        more = 2 if adapted and not (holds and trainer.scheme.strikes) else 0
        self.costs = [
            self._forward(_tokens(alone, [one]), holds) + more * self._of_pass(len(one.base) + len(one.completion))
            for one in watched
        ]
        rows = [_tokens(builder, [one]) for one in _sample(trainer.train_dataset)]
        size = args.per_device_train_batch_size
        trained, scored = (size * sum(counts) / len(rows) for counts in zip(*rows, strict=True))
        noisy = bool(builder.live and trainer._noisy and builder.needs)
        again = (BACKWARD + noisy) * self._of_pass(trained)
        micro = self._forward((trained, scored), holds) + again
        self.step = micro * args.gradient_accumulation_steps
        self.spent = 0.0
        self._asked = {index for index, one in enumerate(watched) if one.id in (args.watch_ids or ())}
        # A disliked reply shows more of what feedback does, so it comes first.
        self._order = sorted(range(len(watched)), key=lambda index: watched[index].label)

    def spend(self, index: int) -> None:
        """Count one scoring of a watched example."""
        self.spent += self.costs[index]

    def at_start(self) -> list[int]:
        """Return the examples to score before the first step: those asked for, at least one, and what can be afforded.

        One whole scoring more must fit into the share.
        """
        return self._affordable(self._allowed(self._steps) - sum(self.costs), self._asked)

    def at_end(self, steps: int, unseen: Collection[int]) -> list[int]:
        """Return the examples to score after the last step: at least one, those asked for, and all never scored.

        Args:
            steps: number of steps that were trained.
            unseen: the examples that have no scores so far.
        """
        return self._affordable(self._allowed(steps) - self.spent, self._asked | set(unseen))

    def allows_one_more(self, steps: int) -> bool:
        """Return whether a whole scoring now, and the one at the end, fit into the share.

        Args:
            steps: number of steps so far.
        """
        return self.spent + 2 * sum(self.costs) <= self._allowed(steps)

    def share(self, steps: int) -> float:
        """Return the share of all work so far that the scorings are."""
        return self.spent / (self.spent + self.step * steps) if self.spent else 0.0

    def _allowed(self, steps: int) -> float:
        """Return what the scorings may cost: their share of the whole, and the training is the rest."""
        return math.inf if self._share == 1 else self._share / (1 - self._share) * self.step * steps

    def _affordable(self, left: float, must: Collection[int]) -> list[int]:
        chosen = [index for index in self._order if index in must]
        left -= sum(self.costs[index] for index in chosen)
        for index in self._order:
            if index not in must and (self.costs[index] <= left or not chosen):
                chosen.append(index)
                left -= self.costs[index]
        return sorted(chosen)

    def _of_pass(self, tokens: float) -> float:
        return max(self._least, tokens) if tokens else 0

    def _forward(self, tokens: tuple[float, float], holds: bool) -> float:
        trained, scored = tokens
        return (1 + holds) * self._of_pass(trained) + self._of_pass(scored)


def _tokens(builder: BatchBuilder, examples: Sequence[EncodedExample]) -> tuple[float, float]:
    """Count the tokens of the rows with gradient and of the rows without."""
    features = builder(examples)
    names = ("attention_mask", "scored_attention_mask")
    trained, scored = (int(features[name].sum()) if name in features else 0 for name in names)
    return trained, scored


def _sample(examples: Sequence[EncodedExample]) -> Iterable[EncodedExample]:
    return examples[:: math.ceil(len(examples) / SAMPLE)]
