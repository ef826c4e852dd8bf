"""Refuse a model whose files are not what they should be, before any work. Say which file, and how to get it right."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from nlft.errors import UserError
from nlft.progress import note

_POINTER = b"version https://git-lfs"
_AGAIN = "Download or copy it again."
_SHOWN = 3
_INDEX = "model.safetensors.index.json"
_SAMPLE = 4096  # bytes
_LARGEST_HEADER = 100_000_000  # bytes, the format's own limit


def check_files(folder: Path, flag: str) -> None:
    """Refuse a folder with files that would load as something else than what they should hold.

    Git leaves a pointer where it has not fetched a file from its large file storage. A chat template's pointer is text
    like any template.

    Args:
        flag: the setting that named the folder, with its value.

    Raises:
        UserError: names such a file.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and _head(path, len(_POINTER)) == _POINTER:
            raise UserError(
                f"{flag}: {path.name} is a Git LFS pointer of {path.stat().st_size} bytes, not the file itself.\n"
                "  Run `git lfs pull` in that folder, or download the file again."
            )
        # transformers replaces a generation_config.json that it cannot read by defaults, and so loses the end tokens.
        if path.name == "generation_config.json" and (found := _not_json(path)):
            raise UserError(f"{flag}: {found}")


def _refusal(flag: str, folder: Path, error: Exception, cure: str, *, weights: bool) -> UserError:
    """Say why a model, tokenizer or adapter did not load: the file at fault if one is, else the library's reason.

    Args:
        flag: the setting that named it, with its value.
        folder: where its files are, if they are on this machine.
        error: what the library raised.
        cure: what to do if no file is at fault.
        weights: whether a model's weights were to be loaded.
    """
    if found := _damaged_file(folder) or (weights and _missing_weights(folder)):
        return UserError(f"cannot load {flag}: {found}")
    said = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in said:
        return UserError(
            f"cannot load {flag}: it needs Python code of its own, and nlft runs no code of models.\n"
            "  Use a model whose architecture transformers has."
        )
    if said.startswith("Unrecognized configuration class"):
        kind = re.search(r"\.(\w+?)(Config)?'>", said)
        what = f", but {kind[1]}" if kind else ""
        return UserError(f"cannot load {flag}: by its config.json it is no causal language model{what}.\n  {cure}")
    if isinstance(error, ImportError):
        cure = "Install what it names, or leave out the setting that needs it."
    first = str(error).strip().split("\n")[0].strip()
    if not first or first.endswith(":") or isinstance(error, KeyError):
        first = f"{type(error).__name__}: {said}"
    return UserError(f"cannot load {flag}: {first[:400]}\n  {cure}")


def _damaged_file(folder: Path) -> str | None:
    """Find a file that cannot be read. Return a sentence about it with the cure, or None.

    Read of the weights only the headers, which give their size.
    """
    if not folder.is_dir():
        return None
    for path in sorted(folder.glob("*.json")):
        if found := _not_json(path):
            return found
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except Exception as error:  # safetensors' own class; other errors of its Rust code are plain
            return f"{path.name} is damaged or cut off ({path.stat().st_size} bytes): {error}.\n  {_AGAIN}"
    return None


def _not_json(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{path.name} is not JSON: {error}.\n  {_AGAIN}"
    return None


def _missing_weights(folder: Path) -> str | None:
    """Say which file of a model's weights is missing, with the cure. Return None if none is, or it is no model."""
    if (folder / _INDEX).is_file():
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        weights = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weights, dict):
            return f"{_INDEX} has no weight_map.\n  {_AGAIN}"
        missing = sorted({str(name) for name in weights.values() if not (folder / str(name)).is_file()})
        return f"{_INDEX} names {_listed(missing)}, which is not there.\n  {_AGAIN}" if missing else None
    if any(folder.glob("*.safetensors")):
        shards = sorted(folder.glob("model-*-of-*.safetensors"))
        alone = shards and not (folder / "model.safetensors").is_file()
        what = f"there is {shards[0].name if shards else ''}, but no {_INDEX}, which says what it holds"
        return f"{what}.\n  {_AGAIN}" if alone else None
    if not (folder / "config.json").is_file():
        return None
    cure = "Give a folder with safetensors weights; `save_pretrained` of a current transformers writes them."
    for pattern, what in (("*.gguf", "a GGUF file"), ("*.bin", "a pickle, which nlft does not open")):
        if other := sorted(folder.glob(pattern)):
            return f"there is no model.safetensors; {other[0].name} is {what}.\n  {cure}"
    return f"there is no model.safetensors.\n  {cure}"


def check_loaded(model: torch.nn.Module, info: Mapping[str, Any], flag: str) -> None:
    """Refuse a model whose weights are not those that its config.json describes, or are not finite.

    transformers draws missing weights at random and leaves further ones out, with no more than a warning.

    Args:
        info: what transformers says about the loading (`output_loading_info`).
        flag: the setting that named the model, with its value.

    Raises:
        UserError: names the weights.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return  # under FSDP, only the main process reads the files; it checks them
    cure = "Take config.json and the weights from the same model."
    if sizes := sorted(info["mismatched_keys"]):
        name, in_file, by_config = sizes[0]
        raise UserError(
            f"{flag}: config.json does not fit the weights: {name} is {tuple(in_file)} in the file and "
            f"{tuple(by_config)} by config.json; so are {len(sizes)} in all.\n  {cure}"
        )
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{flag}: the files lack {len(missing)} of the weights that config.json describes: {_listed(missing)}.\n"
            f"  {cure} Download the model again if it should be whole."
        )
    if more := sorted(info["unexpected_keys"]):
        if all(_is_of_another_layer(name, model) for name in more):
            raise UserError(
                f"{flag}: the files hold layers that config.json does not describe: {_listed(more)}.\n  {cure}"
            )
        note(f"{flag}: {len(more)} weights in the files are not used: {_listed(more)}")
    check_finite(model.named_parameters(), flag, "Download the model again, or train it again with a lower rate.")


def _is_of_another_layer(name: str, model: torch.nn.Module) -> bool:
    """Whether the model has a weight of this name with another layer's number.

    Extra modules, such as heads that predict further tokens, have weights that no layer has.
    """
    pattern = re.compile(re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)))
    return ".0." in _first_layer(name) and any(pattern.fullmatch(known) for known in model.state_dict())


def _first_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".0.", name)


def weights_fingerprint(name: str, commit: str | None) -> str | None:
    """Identify the weights that a model's name stands for today.

    Args:
        name: a folder or a hub name.
        commit: the hub's commit, if the model came from the hub.

    Returns:
        For a folder, `2-` and a SHA-256 over the headers and samples of its safetensors files; else the commit. Older
        versions had another SHA-256, without `2-`, which may miss a change of one small matrix.
    """
    files = sorted(Path(name).glob("*.safetensors"))
    if not files:
        return commit
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            header, middles = _layout(file)
            digest.update(header)
            # Training changes every weight of a matrix, so samples suffice. Reading 100 GB would take minutes.
            for start in (*(size * block // 256 for block in range(256)), *middles):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return f"2-{digest.hexdigest()}"


def _layout(file: BinaryIO) -> tuple[bytes, list[int]]:
    """Return a safetensors file's header, and for each tensor the place of a sample: its middle, all of a small one."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(min(length, _LARGEST_HEADER))
    try:
        ends = [one["data_offsets"] for name, one in json.loads(header).items() if name != "__metadata__"]
        return header, sorted(8 + length + max(start, (start + end - _SAMPLE) // 2) for start, end in ends)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return header, []  # a damaged file; whoever loads it says so


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], flag: str, cure: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        tensors: names and values. Those of quantised types are not read.

    Raises:
        UserError: names the first such weight and counts them.
    """
    bad = [name for name, tensor in tensors if not _is_finite(tensor)]
    if bad:
        raise UserError(f"{flag}: {len(bad)} weights are NaN or infinite: {_listed(bad)}.\n  {cure}")


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2 or tensor.is_meta or not tensor.numel():
        return True
    low, high = tensor.detach().aminmax()  # no second copy of the weights, unlike isfinite().all()
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _head(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def loaded(load: Callable[[], Any], flag: str, folder: Path, cure: str, *, weights: bool = False) -> Any:
    """Call a library's loader. Turn what it raises into a refusal that names the file; see `_refusal`.

    Args:
        weights: whether the loader reads a model's weights. Then their lack is the reason.

    Raises:
        UserError: it did not load.
    """
    check_files(folder, flag)
    report = logging.getLogger("transformers.modeling_utils")
    report.addFilter(_is_no_report)
    try:
        return load()
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers raises a bare Exception, and others what they like
        if "allocate memory" in str(error):
            raise
        raise _refusal(flag, folder, error, cure, weights=weights) from error
    finally:
        report.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    """Leave out transformers' table of weights that do not fit: `check_loaded` refuses them or names them."""
    return "LOAD REPORT" not in str(record.msg)
