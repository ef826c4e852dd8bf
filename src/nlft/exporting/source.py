"""What is exported: a run, an adapter's folder or a hub name, with its base model and the run's prompts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig

from nlft.core.prompts import ChatTemplateSettings, Templates
from nlft.errors import UserError, display_path, typed
from nlft.models.loading import ModelSettings
from nlft.models.saved_adapters import adapter_folder, check_undamaged
from nlft.models.trained_on import refuse_changed_base
from nlft.models.weights_check import loaded
from nlft.runs.base import Base, as_revision, chosen_base, home_of, recorded_base
from nlft.runs.run_dir import RunDir
from nlft.runs.unfinished import ways_to_go_on


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        settings: names the base model and the adapter, in float32.
        adapter: the adapter's folder or hub name; None if the run trained all weights. Then `settings` names them.
        config: the adapter's settings, as its adapter_config.json has them; empty without an adapter.
        run: the run directory; None for an adapter alone.
        name: a short name for files and servers.
    """

    settings: ModelSettings
    adapter: str | None
    config: dict[str, Any]
    run: RunDir | None
    name: str

    @property
    def base(self) -> str:
        """The base model's folder or hub name."""
        return str(self.settings.model_name_or_path)

    def templates(self) -> Templates:
        """Return how the run renders its prompts. Those that are served have the day's own date."""
        if self.run is None:
            return Templates()
        training = self.run.settings().get("training", {})
        chosen = ChatTemplateSettings(training.get("chat_template_kwargs")).template_inputs()
        return Templates(system_prompt=training.get("system_prompt"), inputs=chosen)


def open_trained(name: str, base: str | None) -> Trained:
    """Find the adapter and its base model.

    Args:
        name: a run directory, an adapter's folder or a hub name.
        base: the base model, if it is not where the adapter says.

    Raises:
        UserError: there is no such run or adapter, or its base model is unknown or has other weights now.
    """
    home = home_of(Path(name))
    run = RunDir(home) if home is not None else None
    place = Path(adapter_folder(name))
    short = Path(name).resolve().name if Path(name).exists() else name.rpartition("/")[2]
    if (place / "config.json").is_file() and not (place / "adapter_config.json").is_file():
        return Trained(_settings(str(place), None), None, {}, run, short)
    if run is not None and place == Path(name) and not (place / "adapter_config.json").is_file():
        raise UserError(
            f"{display_path(name)}: the run has not written its adapter/.\n"
            f"{ways_to_go_on(run, lambda checkpoint: typed('nlft', 'export', checkpoint))}"
        )
    check_undamaged(place, f"nlft export {name}")
    cure = "Give a run directory, a folder with adapter_config.json, or a hub name."
    config = loaded(lambda: PeftConfig.from_pretrained(str(place)), f"nlft export {name}", place, cure)
    found = recorded_base(run.settings()) if run is not None else None
    if found is None and config.base_model_name_or_path:
        found = Base(str(config.base_model_name_or_path), as_revision(config.revision))
    found = chosen_base(base, found)
    if found is None:
        raise UserError(f"{name}: does not name its base model.\n  Give it with --model_name_or_path.")
    plain = json.loads(json.dumps(config.to_dict(), default=lambda x: sorted(x) if isinstance(x, set) else str(x)))
    if not base:
        refuse_changed_base(name, found.name)
    return Trained(_settings(found.name, name, found.exact), str(place), plain, run, short)


def _settings(model: str, adapter: str | None, revision: str | None = None) -> ModelSettings:
    settings = ModelSettings(model_name_or_path=model, adapter=adapter, dtype="float32")
    if revision:
        settings.model_revision = revision
    return settings


def refuse_adapter(trained: Trained, server: str, *, one_scale: bool) -> None:
    """Refuse an adapter that a server would load wrongly or not at all.

    Args:
        server: what is to load it, for the message.
        one_scale: it has one rank and one scale for all layers.

    Raises:
        UserError: names what the server does not take.
    """
    config = trained.config
    if trained.adapter is None:
        what = "the run trained all weights, so there is no adapter"
        raise UserError(
            f"{server} cannot load it as an adapter: {what}.\n  Serve the model itself: --to merged or gguf."
        )
    kind = str(config.get("peft_type"))
    wrong = [] if kind.endswith("LORA") else [f"it is a {kind} adapter, not LoRA"]
    for name in _UNKNOWN_ELSEWHERE:
        if config.get(name):
            wrong.append(f"{name} is {config[name]!r}")
    if config.get("bias", "none") != "none":
        wrong.append(f"bias is {config['bias']!r}")
    if one_scale:
        wrong += [f"{name} differs by layer" for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    targets = config.get("target_modules") or []
    ends = [t for t in targets if isinstance(targets, list) and t.rpartition(".")[2] in ("lm_head", "embed_tokens")]
    if ends:
        wrong.append(f"it changes {' and '.join(ends)}")
    if wrong:
        raise UserError(
            f"{server} does not take this adapter: {'; '.join(wrong)}.\n"
            "  Export the whole model: --to merged or --to gguf."
        )


# Kinds of LoRA that change more than scale · B · A on a layer, or hold more than A and B.
_UNKNOWN_ELSEWHERE = (
    "use_dora",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "fan_in_fan_out",
)
