"""Declare settings, and check types, choices and ranges. All problems are reported together.

Flags are read in `commands/parsing.py`.
"""

import difflib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import Enum
from math import inf
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from nlft.errors import ConfigError, NLFTError, Problem, UserError
from nlft.path_settings import whole_path

QUESTIONS = "questions with standard answers: .jsonl, .csv, .xlsx, .parquet, or a dataset as owner/name:config:split"

# Other tools' names of settings, and our names, the best one first. Our name is suggested. The other tool's name is
# not accepted, because the same word has different meanings in different tools.
ALIASES = {
    "lr": ["learning_rate"],
    "epochs": ["num_train_epochs"],
    "num_epochs": ["num_train_epochs"],
    "n_epochs": ["num_train_epochs"],
    "steps": ["max_steps"],
    "batch_size": ["per_device_train_batch_size", "eval_batch_size"],
    "train_batch_size": ["per_device_train_batch_size"],
    "micro_batch_size": ["per_device_train_batch_size"],
    "grad_accum": ["gradient_accumulation_steps"],
    "gradient_accumulation": ["gradient_accumulation_steps"],
    "scheduler": ["lr_scheduler_type"],
    "lr_scheduler": ["lr_scheduler_type"],
    "warmup_ratio": ["warmup_steps"],
    "optimizer": ["optim"],
    "model": ["model_name_or_path"],
    "model_name": ["model_name_or_path"],
    "model_id": ["model_name_or_path"],
    "base_model": ["model_name_or_path"],
    "lora": ["adapter"],
    "adapter_name_or_path": ["adapter"],
    "peft_model_id": ["adapter"],
    "checkpoint": ["resume_from_checkpoint", "adapter"],
    "resume": ["resume_from_checkpoint true"],
    "peft": ["use_peft"],
    "rank": ["lora_r"],
    "lora_rank": ["lora_r"],
    "alpha": ["lora_alpha"],
    "dropout": ["lora_dropout"],
    "target_modules": ["lora_target_modules"],
    "torch_dtype": ["dtype"],
    "precision": ["dtype"],
    "quantize": ["load_in_4bit"],
    "max_seq_length": ["max_length"],
    "max_seq_len": ["max_length"],
    "sequence_len": ["max_length"],
    "cutoff_len": ["max_length"],
    "output": ["output_dir", "out"],
    "out": ["output_dir"],
    "out_dir": ["output_dir", "out"],
    "output_dir": ["out", "dir"],
    "save_dir": ["output_dir", "out"],
    "eval_dataset": ["eval_file"],
    "validation_file": ["eval_file"],
    "val_file": ["eval_file"],
    "test": ["test_file"],
    "wandb": ["report_to wandb"],
    "log_with": ["report_to"],
    "max_tokens": ["max_new_tokens"],
    "temp": ["temperature"],
    "n": ["samples_per_question"],
    "num_samples": ["samples_per_question"],
    "system": ["system_prompt"],
    "api_base": ["base_url"],
    "url": ["base_url"],
    "random_seed": ["seed"],
    "max_samples": ["limit", "size"],
    "num_examples": ["size", "limit"],
    "methods": ["arms"],
}
SALIENCY = "saliency."  # before the name of a scheme's setting
_Class = TypeVar("_Class")


@dataclass(frozen=True)
class Range:
    """The values that a number may take, both ends included, infinity excluded. It stands in `Annotated`.

    The page's sliders and the trainer's checks use it as well.
    """

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and abs(value) != inf  # the result is False for NaN

    def __str__(self) -> str:
        if self.high == inf:
            return f"{self.low:g} or more"
        return f"{self.low:g} to {self.high:.12g}"


def override(base: type, name: str, default: object = MISSING, also: str = "") -> Any:
    """Make a field for a setting that `base` declares, with another default, or with another type in the annotation.

    Args:
        default: the new default; if it is missing, the base's default stays.
        also: more text for the setting's description.
    """
    declared = next(f for f in fields(base) if f.name == name)
    metadata = {**declared.metadata, "help": declared.metadata["help"] + also}
    chosen: Any = default if default is not MISSING else declared.default
    if isinstance(chosen, list):
        return field(default_factory=lambda: list(chosen), metadata=metadata)
    return field(default=chosen, metadata=metadata)


def with_defaults(**defaults: object) -> Callable[[type[_Class]], type[_Class]]:
    """Change the defaults of inherited settings. Type and range stay. This decorator stands under `@dataclass`."""

    def change(cls: type[_Class]) -> type[_Class]:
        hints = get_type_hints(cls, include_extras=True)
        bases = [base for base in cls.__mro__[1:] if is_dataclass(base)]
        for name, default in defaults.items():
            base = next(base for base in bases if name in {f.name for f in fields(base)})
            setattr(cls, name, override(base, name, default))
        cls.__annotations__ = {**cls.__annotations__, **{name: hints[name] for name in defaults}}
        return cls

    return change


class GivenSetting(NamedTuple):
    """One setting as a YAML file gives it.

    Attributes:
        where: file and line.
        key: the setting's name; `saliency.NAME` for a setting of the scheme.
        written: the text of the value, or the texts of a list, as in the file: YAML reads `no` as false and
            `2024-07-26` as a day. None for null and for a mapping.
    """

    where: str
    key: str
    value: object
    written: "str | list[Any] | None" = None

    @property
    def text(self) -> object:
        """The value as its text is written, if it is one text."""
        return self.written if isinstance(self.written, str) else self.value


class Declared(NamedTuple):
    """A setting's type and, if only some values are allowed, these values."""

    hint: Any
    choices: Sequence[str] | None = None


def declared(*classes: type) -> dict[str, Declared]:
    """Return the settings of the dataclasses, by name."""
    found: dict[str, Declared] = {}
    for cls in classes:
        hints = get_type_hints(cls)
        found |= {f.name: Declared(hints[f.name], f.metadata.get("choices")) for f in fields(cls) if f.init}
    return found


def checked(entries: Iterable[GivenSetting], known: Mapping[str, Declared]) -> dict[str, Any]:
    """Return the values by name, each converted to its setting's type.

    Raises:
        ConfigError: everything that is wrong with the entries.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for where, key, value, written in entries:
        if key in values:
            problems.append(Problem(where, f'"{key}" is set a second time', "Keep one of the two lines."))
        elif key not in known:
            problems.append(unknown(where, key, known))
        else:
            try:
                values[key] = whole_path(key, _chosen(key, value, known[key], written))
            except ValueError as error:
                problems.append(Problem(where, f'"{key}" is {in_short(value)}', f"{error}."))
                values[key] = None
    if problems:
        raise ConfigError(problems)
    return values


def in_short(value: object) -> str:
    """Show a value in at most 60 characters. Python refuses to write out whole numbers of over 4,300 digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 60 else text[:57] + "..."


def settle(cls: type[_Class], common: Mapping[str, Any], own: Mapping[str, Any], where: str) -> _Class:
    """Make an instance of the dataclass from a program's values and a user's own values. The user's values win.

    Args:
        common: the program's values.
        own: the values that a user wrote in a plan.
        where: name of the plan's place in a message.

    Raises:
        ConfigError: everything that is wrong with the user's values.
    """
    values = checked([GivenSetting(where, key, value) for key, value in own.items()], declared(cls))
    try:
        instance = cls(**{**common, **values})
    except NLFTError:
        raise
    except Exception as error:  # TrainingArguments checks some values itself, and raises what it likes
        told = f"{where}: {', '.join(own) or cls.__name__} cannot be used: {' '.join(str(error).split())}"
        raise UserError(f"{told}\n  Correct the value that it names.") from error
    check_ranges(instance)
    return instance


# Settings that are text, for which a bare yes, no, true or false in YAML has a meaning.
_TAKE_YES_OR_NO = frozenset(
    {"resume_from_checkpoint", "report_to", "eval_strategy", "save_strategy", "logging_strategy"}
)


def _chosen(name: str, value: object, setting: Declared, written: object = None) -> object:
    if value is False and "no" in (setting.choices or ()):
        value = "no"  # YAML 1.1 reads a bare `no` as false
    if isinstance(value, bool) and not (setting.choices or name in _TAKE_YES_OR_NO):
        try:
            return coerce(value, setting.hint)
        except ValueError as error:  # `system_prompt: no` is more likely none than the word
            raise ValueError(f"{error}, or the word in quotes") from error
    value = coerce(value, setting.hint, written)
    if setting.choices and value is not None and value not in setting.choices:
        raise ValueError(f"Choose one of {', '.join(setting.choices)}")
    return value


def coerce(value: object, hint: object, written: object = None) -> Any:
    """Convert a YAML value to the hint's type. For a float, text such as `1e-4` is a number; true is not.

    Args:
        written: the value's text as it is written, which a setting that is text gets.

    Raises:
        ValueError: the value is of another type. The message names the right type.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if isinstance(hint, type) and is_dataclass(hint):
        return value
    adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, hint), config=ConfigDict(arbitrary_types_allowed=True))
    for candidate in (value, _with_floats(value), *([] if written is None else [written])):
        try:
            return adapter.validate_python(candidate, strict=True)
        except (ValidationError, OverflowError, RecursionError):  # a whole number of hundreds of digits is no float
            continue
    raise ValueError(_wanted(hint))


def from_text(text: str, hint: object) -> Any:
    """Convert a flag's text to the hint's type.

    Raises:
        ValueError: the text is not of that type. The message names the right type.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cast(Any, hint)).validate_strings(text)
    except (ValidationError, OverflowError) as error:
        raise ValueError(_wanted(hint)) from error


def _with_floats(value: object) -> object:
    """Return the value with each text that is a number replaced with the number."""
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def check_ranges(*instances: Any, prefix: str = "") -> None:
    """Check every field that has a `Range`.

    Args:
        prefix: text before the names of the flags, such as `saliency.`.

    Raises:
        ConfigError: all values out of range.
    """
    problems = []
    for instance in instances:
        hints = get_type_hints(type(instance), include_extras=True)
        for field_ in fields(instance):
            limit = range_of(hints[field_.name])
            value = getattr(instance, field_.name)
            if limit is not None and value is not None and value not in limit:
                cure = f"Give {limit}. ({field_.metadata.get('help', '')})"
                problems.append(Problem(f"--{prefix}{field_.name}", f"is {value}", cure))
    if problems:
        raise ConfigError(problems)


def range_of(hint: object) -> Range | None:
    """Return the `Range` in an annotation, or None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next((limit for option in get_args(hint) if (limit := range_of(option))), None)
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)), None)


def is_secret(name: str) -> bool:
    """Return whether a setting's value is secret, so that no message, log or file may have it."""
    return name.endswith(("token", "key", "password"))


def is_set(settings: Any, field_: "Field[Any]") -> bool:
    """Return whether a setting differs from its default."""
    default = field_.default_factory() if field_.default_factory is not MISSING else field_.default
    value = getattr(settings, field_.name, None)
    record = f"<{field_.name.upper()}>"  # what a record has in place of a token, also of none
    if value is False and default == "no":  # as the parser of a command reads it
        return False
    return value is not None and value not in (default, record)


def shown_of(settings: Any, name: str) -> str:
    """Return a setting's value for a message, unless it is a secret: messages end up in the logs of jobs."""
    if is_secret(name):
        return "given"
    value = getattr(settings, name)
    return str(value).lower() if isinstance(value, bool) else str(getattr(value, "value", value))


def unknown(where: str, name: str, known: Iterable[str]) -> Problem:
    """Make the problem for a setting of a file that does not exist, with the name that was probably meant."""
    close = closest(name, list(known))
    cure = f"Did you mean {close.replace(' ', ': ')}?" if close else "--help lists the settings."
    if name == SALIENCY.rstrip("."):
        cure = f"Write the scheme's settings under it, one `NAME: value` per line, or each as {SALIENCY}NAME."
    return Problem(where, f'"{name}" is not a setting', cure)


def closest(name: str, known: Sequence[str]) -> str | None:
    """Guess the known name that was meant: our name for another tool's, a scheme's setting, or a similar spelling."""
    for ours in ALIASES.get(name, ()):
        if ours.split()[0] in known:
            return ours
    bare = {one.removeprefix(SALIENCY): one for one in reversed(known)}  # the prefix alone makes no name similar
    close = difflib.get_close_matches(name.removeprefix(SALIENCY), bare, n=1)
    return bare[close[0]] if close else None


def _wanted(hint: object) -> str:
    if get_origin(hint) is Annotated:
        return _wanted(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return f"Choose one of {', '.join(map(str, get_args(hint)))}"
    return f"Give {_in_words(hint)}"


def _in_words(hint: object) -> str:
    words: dict[object, str] = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    origin = get_origin(hint)
    if origin is Annotated:
        return _in_words(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_in_words(option) for option in get_args(hint)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin in (list, Sequence):
        items = {str: " of texts", int: " of whole numbers", float: " of numbers"}
        return "a list" + items.get(get_args(hint)[0], "")
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "text"
    return words.get(hint, "a mapping" if dict in (origin, hint) else str(hint))
