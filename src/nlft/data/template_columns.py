"""What a record gives to the chat template besides its messages: TRL's columns `tools` and `chat_template_kwargs`."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nlft.core.prompts import NO_INPUTS, TemplateInputs
from nlft.sources.raw_records import TEMPLATE_COLUMNS as TEMPLATE_COLUMNS
from nlft.sources.raw_records import RawRecord, kind


def check_columns(record: RawRecord) -> None:
    """Refuse columns of another form than TRL's."""
    tools, kwargs = (_value(record.fields.get(name)) for name in TEMPLATE_COLUMNS)
    if tools and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        cure = "Write a list of tools, each a JSON schema as an object, or omit the field."
        record.refuse("tools", f"is {_kind(tools)}, not a list of objects.", cure)
    if kwargs and not isinstance(kwargs, Mapping):
        cure = 'Write the template\'s variables as an object, such as {"enable_thinking": false}, or omit the field.'
        record.refuse("chat_template_kwargs", f"is {_kind(kwargs)}, not an object.", cure)


def inputs_of(fields: Mapping[str, Any]) -> TemplateInputs:
    """Return what a record gives to the chat template.

    A table fills what a row lacks with null. So null counts as missing, also within tools.

    Args:
        fields: the record's columns, such as `Example.extra`. Each may also be JSON text, as TRL takes `tools`.
    """
    if not any(fields.get(name) for name in TEMPLATE_COLUMNS):
        return NO_INPUTS
    tools, kwargs = (_filled(_value(fields.get(name))) for name in TEMPLATE_COLUMNS)
    return TemplateInputs(kwargs or {}, tuple(tools or ()))


def with_kwargs(fields: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's columns with more variables for the chat template. The record's own values win."""
    own = inputs_of(fields).kwargs
    return {**fields, "chat_template_kwargs": {**kwargs, **own}} if kwargs else dict(fields)


def columns_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns as a row for TRL has them; those without a value are omitted."""
    return inputs_of(fields).as_json()


def with_columns(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make rows that become a table. Tools become JSON text, because their objects have different keys.

    A row without variables gets an empty object if another row has some, because TRL takes no null.
    """
    made = [dict(row) for row in rows]
    have_kwargs = any("chat_template_kwargs" in row for row in made)
    for row in made:
        if have_kwargs:
            row.setdefault("chat_template_kwargs", {})
        if "tools" in row:
            row["tools"] = json.dumps(row["tools"], ensure_ascii=False)
    return made


def _value(given: Any) -> Any:
    """Read JSON text. Return other values, and text that is not JSON, as they are."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given) if given.strip() else None
    except (ValueError, RecursionError):
        return given


def _filled(value: Any) -> Any:
    """Leave out every null."""
    if isinstance(value, Mapping):
        return {name: _filled(one) for name, one in value.items() if one is not None}
    return [_filled(one) for one in value if one is not None] if isinstance(value, list) else value


def _kind(value: Any) -> str:
    return kind(value) if isinstance(value, str | list | dict | int | float | bool) else type(value).__name__
