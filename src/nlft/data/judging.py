"""Judges: what is wrong with a wrong completion, in words."""

from collections.abc import Sequence
from dataclasses import replace

from nlft.core.conditions import prompt_text
from nlft.data.records import Example, completion_text
from nlft.data.rules import judge_by_rules
from nlft.errors import UserError


def judge(examples: Sequence[Example]) -> list[Example]:
    """The examples with a judgment by rules on every wrong one that has none yet.

    Raises:
        UserError: the rules find nothing to say about some of them.
    """
    judged: list[Example] = []
    silent: list[str | int] = []
    for example in examples:
        if example.label or example.judgment:
            judged.append(example)
            continue
        words = judge_by_rules(
            prompt_text(example.prompt),
            completion_text(example),
            example.answer,
            truncated=example.extra.get("finish_reason") == "length",
        )
        if words is None:
            silent.append(example.id)
        else:
            judged.append(replace(example, judgment=words))
    if silent:
        raise UserError(
            f"the rules find nothing wrong with {len(silent)} examples labelled wrong: {_listed(silent)}.\n"
            "  Write their judgments by hand, or correct the labels."
        )
    return judged


def _listed(ids: Sequence[str | int], most: int = 10) -> str:
    named = ", ".join(map(repr, ids[:most]))
    return named if len(ids) <= most else f"{named} and {len(ids) - most} more"
