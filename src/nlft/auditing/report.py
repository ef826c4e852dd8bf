"""Render an audit's result as text, as JSON, and as one self-contained page.

The examples' texts are untrusted. The page holds them escaped, and its security policy forbids every script and all
styles except its own.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nlft.auditing.findings import KINDS, Finding, Kind, texts, worst_first
from nlft.auditing.preflight import Preflight
from nlft.auditing.rules import FoundRule, rules_table
from nlft.core.prompts import prompt_text
from nlft.data.records import Example
from nlft.files import read_template, render_fragment, render_page

FORMAT_VERSION = 1
_LONGEST = 4000  # characters of a field on the page
_SHOWN, _LONGEST_LINE = 5, 300  # findings of a kind, and characters of each, in a notebook


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        name: the data's name, such as a file name.
        examples: all examples, in their order.
        findings: worst first.
        usable: ids of the examples that training can use (see `has_signal`); None without a model.
        notes: checks that were skipped, and why.
        places: file and line of each example (`train.jsonl:41`) by id. Examples without a known place are left out.
        measured: the figures of each scored example, as JSON values.
        settings: the audit's settings, as JSON values.
        rules: the rules of the judgments, if the examples are about a habit.
        preflight: what the model does with the training prompts, if it was asked.
        most_listed: maximum number of findings of each kind that `lines()` lists. `html()` and `json()` hold all
            findings.
    """

    name: str
    examples: Sequence[Example]
    findings: Sequence[Finding]
    usable: frozenset[str | int] | None
    notes: Sequence[str] = ()
    places: Mapping[str | int, str] = field(default_factory=dict)
    measured: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: Sequence[FoundRule] = ()
    preflight: Preflight | None = None
    most_listed: int = 20

    @property
    def summary(self) -> str:
        """Return one line with the number of findings and the number of usable examples."""
        return f"{self._counted()}; {self._usable()}"

    def lines(self) -> list[str]:
        """Render the findings for a terminal, worst first. Three lines summarise them.

        The rules and the preflight follow, if there are any. Then the last line is the preflight's verdict.
        """
        right = sum(e.label for e in self.examples)
        lines = [f"{self.name}: {len(self.examples)} examples, {right} right, {len(self.examples) - right} wrong"]
        lines += [f"note: {note}" for note in self.notes]
        severity = None
        for kind, findings in self._groups():
            if kind.severity != severity:
                severity = kind.severity
                lines += ["", severity.upper()]
            lines += ["", f"{kind.title} ({kind.name}): {len(findings)}", f"  cure: {kind.cure}"]
            lines += [f"  {_printable(self._line(finding))}" for finding in findings[: self.most_listed]]
            if len(findings) > self.most_listed:
                lines.append(f"  and {len(findings) - self.most_listed} more; --html and --json list all of them")
        return [*lines, "", *self.closing_lines(), *self.rule_lines()]

    def closing_lines(self) -> list[str]:
        """Return three lines: the findings by kind, their number, and the number of usable examples."""
        kinds = Counter(finding.kind for finding in self.findings)
        by_kind = ", ".join(f"{kinds[name]} {name}" for name in KINDS if kinds[name]) or "nothing to fix"
        return [f"findings: {by_kind}", self._counted(), self._usable()]

    def rule_lines(self) -> list[str]:
        """Render the rules and the preflight; nothing if there are neither."""
        lines = ["", "RULES", "", *rules_table(self.rules).split("\n")] if self.rules else []
        return [_printable(line) for line in [*lines, *(self.preflight.lines() if self.preflight else [])]]

    def json(self) -> dict[str, Any]:
        """Return everything in the report, as JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "summary": self.summary,
            "examples": len(self.examples),
            "usable": None if self.usable is None else [e.id for e in self.examples if e.id in self.usable],
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": KINDS[finding.kind].severity,
                    "id": finding.id,
                    "where": self.places.get(finding.id) if finding.id is not None else None,
                    "what": finding.what,
                    "cure": KINDS[finding.kind].cure,
                    "others": list(finding.others),
                }
                for finding in worst_first(self.findings)
            ],
            "measured": [dict(figures) for figures in self.measured],
            "rules": [one.json(self.examples) for one in self.rules],
            "preflight": self.preflight and self.preflight.json(),
        }

    def html(self, links: Sequence[tuple[str, str]] = ()) -> str:
        """Render one page that loads nothing. It is light or dark like the reader's system.

        Args:
            links: titles and relative addresses of the pages in the same folder.
        """
        by_id = {e.id: e for e in self.examples}
        groups: dict[str, list[Any]] = {}
        for kind, findings in self._groups():
            entries = [self._entry(finding, by_id) for finding in findings]
            groups.setdefault(kind.severity, []).append((kind, entries))
        return render_page(
            "nlft.auditing",
            "audit.html",
            read_template("nlft.auditing", "audit.css"),
            links=list(links),
            report=self,
            right=sum(e.label for e in self.examples),
            counted=self._counted(),
            usable=self._usable(),
            groups=list(groups.items()),
        )

    def _repr_html_(self) -> str:
        """Show the worst findings in a notebook, whose file keeps the output: `html()` holds all of them."""
        groups = []
        for kind, findings in self._groups():
            lines = [_shortened(self._line(finding), _LONGEST_LINE) for finding in findings[:_SHOWN]]
            groups.append((kind, lines, len(findings) - len(lines)))
        return render_fragment(
            "nlft.auditing",
            "audit_card.html",
            report=self,
            right=sum(e.label for e in self.examples),
            closing=self.closing_lines(),
            groups=groups,
            rules=self.rule_lines(),
        )

    def _entry(self, finding: Finding, by_id: Mapping[str | int, Example]) -> tuple[str, list[tuple[str, str]]]:
        """Return a finding's line, and its example's fields as (name, text).

        There are no fields if the finding is about the whole data.
        """
        if finding.id is None or finding.id not in by_id:
            return self._line(finding), []
        example = by_id[finding.id]
        fields = [("prompt", prompt_text(example.prompt)), ("label", str(example.label).lower()), *texts(example)]
        return self._line(finding), [(name, _shortened(text)) for name, text in fields]

    def _line(self, finding: Finding) -> str:
        """Return one line for a finding, with its example's place and id."""
        if finding.id is None:
            return finding.what
        place = self.places.get(finding.id)
        return f"{place + ' ' if place else ''}{finding.id!r}: {finding.what}"

    def _groups(self) -> Iterator[tuple[Kind, list[Finding]]]:
        groups: dict[str, list[Finding]] = defaultdict(list)
        for finding in worst_first(self.findings):
            groups[finding.kind].append(finding)
        return ((KINDS[name], findings) for name, findings in groups.items())

    def _counted(self) -> str:
        ids = {finding.id for finding in self.findings} - {None}
        count = len(self.findings)
        return f"{count} finding{'' if count == 1 else 's'} in {len(ids)} of {len(self.examples)} examples"

    def _usable(self) -> str:
        if self.usable is None:
            return "usable signals were not measured: set --model_name_or_path"
        wrong = sum(not e.label for e in self.examples)
        of_wrong = sum(not e.label for e in self.examples if e.id in self.usable)
        return (
            f"{len(self.usable)} of {len(self.examples)} examples carry a usable signal "
            f"({len(self.usable) - of_wrong} of {len(self.examples) - wrong} right, {of_wrong} of {wrong} wrong)"
        )


def _shortened(text: str, longest: int = _LONGEST) -> str:
    more = len(text) - longest
    return text if more <= 0 else f"{text[:longest]}... and {more} more characters"


def _printable(text: str) -> str:
    """Escape characters that would control the terminal or end the line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
