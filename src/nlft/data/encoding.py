"""Encode examples as token ids under every condition. Report all examples that do not fit, not only the first."""

from collections.abc import Iterable

from nlft.core.conditions import ConditionEncoder, EncodedExample
from nlft.data.records import Example, completion_text, revision_text
from nlft.errors import Problem, ProblemsError, RecordsError, UserError


def encode_examples(examples: Iterable[Example], encoder: ConditionEncoder) -> list[EncodedExample]:
    """Encode every example under its conditions.

    Raises:
        RecordsError: names every example that cannot be encoded.
        UserError: there are no examples.
    """
    encoded: list[EncodedExample] = []
    problems: list[Problem] = []
    for example in examples:
        try:
            encoded.append(encode(encoder, example))
        except ProblemsError as error:
            problems += error.problems
    if problems:
        raise RecordsError(problems)
    if not encoded:
        raise UserError("there are no examples to train on.\n  Give a file with at least one.")
    return encoded


def encode(encoder: ConditionEncoder, example: Example) -> EncodedExample:
    """Encode one example as token ids under every condition.

    Raises:
        ProblemsError: the example cannot be encoded.
    """
    return encoder.encode(
        id=example.id,
        prompt=example.prompt,
        completion=completion_text(example),
        label=example.label,
        answer=example.answer,
        judgment=example.judgment,
        revision=revision_text(example),
    )
