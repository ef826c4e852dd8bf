"""The arms of `benchmarks/bench.py`, and what is measured of them. Imports torch only when the schemes are asked."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from nlft.core.schemes.registry import get_scheme, scheme_names

Kind = Literal["mixed", "right", "wrong"]
FROZEN = "condition_logprobs"  # the setting of `nlft train` that lets a step read kept scores


@dataclass(frozen=True)
class Options:
    """What is measured. `bench.py run --help` describes each option."""

    model: str
    vocabulary: int = 0
    dtype: str | None = None
    prompt: int = 128
    completion: int = 192
    shown: int = 96
    judgment: int = 96
    spread: float = 0.2
    batch: int = 2
    batches: int = 3
    rounds: int = 7
    warm_up: int = 1
    answer_weight: float = 0.0
    checkpointing: bool = False
    weights: Literal["lora", "all"] = "lora"
    cpu: bool = False


@dataclass(frozen=True)
class Arm:
    """One way to train on the rows.

    Attributes:
        trainer: `nlft` for NLFTTrainer, `sft` for `nlft sft`, `peer` for `OriginalStep`.
        data: labels of the rows: all right, all wrong, or one right to two wrong. Prompts and completions are the same.
        settings: of the trainer; `scheme` and `saliency` choose how `nlft` weighs tokens.
    """

    name: str
    trainer: Literal["nlft", "sft", "peer"]
    data: Kind = "mixed"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def frozen(self) -> bool:
        """Whether a step reads kept scores instead of scoring the conditions."""
        return self.settings.get(FROZEN) == "frozen"


REFERENCE = Arm("sft-trl", "sft", settings={"engine": "trl"})


def all_arms() -> list[Arm]:
    """Return TRL's SFT, which is the reference, our own, every scheme, live and frozen, and the original's step."""
    arms = [
        REFERENCE,
        Arm("sft-trl-chunked", "sft", settings={"engine": "trl", "loss_type": "chunked_nll"}),
        Arm("sft-nlft", "sft", settings={"engine": "nlft"}),
    ]
    from nlft.training.kept_conditions import unkept  # brings torch, which `--help` does without

    for name in scheme_names():
        scheme = get_scheme(name)
        kinds: tuple[Kind, ...] = ("right", "wrong", "mixed") if name == "nlft" else ("mixed",)
        settings: dict[str, Any] = {"scheme": name}
        if "stop_below" in {f.name for f in fields(scheme.settings)}:
            settings["saliency"] = {"stop_below": 0.0}  # every arm trains all passes
        live = [Arm(f"{name}-{kind}" if len(kinds) > 1 else name, "nlft", kind, settings) for kind in kinds]
        arms += live
        scores = scheme.needs(scheme.settings()) & {"standard", "judge", "hold"}
        if scores and unkept(scheme, scheme.settings()) is None:
            arms += [replace(a, name=f"{a.name}-frozen", settings={**a.settings, FROZEN: "frozen"}) for a in live]
    return [*arms, Arm("original-step", "peer")]


def start(connection: Any, arm: Arm, options: Options) -> None:
    """Train one arm in a process that has the libraries already. The process that measures needs none of them."""
    from bench_worker import work

    work(connection, arm, options)
