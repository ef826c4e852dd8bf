"""Settings of models and of their answers. Imports no torch."""

from dataclasses import dataclass, field, fields
from math import inf
from typing import Annotated, ClassVar, Literal

from nlft.config import Range, with_defaults
from nlft.errors import UserError

MOST_SEED = 2**32 - 1  # of NumPy
SERVER_LIMITS = ("concurrency", "max_retries", "request_timeout", "requests_per_minute", "tokens_per_minute")
"""The settings of `BackendSettings` that keep a server's limits."""


@dataclass
class ModelOptions:
    """Our own settings of a model, and those of TRL's `ModelConfig` that people use most."""

    rare: ClassVar[tuple[str, ...]] = ("use_bnb_nested_quant",)

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model: a folder or a hub name, or its name on the server."}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "PEFT adapter to load: a folder, a run directory or a hub name."}
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Base model's data type (default: bfloat16 if it is fast, else float32). Adapters are float32.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "Load the base in 4 bits, as QLoRA does (CUDA)."})
    use_bnb_nested_quant: bool = field(
        default=True, metadata={"help": "4 bits: also quantise the quantisation's own scales, as QLoRA."}
    )
    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA adapter. If false, train all weights."})
    lora_r: Annotated[int, Range(1, inf)] = field(default=16, metadata={"help": "Rank of the LoRA adapter."})
    lora_alpha: Annotated[int, Range(1, inf)] = field(
        default=16, metadata={"help": "LoRA scale: the adapter's output is multiplied by alpha / r."}
    )
    lora_dropout: Annotated[float, Range(0, 0.99)] = field(  # with 1, nothing would be trained
        default=0.0, metadata={"help": "Dropout in the adapter, a probability."}
    )
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Layers to adapt (default: the whole MLP, no router)."}
    )


@dataclass
@with_defaults(dtype="auto")
class MergeOptions(ModelOptions):
    """A model to merge an adapter into: the result keeps the data type of the base model's own files."""


@dataclass
class SeedSettings:
    """The seed of whatever is random."""

    seed: Annotated[int, Range(0, MOST_SEED)] = field(default=0, metadata={"help": "Seed of all random draws."})


@dataclass
class BatchSizeSettings:
    """How much a local model works on at once."""

    batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Prompts per batch of a local model."}
    )


@dataclass
class MaxLengthSettings:
    """How long a training example may be."""

    max_length: Annotated[int | None, Range(8, inf)] = field(
        default=1024,
        metadata={"help": "Maximum tokens of prompt and completion. A longer example is an error; nothing is cut."},
    )


@dataclass
class AnswerSettings:
    """How long an answer may be."""

    max_new_tokens: Annotated[int, Range(1, 1_000_000)] = field(
        default=256, metadata={"help": "Maximum length of an answer, in tokens."}
    )


@dataclass
class TemperatureSettings:
    """How random answers are."""

    temperature: Annotated[float, Range(0, inf)] = field(
        default=0.0, metadata={"help": "Sampling temperature. 0 is greedy."}
    )


@dataclass
class GenerationSettings(AnswerSettings, BatchSizeSettings, TemperatureSettings, SeedSettings):
    """How answers are generated."""


@dataclass
class ExecutorSettings:
    """Where a command's work runs: the cells of a comparison, or the model that answers."""

    rare: ClassVar[tuple[str, ...]] = ("executor", "ray_cpus", "ray_gpus")

    executor: Literal["local", "ray"] = field(
        default="local",
        metadata={"help": "Where the work runs. local: on this machine. ray: in Ray's workers (docs/PROCESSES.md)."},
    )
    ray_cpus: Annotated[float, Range(0.01, inf)] = field(
        default=1.0, metadata={"help": "CPUs that Ray reserves for a worker."}
    )
    ray_gpus: Annotated[float | None, Range(0, inf)] = field(
        default=None,
        metadata={"help": "GPUs that Ray reserves for a worker (default: 1 if Ray has any). 0.5: two share one."},
    )

    def refuse_idle_ray(self) -> None:
        """Refuse settings of Ray where Ray is not used."""
        of_ray = [one for one in fields(ExecutorSettings) if one.name != "executor"]
        given = [f"--{one.name}" for one in of_ray if getattr(self, one.name) != one.default]
        if self.executor == "local" and given:
            raise UserError(f"{' and '.join(given)} without --executor ray has no effect.\n  Add --executor ray.")


@dataclass
class BackendSettings(ExecutorSettings):
    """Where answers come from."""

    backend: Literal["local", "openai"] = field(
        default="local",
        metadata={"help": "local: load the model here; openai: ask an OpenAI-compatible server."},
    )
    base_url: str | None = field(
        default=None,
        metadata={"help": "The server's address, such as http://localhost:8000/v1. Implies --backend openai."},
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY",
        metadata={"help": "Environment variable that holds the server's key. A local server needs none."},
    )
    concurrency: Annotated[int, Range(1, 1024)] = field(
        default=8, metadata={"help": "Maximum requests to the server at the same time."}
    )
    max_retries: Annotated[int, Range(0, 100)] = field(
        default=6, metadata={"help": "Retries of a failed request, with a longer wait each time."}
    )
    request_timeout: Annotated[float, Range(0.01, 86_400)] = field(
        default=120.0, metadata={"help": "Seconds until a request counts as failed."}
    )
    requests_per_minute: Annotated[float | None, Range(0.001, inf)] = field(
        default=None, metadata={"help": "Maximum requests per minute, retries included."}
    )
    tokens_per_minute: Annotated[float | None, Range(1, inf)] = field(
        default=None,
        metadata={"help": "Maximum tokens per minute: each prompt (estimated) plus its longest possible answer."},
    )

    def __post_init__(self) -> None:
        if self.base_url is not None:
            self.backend = "openai"
        self.refuse_idle_ray()
        if self.backend == "openai" and self.executor == "ray":
            raise UserError(
                "--executor ray with --backend openai: a server spreads its requests over its own machines.\n"
                "  Leave out --executor, or leave out --backend and --base_url."
            )


@dataclass
class CallSettings:
    """Which answers are kept, and how many may be asked for."""

    ledger: str | None = field(
        default=None,
        metadata={
            "help": "File of finished answers, which are not asked for again (default: NAME.calls.jsonl, beside the "
            "output file)."
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the number of requests and their cost. Send none."})
    max_requests: Annotated[int | None, Range(0, inf)] = field(
        default=None, metadata={"help": "Maximum number of answers in the ledger, earlier runs included."}
    )
    max_cost: Annotated[float | None, Range(0, inf)] = field(
        default=None,
        metadata={
            "help": "Maximum total cost of the ledger's answers, earlier runs included. Stops before it could be "
            "exceeded. Needs both prices, in the same currency."
        },
    )
    price_per_million_input: Annotated[float | None, Range(0, inf)] = field(
        default=None, metadata={"help": "Price of a million prompt tokens."}
    )
    price_per_million_output: Annotated[float | None, Range(0, inf)] = field(
        default=None, metadata={"help": "Price of a million generated tokens."}
    )

    def __post_init__(self) -> None:
        prices = (self.price_per_million_input, self.price_per_million_output)
        if None in prices and (self.max_cost is not None or prices != (None, None)):
            raise UserError(
                "--max_cost and the cost estimates need the price of a token.\n"
                "  Give both --price_per_million_input and --price_per_million_output."
            )

    def cost(self, prompt_tokens: int, tokens: int) -> float | None:
        """Compute the cost of these numbers of tokens. Return None without prices."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        return (prompt_tokens * self.price_per_million_input + tokens * self.price_per_million_output) / 1e6
