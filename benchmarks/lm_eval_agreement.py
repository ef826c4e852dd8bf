"""Grades an evaluation's outputs again with lm-evaluation-harness's own filters and metric.

    python benchmarks/lm_eval_agreement.py runs/a/evaluation.json

Prints how many readings and verdicts agree, and each that does not.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.harness import harness_reading, harness_verdict


def disagreements(evaluation: Path) -> Iterator[tuple[str, str, str, str]]:
    """(id, reading, ours, theirs) wherever the extracted text or the verdict differs."""
    for question in json.loads(evaluation.read_text(encoding="utf-8"))["questions"]:
        for reading in ("strict", "flexible"):
            grade = question["grades"][reading]
            extracted = harness_reading(reading, question["output"])
            if (grade["extracted"] or "[invalid]") != extracted:
                yield question["id"], reading, str(grade["extracted"]), extracted
            right = harness_verdict(reading, question["output"], question["answer"])
            if (grade["verdict"] == "right") != bool(right):
                yield question["id"], reading, grade["verdict"], "right" if right else "wrong"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found = list(disagreements(Path(name)))
        count = len(json.loads(Path(name).read_text(encoding="utf-8"))["questions"])
        print(f"{name}: {count} outputs, 2 readings each, {len(found)} disagreements")
        for row in found:
            print("  ", *row)
