"""What a user can do with a run that has no final adapter: go on with it, or use a checkpoint."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nlft.errors import display_path
from nlft.runs.checkpoints import last_whole_checkpoint
from nlft.runs.listing import last_events
from nlft.runs.reading import SPOILT
from nlft.runs.run_dir import RunDir
from nlft.runs.state import GONE, RunState, run_state


def state_of(run: RunDir) -> RunState:
    """Return what a run is doing. A log that cannot be read says nothing."""
    events, logged = [], None
    with suppress(OSError, *SPOILT):
        logged = run.events_path.stat().st_mtime
        events = last_events(run.events_path)
    return run_state(events[-1] if events else None, beat=run.heartbeat(), logged=logged)


def ways_to_go_on(run: RunDir, use: Callable[[Path], str] | None = None) -> str:
    """Return what to type for a run without its adapter: one line per way.

    Args:
        use: returns the command that uses a checkpoint instead; None if no checkpoint will do.
    """
    state, checkpoint = state_of(run), last_whole_checkpoint(run)
    if state.name == "waiting":
        lines = ["It has not begun to train."]
    elif state.name not in GONE:
        step = f", at step {state.step}" if state.step is not None else ""
        lines = [f"It still trains{step}: wait for its end. To watch it: nlft map {display_path(run.path)}"]
    elif state.command:
        elsewhere = state.folder and Path(state.folder) != Path.cwd()
        lines = [f"To go on with it{f', in {state.folder}' if elsewhere else ''}: {state.command}"]
    else:
        lines = ["To go on with it, type its `nlft train` again, and add --resume."]
    if checkpoint is not None and use is not None:
        lines.append(f"To use its last checkpoint: {use(checkpoint)}")
    elif checkpoint is None:
        lines.append("It has no whole checkpoint.")
    return "\n".join(f"  {line}" for line in lines)
