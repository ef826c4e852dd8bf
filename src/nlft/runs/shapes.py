"""What kinds of values a run's files hold. Each function returns what is wrong, as a sentence without full stop."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from nlft.config import SALIENCY
from nlft.runs.controls import Control
from nlft.runs.reading import check_kinds

Kinds = dict[str, type | tuple[type, ...]]

_NUMBER = (int, float)
_SETTINGS: Kinds = {
    **dict.fromkeys(("method", "scheme", "model_name_or_path", "dtype", "device", "weights", "rules"), str),
    **dict.fromkeys(("model", "training", "data", "saliency", "schemes", "conditions", "unavailable"), dict),
    **dict.fromkeys(
        ("versions", "adapter_config", "starting_adapter", "best", "chosen_step", "adapted", "quantization"), dict
    ),
    **dict.fromkeys(("scorable", "scored", "resumed", "pivots"), list),
    **dict.fromkeys(("seed", "threads", "processes"), int),
}
_NEVER_NULL = ("method", "scheme", "model", "training", "data", "saliency", "schemes", "conditions", "scorable")
_TRAINING: Kinds = {
    "max_steps": int,
    "num_train_epochs": _NUMBER,
    "learning_rate": _NUMBER,
    "chat_template_kwargs": (dict, str),
    "strike_words": list,
}
_TRAINING |= dict.fromkeys(("system_prompt", "loss_normalization", "lr_scheduler_type", "chat_template_date"), str)
_DATA: Kinds = {"file": str, "sha256": str, "examples": int, "right": int, "columns": str, "from_format": str}
_CONTROL: Kinds = {"name": str, "kind": str, "help": str, "low": _NUMBER, "high": _NUMBER, "choices": list}
_EVENT: Kinds = {"step": int, "time": str, "ended": str, "reason": str, "superseded": bool, "loss": _NUMBER}
_EVENT |= {"epoch": _NUMBER, "num_tokens": _NUMBER, "train_loss": _NUMBER, "train_runtime": _NUMBER}
_LINE: Kinds = {
    "id": str,
    "step": int,
    "time": str,
    "who": str,
    "control": str,
    "taken": bool,
    "reason": str,
    "undoes": str,
}
_BEAT: Kinds = {"pid": int, "step": int, **dict.fromkeys(("time", "started", "machine", "command", "folder"), str)}
_WATCHED: Kinds = {"label": bool, "prompt": str, "answer": str, "judgment": str, "feedback": str, "replacements": dict}
_WATCHED |= {"quotes": dict}


def settings_problem(found: Mapping[str, Any]) -> str | None:
    """Check the parts of run.yaml that nlft reads."""
    if empty := [name for name in _NEVER_NULL if name in found and found[name] is None]:
        return f'"{empty[0]}" is empty'
    parts: list[tuple[Mapping[str, Any], Kinds]] = [
        (found, _SETTINGS),
        (found.get("training") or {}, _TRAINING),
        (found.get("data") or {}, _DATA),
    ]
    for part, kinds in parts:
        if wrong := check_kinds(part, kinds):
            return wrong
    for name in ("model", "training", "saliency"):
        if not all(isinstance(key, str) for key in found.get(name) or {}):
            return f'"{name}" has a name that is not a text'
    if not all(isinstance(one, dict) for one in found.get("resumed") or []):
        return '"resumed" has an entry without names'
    return _steering_problem(found) if found.get("schemes") is not None else None


def _steering_problem(found: Mapping[str, Any]) -> str | None:
    """Check what `nlft.runs.controls.state_of` reads."""
    missing = [name for name in ("scheme", "saliency", "conditions", "scorable") if found.get(name) is None]
    if missing:
        return f'"{missing[0]}" is missing'
    schemes, conditions = found["schemes"], found["conditions"]
    known = {field.name for field in fields(Control)}
    for name, controls in schemes.items():
        if not isinstance(name, str) or not isinstance(controls, list):
            return f'"schemes" has {name!r} without a list of settings'
        for control in controls:
            if not isinstance(control, dict) or not {"name", "kind", "help"} <= control.keys() <= known:
                return f"scheme {name} has a setting with other fields than {', '.join(sorted(known))}"
            if wrong := check_kinds(control, _CONTROL):
                return f"scheme {name}: {wrong}"
    if found["scheme"] not in schemes:
        return f'"scheme" is {found["scheme"]!r}, which "schemes" lacks'
    if missing := [name for name in schemes if not isinstance(conditions.get(name), list)]:
        return f'"conditions" lacks a list for {missing[0]}'
    own = {control["name"] for control in schemes[found["scheme"]]}
    lacks = sorted(own - found["saliency"].keys())
    return f'"saliency" lacks {lacks[0]}' if lacks else None


def event_problem(line: Mapping[str, Any]) -> str | None:
    """Check a line of events.jsonl. An older run's line may lack any field."""
    return check_kinds(line, _EVENT)


def beat_problem(found: Mapping[str, Any]) -> str | None:
    """Check heartbeat.json."""
    return check_kinds(found, _BEAT)


def line_problem(line: Mapping[str, Any]) -> str | None:
    """Check a line of controls.jsonl."""
    missing = [name for name in ("id", "step", "control", "taken", "who") if line.get(name) is None]
    if missing:
        return f'"{missing[0]}" is missing'
    if wrong := check_kinds(line, _LINE):
        return wrong
    if not line["taken"]:
        return None
    settable = line["control"] in ("learning_rate", "scheme") or line["control"].startswith(SALIENCY)
    if "new" not in line or (settable and "old" not in line):
        return '"new" or "old" is missing'
    new, control = line["new"], line["control"]
    if isinstance(new, dict | list):
        return '"new" is no plain value'
    number = isinstance(new, int | float) and not isinstance(new, bool)
    if (control == "learning_rate" and not number) or (control == "scheme" and not isinstance(new, str)):
        return f'"new" is {new!r}, which {control} does not take'
    if control.startswith(SALIENCY) and new is None:
        return f'"new" is missing for {control}'
    return None


def watched_problem(found: Mapping[str, Any]) -> str | None:
    """Check one example of saliency/examples.json."""
    missing = [name for name in ("id", "label", "prompt", "tokens") if found.get(name) is None]
    if missing:
        return f'"{missing[0]}" is missing'
    if wrong := check_kinds(found, _WATCHED):
        return wrong
    if not isinstance(found["id"], str | int):
        return '"id" is neither a text nor a number'
    tokens, spans = found["tokens"], found.get("spans") or []
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return '"tokens" is no list of texts'
    most = len(tokens)
    if not isinstance(spans, list) or not all(_is_span(span, most) for span in spans):
        return '"spans" is no list of places in the tokens'
    replaced = found.get("replacements") or {}
    if not all(key.isdecimal() and isinstance(text, str) for key, text in replaced.items()):
        return '"replacements" is not of texts by places'
    if not all(isinstance(parts, list) and all(_is_part(part, most) for part in parts) for parts in _quotes(found)):
        return '"quotes" is not of parts with places in the tokens'
    return None


def _quotes(found: Mapping[str, Any]) -> Iterable[Any]:
    return (found.get("quotes") or {}).values()


def _is_part(part: Any, most: int) -> bool:
    """Return whether a value is a part of a text with its places: each a first and a last token, or None."""
    if not (isinstance(part, list) and len(part) == 2 and isinstance(part[0], str)):
        return False
    places = part[1]
    return places is None or (isinstance(places, list) and all(_is_span(at, most - 1) for at in places))


def _is_span(span: Any, most: int) -> bool:
    whole = isinstance(span, list) and len(span) == 2 and all(type(at) is int for at in span)
    return whole and 0 <= span[0] <= span[1] <= most
