"""Read a file of checks. Reading reports every problem, with its file and line."""

from pathlib import Path
from typing import get_args

import yaml

from nlft.data.checks import ALL_CHECKS, KINDS, Check, Kind, pattern_problem
from nlft.data.language import LANGUAGES, SCRIPTS
from nlft.data.rules_file import checks_of, holds_rules, read_rules
from nlft.data.yaml_reading import YamlReading
from nlft.errors import ConfigError, UserError, display_path
from nlft.yaml_files import yaml_node

_KEYS = ("name", "must", "must_not", "say", "ignore_case")
_IGNORES_CASE: tuple[Kind, ...] = ("contains", "words")
_CODES = dict(zip(("en", "de", "fr", "es", "it", "pt", "nl"), LANGUAGES, strict=True))
_FORM = "Write a list: `- name: short`, and below it `must: {max_words: 60}`. docs/CHECKS.md has all kinds."


def read_checks(path: str | Path) -> list[Check]:
    """Read the checks of a YAML file, in the file's order. A file of rules has one check for each rule.

    Raises:
        ConfigError: names every check or rule that cannot be used, with file and line.
        UserError: the file cannot be read, or holds no checks.
    """
    where = display_path(path)
    node = yaml_node(Path(path), "Give a YAML file of checks.")
    if holds_rules(node):
        return checks_of(read_rules(path))
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise UserError(f"{where}: holds no checks.\n  {_FORM}")
    reading = _Reading(where, _FORM)
    checks = [check for item in node.value if (check := reading.check(item))]
    if reading.problems:
        raise ConfigError(reading.problems)
    return checks


class _Reading(YamlReading):
    """The state while one file of checks is read."""

    def __init__(self, file: str, form: str) -> None:
        super().__init__(file, form)
        self.places = {ALL_CHECKS: "an evaluation"}  # name -> place of the check that has it

    def check(self, node: yaml.Node) -> Check | None:
        """Read one check. If it cannot be used, add the problems and return None."""
        before = len(self.problems)
        found = self.mapping(node, "a check", _KEYS)
        if found is None:
            return None
        sides = [side for side in ("must", "must_not") if side in found]
        if len(sides) != 1:
            what = "has both must and must_not" if sides else "has neither must nor must_not"
            self.refuse(node, what, "Give a check exactly one of them: must: {contains: hello}.")
        name = self.text(found["name"], "name") if "name" in found else ""
        if "name" not in found:
            self.refuse(node, '"name" is missing', "Give each check its own name.")
        elif name and (earlier := self.places.setdefault(name, self.place(node))) != self.place(node):
            self.refuse(node, f'"name" is {name!r}, which {earlier} has already', "Give each check its own name.")
        say = self.text(found["say"], "say") if "say" in found else ""
        kind, value = self.rule(found[sides[0]], sides[0]) if len(sides) == 1 else (None, "")
        ignore_case = kind in _IGNORES_CASE
        if "ignore_case" in found:
            given = self.text(found["ignore_case"], "ignore_case").lower()
            if given not in ("true", "false") or kind not in (None, "regex", *_IGNORES_CASE):
                cure = "Write true or false. It is for regex, contains and words."
                self.refuse(found["ignore_case"], f'"ignore_case" is {given!r} for {kind}', cure)
            ignore_case = given == "true"
        if len(self.problems) > before or kind is None:
            return None
        return Check(name, kind, value, sides[0] == "must", say, ignore_case, self.place(node))

    def rule(self, node: yaml.Node, side: str) -> tuple[Kind | None, str | int | tuple[str, ...]]:
        """Read the kind and the value of a check."""
        before = len(self.problems)
        found = self.mapping(node, side, KINDS)
        if len(self.problems) > before or found is None:
            return None, ""
        if len(found) != 1:
            kinds = ", ".join(KINDS)
            self.refuse(node, f'"{side}" has {len(found)} kinds', f"Give one of {kinds}; write a check for each.")
            return None, ""
        name, value = next(iter(found.items()))
        kind = next(kind for kind in get_args(Kind) if kind == name)
        return kind, self.value(kind, value)

    def value(self, kind: Kind, node: yaml.Node) -> str | int | tuple[str, ...]:
        """Read and check the value of one kind."""
        if kind in ("contains", "words") and isinstance(node, yaml.SequenceNode):
            if not node.value:
                self.refuse(node, f'"{kind}" is an empty list', "Write at least one text.")
            return tuple(self.text(item, kind) for item in node.value)
        text = self.text(node, kind)
        if kind in ("contains", "words"):
            return (text,)
        if kind == "max_words":
            if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
                self.refuse(node, f'"max_words" is {text!r}', "Give a whole number, 1 or more.")
                return 1
            return int(text)
        if kind == "regex" and (problem := pattern_problem(text)):
            self.refuse(node, f'"regex" is {text!r}, which is not a regular expression: {problem}', "Correct it.")
        if kind == "language":
            return self.language(node, text)
        if kind == "function" and not text.replace(".", "").replace(":", "").replace("_", "").isalnum():
            self.refuse(node, f'"function" is {text!r}', "Name it as package.module:function.")
        return text

    def language(self, node: yaml.Node, text: str) -> str:
        """Return the language's name, as `nlft.data.language` gives it."""
        known = {name.casefold(): name for name in (*LANGUAGES, *SCRIPTS)} | _CODES
        if text.casefold() not in known:
            cure = f"Choose from {', '.join((*LANGUAGES, *SCRIPTS))}."
            self.refuse(node, f'"language" is {text!r}, which is not known', cure)
        return known.get(text.casefold(), text)
