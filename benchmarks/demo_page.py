"""Write README's before-and-after from a run of `nlft demo`.

python benchmarks/demo_page.py keep demo --minutes 8    copy a demo's figures to docs/demo.json, then write
python benchmarks/demo_page.py write                    write README.md's part between the markers
"""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import fill
from typing import Any

from nlft.data.checks_file import read_checks
from nlft.data.records import Example, completion_text, marked_spans, read_examples
from nlft.experiments.cells import CellResult, cell_result
from nlft.results.stats import paired_difference, wilson

ROOT = Path(__file__).parent.parent
NUMBERS, PAGE = ROOT / "docs" / "demo.json", ROOT / "README.md"
BEGIN, END = "<!-- generated: demo -->\n", "<!-- end -->"
TITLES = {
    "base": "the model as it is",
    "rule": "the rule in the prompt, with 15 words",
    "rule-reworded": "the rule, said positively",
    "sft-completion": "SFT on the replies without a quote",
    "strike": "`strike` on the quoted words",
}


def kept(folder: Path, minutes: float, note: str) -> dict[str, Any]:
    """What README needs of a demo's folder: every verdict, the collateral, a note, and a reply before and after."""
    results = {arm: cell_result(folder / arm, "flexible") for arm in TITLES}
    examples = read_examples(folder / "examples.jsonl")
    wrong = [example for example in examples if not example.label]
    pairs = zip(results["base"].right, results["strike"].right, strict=True)
    first = next(i for i, (before, after) in enumerate(pairs) if after and not before)
    question = json.loads((folder / "test.jsonl").read_text(encoding="utf-8").splitlines()[first])
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "minutes": minutes,
        "note": note,
        "seed": json.loads((folder / "settings.json").read_text())["settings"]["seed"],
        "examples": len(examples),
        "wrong": len(wrong),
        "right": len(examples) - len(wrong),
        "quotes": sum(len(marked_spans(example)) for example in wrong),
        "judgment": wrong[0].judgment,
        **_words(folder, wrong),
        "arms": {arm: _figures(result) for arm, result in results.items()},
        "question": {
            "prompt": question["prompt"],
            "before": results["base"].answers[first]["output"],
            "after": results["strike"].answers[first]["output"],
        },
    }


def _words(folder: Path, wrong: Sequence[Example]) -> dict[str, int]:
    """How many words of praise the checks have, and how many of them no note quotes."""
    words = next(
        check.texts for check in read_checks(folder / "questions" / "checks.yaml") if check.name == "no-praise"
    )
    said = " ".join(
        completion_text(example)[span.start : span.end] for example in wrong for span in marked_spans(example)
    )
    return {"words": len(words), "unquoted": sum(word.casefold() not in said.casefold() for word in words)}


def _figures(result: CellResult) -> dict[str, Any]:
    broken = [{check["name"] for check in answer["checks"] if not check["passed"]} for answer in result.answers]
    found = result.collateral.figures() if result.collateral else {}
    return {
        "praises": [int("no-praise" in names) for names in broken],
        "names_the_item": sum("names-the-item" not in names for names in broken),
        "kl_task": found["task"].kl if found else None,
        "kl_keep": found["keep"].kl if found else None,
        "train_seconds": round(result.took["train_seconds"]),
        "steps": result.took["steps"],
    }


def section(demo: dict[str, Any]) -> str:
    """README's part: one prompt with both replies, the table, and where they come from."""
    asked, n = demo["question"], len(demo["arms"]["base"]["praises"])
    rows = [("prompt", asked["prompt"]), ("before", asked["before"]), ("after `strike`", asked["after"])]
    return "\n".join(
        [
            paragraph(
                f"The model has described {demo['examples']} products. A reader (a language model as editor) quoted "
                f"the praise in {demo['wrong']} of the replies: `{' '.join(demo['judgment'].split())}` After training "
                "on these notes, the model "
                f"describes {n} other products. This is the first reply that praises before training and not after it, "
                "verbatim:"
            ),
            "",
            "| | |",
            "|---|---|",
            *[f"| {title} | {cell(text)} |" for title, text in rows],
            "",
            f"| | replies that praise, of {n} [95%] | name the item | KL on the task | KL elsewhere | training |",
            "|---|---|---|---|---|---|",
            *[row(arm, found) for arm, found in demo["arms"].items()],
            "",
            paragraph(
                f"A reply praises if it has one of {demo['words']} words that the checks list. The reader had no list: "
                f"{demo['unquoted']} of these words are in no note. Praise that is left is for the next round of "
                f"notes. SFT has only {demo['right']} replies without a quote to train on. KL says how far the model "
                "has moved from the base, in nats per token: on the replies to the task outside the struck words, and "
                "on 40 prompts that have nothing to do with it. [95%]: confidence interval, of this one training."
            ),
            "",
            paragraph(
                f"Both tables come from one run of `nlft demo` (seed {demo['seed']}) on {demo['date']}: "
                f"{demo['minutes']:g} minutes on {demo['note']}. `strike` minus the rule said positively is "
                f"{difference(demo, 'rule-reworded')}; minus SFT it is {difference(demo, 'sft-completion')}."
            ),
            "",
        ]
    )


def difference(demo: dict[str, Any], other: str) -> str:
    """The difference in replies that praise, in points, with its interval."""
    ours, theirs = ([bool(one) for one in demo["arms"][arm]["praises"]] for arm in ("strike", other))
    gap = paired_difference(ours, theirs)
    return f"{100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"


def row(arm: str, found: dict[str, Any]) -> str:
    n = len(found["praises"])
    moved = ["0" if found[name] is None else f"{found[name]:.2g}" for name in ("kl_task", "kl_keep")]
    trained = f"{found['steps']} steps, {found['train_seconds']} s" if found["steps"] else ""
    cells = [TITLES[arm], str(wilson(sum(found["praises"]), n)), f"{found['names_the_item']} of {n}", *moved, trained]
    return f"| {' | '.join(cells)} |"


def cell(text: str) -> str:
    """The text in a table's cell, line breaks kept."""
    return text.strip().replace("|", "\\|").replace("\n", "<br>")


def paragraph(text: str) -> str:
    return fill(text, 118, break_long_words=False, break_on_hyphens=False)


def page(demo: dict[str, Any], text: str) -> str:
    """README with the part between its markers made from the numbers."""
    before, begin, rest = text.partition(BEGIN)
    assert begin, "README.md has no place for the demo"
    return before + BEGIN + section(demo) + END + rest.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["keep", "write"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--minutes", type=float, help="how long the demo took")
    parser.add_argument("--note", default="two CPU cores", help="the machine, and what else it did")
    args = parser.parse_args()
    if args.what == "keep":
        demo = kept(args.folder, args.minutes, args.note)
        NUMBERS.write_text(json.dumps(demo, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    demo = json.loads(NUMBERS.read_text(encoding="utf-8"))
    PAGE.write_text(page(demo, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
