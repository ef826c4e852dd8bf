"""What an optimizer keeps for the weights that it trains. No torch."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nlft.errors import UserError
from nlft.training.optim_args import YES, read_args

if TYPE_CHECKING:
    from nlft.models.sizes import ModelSizes

FLOAT32 = 4
# bitsandbytes keeps a scale of 4 bytes for 256 entries of a state in 8 bits.
_INT8 = 1 + 4 / 256


@dataclass(frozen=True)
class Optimizer:
    """An optimizer, as far as memory follows from it.

    Attributes:
        name: value of `--optim`.
        moments: states as large as the trained weights, in their data type.
        floats: states in float32, whatever the weights' data type is.
        ints: states in 8 bits. Small tensors keep them in float32.
        factored: whether a row and a column in float32 stand for each matrix.
        counter: bytes for each tensor.
    """

    name: str
    moments: int = 0
    floats: int = 0
    ints: int = 0
    factored: bool = False
    counter: int = 0

    def size(self, model: "ModelSizes") -> int:
        """Return the bytes of the state of all trained weights."""
        own = self.moments * model.trained_width + self.floats * FLOAT32
        small = self.ints * FLOAT32 * model.trained_small
        large = self.ints * _INT8 * (model.trained - model.trained_small)
        rows = FLOAT32 * model.trained_edges if self.factored else 0
        return own * model.trained + int(small + large) + rows + self.counter * model.tensors


ADAMW = Optimizer("adamw_torch", moments=2, counter=4)
_KNOWN = (
    ADAMW,
    replace(ADAMW, name="adamw_torch_fused"),
    *(Optimizer(name, ints=2) for name in ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit")),
    Optimizer("paged_adamw_32bit", floats=2),
    Optimizer("adafactor", factored=True),
    Optimizer("sgd"),
    Optimizer("adagrad", moments=1, counter=4),
    Optimizer("rmsprop", moments=1, counter=4),
    *(Optimizer(name, floats=1) for name in ("rmsprop_bnb", "rmsprop_bnb_32bit", "lion_32bit", "paged_lion_32bit")),
    *(Optimizer(name, ints=1) for name in ("rmsprop_bnb_8bit", "lion_8bit", "paged_lion_8bit")),
    *(Optimizer(name, floats=3) for name in ("ademamix", "paged_ademamix_32bit")),
    *(Optimizer(name, ints=3) for name in ("ademamix_8bit", "paged_ademamix_8bit")),
)


def optimizer_of(name: str, given: str | None) -> Optimizer:
    """Return an optimizer by the value of `--optim`.

    Args:
        given: value of `--optim_args`, such as `momentum=0.9,centered=true`.

    Raises:
        UserError: what it keeps is not known.
    """
    found = next((one for one in _KNOWN if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in _KNOWN)
        raise UserError(f"--optim {name}: the plan does not know how much this optimizer keeps.\n  It knows {known}.")
    settings = read_args(given)
    more = (float(settings.get("momentum", 0)) > 0) + (settings.get("centered", "").lower() in YES)
    return replace(found, moments=found.moments + more) if name in ("sgd", "rmsprop") else found
