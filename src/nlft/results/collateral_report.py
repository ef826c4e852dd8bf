"""Show collateral as text: the table of one adapter, a row of a comparison's table, broken bounds."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from nlft.data.phrases import Phrase
from nlft.progress import table
from nlft.results.collateral import Breach, Collateral, Figures, Style
from nlft.results.settings import CollateralSettings

SETS = {"task": "the task's prompts", "near": "near-scope prompts", "keep": "prompts to keep"}
LISTED = 10  # phrases that a table shows; the files have all

COMPARED_HEAD = ("KL/token", "ends", "words", "repetition", "copied", "new phrases")


def collateral_lines(found: Mapping[str, Figures], broken: Iterable[Breach]) -> list[str]:
    """Return the collateral of one adapter for the terminal: the table, the phrases, and the bounds that it breaks."""
    rows = [row for name, one in found.items() for row in _rows(name, one)]
    lines = ["", *table(rows, ["collateral", "", "base", "adapter", "change"]).split("\n")]
    for name, one in found.items():
        if one.phrases:
            lines.append(f"became commoner, {name}: {phrases_text(one.phrases, one.replies)}")
    lines += [f"out of bounds: {breach_text(breach)}" for breach in broken]
    return lines


def collateral_json(found: Collateral, broken: Iterable[Breach], settings: CollateralSettings) -> dict[str, Any]:
    """Return what evaluation.json stores: the settings, the figures, the broken bounds and every reply."""
    names = sorted({f.name for f in fields(CollateralSettings)} - {"collateral"})
    return {
        "settings": {name: getattr(settings, name) for name in names},
        "figures": {name: asdict(one) for name, one in found.figures().items()},
        "broken": [asdict(one) for one in broken],
        "sets": {name: one.as_json() for name, one in found.sets.items()},
    }


def breach_text(breach: Breach | Mapping[str, Any]) -> str:
    """Return which bound broke, on which prompts, and how."""
    one = breach if isinstance(breach, Breach) else Breach(**breach)
    return f"{one.what} on {SETS[one.prompts]} (--{one.bound} {one.limit:.3g})"


def phrases_text(phrases: Iterable[Phrase], replies: int) -> str:
    """Return phrases with their numbers of replies before and after, at most 10."""
    every = list(phrases)
    shown = [f"“{phrase.text}” {phrase.before} → {phrase.after}" for phrase in every[:LISTED]]
    more = [f"and {len(every) - LISTED} more"] if len(every) > LISTED else []
    return f"{', '.join([*shown, *more])} of {replies}" if every else ""


def compared_row(one: Figures) -> list[str]:
    """Return the cells of one method and set of prompts in a comparison's table, below `COMPARED_HEAD`."""
    b, a = one.before, one.after
    struck = f" ({_nats(one.kl_everywhere)} with struck)" if one.kl != one.kl_everywhere else ""
    return [
        _nats(one.kl) + struck,
        f"{b.ends:.0%} → {a.ends:.0%}",
        f"{b.words:.0f} → {a.words:.0f}",
        f"{b.repetition:.0%} → {a.repetition:.0%}",
        "" if a.copied is None or b.copied is None else f"{b.copied:.0%} → {a.copied:.0%}",
        str(len(one.phrases)),
    ]


def compared_lines(title: str, size: int, found: Mapping[str, Figures], broken: Iterable[Breach]) -> list[str]:
    """Return a method's phrases that became commoner, and the bounds that it breaks, each as a line."""
    where = f"{title}, {size} examples"
    phrases = [(name, phrases_text(one.phrases, one.replies)) for name, one in found.items() if one.phrases]
    return [
        *(f"{where}: became commoner, {name}: {text}" for name, text in phrases),
        *(f"{where}: out of bounds: {breach_text(breach)}" for breach in broken),
    ]


def _rows(name: str, one: Figures) -> list[list[str]]:
    b, a = one.before, one.after
    rows = [
        [f"{name}, {one.replies} replies", "KL to base, nats/token", "", _nats(one.kl), ""],
        ["", "ends by itself", f"{b.ends:.0%}", f"{a.ends:.0%}", f"{100 * (a.ends - b.ends):+.0f} points"],
        ["", "mean words", f"{b.words:.0f}", f"{a.words:.0f}", _relative(b.words, a.words)],
        ["", "mean tokens", f"{b.tokens:.0f}", f"{a.tokens:.0f}", _relative(b.tokens, a.tokens)],
        ["", "repetition", *_shares(b.repetition, a.repetition)],
    ]
    if one.kl != one.kl_everywhere:
        rows.insert(1, ["", "with struck tokens", "", _nats(one.kl_everywhere), ""])
    if b.copied is not None and a.copied is not None:
        rows.append(["", "copied from training", *_shares(b.copied, a.copied)])
    return rows


def _shares(before: float, after: float) -> list[str]:
    return [f"{before:.1%}", f"{after:.1%}", f"{100 * (after - before):+.1f} points"]


def _relative(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.0f}%" if before else ""


def _nats(kl: float | None) -> str:
    return "–" if kl is None else f"{kl:.4f}"


def figures_of(data: Mapping[str, Any]) -> dict[str, Figures]:
    """Read figures back from a file, by set."""
    return {
        name: Figures(
            **{
                **one,
                "before": Style(**one["before"]),
                "after": Style(**one["after"]),
                "phrases": tuple(Phrase(**phrase) for phrase in one["phrases"]),
            }
        )
        for name, one in data.items()
    }
