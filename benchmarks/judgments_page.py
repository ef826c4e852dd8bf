"""Write docs/JUDGMENTS.md. Every number on the page comes from the counts in docs/judgments.json."""

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

from judgments import DEFAULT, DOCS, JUDGE_TEMPLATES, SCHEMES, STANDARD_TEMPLATES, TOLD, VAGUE, Counts, ranking

from nlft.results.stats import wilson

PAGE = DOCS / "JUDGMENTS.md"

LABELS = dict(
    zip(
        TOLD,
        [
            "quotes the wrong step",
            "... and shows its correction",
            f'vague: "{VAGUE}"',
            "another example's (shuffled)",
            "... and shows its correction",
        ],
        strict=True,
    )
)

METHOD = """\
A mistake is planted in a right worked answer. One step gets a wrong result, and every later number that depends on it
is recalculated, up to the final answer. This tells which tokens are wrong:

- **The mistake**: the tokens of the changed number, from the first token that differs from the right number. In 34
  instead of 29 these are both digits; in 28 instead of 29 only the 8. The mistake counts as tagged if any of these
  tokens is salient. The column "first" counts only mistakes whose first token is salient.
- **What follows**: the same tokens of every later number that is wrong because of the mistake. These count as neither
  mistake nor right.
- **Right tokens**: all other tokens, before and after the mistake, including the end-of-turn token. The token before
  the mistake is one of them, and also has its own column. "Examples without" is the share of examples in which no
  right token is tagged.
- **Sure**: mistakes whose first wrong token has a probability above 2/3 under base, where pJ/pB cannot exceed 1.5.
  The column shows how many of them are tagged.

The judgment comes from the deterministic judge (`judge_by_rules`). It quotes the wrong step as written, and the wrong
final answer. Its corrections are hidden unless a row says otherwise. In "shuffled" rows, each example has another
example's judgment.

The judgment contains the wrong number, so the model does not have to find the mistake. The tables measure whether the
tags are on the mistake and nowhere else. Questions are generated word problems and short questions of GSM8K; a table
below counts each. Models run in bfloat16 with eager attention, default settings and default templates. Brackets are
95% Wilson intervals. Intervals over tokens treat the tokens of one example as independent, so they are too narrow.
"""

OWN = """\
These examples are greedy answers to word problems whose first miscalculated step is a step of the solution.
Everything up to its result is right, and later tokens are not counted. In contrast to planted mistakes, the model
itself finds these likely, and their wording differs from the worked answer that the standard prompt shows.
"""


def page(numbers: dict[str, Any]) -> str:
    """The document."""
    measured = numbers["measure"]
    pair = DEFAULT
    by_model = {name: over_sources(groups, pair) for name, groups in measured.items()}
    own = {name: groups["own"][pair] for name, groups in measured.items() if "own" in groups}
    parts = [
        "# Do the judgments work?\n",
        "<!-- written by benchmarks/judgments.py from docs/judgments.json -->\n",
        verdict(by_model),
        lessons(by_model, own),
        "## How it was measured\n",
        METHOD,
        *[note + "\n" for note in numbers.get("notes", [])],
        "## What the judgment says\n\nTags of `nlft` on planted mistakes.\n",
        *[judgment_table(name, counts) for name, counts in by_model.items()],
        "## The schemes\n\nPlanted mistakes. The judgment quotes the wrong step, or is another example's judgment.\n",
        *[scheme_table(name, counts) for name, counts in by_model.items()],
        "## The models' own mistakes\n",
        OWN,
        *[scheme_table(name, counts) for name, counts in own.items()],
        "## Word problems and GSM8K apart\n\nTags of `nlft` on planted mistakes.\n",
        source_table(measured, pair),
        "## Which prompts\n",
        templates(numbers),
    ]
    return "\n".join(parts)


def over_sources(groups: dict[str, Any], pair: str) -> dict[str, Any]:
    """{judgments: {scheme: counts}} over all sources of planted mistakes."""
    sources = [group[pair] for name, group in groups.items() if name != "own"]

    def total(told: str, scheme: str) -> dict[str, int]:
        return asdict(sum((Counts(**source[told][scheme]) for source in sources), Counts()))

    return {told: {scheme: total(told, scheme) for scheme in SCHEMES} for told in TOLD}


def verdict(by_model: dict[str, Any]) -> str:
    """Yes or no in one sentence, then one line per model."""
    works, lines = True, []
    for model, counts in by_model.items():
        real, other = (Counts(**counts[told]["nlft"]) for told in ("rules", "shuffled"))
        ours, theirs = wilson(real.mistakes, real.examples), wilson(other.mistakes, other.examples)
        works &= ours.low > theirs.high
        line = (
            f"- {model}, {real.examples} planted mistakes: `nlft` tags {ours} of them, and {theirs} with another "
            f"example's judgment. It tags {share(real.right_tagged, real.right)} of the right tokens."
        )
        lines.append(fill(line, 118, subsequent_indent="  "))
    answer = (
        "**Yes.** With a judgment that quotes the wrong step, `nlft` tags the mistake more often than with another "
        "example's\njudgment. The two intervals do not overlap, for any model measured."
        if works
        else "**No, not clearly.** For at least one model, judgments of other examples tag about as many mistakes."
    )
    return "\n".join([answer, "", *lines, ""])


def lessons(by_model: dict[str, Any], own: dict[str, Any]) -> str:
    """Advice for users; every figure comes from the tables, over the models."""

    def figures(counted: dict[str, Any], told: str, scheme: str, what: str, of: str) -> str:
        counts = [Counts(**by_judgment[told][scheme]) for by_judgment in counted.values()]
        return " and ".join(f"{getattr(c, what) / getattr(c, of):.1%}" for c in counts)

    def tagged(told: str = "rules", scheme: str = "nlft", counted: dict[str, Any] = by_model) -> str:
        return figures(counted, told, scheme, "mistakes", "examples")

    def strays(scheme: str, counted: dict[str, Any] = by_model) -> str:
        return figures(counted, "rules", scheme, "right_tagged", "right")

    points = [
        f"- **Quote the wrong step.** Judgments that do tag {tagged()} of planted mistakes. "
        f'"{VAGUE}" tags {tagged("vague")}.',
        f"- **`judge_shows_correction`**: judgments that show the correction tag {tagged('correction shown')}.",
        "- **`contradiction`** raises the share of the models' own mistakes that are tagged from "
        f"{tagged(counted=own)} to {tagged(scheme='nlft + contradiction', counted=own)}. It raises the share of right "
        f"tokens from {strays('nlft', own)} to {strays('nlft + contradiction', own)}. Models are seldom sure of "
        f"planted mistakes: there the share goes from {tagged()} to {tagged(scheme='nlft + contradiction')}. "
        "`contradiction` does not read the judgment.",
        f"- **`cut`** tags {tagged(scheme='cut')} of planted mistakes, and {strays('cut')} of the right tokens. Its "
        "threshold is low, λ = 1.1, and it uses neither a least probability nor the standard answer.",
    ]
    head = "Advice for writing judgments and choosing settings. Figures are in the order of the models above."
    return "\n".join([head, "", *(fill(point, 118, subsequent_indent="  ") for point in points), ""])


def share(count: int, n: int) -> str:
    return str(wilson(count, n)) if n else "—"


def row(title: str, c: Counts) -> str:
    cells = [
        share(c.mistakes, c.examples),
        f"{c.first / c.examples:.0%}",
        share(c.right_tagged, c.right),
        f"{c.before / c.examples:.0%}",
        f"{c.clean / c.examples:.0%}",
        f"{c.follows_tagged / c.follows:.0%}" if c.follows else "—",
        f"{c.sure_tagged} of {c.sure}",
    ]
    return f"| {title} | " + " | ".join(cells) + " |"


def table(model: str, examples: int, rows: Sequence[str]) -> str:
    titles = "mistakes tagged | first | right tokens tagged | token before | examples without | what follows | sure"
    head = f"| | {titles} |"
    return "\n".join([f"{model}, {examples} examples\n", head, "|---|---|---|---|---|---|---|---|", *rows, ""])


def judgment_table(model: str, by_judgment: dict[str, Any]) -> str:
    counts = {told: Counts(**by_judgment[told]["nlft"]) for told in TOLD}
    return table(model, counts["rules"].examples, [row(LABELS[told], c) for told, c in counts.items()])


def scheme_table(model: str, by_judgment: dict[str, Any]) -> str:
    rows = []
    for scheme in SCHEMES:
        for told, addition in (("rules", ""), ("shuffled", ", shuffled")):
            if (scheme, told) != ("contradiction alone", "shuffled"):  # it reads no judgment
                rows.append(row(f"`{scheme}`{addition}", Counts(**by_judgment[told][scheme])))
    return table(model, by_judgment["rules"]["nlft"]["examples"], rows)


def source_table(measured: dict[str, Any], pair: str) -> str:
    titles = "| model | source | examples | mistakes tagged | shuffled | right tokens tagged |"
    lines = [titles, "|---|---|---|---|---|---|"]
    for model, groups in measured.items():
        for source, group in groups.items():
            if source != "own":
                real, other = (Counts(**group[pair][told]["nlft"]) for told in ("rules", "shuffled"))
                cells = [
                    model,
                    source,
                    str(real.examples),
                    share(real.mistakes, real.examples),
                    share(other.mistakes, other.examples),
                ]
                lines.append("| " + " | ".join([*cells, share(real.right_tagged, real.right)]) + " |")
    return "\n".join([*lines, ""])


def templates(numbers: dict[str, Any]) -> str:
    """The ranking of template pairs, and the text of each template."""
    examples = sum(
        next(iter(p.values()))["rules"]["examples"] for g in numbers["templates"].values() for p in g.values()
    )
    ranked = ranking(numbers)
    lines = [
        f"Templates were compared with {' and '.join(numbers['templates'])} on {examples} planted mistakes. None of\n"
        "these questions is in the tables above. Merit is a mean over models and sources: the share of mistakes\n"
        "tagged with their own judgments, minus the share tagged with shuffled judgments, minus the share of right\n"
        "tokens tagged.\n",
        "| standard | judge | merit | mistakes tagged | shuffled | right tokens tagged |",
        "|---|---|---|---|---|---|",
    ]
    for pair, merit in ranked:
        groups = [group[pair] for by_source in numbers["templates"].values() for group in by_source.values()]
        real, other = (sum((Counts(**g[told]) for g in groups), Counts()) for told in ("rules", "shuffled"))
        cells = [f"{merit:.3f}", share(real.mistakes, real.examples), share(other.mistakes, other.examples)]
        cells.append(f"{real.right_tagged / real.right:.2%}")
        lines.append(f"| {pair} | " + " | ".join(cells) + " |")
    for title, texts in (("standard", STANDARD_TEMPLATES), ("judge", JUDGE_TEMPLATES)):
        lines += ["", f"| {title} | template |", "|---|---|"]
        lines += [f"| {name} | `{encoded(text)}` |" for name, text in texts.items()]
    return "\n".join([*lines, ""])


def encoded(text: str) -> str:
    return text.replace("\n", "\\n")
