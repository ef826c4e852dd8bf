"""The controls of a training run. Describe each control, and find a request's effect or the reason to refuse it.

All functions are pure and do not use torch. The page's server calls `refusal` before it writes a request, and the
trainer calls it again before it takes a request. Both read the state of the controls with `state_of` from run.yaml and
controls.jsonl.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nlft.config import SALIENCY, range_of
from nlft.errors import UserError
from nlft.runs.reading import SPOILT

Kind = Literal["number", "integer", "choice", "flag", "action", "request"]
_KINDS: dict[type[Any], Kind] = {bool: "flag", int: "integer", float: "number"}


@dataclass(frozen=True)
class Control:
    """One setting or action that a user can change or start while a run trains.

    Attributes:
        kind: type of the value. An `action` has no value (null). The value of a `request` is the id of a taken request.
        low, high: bounds of a number, both included; None for no bound.
        choices: allowed values of a `choice`; None if they depend on the run (`scheme`).
    """

    name: str
    kind: Kind
    help: str
    low: float | None = None
    high: float | None = None
    choices: list[str] | None = None
    default: Any = None


_CONTROLS = [
    Control("learning_rate", "number", "Factor on the schedule's learning rate.", low=0, high=10, default=1.0),
    Control("scheme", "choice", "Saliency scheme; its conditions are scored from the next step on."),
    Control("pause", "action", "Wait before the next step; save and stop still work."),
    Control("resume", "action", "Go on after a pause."),
    Control("save", "action", "Write a checkpoint now."),
    Control("evaluate", "action", "Compute the loss on the held-out examples now."),
    Control("stop", "action", "End the training here and write the adapter."),
    Control("undo", "request", "Set what a taken request changed back to what it was."),
]
CONTROLS = {control.name: control for control in _CONTROLS}

# These do not change the weights, so neither a resume nor a replay takes them again.
WITHOUT_EFFECT_ON_WEIGHTS = frozenset({"pause", "resume", "save", "evaluate"})
_OPPOSITE = {"pause": "resume", "resume": "pause"}


@dataclass(frozen=True)
class ControlState:
    """The state of a run's controls.

    Attributes:
        values: `learning_rate`, `scheme`, `pause` (bool), and every scheme's settings as `saliency.FIELD`. A field that
            several schemes have means the same in all of them.
        schemes: each scheme's settings.
        conditions: the conditions that each scheme needs, of `standard` and `judge`.
        scorable: the conditions that this run can score.
        unavailable: controls that this run lacks -> the reason. CONTROL=VALUE stands for one value of a choice.
        taken: the taken requests by id, as in controls.jsonl.
    """

    values: Mapping[str, Any]
    schemes: Mapping[str, list[Control]]
    conditions: Mapping[str, list[str]]
    scorable: list[str]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        return str(self.values["scheme"])

    @property
    def settings(self) -> dict[str, Any]:
        """The active scheme's settings by field name."""
        return {control.name: self.values[SALIENCY + control.name] for control in self.schemes[self.scheme]}

    @property
    def factor(self) -> float:
        """The factor on the schedule's learning rate."""
        return float(self.values["learning_rate"])

    @property
    def paused(self) -> bool:
        return bool(self.values["pause"])


def describe(settings: type[Any]) -> list[Control]:
    """Turn a settings dataclass into controls. Its fields give help, range and default."""
    hints = get_type_hints(settings, include_extras=True)
    return [_described(f.name, hints[f.name], f.default, f.metadata.get("help", "")) for f in fields(settings)]


def _described(name: str, hint: Any, default: object, help: str) -> Control:
    if get_origin(hint) is Literal:
        return Control(name, "choice", help, choices=list(get_args(hint)), default=default)
    limit, value_type = range_of(hint), getattr(hint, "__origin__", hint)
    low, high = (None, None) if limit is None else (_bound(limit.low), _bound(limit.high))
    return Control(name, _KINDS[value_type], help, low=low, high=high, default=default)


def _bound(value: float) -> float | None:
    return value if math.isfinite(value) else None


def steering_record(
    schemes: Mapping[str, type[Any]],
    conditions: Mapping[str, list[str]],
    scorable: list[str],
    unavailable: Mapping[str, str],
) -> dict[str, Any]:
    """Make the fields of run.yaml that `state_of` reads, except `scheme` and `saliency`."""
    return {
        "schemes": {name: [asdict(control) for control in describe(kind)] for name, kind in schemes.items()},
        "conditions": dict(conditions),
        "scorable": scorable,
        "unavailable": dict(unavailable),
    }


def state_of(settings: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> ControlState | None:
    """Read the state of the controls. Return None for a run that takes no requests (`nlft sft`).

    Args:
        settings: content of run.yaml.
        lines: lines of controls.jsonl, from `RunDir.controls()`.

    Raises:
        UserError: the two do not belong together, so that no state follows from them.
    """
    if "schemes" not in settings:
        return None
    try:
        return _state_of(settings, lines)
    except SPOILT as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"run.yaml and controls.jsonl do not belong together: {what}.\n  Copy both files again, from one run."
        ) from error


def _state_of(settings: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> ControlState:
    schemes = {name: [Control(**c) for c in recorded] for name, recorded in settings["schemes"].items()}
    values: dict[str, Any] = {"learning_rate": 1.0, "scheme": settings["scheme"], "pause": False}
    values |= {SALIENCY + c.name: c.default for controls in schemes.values() for c in controls}
    values |= {SALIENCY + name: value for name, value in settings["saliency"].items()}
    state = ControlState(
        values, schemes, settings["conditions"], settings["scorable"], settings.get("unavailable") or {}
    )
    for line in lines:
        state = after(state, line)
    _ = state.settings, state.factor  # every reader of a state needs them
    return state


def after(state: ControlState, line: Mapping[str, Any]) -> ControlState:
    """Return the state after a line of controls.jsonl takes effect. A refused request changes nothing."""
    if not line["taken"]:
        return state
    values, control = dict(state.values), line["control"]
    if control in _OPPOSITE:
        values["pause"] = control == "pause"
    elif control in values:
        if control == "scheme" and line["new"] != state.scheme:
            values |= _own_defaults(state.schemes, line["new"])
        values[control] = line["new"]
    return replace(state, values=values, taken={**state.taken, line["id"]: dict(line)})


def _own_defaults(schemes: Mapping[str, list[Control]], scheme: str) -> dict[str, Any]:
    """Return a scheme's defaults of the settings that have another default in another scheme."""
    defaults: dict[str, set[Any]] = {}
    for control in (c for controls in schemes.values() for c in controls):
        defaults.setdefault(control.name, set()).add(control.default)
    return {SALIENCY + c.name: c.default for c in schemes[scheme] if len(defaults[c.name]) > 1}


def controls_of(state: ControlState) -> list[Control]:
    """Return every control of this run with its choices. The active scheme's settings are controls too."""
    own = [_offered(replace(c, name=SALIENCY + c.name), state.unavailable) for c in state.schemes[state.scheme]]
    general = [control for control in CONTROLS.values() if control.name not in state.unavailable]
    return [replace(c, choices=list(state.schemes)) if c.name == "scheme" else c for c in general] + own


def _offered(control: Control, unavailable: Mapping[str, str]) -> Control:
    """Leave out the choices that this run lacks."""
    if control.choices is None:
        return control
    return replace(control, choices=[c for c in control.choices if f"{control.name}={c}" not in unavailable])


def refusal(control: str, value: object, state: ControlState) -> str | None:
    """Return why the run would refuse this request now, as a sentence without full stop. None if it would take it."""
    if control == "undo":
        return _undo_refusal(value, state)
    for name in (control, f"{control}={value}"):
        if name in state.unavailable:
            return state.unavailable[name]
    known = {c.name: c for c in controls_of(state)}
    if control not in known:
        return _unknown(control, state)
    if control in _OPPOSITE and state.paused == (control == "pause"):
        return "the run is already paused" if state.paused else "the run is not paused"
    wrong = _wrong_value(known[control], value)
    if wrong is None and control == "scheme":
        missing = [c for c in state.conditions[str(value)] if c not in state.scorable]
        if missing:
            return f"scheme {value} needs {' and '.join(missing)}, but this run's examples have no prompts for that"
    return wrong


def _undo_refusal(value: object, state: ControlState) -> str | None:
    line = state.taken.get(value) if isinstance(value, str) else None
    if line is None:
        return "no taken request has this id"
    if not can_undo(line):
        return f"{line['control']} cannot be undone"
    return refusal(*resolve("undo", value, state), state)


def _unknown(control: str, state: ControlState) -> str:
    name = control.removeprefix(SALIENCY)
    owner = next((s for s, controls in state.schemes.items() if any(c.name == name for c in controls)), None)
    if control.startswith(SALIENCY) and owner is not None:
        return f"{name} is a setting of scheme {owner}, but {state.scheme} is active"
    return f"there is no control {control[:80]!r}"


def _wrong_value(control: Control, value: object) -> str | None:
    kind = control.kind
    if kind == "action":
        return None if value is None else f"{control.name} takes no value"
    if kind == "choice":
        return None if value in (control.choices or []) else f"choose one of {', '.join(control.choices or [])}"
    if kind == "flag":
        return None if isinstance(value, bool) else "give true or false"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (kind == "integer" and isinstance(value, float))
    ):
        return "give a whole number" if kind == "integer" else "give a number"
    low = -math.inf if control.low is None else control.low
    high = math.inf if control.high is None else control.high
    if low <= value <= high and abs(value) < sys.float_info.max:  # neither infinite nor an integer beyond floats
        return None
    if control.high is None:
        return f"give {low:g} or more"
    return f"give {low:g} to {high:g}" if control.low is not None else f"give {high:g} or less"


def can_undo(line: Mapping[str, Any]) -> bool:
    """Whether the request in a line of controls.jsonl can be undone."""
    return bool(line["taken"]) and line["control"] not in ("save", "evaluate", "stop")


def resolve(control: str, value: object, state: ControlState) -> tuple[str, Any]:
    """Return the control that a request sets, and its new value. For an undo, this is the control to set back.

    `refusal` must have returned None for this request.
    """
    if control == "undo":
        line = state.taken[str(value)]
        opposite = _OPPOSITE.get(line["control"])
        return (opposite, None) if opposite else (line["control"], line["old"])
    known = {c.name: c for c in controls_of(state)}
    if control in known and known[control].kind == "number" and isinstance(value, int):
        value = float(value)
    return control, value


def outcome(control: str, value: object, state: ControlState) -> tuple[Any, Any]:
    """Return the values `old` and `new` of a resolved control for controls.jsonl."""
    if control in _OPPOSITE:
        return state.paused, control == "pause"
    return state.values.get(control), value
