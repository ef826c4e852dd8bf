"""An audit's result as text, as JSON, and as one self-contained page.

What the examples hold is untrusted here: it reaches the page escaped, as text alone, and the page's policy lets no
script run, and no style but its own.
"""

import base64
import hashlib
import html
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nlft.auditing.findings import KINDS, Finding, Kind, texts, worst_first
from nlft.core.prompts import prompt_text
from nlft.data.records import Example

_STYLE = """
:root {
  color-scheme: light dark;
  --page: light-dark(#f6f6f3, #121315); --surface: light-dark(#ffffff, #1b1c1f);
  --ink: light-dark(#1c1d20, #e7e7e4); --muted: light-dark(#5b5f66, #a3a7ad);
  --line: light-dark(#d9d9d4, #3a3c41); --accent: light-dark(#1f5fbf, #8ab4f8);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
* { box-sizing: border-box; }
body { max-width: 70rem; margin: 0 auto; padding: 1.25rem; background: var(--page); color: var(--ink); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 0; }
h1, h2, h3, summary, pre, dd { overflow-wrap: anywhere; }
section { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem;
  margin: .7rem 0; }
p { margin: .3rem 0; } .cure, .where, .note { color: var(--muted); }
.total { font-weight: 600; }
details { border-top: 1px solid var(--line); padding: .35rem 0; } summary { cursor: pointer; }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
a { color: var(--accent); }
dl { margin: .4rem 0 .6rem 1.1rem; } dt { color: var(--muted); font-size: .85rem; } dd { margin: 0 0 .4rem; }
pre { margin: 0; white-space: pre-wrap; font: .87rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
"""
_LONGEST = 4000  # characters of a field on the page


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        name: the data's name, such as a file name.
        examples: all examples, in their order.
        findings: worst first.
        usable: ids of the examples that carry a usable signal; None without a model.
        notes: checks that were skipped, and why.
        places: file and line of each example (`train.jsonl:41`) by id, as far as they are known.
        measured: the figures of each scored example, as JSON values.
        settings: the audit's settings, as JSON values.
        most_listed: most findings of one kind that `lines()` lists; `html()` and `json()` hold all of them.
    """

    name: str
    examples: Sequence[Example]
    findings: Sequence[Finding]
    usable: frozenset[str | int] | None
    notes: Sequence[str] = ()
    places: Mapping[str | int, str] = field(default_factory=dict)
    measured: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    most_listed: int = 20

    @property
    def summary(self) -> str:
        """One line: the number of findings, and the number of usable examples."""
        return f"{self._counted()}; {self._usable()}"

    def lines(self) -> list[str]:
        """Render the findings for a terminal, worst first. The last three lines sum them up."""
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
        kinds = Counter(finding.kind for finding in self.findings)
        by_kind = ", ".join(f"{kinds[name]} {name}" for name in KINDS if kinds[name]) or "nothing to fix"
        return [*lines, "", f"findings: {by_kind}", self._counted(), self._usable()]

    def json(self) -> dict[str, Any]:
        """Everything in the report, as JSON values."""
        return {
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
        }

    def html(self) -> str:
        """One page that loads nothing: light or dark as the reader's system is."""
        policy = f"default-src 'none'; style-src '{_hash(_STYLE)}'; base-uri 'none'; form-action 'none'"
        body = "\n".join(self._body())
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>Audit of {_escaped(self.name)}</title>\n<style>{_STYLE}</style>\n</head>\n"
            f"<body>\n{body}\n</body>\n</html>\n"
        )

    def _body(self) -> Iterator[str]:
        right = sum(e.label for e in self.examples)
        wrong = len(self.examples) - right
        yield f"<h1>Audit of {_escaped(self.name)}</h1>"
        yield f"<p>{len(self.examples)} examples, {right} right, {wrong} wrong.</p>"
        yield f'<p class="total">{_escaped(self._counted())}.<br>{_escaped(self._usable())}.</p>'
        for note in self.notes:
            yield f'<p class="note">Note: {_escaped(note)}</p>'
        by_id = {e.id: e for e in self.examples}
        severity = None
        for kind, found in self._groups():
            if kind.severity != severity:
                severity = kind.severity
                yield f"<h2>{severity.capitalize()}</h2>"
            yield f'<section><h3>{kind.title}: {len(found)}</h3><p class="cure">{_escaped(kind.cure)}</p>'
            for finding in found:
                yield self._shown(finding, by_id)
            yield "</section>"
        yield "<!-- end -->"

    def _shown(self, finding: Finding, by_id: Mapping[str | int, Example]) -> str:
        told = _escaped(self._line(finding))
        if finding.id is None or finding.id not in by_id:
            return f"<p>{told}</p>"
        example = by_id[finding.id]
        fields = [("prompt", prompt_text(example.prompt)), ("label", str(example.label).lower()), *texts(example)]
        rows = "".join(
            f'<dt>{name}</dt><dd dir="auto"><pre>{_escaped(_shortened(text))}</pre></dd>' for name, text in fields
        )
        return f"<details><summary>{told}</summary><dl>{rows}</dl></details>"

    def _line(self, finding: Finding) -> str:
        """A finding with its example's place and id."""
        if finding.id is None:
            return finding.what
        place = self.places.get(finding.id)
        return f"{place + ' ' if place else ''}{finding.id!r}: {finding.what}"

    def _groups(self) -> Iterator[tuple[Kind, list[Finding]]]:
        groups: dict[str, list[Finding]] = defaultdict(list)
        for finding in worst_first(self.findings):
            groups[finding.kind].append(finding)
        return ((KINDS[name], found) for name, found in groups.items())

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


def _shortened(text: str) -> str:
    more = len(text) - _LONGEST
    return text if more <= 0 else f"{text[:_LONGEST]}... and {more} more characters"


def _printable(text: str) -> str:
    """Escape characters that would control the terminal or end the line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _escaped(text: str) -> str:
    # HTML has no place for most control characters, and half a character cannot be encoded.
    shown = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return html.escape(shown)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
