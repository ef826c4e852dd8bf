"""Settings of an export. Imports no torch."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from nlft.config import Range

Target = Literal["merged", "gguf", "ollama", "vllm", "mlx-adapter"]
OutType = Literal["auto", "f32", "bf16", "f16", "q8_0"]


@dataclass
class ExportSettings:
    """What to write, and what to compare it by."""

    rare: ClassVar[tuple[str, ...]] = ("converter",)
    to: Target = field(default="gguf", metadata={"help": "What to write."})
    outtype: OutType = field(
        default="auto", metadata={"help": "Type of the written weights (auto: that of the base model's own files)."}
    )
    verify_file: str | None = field(
        default=None,
        metadata={"help": "Examples whose replies are scored again with what was written (default: the run's own)."},
    )
    verify_replies: Annotated[int, Range(1, 10_000)] = field(
        default=20, metadata={"help": "How many of these replies are scored again."}
    )
    converter: str | None = field(
        default=None,
        metadata={
            "help": "llama.cpp's convert_hf_to_gguf.py (default: the one on the PATH), or `own` for nlft's own writer."
        },
    )
