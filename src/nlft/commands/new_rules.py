"""Write the rules that an audit found into a new file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nlft.commands.checks import check_out_file
from nlft.errors import UserError, display_path
from nlft.progress import note

if TYPE_CHECKING:
    from nlft.auditing.rules import FoundRule
    from nlft.data.records import Example


def check_new_rules(path: Path) -> None:
    """Refuse a file of rules that exists: what its user moved into `words` would be lost."""
    check_out_file(path, ".yaml", ".yml", flag="--rules_out")
    if path.exists():
        raise UserError(
            f"--rules_out {display_path(path)}: exists already, and may hold your own changes.\n"
            f"  Give another name, or check these rules with --rules {display_path(path)}."
        )


def write_new_rules(path: Path, examples: "list[Example]", found: "Sequence[FoundRule]") -> None:
    """Write the rules of the judgments, and say which are left out.

    Args:
        found: the rules that the audit printed. It prints none if the examples have worked answers.

    Raises:
        UserError: there are no rules to write.
    """
    from nlft.auditing.rules import find_rules, rules_table, written_rules
    from nlft.data.rules_file import write_rules

    if not found:
        found = find_rules(examples)
        print(f"\n{rules_table(found)}" if found else "")
    rules, left_out = written_rules(found)
    if not rules:
        what = "each judgment is about one example, or quotes nothing" if found else "there are no judgments"
        raise UserError(
            f"--rules_out {display_path(path)}: there is no rule to write: {what}.\n"
            "  Quote or mark the words in several wrong examples, and give these examples the same judgment."
        )
    write_rules(path, rules, left_out)
    count = f"{len(rules)} rule{'' if len(rules) == 1 else 's'}"
    print(f"\n{display_path(path)}: {count}" + (f"; {len(left_out)} left out, named at its end" if left_out else ""))
    note("before you train, move the words that belong to a rule from its `proposed` to its `words`")
