"""Put the plan's rules into the settings of the arms that show, ban or strike them.

An arm's settings may have slots. `{rule}`: the rules as prohibitions, with their words. `{reworded}`: the rules said
positively. `{guide}`: the same, also if no rule is reworded. `{words}`, as an item of a list: the words of all rules.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nlft.core.prompts import fill
from nlft.data.records import Example, completion_text, marked_spans
from nlft.data.rules_file import Rule, guide_text, read_rules, rule_text, words_of
from nlft.errors import UserError
from nlft.experiments.arms import Arm

WORDS = "{words}"
_SLOT = re.compile(r"\{(rule|reworded|guide)\}")


def read_rules_if(path: str | Path | None) -> list[Rule]:
    """Read the file of rules. Return no rules if there is no file."""
    return read_rules(path) if path else []


def with_rules(arm: Arm, rules: Sequence[Rule], examples: Sequence[Example]) -> Arm:
    """Return the arm with its slots filled.

    Args:
        examples: training examples. What their readers marked and quoted is banned if no rule has words.

    Raises:
        UserError: the arm has a slot that the rules cannot fill.
    """
    if arm.method == "ban" and not words_of(rules):
        return replace(arm, settings={**arm.settings, "words": _filled_words(arm, said_words(examples))})
    settings = {name: _filled(arm, value, rules) for name, value in arm.settings.items()}
    return replace(arm, settings=settings)


def said_words(examples: Sequence[Example]) -> list[str]:
    """Return what the examples' judgments quote and their readers marked, each once in any case."""
    found: dict[str, str] = {}
    for example in examples:
        for span in marked_spans(example):
            text = " ".join(completion_text(example)[span.start : span.end].split())
            found.setdefault(text.casefold(), text)
    return [text for text in found.values() if text]


def _reworded_text(rules: Sequence[Rule]) -> str:
    return guide_text(rules) if any(rule.reworded for rule in rules) else ""


_TEXTS: Mapping[str, Callable[[Sequence[Rule]], str]] = MappingProxyType(
    {"rule": rule_text, "reworded": _reworded_text, "guide": guide_text}
)


def _filled(arm: Arm, value: Any, rules: Sequence[Rule]) -> Any:
    if isinstance(value, str):
        texts = {slot: _TEXTS[slot](rules) for slot in _SLOT.findall(value)}
        for slot, text in texts.items():
            if not text:
                raise _lacking(arm, slot, rules)
        return fill(value, **texts)
    if isinstance(value, list) and WORDS in value:
        words = words_of(rules)
        if not words:
            raise _lacking(arm, "words", rules)
        return [word for item in value for word in (words if item == WORDS else [item])]
    return value


def _filled_words(arm: Arm, said: Sequence[str]) -> list[str]:
    words = [word for item in arm.settings["words"] for word in (said if item == WORDS else [item])]
    if not words:
        raise UserError(
            f"{arm.name}: no rule has words, and no judgment quotes any.\n"
            "  Give --rules FILE with words, or leave this arm out."
        )
    return words


def _lacking(arm: Arm, slot: str, rules: Sequence[Rule]) -> UserError:
    if not rules:
        return UserError(f"{arm.name}: needs rules, but there is no file of rules.\n  Give --rules, or leave it out.")
    what = "`reworded`" if slot == "reworded" else "`words`"
    return UserError(f"{arm.name}: no rule has {what}.\n  Add it to the file in --rules, or leave this arm out.")
