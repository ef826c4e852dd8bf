"""Export the saliency map as one HTML file. It loads nothing, so it opens anywhere, years later, without a server.

It is the live page without the server: the same scripts, the steps inside the file, and working what-if controls. A
model's text is untrusted. It travels as an escaped JSON block and reaches the page only as text. The page's content
policy allows only the scripts and the style whose hashes it names.
"""

import base64
import csv
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from nlft.errors import UserError, display_path, printable
from nlft.files import write_output
from nlft.page.bundle import file_page
from nlft.page.live import LiveRun
from nlft.page.steps import Shown, Unreadable, pack_step, shown_at
from nlft.runs.reading import reading
from nlft.runs.run_dir import RunDir, Snapshot, WatchedExample

MAX_STEPS = 200
CSV_COLUMNS = [
    *("step", "example", "label", "position", "token", "scored_at_step", "scheme", "tag"),
    *("base", "standard", "judge", "likelihood", "unlikelihood"),
]


# A file may go to other people, and its run has no controls: it tells neither folders nor how to go on.
_OF_THIS_MACHINE = {"refusal": None, "command": None, "folder": None}


def export_map(run: RunDir, out: Path, *, against: RunDir | None = None, max_steps: int = MAX_STEPS) -> Path:
    """Write the map of a run's watched examples, for every step that has a snapshot.

    Args:
        out: the HTML file. An older file is replaced.
        against: another run to show beside the first one.
        max_steps: maximum number of steps. A run with more snapshots is thinned evenly. The first and the last step are
            kept. The page shows a note of this.

    Returns:
        `out`.

    Raises:
        UserError: a run watched no examples, none of its snapshots can be read, or `out` cannot be written.
    """
    require_writable(out)
    runs = [run] if against is None else [run, against]
    data = []
    for one in runs:
        for read in (one.settings, one.events, one.controls):
            read()  # the live page shows what it can of a spoilt file; a file for others must not lack it in silence
        with reading(one.path):
            data.append(map_data(one, max_steps=max_steps))
    page = map_page(data)
    write_output(out, page.encode())
    return out


def map_page(runs: list[dict[str, Any]], *, view: dict[str, Any] | None = None) -> str:
    """Build the page that shows the data of `map_data`."""
    title = printable(" and ".join(run["run"] for run in runs))
    return file_page(f"{title}: saliency map", {"runs": runs, "view": view or {}})


def live_export(runs: list[LiveRun], step: int | None, view: dict[str, Any]) -> str:
    """Export the live page as one file.

    Args:
        step: the step of the first run to include; None for all steps. A second run is included with all steps.
        view: the page's view. The file opens with this view.
    """
    steps = [step, *[None] * (len(runs) - 1)]
    return map_page([map_data(r.run, only=s) for r, s in zip(runs, steps, strict=True)], view=view)


def map_data(run: RunDir, *, max_steps: int = MAX_STEPS, only: int | None = None) -> dict[str, Any]:
    """Collect the page's data for JSON: the watched examples, the curves, and each step's bytes in base64.

    Args:
        max_steps: maximum number of steps; see `export_map`.
        only: include only this step.

    Raises:
        UserError: the run watched no examples, or none of its snapshots can be read.
    """
    name = display_path(run.path)
    examples = _watched(run, name)
    recorded = run.snapshot_steps()
    if not examples or not recorded:
        missing = "watched no examples" if not examples else "has not recorded a step of its watched examples yet"
        raise UserError(
            f"{name}: this run {missing}, so there is nothing to map.\n"
            "  Train with --watch 8, or wait for the run's first logged step."
        )
    chosen = thin_steps(recorded, max_steps) if only is None else [only]
    steps, unreadable = _packed_steps(run, chosen, examples)
    if not steps:
        raise UserError(
            f"{name}: cannot read any of its snapshots: step {', '.join(unreadable)}.\n"
            "  Train again with --watch 8, or copy the run's saliency folder again."
        )
    notes = []
    if only is None and len(chosen) < len(recorded):
        notes.append(f"Shows {len(chosen)} of {len(recorded)} recorded steps, evenly spaced, with the first and last.")
    if unreadable:
        notes.append(f"Left out unreadable steps: {', '.join(unreadable)}.")
        warnings.warn(f"{name}: {notes[-1]}", stacklevel=2)
    live = LiveRun(run)
    problem = live.problem and _for_others(run, live.problem)
    of_steps = {"steps": sorted(steps), "waiting": [], "problem": problem}
    return {
        **live.about(),
        "key": None,
        "notes": notes,
        "changes": {**live.changes(-1, -1, 0, 0), **of_steps, **_OF_THIS_MACHINE},
        "packed": {str(step): base64.b64encode(data).decode() for step, data in steps.items()},
    }


def export_csv(run: RunDir, out: Path) -> Path:
    """Write every watched token as CSV, one step at a time; see `csv_parts`. Return `out`.

    Raises:
        UserError: the run watched no examples, or `out` cannot be written.
    """
    require_writable(out)
    write_output(out, (part.encode() for part in csv_parts(run)))
    return out


def csv_parts(run: RunDir, step: int | None = None) -> Iterator[str]:
    """Yield every watched token as a line of CSV, one step at a time, because a long run has hundreds of megabytes.

    A token is written as a JSON string in ASCII. So spaces and control characters are visible, and a spreadsheet does
    not take a token that starts with "=" for a formula.

    A step that cannot be read has one line, whose `tag` says so.

    Args:
        step: one step; None for all steps.

    Raises:
        UserError: the run watched no examples, has no such step, or cannot read it.
    """
    examples = _watched(run, display_path(run.path))
    recorded = run.snapshot_steps()
    if not examples or not recorded or (step is not None and step not in recorded):
        raise UserError(f"{display_path(run.path)} has no such step.\n  Its steps: {recorded or 'none yet'}.")
    if step is None:  # an example without scores at one step is in the lines of an earlier step
        return _csv_steps(run, recorded, examples)
    try:
        found = shown_at(run, recorded, step, examples)
    except Unreadable as error:
        raise UserError(f"step {step} cannot be read: {error}") from error
    return iter([_csv_text([CSV_COLUMNS]), _csv_text(_csv_rows(*found, examples))])


def _csv_steps(run: RunDir, steps: list[int], examples: list[WatchedExample]) -> Iterator[str]:
    yield _csv_text([CSV_COLUMNS])
    for step in steps:
        try:
            snapshot, shown = shown_at(run, [], step, examples)
        except Unreadable as error:
            warnings.warn(f"{display_path(run.path)}: step {step} is left out: {error}", stacklevel=2)
            left_out = {"step": step, "tag": json.dumps(f"left out: {_for_others(run, error)}")}
            yield _csv_text([[left_out.get(name, "") for name in CSV_COLUMNS]])
            continue
        yield _csv_text(_csv_rows(snapshot, shown, examples))


def _for_others(run: RunDir, error: object) -> str:
    """Return an error as a file for other people has it: in one line, without the run's folder."""
    text = " ".join(str(error).split())
    for folder in {display_path(run.path), str(run.path), str(run.path.resolve())}:
        text = text.replace(f"{folder}{os.sep}", "").replace(folder, run.path.resolve().name)
    return text


def _csv_text(rows: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _csv_rows(snapshot: Snapshot, shown: list[Shown | None], examples: list[WatchedExample]) -> Iterator[list[Any]]:
    for one, example in zip(shown, examples, strict=True):
        if one is None:
            continue
        source, scores = one.source, one.scores
        columns = [scores.base, scores.standard, scores.judge, scores.likelihood, scores.unlikelihood]
        for at, token in enumerate(example.tokens):
            numbers = ["" if column is None else f"{float(column[at]):.7g}" for column in columns]
            tag = int(scores.tag[at])
            name = source.tag_names[tag] if tag < len(source.tag_names) else f"tag {tag}"
            label = "right" if example.label else "wrong"
            about = [snapshot.step, json.dumps(example.id), label, at, json.dumps(token), source.step]
            yield [*about, json.dumps(source.scheme), json.dumps(name), *numbers]


def thin_steps(steps: list[int], max_steps: int) -> list[int]:
    """Choose at most `max_steps` evenly spaced steps, including the first and the last."""
    if max_steps < 2:
        raise UserError(f"max_steps is {max_steps}, but a map needs the first and the last step.\n  Give 2 or more.")
    if len(steps) <= max_steps:
        return steps
    last = len(steps) - 1
    kept = [steps[round(index * last / (max_steps - 1))] for index in range(max_steps)]
    assert all(earlier < later for earlier, later in pairwise(kept))
    return kept


def require_writable(out: Path) -> None:
    """Check before a long computation that `write_output` can write to `out`.

    Raises:
        UserError: the file's folder does not exist, or `out` is itself a folder.
    """
    if not out.parent.is_dir():
        raise UserError(
            f"{display_path(out)}: the folder {display_path(out.parent)} does not exist.\n"
            "  Create it, or give another file."
        )
    if out.is_dir():
        raise UserError(
            f"{display_path(out)} is a folder.\n  Give a file name, such as {display_path(out / 'map.html')}."
        )


def _packed_steps(run: RunDir, chosen: list[int], examples: list[WatchedExample]) -> tuple[dict[int, bytes], list[str]]:
    """Pack each readable step. For each other step, return the reason why it cannot be shown."""
    recorded = run.snapshot_steps()
    packed, unreadable = {}, []
    for step in chosen:
        try:
            packed[step] = pack_step(*shown_at(run, recorded, step, examples))
        except Unreadable as error:
            unreadable.append(f"{step} ({_for_others(run, error)})")
    return packed, unreadable


def _watched(run: RunDir, name: str) -> list[WatchedExample]:
    try:
        return run.watched()
    except UserError as error:
        raise UserError(
            f"{name}: cannot read its list of watched examples: {error}\n  Or train again with --watch 8."
        ) from error
