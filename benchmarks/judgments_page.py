"""docs/JUDGMENTS.md from docs/judgments.json: every number on the page is counted there."""

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
A mistake is planted in a right worked answer: the result of one step is changed, and what follows from it is
recalculated, up to the final answer. Which tokens are wrong is then known:

- **the mistake**: the tokens of the changed number, from the first that departs from the right number: in 34 for 29
  both digits, in 28 for 29 the 8 alone. It counts as tagged if any of them is salient; "first" wants the first of them;
- **what follows**: the same of every later number that is wrong because of it. Neither mistake nor right;
- **right tokens**: all others, before the mistake and after it, the end-of-turn token included. The token before the
  mistake is one of them, and has a column of its own; "examples without" is the share of examples in which no right
  token is tagged;
- **sure**: the mistakes whose first wrong token has a probability above 2/3 under base, where pJ/pB cannot exceed 1.5,
  and how many of them are tagged.

The judgment is that of the deterministic judge (`judge_by_rules`). It quotes the wrong step as written, and the wrong
final answer. Its corrections are hidden unless said otherwise. Shuffled, each example has another one's judgment.
The judgment holds the wrong number: the model need not find the mistake, and what is measured is whether the tags land
on it and nowhere else. Questions are generated word problems and short ones of GSM8K, how many of each is said below.
Models in bfloat16, eager attention, default settings and templates. Brackets are 95% Wilson intervals; those over
tokens take the tokens of one example as independent, and are too narrow.
"""

OWN = """\
Of greedy answers to word problems, those whose first miscalculated step is a step of the solution. Everything up to its
result is right, and what comes after is not counted. Unlike planted mistakes these are what the model itself finds
likely, and its wording is not that of the worked answer which the standard prompt shows.
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
        "## The schemes\n\nPlanted mistakes; the judgment quotes the wrong step, or is another example's.\n",
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
    """The answer in a sentence, no before yes."""
    works, lines = True, []
    for model, counts in by_model.items():
        real, other = (Counts(**counts[told]["nlft"]) for told in ("rules", "shuffled"))
        ours, theirs = wilson(real.mistakes, real.examples), wilson(other.mistakes, other.examples)
        works &= ours.low > theirs.high
        lines.append(
            f"- {model}, of {real.examples} planted mistakes: {ours} tagged; with another example's judgment "
            f"{theirs}; of the right tokens {share(real.right_tagged, real.right)}."
        )
    answer = (
        "**Yes.** A judgment that quotes the wrong step makes `nlft` tag the mistake clearly more often than another "
        "example's\njudgment does."
        if works
        else "**No, not clearly.** For at least one model, judgments of other examples tag about as many mistakes."
    )
    return "\n".join([answer, "", *lines, ""])


def lessons(by_model: dict[str, Any], own: dict[str, Any]) -> str:
    """What a user can do with it; every figure from the tables, over the models."""

    def figures(counted: dict[str, Any], told: str, scheme: str, what: str, of: str) -> str:
        counts = [Counts(**by_judgment[told][scheme]) for by_judgment in counted.values()]
        return " and ".join(f"{getattr(c, what) / getattr(c, of):.1%}" for c in counts)

    def tagged(told: str = "rules", scheme: str = "nlft", counted: dict[str, Any] = by_model) -> str:
        return figures(counted, told, scheme, "mistakes", "examples")

    def strays(scheme: str, counted: dict[str, Any] = by_model) -> str:
        return figures(counted, "rules", scheme, "right_tagged", "right")

    points = [
        f'- **Quote the wrong step.** So {tagged()} of planted mistakes are tagged; "{VAGUE}" tags {tagged("vague")}.',
        f"- **`judge_shows_correction`**: with the correction in view {tagged('correction shown')} are tagged.",
        f"- **`contradiction`** takes what is tagged of the models' own mistakes from {tagged(counted=own)} to "
        f"{tagged(scheme='nlft + contradiction', counted=own)}, and of right tokens from {strays('nlft', own)} to "
        f"{strays('nlft + contradiction', own)}; of planted mistakes, which a model is seldom sure of, from "
        f"{tagged()} to {tagged(scheme='nlft + contradiction')}. It reads no judgment.",
        f"- **`cut`** tags {tagged(scheme='cut')} of planted mistakes, and {strays('cut')} of the right tokens. Its "
        "threshold is low, λ = 1.1, and it knows neither a least probability nor the standard answer.",
    ]
    head = "For whoever writes judgments and chooses settings, in the order of the models above:"
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
    """How the pairs of templates compare, and what they say."""
    examples = sum(
        next(iter(p.values()))["rules"]["examples"] for g in numbers["templates"].values() for p in g.values()
    )
    ranked = ranking(numbers)
    lines = [
        f"Compared with {' and '.join(numbers['templates'])} on {examples} planted mistakes, none of whose questions "
        "is in the tables above.\nMerit: the share of mistakes tagged by their judgments, less that tagged by shuffled "
        "ones, less the share of\nright tokens tagged; the mean over models and sources.\n",
        "| standard | judge | merit | mistakes tagged | shuffled | right tokens tagged |",
        "|---|---|---|---|---|---|",
    ]
    for pair, merit in ranked:
        groups = [group[pair] for by_source in numbers["templates"].values() for group in by_source.values()]
        real, other = (sum((Counts(**g[told]) for g in groups), Counts()) for told in ("rules", "shuffled"))
        cells = [f"{merit:.3f}", share(real.mistakes, real.examples), share(other.mistakes, other.examples)]
        cells.append(f"{real.right_tagged / real.right:.2%}")
        lines.append(f"| {pair} | " + " | ".join(cells) + " |")
    for title, texts in (("Standard", STANDARD_TEMPLATES), ("Judge", JUDGE_TEMPLATES)):
        lines += ["", f"{title} templates:", ""]
        lines += [f"- {name}: `{encoded(text)}`" for name, text in texts.items()]
    return "\n".join([*lines, ""])


def encoded(text: str) -> str:
    return text.replace("\n", "\\n")
