"""Read a YAML file key by key, and collect every problem with its line."""

from collections.abc import Sequence

import yaml

from nlft.config import closest
from nlft.errors import Problem


class YamlReading:
    """The state while one file is read.

    Attributes:
        problems: the problems found so far.
    """

    def __init__(self, file: str, form: str) -> None:
        """
        Args:
            file: the file's name in messages.
            form: the form of the file in one sentence: the cure of an entry that has no keys.
        """
        self.file = file
        self.form = form
        self.problems: list[Problem] = []

    def refuse(self, node: yaml.Node, what: str, cure: str) -> None:
        """Add a problem with the node."""
        self.problems.append(Problem(self.place(node), what, cure))

    def place(self, node: yaml.Node) -> str:
        """Return file and line of the node."""
        return f"{self.file}:{node.start_mark.line + 1}"

    def mapping(self, node: yaml.Node, what: str, known: Sequence[str]) -> dict[str, yaml.Node] | None:
        """Return a mapping's values by key. Report unknown keys and keys that occur twice.

        Args:
            what: what the mapping describes, for messages: "a check".
        """
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"is not {what}: it has no keys", self.form)
            return None
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                self.refuse(key, f'"{name}" is set a second time', "Keep one of the two lines.")
            elif name not in known:
                close = closest(name, known)
                cure = f"Did you mean {close}?" if close else f"Choose from {', '.join(known)}."
                self.refuse(key, f'"{name}" is not a key of {what}', cure)
            else:
                found[name] = value
        return found

    def text(self, node: yaml.Node, key: str) -> str:
        """Return a text as it is written: `no` is the word, and not false."""
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            what = "is empty" if isinstance(node, yaml.ScalarNode) else "is not a text"
            self.refuse(
                node, f'"{key}" {what}', "Write a text. Put it in quotes if it has braces, or a colon and a space."
            )
            return ""
        return str(node.value)
