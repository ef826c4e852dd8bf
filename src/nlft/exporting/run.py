"""Export a trained model: write it, load it again, compare, and only then give it its name."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from nlft.core.conditions import ConditionEncoder
from nlft.errors import NLFTError, UserError, display_path, typed
from nlft.exporting.served import Served, read_base, told_end
from nlft.exporting.settings import ExportSettings
from nlft.exporting.source import Trained
from nlft.models.ends import answer_ends, name_trained_end
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.models.quantising import quantization_record
from nlft.models.weights_check import loaded
from nlft.training.merging import merge_adapter, merged_model, own_type, whole_folder

_OUTTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_DTYPES = {outtype: dtype for dtype, outtype in _OUTTYPES.items()}
_ROOM = 64  # tokens of context beyond the longest prompt with its reply
_NOT_VERIFIED = (
    "NOT verified: llama.cpp is not installed here, so nothing was loaded again. "
    "`pip install 'nlft[gguf]'`, then export again."
)


def export(trained: Trained, settings: ExportSettings, out: Path | None) -> list[str]:
    """Write the model for the target that the settings name.

    Args:
        out: folder to write; None for a target that writes nothing.

    Returns:
        What was written and compared, in sentences; the last line uses the result.

    Raises:
        UserError: the target does not take this model.
        NLFTError: what was written is not the trained model. Nothing is left at `out`.
    """
    if settings.to == "vllm":
        return _vllm(trained)
    assert out is not None, "the command names a folder"
    if settings.to == "mlx-adapter":
        return _mlx(trained, out)
    config = _config(trained)
    if settings.to == "merged":
        return _merged(trained, settings, out)
    return _gguf(trained, settings, config, out)


def serve_line(folder: Path, name: str) -> str:
    """Return the command that serves an ordinary model folder."""
    return typed("vllm", "serve", folder, "--served-model-name", name)


def _vllm(trained: Trained) -> list[str]:
    from nlft.exporting.vllm import vllm_command

    line, told = vllm_command(trained)
    if not find_spec("vllm"):
        told = ["NOT verified: vLLM is not installed here. The adapter is served as it is.", *told]
    return [*told, *_told_system(trained), f"next: {line}"]


def _told_system(trained: Trained) -> list[str]:
    """Say what a server does not add to a request."""
    system = trained.templates().system_prompt
    return [f"send this system message with every request, as the run was trained with it: {system}"] if system else []


def _mlx(trained: Trained, out: Path) -> list[str]:
    from nlft.exporting.mlx import TOLERANCE, write_mlx

    if trained.adapter is None:
        raise UserError("the run trained all weights, so there is no adapter.\n  Use --to merged or --to gguf.")
    served = read_base(trained)
    told, more = ([], []) if isinstance(served, str) else _mlx_ends(trained, served)
    model = load_model(trained.settings, trainable=False)
    with whole_folder(out) as place:
        count, largest = write_mlx(trained, model, place)
    return [
        f"{count} layers, read again: each changes the weights as the trained adapter does; they differ by at most "
        f"{largest:.2g} of a layer's largest change (tolerance {TOLERANCE:g}). mlx-lm itself was not run.",
        *told,
        *_told_system(trained),
        f"adapter: {display_path(out)}",
        f"next: {typed('mlx_lm.generate', '--model', trained.base, '--adapter-path', out, *more, '--prompt', 'Hi')}",
    ]


def _mlx_ends(trained: Trained, served: Served) -> tuple[list[str], list[str]]:
    """Return what mlx-lm, which reads the base's own files, would do otherwise; and the words that help."""
    more = ["--extra-eos-token", served.trained_end[0]] if served.ends_too_late else []
    told = told_end(served, "mlx-lm", f"Add {' '.join(more)}, as below", trained)
    if served.own is not None:
        told.append(
            "warning: mlx-lm uses the base's tokenizer and chat template, and the adapter was trained with another "
            "one. Export the whole model: --to merged"
        )
    return told, more


def _config(trained: Trained) -> Any:
    """Read the base model's config, and refuse a quantised base.

    Raises:
        UserError: the base is quantised: there is nothing exact that the adapter could be added to.
    """
    name, revision = trained.base, trained.settings.model_revision
    config = loaded(
        lambda: AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False),
        f"nlft export: the base model {name}",
        Path(name),
        "Name its new place with --model_name_or_path.",
    )
    if quantization_record(config) is not None:
        raise UserError(
            f"{trained.base} is quantised, so an adapter cannot be merged into it.\n"
            "  Name the same model unquantised with --model_name_or_path, or use --to vllm."
        )
    return config


def _merged(trained: Trained, settings: ExportSettings, out: Path) -> list[str]:
    if trained.adapter is None:
        raise UserError(
            f"the run trained all weights: {trained.base} is the whole model already.\n  Serve that folder."
        )
    if settings.outtype == "q8_0":
        raise UserError("--outtype q8_0 is for GGUF files.\n  Choose bf16, f16 or f32, or --to gguf.")
    merge_adapter(_typed(trained.settings, _DTYPES.get(settings.outtype, "auto")), out)
    return [f"model: {display_path(out)}", *_told_system(trained), f"next: {serve_line(out, trained.name)}"]


def _typed(settings: ModelSettings, dtype: str) -> ModelSettings:
    return replace(settings, dtype=dtype)


def _gguf(trained: Trained, settings: ExportSettings, config: Any, out: Path) -> list[str]:
    if find_spec("gguf") is None:
        raise UserError("GGUF files need the package gguf.\n  pip install 'nlft[gguf]'")
    from nlft.exporting.gguf_file import OWN_WRITER, check_writable, write_gguf
    from nlft.exporting.llama_server import is_installed
    from nlft.exporting.replies import encode_replies, examples_to_score, scored

    check_writable(config, settings.converter)
    examples = examples_to_score(trained.run, settings.verify_file, settings.verify_replies) if is_installed() else []
    tokenizer = load_tokenizer(trained.settings)
    encoder = ConditionEncoder(tokenizer, trained.templates())
    outtype = settings.outtype
    if outtype == "auto":
        outtype = _OUTTYPES[str(own_type(trained.settings)).removeprefix("torch.")]  # type: ignore[assignment]
    model: Any = load_model(trained.settings, trainable=False)
    replies = [scored(model, reply) for reply in encode_replies(examples, encoder)]
    if trained.adapter is not None:
        model = merged_model(model, trained.settings.adapter)
    name_trained_end(model, tokenizer)
    ends = answer_ends(model, encoder)
    with whole_folder(out) as place:
        path = place / f"{trained.name}-{outtype}.gguf"
        by = write_gguf(model, tokenizer, ends, path, outtype=outtype, name=trained.name, converter=settings.converter)
        size = path.stat().st_size
        try:
            compared = _compared(path, model, tokenizer, replies, ends, outtype) if replies else [_NOT_VERIFIED]
        except NLFTError as error:
            if by == OWN_WRITER:
                raise
            raise NLFTError(f"{error}\n  {by} wrote the file. Try nlft's own writer: --converter own.") from error
        told = _beside(trained, place, path.name, model, tokenizer, encoder, ends) if settings.to == "ollama" else []
    told = [f"{by} wrote {outtype}, {size / 1e6:,.0f} MB", *compared, *told]
    file = display_path(out / path.name)
    if settings.to == "ollama":
        name = re.sub(r"[^a-z0-9._-]+", "-", trained.name.lower())  # Ollama takes no others
        line = f"ollama create {name} -f {shlex.quote(display_path(out / 'Modelfile'))} && ollama run {name}"
        return [*told, f"folder: {display_path(out)}", f"next: {line}"]
    return [*told, *_told_system(trained), f"model: {file}", f"next: {_llama_line(file, trained)}"]


def _compared(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    replies: Sequence[Any],
    ends: frozenset[int],
    outtype: str,
) -> list[str]:
    from nlft.exporting.comparing import compare
    from nlft.exporting.gguf_model import round_weights
    from nlft.exporting.llama_server import serving

    round_weights(model, outtype)
    context = max(len(reply.prompt_ids) + len(reply.ids) for reply in replies) + _ROOM
    with serving(path, context=context) as server:
        return compare(server, model, tokenizer, replies, ends, outtype).lines()


def _llama_line(file: str, trained: Trained) -> str:
    import json

    kwargs = trained.templates().inputs.kwargs
    own = ["--chat-template-kwargs", json.dumps(dict(kwargs))] if kwargs else []
    return shlex.join(["llama-server", "-m", file, "--jinja", "--alias", trained.name, *own])


def _beside(
    trained: Trained,
    place: Path,
    weights: str,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoder: ConditionEncoder,
    ends: frozenset[int],
) -> list[str]:
    """Write the Modelfile beside the weights. Return what is to be said about it."""
    from nlft.exporting.ollama import NotSayable, modelfile, ollama_form

    templates = encoder.templates
    form, told = None, "the Modelfile's TEMPLATE renders as the chat template does; Ollama itself was not run"
    if tokenizer.chat_template is None:
        told = "the model has no chat template, so the Modelfile has no TEMPLATE"
    else:
        adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        try:
            form = ollama_form(tokenizer, templates.inputs.kwargs, adds_bos=adds_bos)
        except NotSayable as why:
            told = (
                f"the Modelfile has no TEMPLATE, because Ollama's language cannot say this chat template: {why}. "
                "Ollama looks for one of its own that resembles it. Compare a reply before you rely on it"
            )
    text = modelfile(
        weights,
        form,
        system_prompt=templates.system_prompt,
        stops=[str(tokenizer.convert_ids_to_tokens(end)) for end in sorted(ends)],
        generation=getattr(model, "generation_config", None),
        context=model.config.max_position_embeddings,
    )
    (place / "Modelfile").write_text(text, encoding="utf-8")
    return [told]
