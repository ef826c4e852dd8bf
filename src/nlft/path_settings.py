"""Which settings name a file or a folder, and the home folder in their values."""

from pathlib import Path
from typing import Any

# Settings and flags that name a file or a folder, or may do so. A test compares them with all settings.
PATHS = frozenset({
    "accelerator_config", "adapter", "checks", "condition_cache", "config", "converter", "csv", "data", "deepspeed",
    "dir", "eval_file", "examples", "examples_out", "fsdp_config", "html", "json", "judge_model", "keep", "ledger",
    "model", "model_name_or_path", "out", "output_dir", "prompts", "read_token", "resume_from_checkpoint", "rules",
    "rules_out", "score", "second_checks", "test_file", "token", "train_file", "verify_file",
})  # fmt: skip


def home_path(path: Path | str) -> Path:
    """Return a path with the home folder in place of `~`, as a shell and every setting take it."""
    return Path(path).expanduser() if str(path) == "~" or str(path).startswith("~/") else Path(path)


def whole_path(name: str, value: Any) -> Any:
    """Return a setting's value; if it names a file or folder, with the home folder in place of `~`.

    Raises:
        ValueError: a path begins with a variable, which only a shell replaces; or with `~` without a home folder.
    """
    if name not in PATHS or not isinstance(value, str):
        return value
    if value.startswith("$"):
        raise ValueError(f"Write the path without a variable. For a folder of that name, write ./{value}")
    try:
        whole = home_path(value)  # a server may have a model whose name begins with ~
    except RuntimeError as error:
        raise ValueError("There is no home folder: HOME is not set. Write the path without ~") from error
    return value if whole == Path(value) else str(whole)
