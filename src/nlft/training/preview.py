"""What the feedback would touch, before any training: the map's first snapshot, without a step."""

from pathlib import Path
from typing import Any

from nlft.core.schemes.registry import get_scheme
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.models.loading import ModelSettings
from nlft.runs.run_dir import RunDir
from nlft.training.start import nlft_trainer
from nlft.training.trainer import NLFTConfig
from nlft.training.watching import WatchCallback


def preview(examples: list[Example], file: Path, model: str, folder: Path, *, scheme: str, watch: int) -> RunDir:
    """Score examples as a run would before its first step, and write them as a run's map.

    Args:
        file: where the examples come from, for the record.
        model: folder or hub name.
        folder: the run directory to write. It gets no adapter and no events.
        scheme: the scheme that would train, with its default settings.
        watch: maximum number of examples, of both labels alike.

    Raises:
        UserError: the examples or the model cannot be used, or the scheme gives no scores to show.
    """
    chosen = get_scheme(scheme)
    settings = chosen.settings()
    if not chosen.needs(settings) & {"standard", "judge", "hold"}:
        raise UserError(f"--scheme {scheme} reads no feedback, so there is nothing to show.\n  Choose nlft or strike.")
    args: Any = NLFTConfig(output_dir=str(folder), watch=watch, watch_share=1.0, report_to="none", disable_tqdm=True)
    trainer = nlft_trainer(ModelSettings(model_name_or_path=model), args, examples, settings, file)
    run = RunDir(folder)
    run.write_settings({**trainer.record, "preview": True})
    run.start_events(None)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, WatchCallback):
            callback.on_train_begin(args, trainer.state, trainer.control, model=trainer.model)
            callback.on_train_end(args, trainer.state, trainer.control, model=trainer.model)
    return run
