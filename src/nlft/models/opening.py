"""Open the model that the settings name, local or on a server, with a ledger of its answers."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.core.prompts import NO_INPUTS, TemplateInputs, Templates
from nlft.errors import UserError
from nlft.models.idle import refuse_idle_server

if TYPE_CHECKING:
    from nlft.models.answerer import Answerer
    from nlft.models.ledger import Ledgered
    from nlft.models.named import NamedModel
    from nlft.models.settings import BackendSettings, CallSettings


def open_answerer(
    model_settings: "NamedModel",
    backend: "BackendSettings",
    calls: "CallSettings",
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    system_prompt: str | None = None,
    inputs: TemplateInputs = NO_INPUTS,
    ledger: Path,
    judge_on_server: bool = False,
) -> "Ledgered":
    """Open the model that the settings name, local or on a server, with a ledger of its answers.

    Args:
        batch_size: number of completions that a local model generates at a time.
        inputs: what the chat template gets with every prompt, here or on the server.
        ledger: file of the ledger, unless `calls.ledger` names one.
        judge_on_server: whether a judge of the checks is on a server. It then keeps the limits of `backend`, which have
            no effect on a local model.

    Raises:
        UserError: the model cannot be loaded, the server's address or key is wrong, or the ledger is damaged.
    """
    from nlft.models.ledger import Ledgered
    from nlft.models.ledger_file import Ledger

    model = open_model(
        model_settings,
        backend,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
        system_prompt=system_prompt,
        inputs=inputs,
        judge_on_server=judge_on_server,
    )
    return Ledgered(model, Ledger(Path(calls.ledger) if calls.ledger else ledger), calls, backend)


def open_model(
    model_settings: "NamedModel",
    backend: "BackendSettings",
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    system_prompt: str | None = None,
    inputs: TemplateInputs = NO_INPUTS,
    judge_on_server: bool = False,
) -> "Answerer":
    """Open the model that the settings name, without a ledger. For the arguments, see `open_answerer`.

    Raises:
        UserError: the model cannot be loaded, or the server's address or key is wrong.
    """
    refuse_idle_server(backend, judge_on_server=judge_on_server)
    shape: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    templates = Templates(system_prompt=system_prompt, inputs=inputs)
    if backend.executor == "ray":
        from nlft.models.on_ray import RayModel

        here = replace(backend, executor="local", ray_cpus=1.0, ray_gpus=None)  # in each worker
        more: dict[str, Any] = {"batch_size": batch_size, "system_prompt": system_prompt, "inputs": inputs, **shape}
        more |= {"judge_on_server": judge_on_server}
        opened = partial(open_model, model_settings, here, **more)
        size = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
        return RayModel(opened, backend, system_prompt=system_prompt, **size)
    if backend.backend == "openai":
        return _server_model(model_settings, backend, templates, shape)
    return _local_model(model_settings, templates, batch_size, shape)


def _server_model(
    settings: "NamedModel", backend: "BackendSettings", templates: Templates, shape: dict[str, Any]
) -> "Answerer":
    from nlft.models.server import ServerModel

    if settings.adapter is not None:
        raise UserError(
            "--adapter works only with a local model; a server loads its own adapters.\n"
            "  Leave out --adapter, or leave out --backend and --base_url."
        )
    name = str(settings.model_name_or_path)
    return ServerModel(name, backend, system_prompt=templates.system_prompt, inputs=templates.inputs, **shape)


def _local_model(settings: "NamedModel", templates: Templates, batch_size: int, shape: dict[str, Any]) -> "Answerer":
    from nlft.core.conditions import ConditionEncoder
    from nlft.models.loading import load_model, load_tokenizer
    from nlft.models.local import LocalModel

    encoder = ConditionEncoder(load_tokenizer(settings), templates)
    model = load_model(settings, trainable=False)
    name = local_name(settings, model, encoder.tokenizer)
    return LocalModel(model, encoder, batch_size=batch_size, name=name, **shape)


def local_name(settings: "NamedModel", model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return how an answerer's identity names the model that the settings load, by the content of its files.

    Args:
        model: the loaded model.
        tokenizer: its tokenizer.
    """
    from nlft.models.fingerprints import adapter_fingerprint, adapter_on_disk, config_digest, tokenizer_fingerprint
    from nlft.models.weights_check import weights_fingerprint

    path, adapter = str(settings.model_name_or_path), settings.adapter
    return {
        "model": settings.model_name_or_path,
        "weights": weights_fingerprint(path, getattr(model.config, "_commit_hash", None)),
        "config": config_digest(model),
        "bits": 4 if settings.load_in_4bit else 8 if settings.load_in_8bit else None,
        "adapter": adapter_fingerprint(adapter),
        "tokenizer": tokenizer_fingerprint(Path(path), adapter_on_disk(adapter) if adapter else None),
        "chat_template": tokenizer.chat_template,
    }


def model_kinds() -> list[Any]:
    """Settings classes of a command that asks a model for answers."""
    from nlft.models.named import NamedModel
    from nlft.models.settings import BackendSettings, CallSettings

    return [NamedModel, BackendSettings, CallSettings]
