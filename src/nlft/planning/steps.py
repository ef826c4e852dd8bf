"""A step of a training, from its settings."""

from typing import Any, Literal

from nlft.core.schemes.scheme import Scheme
from nlft.planning.memory import Rows, Step
from nlft.planning.optimizers import optimizer_of


def reads_clean(args: Any, scheme: Scheme | None, saliency: object, *, noisy: bool) -> bool:
    """Whether base is read once more without noise, see `score_batch`.

    Args:
        args: the settings of a training.
        scheme: None if there is none, as in supervised fine-tuning.
        noisy: whether the model draws random numbers in training mode.
    """
    live = getattr(args, "scores_live", False)
    return live and (noisy or bool(args.neftune_noise_alpha)) and scheme is not None and bool(scheme.needs(saliency))


def reads_again(args: Any, scheme: Scheme | None, saliency: object, *, noisy: bool) -> int:
    """Return how often a step reads the rows with gradient once more without it: for a frozen base, and without noise.

    Args:
        args, scheme, noisy: see `reads_clean`.
    """
    holds = scheme is not None and "hold" in scheme.needs(saliency)
    return int(holds and args.scores_live) + int(reads_clean(args, scheme, saliency, noisy=noisy))


def step_of(
    args: Any,
    scheme: Scheme | None,
    saliency: object,
    largest: tuple[Rows, Rows],
    *,
    noisy: bool,
    bits: Literal[4, 8] | None,
    double: bool,
    processes: int,
) -> Step:
    """Return what a process does in a step.

    Args:
        args, scheme, noisy: see `reads_clean`.
        largest: the largest batch, see `largest_batch`.
        bits, double, processes: see `Step`.

    Raises:
        UserError: what the optimizer keeps is not known.
    """
    needs = frozenset() if scheme is None else scheme.needs(saliency)
    kept = not getattr(args, "scores_live", True)
    return Step(
        trained=largest[0],
        conditions=largest[1],
        checkpointing=bool(args.activation_checkpointing),
        holds="hold" in needs,
        reads=not kept and bool(needs & {"standard", "judge"}),
        kept=kept,
        kept_tokens=args.hold_tokens if kept else 0,
        clean=reads_clean(args, scheme, saliency, noisy=noisy),
        padded=largest[0].count > 1,
        bits=bits,
        double=double,
        chunk_bytes=getattr(args, "logit_chunk_mib", 256) * 2**20,
        autocast=bool(args.bf16 or args.fp16),
        optimizer=optimizer_of(str(getattr(args.optim, "value", args.optim)), args.optim_args),
        processes=processes,
    )
