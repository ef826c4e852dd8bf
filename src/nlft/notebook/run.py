"""A run as a notebook shows it: its state, its last figures and its map. No torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nlft.errors import UserError, display_path
from nlft.files import framed, render_fragment
from nlft.outputs import is_our_page, refuse_foreign
from nlft.page.export import export_map, map_data, map_page
from nlft.page.live import LiveRun
from nlft.path_settings import home_path
from nlft.runs.reading import SPOILT
from nlft.runs.run_dir import RunDir, Snapshot, WatchedExample, short_model_name

SHOWN_EXAMPLES = 2  # examples in the map of a run that shows itself: a notebook's file keeps each output
MAP_STEPS = 20
_UNREADABLE = (OSError, UserError, *SPOILT)  # of a run that is spoilt, removed, or being written at this moment
_FIGURES = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "nlft/struck_probability": "probability of the struck tokens",
    "nlft/salient_fraction": "salient share of the tokens",
}


class Run(RunDir):
    """A run's folder, to look at: in a notebook it shows its state, its last losses and the start of its map.

    It reads files alone, so the run may be training in another process, and may be on another machine's disk.
    """

    def __init__(self, path: Path | str) -> None:
        """
        Args:
            path: the `output_dir` of a training. `~` at its start is the home folder, as in all paths of a notebook.

        Raises:
            UserError: the folder is missing, or is not a run directory.
        """
        super().__init__(RunDir.open(home_path(path)).path)

    def map(
        self,
        against: "RunDir | Path | str | None" = None,
        *,
        examples: int | None = None,
        steps: int = MAP_STEPS,
        height: int = 700,
    ) -> "RunMap":
        """Return the saliency map, which a notebook shows below the cell.

        Args:
            against: another run to show beside this one.
            examples: number of watched examples, the first ones; None for all.
            steps: maximum number of steps, evenly spaced, with the first and the last.
            height: height in pixels.

        Raises:
            UserError: a run watched no examples, or none of its snapshots can be read.
        """
        other = against if isinstance(against, RunDir | None) else RunDir.open(home_path(against))
        runs = [self, *([] if other is None else [other])]
        return RunMap([_part(run, examples) for run in runs], steps=steps, height=height)

    def summary(self) -> dict[str, Any]:
        """Return the state in a few values: `state`, `model`, `method`, `step`, `steps`, `eta_seconds`, `figures`.

        `figures` has the first and the last logged value of each figure by its name. `steps` and `eta_seconds` are None
        if they are not known.
        """
        live, settings = LiveRun(self), self.settings()
        events = self.events()
        planned = (settings.get("training") or {}).get("max_steps") or 0
        found = {name: [e[key] for e in events if e.get(key) is not None] for key, name in _FIGURES.items()}
        return {
            "state": live.state(),
            "model": short_model_name(settings),
            "method": settings.get("scheme") or settings.get("method"),
            "step": events[-1]["step"] if events else 0,
            "steps": planned if 0 < planned < 10**8 else None,
            "eta_seconds": events[-1].get("eta_seconds") if events else None,
            "figures": {name: (values[0], values[-1]) for name, values in found.items() if values},
        }

    def __repr__(self) -> str:
        try:
            rows = dict(_rows(self.summary()))
        except _UNREADABLE:
            return f"Run({display_path(self.path)!r})"
        told = ", ".join(f"{name} {value}" for name, value in rows.items() if name != "state")
        return f"Run({display_path(self.path)!r}): {rows['state']}; {told}"

    def _repr_html_(self) -> str:
        shown, rows, more, problem = "", [], 0, ""
        try:
            rows = _rows(self.summary())
            shown = self.map(examples=SHOWN_EXAMPLES, steps=2, height=480)._repr_html_()
            more = max(0, len(self.watched()) - SHOWN_EXAMPLES)
        except _UNREADABLE as error:  # also of a baseline, which watches no examples
            problem = str(error)
        name = display_path(self.path)
        return render_fragment("nlft.notebook", "run.html", name=name, rows=rows, problem=problem, more=more) + shown


class RunMap:
    """The saliency map of one run, or of two beside each other, as a notebook shows it."""

    def __init__(self, runs: list[RunDir], *, steps: int, height: int) -> None:
        self._runs, self._steps, self._height = runs, steps, height
        self._page = map_page([map_data(run, max_steps=steps) for run in runs])

    def save(self, out: Path | str, *, overwrite: bool = False) -> Path:
        """Write the map as one HTML file that opens without a server. Return its path.

        Args:
            overwrite: whether to replace a file that nlft did not write.

        Raises:
            UserError: the file cannot be written, or nlft did not write it.
        """
        path = home_path(out)
        refuse_foreign("save:", path, is_our_page, overwrite=overwrite, consent="overwrite=True")
        against = self._runs[1] if len(self._runs) > 1 else None
        return export_map(self._runs[0], path, against=against, max_steps=self._steps)

    def __repr__(self) -> str:
        names = " and ".join(display_path(run.path) for run in self._runs)
        return f"<map of {names}: a notebook shows it; .save('map.html') writes it>"

    def _repr_html_(self) -> str:
        return framed(self._page, "Saliency map", height=self._height, scripts=True)


class _FirstExamples(RunDir):
    """A run of which only the first watched examples are read."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self.count = count

    def watched(self) -> list[WatchedExample]:
        return super().watched()[: self.count]

    def snapshot(self, step: int) -> Snapshot:
        found = super().snapshot(step)
        said = found.alternatives
        return replace(found, scores=found.scores[: self.count], alternatives=said and said[: self.count])


def _part(run: RunDir, examples: int | None) -> RunDir:
    return RunDir(run.path) if examples is None else _FirstExamples(run.path, examples)


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the summary as (name, text)."""
    at = f"{summary['step']} of {summary['steps']}" if summary["steps"] else str(summary["step"])
    left = summary["eta_seconds"]
    state = summary["state"]
    if state == "training" and left is not None:
        state += f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
    rows = [("state", state), ("scheme", str(summary["method"])), ("model", str(summary["model"])), ("step", at)]
    for name, (first, last) in summary["figures"].items():
        rows.append((name, f"{last:.4g}" if first == last else f"{first:.4g} at the start, {last:.4g} now"))
    return rows
