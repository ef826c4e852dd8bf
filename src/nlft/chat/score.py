"""Blind choices: keep them in a file, and count them with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from nlft.chat.settings import BASE, RULE, TUNED
from nlft.chat.talk import Turn
from nlft.data.records import json_line
from nlft.errors import UserError, display_path
from nlft.files import append_whole
from nlft.results.clusters import Clusters
from nlft.results.stats import Difference, Proportion, interval_of, seeded_difference, wilson
from nlft.runs.json_lines import read_jsonl

_BEST_FIRST = (TUNED, RULE, BASE)


@dataclass(frozen=True)
class Pairing:
    """How often blind readers preferred one side to another.

    Attributes:
        better, worse: number of choices for only `ours`, and for only `theirs`.
        tied: number of choices for both.
        neither: number of choices for a third side alone, which do not tell these two apart.
        share: better / (better + worse), with Wilson's interval.
        difference: (better − worse) / choices, with the interval of paired proportions, by prompt.
    """

    ours: str
    theirs: str
    better: int
    worse: int
    tied: int
    neither: int
    share: Proportion
    difference: Difference

    def line(self) -> str:
        """Say it in one line."""
        counts = f"{self.ours} against {self.theirs}: better {self.better}, worse {self.worse}, tied {self.tied}"
        if self.neither:
            counts += f", neither {self.neither}"
        decided = f"; {self.share} of the decided" if self.share.n else ""
        return f"{counts}{decided}; difference {self.difference}"


class Choices:
    """The file of blind choices, and those about the trained weights that are talked to."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """
        Args:
            about: what identifies the models, see `Sides.about`. Only choices about the same weights are counted.

        Raises:
            UserError: the file cannot be read, or holds something else.
        """
        self.path, self.about = path, dict(about)
        if path.suffix.lower() != ".jsonl" or path.is_dir():
            raise UserError(f"--score {display_path(path)}: choices are written as .jsonl.\n  Give a file's name.")
        self.rows()

    def add(self, turn: Turn, seed: int) -> None:
        """Append a turn's choice.

        Raises:
            UserError: the file cannot be written.
        """
        row = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "prompt": turn.messages[-1]["content"],
            "turn": turn.number,
            "seed": seed,
            "order": list(turn.order),
            "chosen": list(turn.chosen or ()),
            **({"rule": turn.rule} if turn.rule else {}),
            **self.about,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_whole(self.path, json_line(row).encode())
        except OSError as error:
            raise UserError(
                f"cannot write {display_path(self.path)}: {error.strerror}. The choice is not kept.\n"
                "  Free some disk space, or start again with another --score."
            ) from error

    def rows(self) -> list[dict[str, Any]]:
        """Read all choices, also those about other weights.

        Raises:
            UserError: the file cannot be read, or holds something else.
        """
        try:
            rows = read_jsonl(self.path)
            assert all({"order", "chosen", "prompt"} <= row.keys() for row in rows)
        except (OSError, ValueError, AttributeError, AssertionError) as error:
            raise UserError(
                f"--score {display_path(self.path)}: is not a file of blind choices.\n  Give another name."
            ) from error
        return rows

    def lines(self, rule: str | None = None) -> list[str]:
        """Return the score as lines.

        Args:
            rule: the rule of the side `rule`. Its replies under another rule are not counted.
        """
        rows = self.rows()
        ours = [row for row in rows if _weights(row) == _weights(self.about)]
        other = [row for row in ours if row.get("rule") != rule and RULE in row["order"]]
        if not ours:
            lines = ["score: no blind choices yet. Hide the names, then choose the best reply."]
        else:
            of = interval_of(1)
            lines = [f"score of {len(ours)} blind choices (95% intervals {of}):"]
            counted = [_without_rule(row) if row in other else row for row in ours]
            lines += [f"  {pairing.line()}" for pairing in pairings(counted)]
        if other:
            lines.append(f"Choices under another rule, which do not count for the side `rule`: {len(other)}.")
        if len(ours) < len(rows):
            lines.append(f"{len(rows) - len(ours)} choices in {display_path(self.path)} are about other weights.")
        return lines


def _without_rule(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "order": [side for side in row["order"] if side != RULE]}


def pairings(rows: Sequence[Mapping[str, Any]]) -> list[Pairing]:
    """Compare each pair of sides over the choices that had both.

    Choices about the same prompt are not independent, so intervals count prompts.
    """
    present = [side for side in _BEST_FIRST if any(side in row["order"] for row in rows)]
    return [
        _pairing(ours, theirs, both)
        for ours, theirs in combinations(present, 2)
        if (both := [row for row in rows if {ours, theirs} <= set(row["order"])])
    ]


def _pairing(ours: str, theirs: str, rows: Sequence[Mapping[str, Any]]) -> Pairing:
    us, them = [ours in row["chosen"] for row in rows], [theirs in row["chosen"] for row in rows]
    pairs = list(zip(us, them, strict=True))
    better, worse = pairs.count((True, False)), pairs.count((False, True))
    clusters = Clusters("prompt", tuple(row["prompt"] for row in rows))
    if clusters.count == 1:  # one prompt shows no variance between prompts, so its last choice stands for all
        difference = seeded_difference([us[-1:]], [them[-1:]])
    else:
        difference = seeded_difference([us], [them], clusters=clusters)
    share = wilson(better, better + worse)
    return Pairing(
        ours, theirs, better, worse, pairs.count((True, True)), pairs.count((False, False)), share, difference
    )


def _weights(about: Mapping[str, Any]) -> object:
    """What tells the trained weights from others: their SHA-256, or the name where the files are not here."""
    return about.get("weights") or about.get("tuned")
