"""Encode examples as token ids under every condition. Report all examples that do not fit, not only the first."""

from collections.abc import Collection, Iterable, Sequence

from nlft.core.conditions import ConditionEncoder, EncodedExample, no_judge_prompt
from nlft.data.records import Example, completion_text, marked_spans, revision_text
from nlft.data.template_columns import inputs_of
from nlft.errors import Problem, ProblemsError, RecordsError, UserError


def encode_examples(
    examples: Iterable[Example],
    encoder: ConditionEncoder,
    *,
    judge_reader: str | None = None,
) -> list[EncodedExample]:
    """Encode every example under its conditions.

    Args:
        judge_reader: the scheme that reads the judge condition. Then wrong examples need a judgment, also if they have
            spans. None if no scheme reads it.

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
    if judge_reader is not None:
        unjudged = [one.id for one in encoded if not one.label and one.judge is None]
        problems += [no_judge_prompt(id, f"the scheme {judge_reader}") for id in unjudged]
    if problems:
        raise RecordsError(problems)
    if not encoded:
        raise UserError("there are no examples to train on.\n  Give a file with at least one.")
    return encoded


def check_replies(examples: Iterable[Example], encoder: ConditionEncoder) -> None:
    """Refuse replies that the model cannot read, for trainers that encode the texts themselves.

    Args:
        encoder: knows the model's limits.

    Raises:
        RecordsError: names every example whose prompt with its completion or its revision is beyond them.
    """
    problems: list[Problem] = []
    for example in examples:
        inputs = inputs_of(example.extra)
        prompt = encoder.prompt_ids(example.prompt, inputs)
        for text in {completion_text(example), revision_text(example)} - {None}:
            try:
                check_readable(encoder, example.id, [*prompt, *encoder.completion_ids(str(text), inputs)])
            except ProblemsError as error:
                problems += error.problems
    if problems:
        raise RecordsError(problems)


def check_readable(encoder: ConditionEncoder, id: str | int, ids: list[int]) -> None:
    """Refuse a prompt with its reply that the model cannot read.

    Raises:
        ProblemsError: the encoder knows the model's limits, and the tokens are beyond them.
    """
    found = encoder.limits.problems(f"example {id!r}", ids, encoder.tokenizer) if encoder.limits else []
    if found:
        raise ProblemsError(found)


def condition_readers(scheme: str, needs: Collection[str]) -> dict[str, str]:
    """Return the arguments of `encode_examples` that make it require what a scheme reads.

    Args:
        scheme: the scheme's name.
        needs: the values that the scheme reads, see `Scheme.needs`.
    """
    return {"judge_reader": scheme} if "judge" in needs else {}


def check_targets(encoded: Sequence[EncodedExample], answer_weight: float) -> None:
    """Refuse to train answers if no example has one.

    Raises:
        UserError: `answer_weight` is above 0, and no example has an answer or a revision, or the chat template cannot
            write one of them as a reply.
    """
    refused = [one.target_refused for one in encoded if one.target_refused is not None]
    if answer_weight > 0 and refused:
        raise RecordsError(refused)
    if answer_weight > 0 and all(one.target is None for one in encoded):
        raise UserError(
            f"--answer_weight {answer_weight:g}: none of the {len(encoded)} examples has an answer or a revision to "
            "train on.\n  Set --answer_weight 0, or give examples an `answer`. Feedback is never trained."
        )


def encode(encoder: ConditionEncoder, example: Example) -> EncodedExample:
    """Encode one example as token ids under every condition.

    A slow tokenizer cannot place quotes. Then only the example's own spans count, and the encoder refuses these.

    Raises:
        ProblemsError: the example cannot be encoded.
    """
    return encoder.encode(
        id=example.id,
        prompt=example.prompt,
        completion=completion_text(example),
        label=example.label,
        answer=example.answer,
        feedback=example.feedback,
        judgment=example.judgment,
        revision=revision_text(example),
        spans=marked_spans(example) if encoder.tokenizer.is_fast else example.spans,
        kept=example.keep,
        inputs=inputs_of(example.extra),
    )
