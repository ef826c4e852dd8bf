"""Find what a user wants to talk to: a run, a checkpoint, an adapter's folder or a model. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlft.chat.settings import ChatSettings
from nlft.core.prompts import ChatTemplateSettings, Templates
from nlft.data.rules_file import guide_text, read_rules
from nlft.errors import UserError, display_path, typed
from nlft.progress import note
from nlft.runs.base import Base, adapters_base, chosen_base, home_of, recorded_base
from nlft.runs.checkpoints import newest_weights
from nlft.runs.run_dir import RunDir
from nlft.runs.unfinished import ways_to_go_on

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MODEL_FILES = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Target:
    """A trained model and its base.

    Attributes:
        home: the run directory, or the folder that the user named. Files of the conversation go there or beside it.
        tuned: folder or hub name of the adapter, or of the whole model if there is no adapter.
        is_adapter: whether `tuned` is an adapter on the base.
        base: folder or hub name of the base model.
        revision: the base's revision to load; None for the default.
        record: the run's record; empty without a run.
        unfinished: the run has not written its adapter yet, so `tuned` is a checkpoint.
    """

    home: Path
    tuned: str
    is_adapter: bool
    base: str
    record: Mapping[str, Any] = field(default_factory=dict)
    unfinished: bool = False
    revision: str | None = None

    @property
    def from_hub(self) -> bool:
        """Whether the user named an adapter of the hub, so that there is no folder of it here."""
        return self.home == Path() and not Path(self.tuned).exists()

    @property
    def training(self) -> Mapping[str, Any]:
        """The settings of the run's training; empty without a run."""
        found: Mapping[str, Any] = self.record.get("training") or {}
        return found

    def templates(self, settings: ChatSettings) -> Templates:
        """Return the run's system prompt and inputs of the chat template. The user's own settings win."""
        recorded = ChatTemplateSettings(
            self.training.get("chat_template_kwargs"), self.training.get("chat_template_date")
        )
        system = self.training.get("system_prompt") if settings.system_prompt is None else settings.system_prompt
        inputs = recorded.template_inputs().updated(settings.template_inputs())
        return Templates(system_prompt=system, inputs=inputs)

    def rule(self, settings: ChatSettings) -> str | None:
        """Return the rule for the side `rule`: the user's, else that of the run's rules file. None without one.

        Raises:
            UserError: the user gave a rule in two ways, or the file cannot be used.
        """
        if settings.rule and settings.rules:
            raise UserError("--rule and --rules both give the rule.\n  Leave out one of them.")
        if settings.rule:
            return settings.rule.strip() or None
        file = settings.rules or self.record.get("rules")
        if file and not settings.rules and not Path(file).is_file():
            note(f"The run's rules file {display_path(file)} is gone. Give its new place with --rules.")
            return None
        return guide_text(read_rules(file)) if file else None

    def line(self) -> str:
        """Say in one line what is talked to."""
        kind = "adapter" if self.is_adapter else "model"
        if self.unfinished:
            kind = f"{kind} so far (the run has not finished)"
        return f"{kind}: {display_path(self.tuned)}   base: {display_path(self.base)}"


def find_target(name: str, base: str | None, command: str = "chat") -> Target:
    """Find the newest weights of a run, or those in a folder, and their base model.

    Args:
        name: a run directory, a checkpoint, a folder with an adapter or a model, or an adapter's hub name.
        base: the base model, if the user names it.
        command: what the user typed after `nlft`.

    Raises:
        UserError: there is nothing to talk to, or the base model is not known.
    """
    path = Path(name)
    if not path.exists():
        if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise UserError(f"{name}: does not exist.\n  Give a run directory, an adapter's folder or a hub name.")
        return _on_hub(name, base)
    home = home_of(path) or path
    run = RunDir(home)
    record = run.settings() if run.settings_path.is_file() else {}
    weights = _newest(run) if home == path and record else path
    if weights is None:
        raise UserError(
            f"{display_path(name)}: the run has written neither a checkpoint nor its adapter yet.\n{ways_to_go_on(run)}"
        )
    is_adapter = (weights / ADAPTER_CONFIG).is_file()
    if not is_adapter and not any((weights / file).is_file() for file in _MODEL_FILES):
        raise UserError(
            f"{display_path(name)}: holds neither a run (run.yaml), nor an adapter ({ADAPTER_CONFIG}), nor a model.\n"
            "  Give the --output_dir of a training, or an adapter's folder."
        )
    known = chosen_base(
        base, recorded_base(record) or (adapters_base(weights / ADAPTER_CONFIG) if is_adapter else None)
    )
    if known is None:
        raise UserError(
            f"{display_path(name)}: nothing here says which base model it was trained from.\n"
            f"  Give it: {typed('nlft', command, path, '--model_name_or_path', 'BASE')}"
        )
    _refuse_same(weights, known.name)
    unfinished = weights.parent == run.checkpoints_path and not run.adapter_path.is_dir()
    return Target(home, str(weights), is_adapter, known.name, record, unfinished, known.exact)


def _newest(run: RunDir) -> Path | None:
    return newest_weights(run, [ADAPTER_WEIGHTS, *_MODEL_FILES])


def _refuse_same(weights: Path, base: str) -> None:
    if Path(base).exists() and Path(base).resolve() == weights.resolve():
        raise UserError(
            f"--model_name_or_path {base}: is the trained model itself, so there is no base to compare it with.\n"
            "  Give the model that it was trained from."
        )


def _on_hub(name: str, base: str | None) -> Target:
    """Return an adapter on the hub. Its configuration is fetched to learn its base."""
    found = Base(base) if base else None
    if found is None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            found = adapters_base(Path(hf_hub_download(name, ADAPTER_CONFIG)))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise UserError(
                f"{name}: there is no such folder, and no adapter of this name can be fetched from the hub: {error}\n"
                "  Check the name. `nlft chat` takes a run directory, an adapter's folder or a hub name."
            ) from error
    if found is None:
        raise UserError(f"{name}: does not say which base model it needs.\n  Give it with --model_name_or_path.")
    return Target(Path(), name, True, found.name, revision=found.exact)
