"""Check that transformers' Trainer still has the private methods that the trainers here override.

A private method may be renamed or change its parameters in any release. The override would then never be called, and
training would write pickles, or ignore the page's learning rate, without an error.
"""

import inspect
from importlib.metadata import version

from nlft.errors import NLFTError

SUPPORTED = "transformers>=5.23,<6"

# Method -> its parameters after `self`.
OVERRIDDEN = {
    "_determine_best_metric": ["metrics", "trial"],
    "_evaluate": ["trial", "ignore_keys_for_eval", "skip_scheduler"],
    "_finalize_training": ["trial", "num_train_samples", "start_time"],
    "_get_learning_rate": [],
    "_get_grad_norm": ["model", "grad_norm"],
    "_get_output_dir": ["trial"],
    "_get_train_sampler": ["train_dataset"],
    "_load_best_model": [],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "_load_rng_state": ["checkpoint"],
    "_load_scaler": ["checkpoint"],
    "_maybe_log_save_evaluate": [
        *("tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time", "learning_rate"),
    ],
    "_save": ["output_dir", "state_dict"],
    "_save_checkpoint": ["model", "trial"],
    "_save_optimizer_and_scheduler": ["output_dir"],
    "_save_rng_state": ["output_dir"],
    "_set_signature_columns_if_needed": [],
}


def check_overrides(trainer: type[object]) -> None:
    """Check that a Trainer class has every method that the trainers override, with the expected parameters.

    Raises:
        NLFTError: a method is missing, or has other parameters.
    """
    for name, expected in OVERRIDDEN.items():
        method = getattr(trainer, name, None)
        if method is None:
            raise _unsupported(name, "is missing")
        parameters = list(inspect.signature(method).parameters)[1:]
        if parameters != expected:
            raise _unsupported(name, f"has the parameters ({', '.join(parameters)}), not ({', '.join(expected)})")


def _unsupported(name: str, why: str) -> NLFTError:
    return NLFTError(
        f"nlft overrides Trainer.{name}, which in transformers {version('transformers')} {why}.\n"
        f"  Install a supported version: pip install '{SUPPORTED}'."
    )
