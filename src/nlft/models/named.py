"""A model by its name, here or on a server. Imports no torch: asking a server needs none."""

from dataclasses import dataclass

from trl import ModelConfig

from nlft.errors import UserError
from nlft.models.settings import ModelOptions


@dataclass
class NamedModel(ModelOptions, ModelConfig):  # type: ignore[misc]
    """TRL's model settings, with the paper's LoRA as the default.

    `dtype` may be None: then `load_model` chooses the data type.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model_name_or_path:
            raise UserError("--model_name_or_path is missing.\n  Give a folder or a hub name.")
