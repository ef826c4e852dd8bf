"""Send requests from the page to the trainer. Check them here to refuse early. The trainer checks them again."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from nlft.errors import UserError, display_path
from nlft.page.as_json import object_as_json
from nlft.runs.controls import ControlState, after, controls_of, outcome, refusal, resolve
from nlft.runs.request_file import ControlRequest
from nlft.runs.run_dir import RunDir

MOST_AT_ONCE = 50
NOT_STEERABLE = "this run takes no requests; only runs of `nlft train` do"


def expected_state(state: ControlState, waiting: Iterable[ControlRequest]) -> ControlState:
    """Return the state after the trainer has answered the waiting requests.

    With this state, a user can choose a new scheme and change its settings without waiting.
    """
    for request in waiting:
        if request.problem is None and refusal(request.control, request.value, state) is None:
            control, value = resolve(request.control, request.value, state)
            state = after(state, _line(request.id, control, value, state))
    return state


def send_requests(
    run: RunDir, state: ControlState, changes: list[tuple[str, Any]], who: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """Write requests for the trainer. If one is refused, write none.

    Args:
        state: the state when the trainer takes the requests; see `expected_state`.
        changes: (control, value) pairs, in order.

    Returns:
        The requests' ids, and the refused controls, each with its reason.

    Raises:
        UserError: the requests cannot be written.
    """
    refused: list[tuple[str, str]] = []
    for name, value in changes:
        reason = refusal(name, value, state)
        if reason is not None:
            refused.append((name, reason))
        else:
            control, set_to = resolve(name, value, state)
            state = after(state, _line("", control, set_to, state))
    if refused:
        return [], refused
    try:
        return run.write_requests(changes, who), []
    except OSError as error:
        raise UserError(
            f"cannot write the request to {display_path(run.requests_path)} ({error.strerror}). Nothing was sent.\n"
            "  Free some disk space, or change the folder's permissions."
        ) from error


def control_panel(state: ControlState | None) -> dict[str, Any] | None:
    """Return the controls' values and ranges for the page, and the controls that this run lacks.

    Return None if the run has no controls.
    """
    if state is None:
        return None
    known = {control.name: asdict(control) for control in controls_of(state)}
    controls = {"values": dict(state.values), "controls": known, "unavailable": dict(state.unavailable)}
    undoable = [id for id in state.taken if refusal("undo", id, state) is None]
    needs = {"conditions": dict(state.conditions), "scorable": state.scorable, "undoable": undoable}
    return object_as_json({**controls, **needs})


def _line(id: str, control: str, value: object, state: ControlState) -> dict[str, Any]:
    old, new = outcome(control, value, state)
    return {"id": id, "taken": True, "control": control, "old": old, "new": new}
