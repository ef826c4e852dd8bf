"""Read and write a file of rules: what readers object to, and the words that fall under it. docs/AUDIT.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from nlft.core.word_search import listed_word
from nlft.data.checks import Check
from nlft.data.yaml_reading import YamlReading
from nlft.errors import ConfigError, UserError, display_path
from nlft.files import write_output
from nlft.yaml_files import yaml_node

KEYS = ("name", "rule", "reworded", "words", "proposed", "examples")
_NEEDED = {
    "name": "Give each rule a short name of its own: small letters, digits and hyphens.",
    "rule": "Say in one sentence what replies must not do.",
    "words": "List the words that fall under the rule, for example some of `proposed`; or remove the rule.",
}
_NAME = re.compile(r"[a-z0-9-]+")
_FORM = "Write `rules:`, and below it a list: `- name: praise`, `  rule: ...`, `  words: [sleek]`. See docs/AUDIT.md."
_HEAD = """\
# words: struck where they were said and everywhere else, banned, and checked. They are yours to change.
# proposed: nothing reads it. Move what falls under the rule into words.
"""


@dataclass(frozen=True)
class Rule:
    """Something that readers object to in several replies.

    Attributes:
        name: short and unique in its file: small letters, digits and hyphens.
        rule: the objection as a sentence, without the readers' quotes. A model is shown it with the words, as a
            prohibition.
        reworded: the same as a positive statement; None if nobody wrote one.
        words: what falls under the rule, words or phrases: struck, banned, checked.
        proposed: what else may fall under it. Nothing reads it.
        examples: how many wrong examples carry the rule; None if nobody counted.
    """

    name: str
    rule: str
    reworded: str | None
    words: tuple[str, ...]
    proposed: tuple[str, ...]
    examples: int | None


def read_rules(path: str | Path) -> list[Rule]:
    """Read the rules of a YAML file, in the file's order.

    Raises:
        ConfigError: names every rule and field that cannot be used, with file and line.
        UserError: the file cannot be read, or holds no rules.
    """
    where = display_path(path)
    node = yaml_node(Path(path), "Give a YAML file of rules, as `nlft audit --rules_out` writes it.")
    if node is None:
        raise UserError(f"{where}: holds no rules.\n  {_FORM}")
    reading = _Reading(where, _FORM)
    top = reading.mapping(node, "a file of rules", ("rules",)) or {}
    entries = top.get("rules")
    if "rules" in top and not (isinstance(entries, yaml.SequenceNode) and entries.value):
        reading.refuse(top["rules"], '"rules" is not a list with at least one rule', _FORM)
    elif entries is None and not reading.problems:
        reading.refuse(node, '"rules" is missing', _FORM)
    rules = [reading.rule(entry) for entry in (entries.value if isinstance(entries, yaml.SequenceNode) else [])]
    if reading.problems:
        raise ConfigError(reading.problems)
    return [rule for rule in rules if rule]


def write_rules(path: str | Path, rules: Sequence[Rule], remarks: Sequence[str] = ()) -> None:
    """Write a file that `read_rules` reads, whole or not at all.

    Args:
        remarks: lines for a person, written as comments at the end.

    Raises:
        UserError: the file cannot be written.
    """
    entries = []
    for rule in rules:
        entry = {"name": rule.name, "rule": rule.rule}
        optional = {} if rule.reworded is None else {"reworded": rule.reworded}
        lists = {"words": list(rule.words), "proposed": list(rule.proposed)}
        entries.append(entry | optional | lists | ({} if rule.examples is None else {"examples": rule.examples}))
    # `None` writes the innermost lists on one line, and everything else below each other.
    text = yaml.safe_dump({"rules": entries}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)
    comments = "".join(f"# {' '.join(remark.split())}\n" for remark in remarks)
    write_output(Path(path), f"{_HEAD}{text}{comments}".encode())


def holds_rules(node: yaml.Node | None) -> bool:
    """Tell whether a YAML file's top node is a file of rules."""
    return isinstance(node, yaml.MappingNode) and any(key.value == "rules" for key, _ in node.value)


def words_of(rules: Sequence[Rule]) -> list[str]:
    """Return the words of all rules, each once in any case."""
    found: dict[str, str] = {}
    for rule in rules:
        for word in rule.words:
            found.setdefault(word.casefold(), word)
    return list(found.values())


def rule_text(rules: Sequence[Rule]) -> str:
    """Write the rules as prohibitions, one a line. Each names its words. Every prompt shows rules in this form."""
    return "\n".join(map(_prohibition, rules))


def guide_text(rules: Sequence[Rule]) -> str:
    """Write the rules as they were reworded, one a line. A rule that was not reworded is written as a prohibition."""
    return "\n".join(rule.reworded or _prohibition(rule) for rule in rules)


def checks_of(rules: Sequence[Rule]) -> list[Check]:
    """Return one check for each rule: a reply must have none of its words, as whole words in any case."""
    return [
        Check(rule.name, "words", tuple(map(_literal, rule.words)), must=False, say=rule.rule, ignore_case=True,
              where=f"the rule {rule.name}")
        for rule in rules
    ]  # fmt: skip


def _prohibition(rule: Rule) -> str:
    text = rule.rule.strip()
    if text and text[-1].isalnum():
        text += "."
    return f"{text} Never use these words: {', '.join(rule.words)}." if rule.words else text


def _literal(word: str) -> str:
    """Return a check's text that means the word itself: a check fills {slots}."""
    return word.replace("{", "{{").replace("}", "}}")


class _Reading(YamlReading):
    """The state while one file of rules is read."""

    def __init__(self, file: str, form: str) -> None:
        super().__init__(file, form)
        self.names: dict[str, str] = {}  # name -> place of the rule that has it
        self.current = "a rule"

    def refuse_field(self, node: yaml.Node, field: str, what: str, cure: str) -> None:
        """Add a problem with a field of the current rule."""
        self.refuse(node, f'{self.current}: "{field}" {what}', cure)

    def rule(self, node: yaml.Node) -> Rule | None:
        """Read one rule. If it cannot be used, add the problems and return None."""
        before = len(self.problems)
        self.current = _called(node)
        found = self.mapping(node, self.current, KEYS)
        if found is None:
            return None
        for key in (key for key in _NEEDED if key not in found):
            self.refuse_field(node, key, "is missing", _NEEDED[key])
        if "name" in found:
            self.named(found["name"])
        rule = Rule(
            name=_scalar(found.get("name")),
            rule=self.sentence(found, "rule") or "",
            reworded=self.sentence(found, "reworded"),
            words=self.words(found, "words"),
            proposed=self.words(found, "proposed"),
            examples=self.count(found.get("examples")),
        )
        return None if len(self.problems) > before else rule

    def named(self, node: yaml.Node) -> None:
        """Refuse a name of another form, or one that an earlier rule has."""
        name = _scalar(node)
        if not _NAME.fullmatch(name):
            self.refuse_field(node, "name", f"is {name!r}", _NEEDED["name"])
        elif (earlier := self.names.setdefault(name, self.place(node))) != self.place(node):
            self.refuse_field(node, "name", f"is {name!r}, which {earlier} has already", _NEEDED["name"])

    def sentence(self, found: dict[str, yaml.Node], field: str) -> str | None:
        """Read a text that may be missing but not empty."""
        node = found.get(field)
        if node is None:
            return None
        if not _scalar(node) or node.tag == "tag:yaml.org,2002:null":
            self.refuse_field(node, field, "is not a text", _NEEDED.get(field, "Write a sentence, or remove the key."))
        return _scalar(node)

    def words(self, found: dict[str, yaml.Node], field: str) -> tuple[str, ...]:
        """Read a list of words or phrases. Only `proposed` may be empty."""
        node = found.get(field)
        if node is None:
            return ()
        if not isinstance(node, yaml.SequenceNode):
            self.refuse_field(node, field, "is not a list", f"Write {field}: [sleek, durable].")
            return ()
        if not node.value and field in _NEEDED:
            self.refuse_field(node, field, "is an empty list", _NEEDED[field])
        read: dict[str, str] = {}
        for item in node.value:
            word = listed_word(_scalar(item))
            if not word:
                self.refuse_field(item, field, "has an entry that is not a word", "Write a word or a phrase.")
            elif word.casefold() in read:
                self.refuse_field(item, field, f"has {word!r} twice", "Keep one of them: case does not count.")
            else:
                read[word.casefold()] = word
        return tuple(read.values())

    def count(self, node: yaml.Node | None) -> int | None:
        """Read how many examples carry the rule."""
        text = _scalar(node)
        if node is None or (text.isascii() and text.isdigit() and len(text) <= 18):
            return None if node is None else int(text)
        self.refuse_field(node, "examples", f"is {text!r}", "Write a whole number, or remove the key.")
        return None


def _scalar(node: yaml.Node | None) -> str:
    """Return a text as it is written: `no` is the word, and not false. Return "" for a list or a mapping."""
    return str(node.value).strip() if isinstance(node, yaml.ScalarNode) else ""


def _called(node: yaml.Node) -> str:
    """Return how messages call a rule: by its name if it has one."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    name = next((_scalar(value) for key, value in pairs if key.value == "name"), "")
    return f"the rule {name!r}" if name else "a rule without a name"
