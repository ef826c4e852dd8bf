"""Put a saved adapter on a model, and refuse one that is damaged or does not belong to it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from transformers import PreTrainedModel

from nlft.digests import MANIFEST, check_manifest, saved_number
from nlft.errors import UserError, display_path
from nlft.models.weights_check import check_files, check_finite, loaded

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TOKENIZER = (
    "tokenizer*",
    "chat_template.jinja",
    "additional_chat_templates/*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)
_CURE = (
    "Give a folder with adapter_config.json and adapter_model.safetensors, a run directory, or a hub name, and the "
    "adapter's own base model as --model_name_or_path."
)


def adapter_folder(adapter: str) -> str:
    """Return the adapter's folder or hub name. For a run directory, return the adapter's folder inside it."""
    inside = Path(adapter) / "adapter"
    return str(inside) if inside.is_dir() else adapter


def add_adapter(model: PreTrainedModel, adapter: str, *, trainable: bool) -> PeftModel:
    """Put a saved PEFT adapter on the model. Accept only safetensors, because other formats are pickles.

    Args:
        adapter: a folder, a run directory or a hub name.
        trainable: whether training continues with it.

    Raises:
        UserError: a file is missing or damaged, the adapter does not fit the model, or its weights are not finite.
    """
    flag = f"--adapter {adapter}"
    place = adapter_files(adapter)
    check_undamaged(place, flag)
    adapter_config(place, flag)
    if not (place / WEIGHTS).is_file():
        raise _without_weights(place, flag)
    loaded(lambda: _check_values(place / WEIGHTS, flag), flag, place, _CURE)
    return _fitted(model, place, flag, trainable)


def adapter_config(place: Path, flag: str) -> PeftConfig:
    """Read the configuration of a saved adapter.

    Args:
        place: the adapter's folder.
        flag: what named it, for the message.

    Raises:
        UserError: there is none, or it adds tokens to the prompt.
    """
    if not (place / CONFIG).is_file():
        raise _without_config(place, flag)
    config: PeftConfig = loaded(lambda: PeftConfig.from_pretrained(str(place)), flag, place, _CURE)
    if config.is_prompt_learning:
        raise UserError(
            f"{flag}: is a {config.peft_type.value} adapter, which adds tokens to the prompt.\n"
            "  Use an adapter that changes layers, such as LoRA, DoRA or IA3."
        )
    return config


def _fitted(model: PreTrainedModel, place: Path, flag: str, trainable: bool) -> PeftModel:
    """Load the adapter, and refuse it if weights are missing or left over."""

    def load() -> tuple[PeftModel, Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
            warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings")  # merging unties them
            renamed = getattr(model, "_checkpoint_conversion_mapping", {})
            whole = PeftModel.from_pretrained(model, str(place), is_trainable=trainable)
            # `from_pretrained` does not return which weights fit, so load the adapter's file into it once more.
            return whole, whole.load_adapter(str(place), "default", is_trainable=trainable, key_mapping=renamed)

    whole: PeftModel
    whole, result = loaded(load, flag, place, _CURE)
    missing, more = sorted(result.missing_keys), sorted(result.unexpected_keys)
    if missing or more:
        what = f"lacks {len(missing)} weights for this model" if missing else ""
        extra = f"holds {len(more)} that the model has no place for" if more else ""
        first = ", ".join([*missing[:1], *more[:1]])
        raise UserError(
            f"{flag}: does not fit {_name(model)}: it {' and '.join(filter(None, (what, extra)))}, such as {first}.\n"
            "  Give the adapter's own base model as --model_name_or_path."
        )
    return whole


def adapter_files(adapter: str, *, weights: bool = True) -> Path:
    """Return the adapter's folder on this machine. Fetch it with its tokenizer if it is on the hub.

    Args:
        weights: whether its weights are fetched, too.

    Raises:
        UserError: there is no such adapter, or a file in its folder is only a pointer.
    """
    path, flag = Path(adapter_folder(adapter)), f"--adapter {adapter}"
    if path.is_dir():
        check_files(path, flag)
        return path
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return str(snapshot_download(adapter, allow_patterns=[CONFIG, *([WEIGHTS] if weights else []), *TOKENIZER]))

    return Path(loaded(fetch, flag, path, _CURE))


def check_undamaged(path: Path, flag: str) -> None:
    """Refuse an adapter of a run, or a checkpoint, that is not as it was written.

    Args:
        path: the adapter's folder; one without a manifest passes.
        flag: what named it, for the message.

    Raises:
        UserError: names the file, and a checkpoint of the run that is whole.
    """
    if (wrong := check_manifest(path)) is None:
        return
    whole = [one for one in _checkpoints(path.parent) if check_manifest(one) is None]
    other = f"Give a whole checkpoint, {display_path(whole[-1])}, or copy" if whole else "Copy"
    changed = f"if you changed it yourself, remove {display_path(path / MANIFEST)}"
    raise UserError(f"{flag}: {wrong}.\n  {other} the adapter again; {changed}.")


def _checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints that have an adapter, as saved. checkpoint-9 comes before checkpoint-10."""
    found = [config.parent for config in (run / "checkpoints").glob(f"checkpoint-*/{CONFIG}")]
    return sorted(found, key=lambda folder: (saved_number(folder) or 0, len(folder.name), folder.name))


def _without_config(path: Path, flag: str) -> UserError:
    checkpoints = _checkpoints(path)
    if (path / "run.yaml").is_file():
        cure = "Let the run finish (--resume_from_checkpoint true)"
        cure += f", or give a checkpoint: {checkpoints[-1]}." if checkpoints else "."
        return UserError(f"{flag}: the run has not written its adapter/.\n  {cure}")
    return UserError(f"{flag}: there is no {CONFIG}.\n  {_CURE}")


def _without_weights(place: Path, flag: str) -> UserError:
    pickles = sorted(place.glob("*.bin")) + sorted(place.glob("*.pt"))
    what = f"there is no {WEIGHTS}"
    if pickles:
        what += f", only {pickles[0].name}, a pickle, which nlft does not open"
    return UserError(f"{flag}: {what}.\n  Save the adapter again with `save_pretrained` of a current PEFT.")


def _check_values(path: Path, flag: str) -> None:
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        values = ((name, file.get_tensor(name)) for name in names)
        check_finite(values, flag, "Train it again with a lower --learning_rate.")
    if not names:
        raise UserError(f"{flag}: {path.name} holds no weights.\n  Train the adapter again.")


def _name(model: torch.nn.Module) -> str:
    return str(getattr(model.config, "_name_or_path", "") or "")


def check_layer_names(
    model: PreTrainedModel, flag: str, names: list[str] | str | None, *, parameters: bool = False
) -> None:
    """Refuse names of layers that the model does not have. PEFT leaves such a name out if another one exists.

    Args:
        flag: the setting that gave the names.
        names: names or ends of names; a string is a regular expression, or PEFT's "all-linear".
        parameters: the names are of parameters, not of layers.

    Raises:
        UserError: names the layers that do not exist, and some that do.
    """
    if not isinstance(names, list):
        return
    layers = [name for name, _ in (model.named_parameters() if parameters else model.named_modules())]
    unknown = [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in layers)]
    if unknown:
        linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        have = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
        raise UserError(
            f"{flag}: {', '.join(unknown)}: the model has no {'parameter' if parameters else 'layer'} of that name.\n"
            f"  Its linear layers are {', '.join(have) or 'not of torch'}."
        )


@contextmanager
def without_card(model: Any) -> Iterator[None]:
    """Save a model inside this context: PEFT writes no card of headings without text. A finished adapter gets ours."""
    if isinstance(model, PeftModel):
        model.create_or_update_model_card = lambda output_dir: None
    try:
        yield
    finally:
        vars(model).pop("create_or_update_model_card", None)
