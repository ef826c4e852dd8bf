"""Write README's before-and-after from a run of `nlft demo`.

python benchmarks/demo_page.py keep demo --minutes 8    copy a demo's figures to docs/demo.json, then write
python benchmarks/demo_page.py write                    write README.md's part between the markers
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from textwrap import fill
from typing import Any

from nlft.results.stats import paired_difference, wilson

ROOT = Path(__file__).parent.parent
NUMBERS, PAGE = ROOT / "docs" / "demo.json", ROOT / "README.md"
BEGIN, END = "<!-- generated: demo -->\n", "<!-- end -->"
TITLES = {
    "base": "prompted base model",
    "sft-answer": "SFT on answers",
    "sft-completion": "SFT on right completions",
    "nlft": "NLFT",
    "control": "NLFT, branch off",
}


def kept(folder: Path, minutes: float, note: str) -> dict[str, Any]:
    """What README needs of a demo's folder: every grade, and the first question that NLFT wins over the base."""
    answers = {arm: json.loads((folder / arm / "evaluation.json").read_text())["questions"] for arm in TITLES}
    results = {arm: json.loads((folder / arm / "result.json").read_text()) for arm in TITLES}
    right = {
        arm: {
            reading: [q["grades"][reading]["verdict"] == "right" for q in questions]
            for reading in ("flexible", "strict")
        }
        for arm, questions in answers.items()
    }
    pairs = zip(right["base"]["flexible"], right["nlft"]["flexible"], strict=True)
    first = next(i for i, (before, after) in enumerate(pairs) if after and not before)
    question = json.loads((folder / "test.jsonl").read_text().splitlines()[first])
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "minutes": minutes,
        "note": note,
        "seed": json.loads((folder / "settings.json").read_text())["settings"]["seed"],
        "examples": len((folder / "examples.jsonl").read_text().splitlines()),
        "arms": {
            arm: {
                **{reading: [int(r) for r in by_question] for reading, by_question in right[arm].items()},
                "train_seconds": round(results[arm]["train_seconds"]),
                "peak_memory_gib": round(results[arm]["peak_memory_bytes"] / 2**30, 1),
            }
            for arm in TITLES
        },
        "question": {
            "id": question["id"],
            "prompt": question["prompt"],
            "answer": question["answer"],
            "before": answers["base"][first]["output"],
            "after": answers["nlft"][first]["output"],
        },
    }


def section(demo: dict[str, Any]) -> str:
    """README's part: one question with both replies, the table, and where they come from."""
    flexible = {arm: [bool(r) for r in found["flexible"]] for arm, found in demo["arms"].items()}
    pairs = list(zip(flexible["base"], flexible["nlft"], strict=True))
    asked, n = demo["question"], len(pairs)
    rows = [("question", asked["prompt"]), ("before: the prompted model", asked["before"])]
    rows += [(f"after NLFT on {demo['examples']} examples", asked["after"]), ("standard answer", asked["answer"])]
    won, lost = sum(a and not b for b, a in pairs), sum(b and not a for b, a in pairs)
    return "\n".join(
        [
            paragraph(
                f"This is test question `{asked['id']}`, with both replies verbatim. It is the first question in the "
                f"test file that the model gets wrong before training and right after it. There are {won} such "
                f"questions of {n}; on {lost} questions it is the other way round."
            ),
            "",
            "| | |",
            "|---|---|",
            *[f"| {title} | {cell(text)} |" for title, text in rows],
            "",
            f"| | right of {n} [95%] | with the format, `#### number` | training | peak memory |",
            "|---|---|---|---|---|",
            *[row(arm, found) for arm, found in demo["arms"].items()],
            "",
            "right: the last number is the right one. [95%]: confidence interval.",
            "",
            paragraph(
                f"Question and table come from one run of `nlft demo` (seed {demo['seed']}) on {demo['date']}: "
                f"{demo['minutes']:g} minutes on {demo['note']}. Run `nlft demo` to reproduce it. The run shows that "
                "every step works. It does not show that NLFT beats SFT on answers: the difference is "
                f'{difference(flexible, "sft-answer")}. NLFT minus NLFT without token tags (row "branch off") is '
                f"{difference(flexible, 'control')}."
            ),
            "",
        ]
    )


def difference(flexible: dict[str, list[bool]], other: str) -> str:
    gap = paired_difference(flexible["nlft"], flexible[other])
    return f"{100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"


def row(arm: str, found: dict[str, Any]) -> str:
    right, strict, n = sum(found["flexible"]), sum(found["strict"]), len(found["flexible"])
    seconds = f"{found['train_seconds']} s" if arm != "base" else ""
    return f"| {TITLES[arm]} | {wilson(right, n)} | {strict / n:.1%} | {seconds} | {found['peak_memory_gib']} GiB |"


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
