"""Requests from the page to the trainer: checked here, so that a refusal comes at once, and again by the trainer."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from nlft.errors import UserError, display_path
from nlft.page.plain import plain
from nlft.runs.controls import ControlState, after, controls_of, outcome, refusal, resolve
from nlft.runs.request_file import ControlRequest
from nlft.runs.run_dir import RunDir

MOST_AT_ONCE = 50
NOT_STEERABLE = "this run takes no requests; `nlft train` makes runs that do"


def expected(state: ControlState, waiting: Iterable[ControlRequest]) -> ControlState:
    """The state once the trainer has answered what waits already: a new scheme's settings can be asked for at once."""
    for request in waiting:
        if request.problem is None and refusal(request.control, request.value, state) is None:
            control, value = resolve(request.control, request.value, state)
            state = after(state, _line(request.id, control, value, state))
    return state


def ask(
    run: RunDir, state: ControlState, wanted: list[tuple[str, Any]], who: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """Write requests, all of them or, where one is refused, none.

    Args:
        state: see `expected`.
        wanted: control and value of each, in order.

    Returns:
        The requests' ids, and the controls that are refused, each with its reason.

    Raises:
        UserError: they cannot be written.
    """
    refused: list[tuple[str, str]] = []
    for name, value in wanted:
        reason = refusal(name, value, state)
        if reason is not None:
            refused.append((name, reason))
        else:
            control, set_to = resolve(name, value, state)
            state = after(state, _line("", control, set_to, state))
    if refused:
        return [], refused
    try:
        return run.write_requests(wanted, who), []
    except OSError as error:
        raise UserError(
            f"{display_path(run.requests_path)}: the request cannot be written ({error.strerror}), and nothing was "
            "asked.\n  Make room there, or allow it."
        ) from error


def offered(state: ControlState | None) -> dict[str, Any] | None:
    """For the page: where the controls stand, what can be set, and what this run cannot offer; None for no controls."""
    if state is None:
        return None
    known = {control.name: asdict(control) for control in controls_of(state)}
    found = {"values": dict(state.values), "controls": known, "unavailable": dict(state.unavailable)}
    undoable = [id for id in state.taken if refusal("undo", id, state) is None]
    needs = {"conditions": dict(state.conditions), "scorable": state.scorable, "undoable": undoable}
    return dict(plain({**found, **needs}))


def _line(id: str, control: str, value: Any, state: ControlState) -> dict[str, Any]:
    old, new = outcome(control, value, state)
    return {"id": id, "taken": True, "control": control, "old": old, "new": new}
