"""Write a merged model as one GGUF file: by llama.cpp's converter where there is one, else by nlft's own writer."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlft.errors import NLFTError, UserError
from nlft.exporting.gguf_model import add_sizes, add_weights, family_of
from nlft.exporting.gguf_tokenizer import add_tokenizer
from nlft.progress import note

_CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf", "convert_hf_to_gguf")
OWN_WRITER = "nlft's own writer"
_TAIL = 6  # lines of a failed converter that say why


def write_gguf(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
    path: Path,
    *,
    outtype: str,
    name: str,
    converter: str | None = None,
) -> str:
    """Write the model to `path`.

    Args:
        model: a merged model in float32. Its generation_config names every end of an answer.
        ends: every token that ends an answer.
        name: what the file calls the model.
        converter: llama.cpp's converter; "own" for nlft's writer; None: the converter on the PATH, else nlft's writer.

    Returns:
        Which of the two wrote the file, in words.

    Raises:
        UserError: the writer does not know the architecture or the tokenizer, or there is no such converter.
        NLFTError: the converter failed.
    """
    found = find_converter(converter)
    if found is not None:
        _convert(found, model, tokenizer, path, outtype)
        return f"llama.cpp's converter ({found})"
    _write(model, tokenizer, ends, path, outtype, name)
    return OWN_WRITER


def find_converter(given: str | None) -> str | None:
    """Return the path of llama.cpp's converter; None if nlft's own writer is to write.

    Raises:
        UserError: the given one does not exist.
    """
    if given == "own":
        return None
    if given is not None:
        found = shutil.which(given) or (str(Path(given).resolve()) if Path(given).is_file() else None)
        if found is None:
            raise UserError(f"--converter {given}: does not exist.\n  Give a path, or `own` for nlft's own writer.")
        return found
    return next(filter(None, map(shutil.which, _CONVERTERS)), None)


def check_writable(model_type_config: Any, converter: str | None) -> None:
    """Refuse an architecture before the weights are loaded.

    Raises:
        UserError: nlft's own writer would write, and does not know it.
    """
    if find_converter(converter) is None:
        family_of(model_type_config)


def _write(
    model: Any, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], path: Path, outtype: str, name: str
) -> None:
    from gguf import MODEL_ARCH_NAMES, GGUFWriter

    family = family_of(model.config)
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[family.arch])
    try:
        rows = model.get_input_embeddings().weight.shape[0]
        writer.add_type("model")
        writer.add_name(name)
        add_sizes(writer, model.config, rows, outtype)
        add_tokenizer(writer, tokenizer, ends, rows)
        write_weights = add_weights(writer, model, family, outtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        write_weights()
    finally:
        writer.close()


def _convert(converter: str, model: Any, tokenizer: PreTrainedTokenizerBase, path: Path, outtype: str) -> None:
    """Save the model as an ordinary folder in float32, and let llama.cpp's converter round it once."""
    with TemporaryDirectory(dir=path.parent) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        start = [sys.executable, converter] if converter.endswith(".py") else [converter]
        ran = subprocess.run(
            [*start, folder, "--outfile", str(path), "--outtype", outtype], capture_output=True, text=True, check=False
        )
    if ran.returncode or not path.is_file():
        told = "\n  ".join((ran.stderr or ran.stdout).strip().splitlines()[-_TAIL:])
        raise NLFTError(f"llama.cpp's converter failed:\n  {told}\n  Try nlft's own writer: --converter own.")
    note(f"{converter} wrote {path.name}")
