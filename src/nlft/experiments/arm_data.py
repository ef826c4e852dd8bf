"""Choose and make the examples that each arm trains on, and the prompts that each arm is asked."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from nlft.collect.sampling import SamplingSettings
from nlft.core.prompts import Message, as_messages, fill_prompt
from nlft.core.schemes.scheme import Scheme
from nlft.core.spans import Span, occurrences, replaced_text
from nlft.data.phrases import word_places
from nlft.data.records import Example, Question, completion_text, marked_spans, read_examples
from nlft.data.rules_file import Rule
from nlft.errors import UserError
from nlft.experiments.arms import Arm


def chosen_examples(
    arm: Arm, examples: Sequence[Example], seed: int, rules: Sequence[Rule] = (), revised: Path | None = None
) -> list[Example]:
    """Return the arm's examples, by its `examples`.

    - `all`: as they are. `right`: only the right ones, with the replies that must stay as they are.
    - `shuffled`: the judgments are exchanged among the wrong examples.
    - `replaced`: each wrong example has a revision: its completion with what was marked or quoted replaced.
    - `random-spans`: in place of what was marked or quoted, as many words at random places.
    - `swapped-spans`: the judgments and marks are exchanged among the wrong examples.
    - `no-spans`: no judgment and no mark is left.
    - `revised`: the revised replies to the same prompts that pass.

    Args:
        rules: with several, `swapped-spans` exchanges between the rules.
        revised: the file of revised replies, see `nlft.experiments.revised`; None: there is none.

    Raises:
        UserError: the examples lack what the arm needs.
    """
    if arm.examples == "right":
        _check_liked(examples, 1)
        return [example for example in examples if example.label]
    if arm.method == "few-shot" and not all(example.answer for example in _in_scope(examples)):
        raise UserError("some examples have no answer to show.\n  Add answers, or leave this arm out.")
    if shots := arm.settings.get("liked_shots", 0) if arm.method == "prompt" else 0:
        _check_liked(examples, shots)
    if arm.examples == "shuffled":
        return with_shuffled_judgments(examples, seed)
    if arm.examples == "replaced":
        return with_replacements(examples)
    if arm.examples == "random-spans":
        return with_random_spans(examples, seed)
    if arm.examples == "swapped-spans":
        return with_swapped_spans(examples, seed, rules)
    if arm.examples == "revised":
        return passing_revisions(examples, revised)
    if arm.examples == "no-spans":
        return [replace(example, label=True, judgment=None, spans=()) for example in examples]
    return list(examples)


def _in_scope(examples: Sequence[Example]) -> list[Example]:
    """Leave out the replies that must stay as they are: they may do what the rule forbids, so they show nobody how."""
    return [example for example in examples if not example.keep]


def _check_liked(examples: Sequence[Example], needed: int) -> None:
    right = [example for example in _in_scope(examples) if example.label]
    if len(right) < needed:
        what = "no example is right" if not right else f"only {len(right)} of {needed} needed examples are right"
        kept = " and in the feedback's scope (without `keep`)" if any(example.keep for example in examples) else ""
        raise UserError(f"{what}{kept}.\n  Sample more, or leave this arm out.")


def passing_revisions(examples: Sequence[Example], file: Path | None) -> list[Example]:
    """Return the revised replies to these examples' prompts that pass, as right examples.

    The examples that must stay as they are come with them.

    Raises:
        UserError: there are no such replies.
    """
    if file is None or not file.exists():
        raise UserError(
            "there are no revised replies: they need rules, and a grader that decides which replies pass.\n"
            "  Give --rules and --checks, or leave this arm out."
        )
    wanted = {str(example.id) for example in examples}
    there = [example for example in read_examples(file, require_judgment=False) if str(example.id) in wanted]
    passing = [example for example in there if example.label]
    if not passing:
        raise UserError(
            f"none of the {len(there)} revised replies passes.\n"
            "  Reword the rules in the file of --rules, or leave this arm out."
        )
    return [*passing, *(example for example in examples if example.keep)]


def with_shuffled_judgments(examples: Sequence[Example], seed: int) -> list[Example]:
    """Move the judgments of the wrong examples along a random cycle, so that each example gets another one's judgment.

    Raises:
        UserError: fewer than two wrong examples have a judgment.
    """
    wrong = [at for at, example in enumerate(examples) if not example.label and example.judgment]
    if len(wrong) < 2:
        raise UserError(
            "there are fewer than two wrong examples with a judgment, so judgments cannot be exchanged.\n"
            "  Leave this arm out."
        )
    Random(seed).shuffle(wrong)
    moved = list(examples)
    for here, there in zip(wrong, wrong[1:] + wrong[:1], strict=True):
        moved[here] = replace(examples[here], judgment=examples[there].judgment)
    return moved


def with_what_is_read(examples: Sequence[Example], scheme: Scheme, saliency: Any) -> list[Example]:
    """Leave out the wrong examples that have spans but no judgment, if the scheme reads judgments. Print their number.

    Args:
        saliency: the scheme's settings.
    """
    kept = [example for example in examples if example.label or example.judgment]
    if len(kept) == len(examples) or "judge" not in scheme.needs(saliency):
        return list(examples)
    print(
        f"      left out, with spans but no judgment, which {scheme.name} reads: {len(examples) - len(kept)} examples",
        file=sys.stderr,
    )
    return kept


def with_replacements(examples: Sequence[Example]) -> list[Example]:
    """Give each wrong example a revision: its completion with each span replaced, or deleted if it has no replacement.

    The wrong examples without spans are left out, and so are those of which nothing is left. Their number is printed.

    Raises:
        UserError: no wrong example is left.
    """
    kept, lost = [], 0
    for example in examples:
        if example.label:
            kept.append(replace(example, revision=None))
            continue
        text = completion_text(example)
        made = replaced_text(text, marked_spans(example))
        if made == text or not made.strip():
            lost += 1
            continue
        revision = made if isinstance(example.completion, str) else as_messages(made, "assistant")
        kept.append(replace(example, revision=revision))
    if lost:
        print(f"      left out, with nothing marked to replace: {lost} wrong examples", file=sys.stderr)
    if all(example.label for example in kept):
        raise UserError("no wrong example has spans or quotes to replace.\n  Mark some, or leave this arm out.")
    return kept


def with_random_spans(examples: Sequence[Example], seed: int) -> list[Example]:
    """Mark random words in place of what was marked or quoted: as many spans, each of as many words.

    The judgments go, because their quotes would mark the same words again. The draw depends on the seed and on the
    example's id. It may meet words that were marked.

    Raises:
        UserError: no example has spans or quotes.
    """
    moved = []
    for example in examples:
        marked, text = marked_spans(example), completion_text(example)
        words = word_places(text)
        lengths = [max(1, sum(a < span.end and span.start < b for a, b in words)) for span in marked]
        places = _random_runs(lengths, len(words), Random(f"{seed}:{example.id}"))
        spans = tuple(Span(words[first][0], words[last - 1][1]) for first, last in places)
        moved.append(replace(example, label=example.label or not spans, judgment=None, spans=spans))
    if not any(example.spans for example in moved):
        raise UserError(
            "no example has both words and a quote or span.\n  Quote words in a judgment, or leave this arm out."
        )
    return moved


def _random_runs(lengths: list[int], size: int, random: Random) -> list[tuple[int, int]]:
    """Draw places for runs of these lengths among `size` items, without overlaps, as (first, last exclusive)."""
    lengths = random.sample(lengths, len(lengths))
    while sum(lengths) > size:
        lengths.pop()
    free = size - sum(lengths)
    before = [at - rank for rank, at in enumerate(sorted(random.sample(range(free + len(lengths)), len(lengths))))]
    starts = [gap + sum(lengths[:rank]) for rank, gap in enumerate(before)]
    return [(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def with_swapped_spans(examples: Sequence[Example], seed: int, rules: Sequence[Rule] = ()) -> list[Example]:
    """Give each wrong example another one's judgment, and mark in it what that one's reader had marked.

    A wrong example that then has neither judgment nor spans becomes one that is only held.

    Args:
        rules: with several, each example gets a judgment of another rule, as far as their numbers allow.

    Raises:
        UserError: fewer than two wrong examples have spans or quotes.
    """
    wrong = [at for at, example in enumerate(examples) if not example.label]
    if sum(bool(marked_spans(examples[at])) for at in wrong) < 2:
        raise UserError(
            "fewer than two wrong examples have spans or quotes, so these cannot be exchanged.\n  Leave this arm out."
        )
    Random(seed).shuffle(wrong)
    group = {at: _rule_of(examples[at], rules) for at in wrong}
    wrong.sort(key=group.__getitem__)
    sizes = [list(group.values()).count(number) for number in set(group.values())]
    step = max(sizes) if len(sizes) > 1 else 1  # the next one of another rule is this far away
    moved = list(examples)
    for here, there in zip(wrong, wrong[step:] + wrong[:step], strict=True):
        mine, other = examples[here], examples[there]
        said = [completion_text(other)[span.start : span.end] for span in other.spans]
        spans = occurrences(completion_text(mine), said)
        label = other.judgment is None and not spans
        moved[here] = replace(mine, label=label, judgment=other.judgment, spans=spans)
    return moved


def _rule_of(example: Example, rules: Sequence[Rule]) -> int:
    """Return the number of the rule that a judgment cites, else of the rule whose words are marked; -1 if neither."""
    judgment = (example.judgment or "").casefold()
    text = completion_text(example)
    said = {text[span.start : span.end].casefold() for span in marked_spans(example)}
    cited = [number for number, rule in enumerate(rules) if rule.rule.casefold() in judgment]
    worded = [number for number, rule in enumerate(rules) if said & {word.casefold() for word in rule.words}]
    return next(iter([*cited, *worded]), -1)


def as_prompted(
    arm: Arm, questions: list[Question], examples: Sequence[Example], asking: SamplingSettings
) -> list[Question]:
    """Return the questions with the prompts of an arm that prompts; those of another arm unchanged."""
    if arm.method == "few-shot":
        return with_shots(questions, _in_scope(examples), asking, arm.settings["shots"])
    if arm.method != "prompt":
        return questions
    template, shots = str(arm.settings["prompt_template"]), arm.settings.get("liked_shots", 0)
    made = [replace(one, prompt=fill_prompt(one.prompt, template)) for one in questions]
    if not shots:
        return made
    liked = [replace(example, answer=completion_text(example)) for example in _in_scope(examples) if example.label]
    return with_shots(made, liked, asking, shots)


def with_shots(
    questions: Sequence[Question], examples: Sequence[Example], asking: SamplingSettings, shots: int
) -> list[Question]:
    """Put `shots` examples with their standard answers before each question, as earlier turns of the conversation.

    The examples are the first of a seeded shuffle. Each prompt occurs once, and all questions get the same examples.
    """
    by_prompt = {str(example.prompt): example for example in examples}
    drawn = list(by_prompt.values())
    Random(asking.seed).shuffle(drawn)
    turns: list[Message] = []
    for example in drawn[:shots]:
        turns += [*as_messages(example.prompt), {"role": "assistant", "content": example.answer or ""}]
    return [replace(question, prompt=[*turns, *as_messages(question.prompt)]) for question in questions]
