"""The saliency schemes by name: what each needs scored, how it weighs, and how its loss is summed."""

from functools import partial
from typing import Any

from torch import Tensor

from nlft.core.loss import SampleLosses
from nlft.core.saliency import TokenWeights
from nlft.core.schemes.cut import CutSettings, cut_weights
from nlft.core.schemes.dft import DFTSettings, dft_weights
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights, tag_mistakes
from nlft.core.schemes.original import OriginalSettings, original_losses, original_weights
from nlft.core.schemes.rlsd import RLSDSettings, rlsd_weights
from nlft.core.schemes.scheme import Redirect, Scheme, _plain_losses
from nlft.core.schemes.uniform import UniformSettings, uniform_weights
from nlft.errors import UserError


def _nlft_needs(settings: NLFTSettings) -> frozenset[str]:
    # With the branch off nothing asks what the conditions say, and the step costs what plain fine-tuning costs.
    return frozenset({"standard", "judge", "band"}) if settings.branch_weight else frozenset()


def _nlft_redirect(settings: NLFTSettings) -> Redirect | None:
    weight = settings.branch_weight * settings.redirect_weight
    if not settings.redirect or not weight:
        return None
    return Redirect(partial(tag_mistakes, settings=settings), weight, settings.redirect_tokens)


def _rlsd_needs(settings: RLSDSettings) -> frozenset[str]:
    return frozenset({"standard", "judge"} if settings.credit_contrast else {"standard"})


def _original_losses(weights: TokenWeights, logp: Tensor, _: Tensor, misread: Tensor | None) -> SampleLosses:
    assert misread is not None
    return original_losses(weights, logp, misread)


_CUT_NEEDS = frozenset({"judge"})
_ORIGINAL_NEEDS = frozenset({"standard", "judge", "hidden", "misread"})
_ALL = [
    Scheme("nlft", NLFTSettings, nlft_weights, _nlft_needs, _plain_losses, _nlft_redirect),
    Scheme("nlft-original", OriginalSettings, original_weights, lambda _: _ORIGINAL_NEEDS, _original_losses),
    Scheme("cut", CutSettings, cut_weights, lambda _: _CUT_NEEDS, _plain_losses),
    Scheme("rlsd", RLSDSettings, rlsd_weights, _rlsd_needs, _plain_losses),
    Scheme("dft", DFTSettings, dft_weights, lambda _: frozenset(), _plain_losses),
    Scheme("uniform", UniformSettings, uniform_weights, lambda _: frozenset(), _plain_losses),
]
SCHEMES = {scheme.name: scheme for scheme in _ALL}


def scheme_of(saliency: Any) -> tuple[Scheme, Any]:
    """The scheme and its settings, from a scheme's name or from a settings object.

    Raises:
        UserError: no scheme goes by that name, or has such settings.
    """
    for scheme in _ALL:
        if saliency == scheme.name:
            return scheme, scheme.settings()
        if isinstance(saliency, scheme.settings):
            return scheme, saliency
    raise UserError(
        f"{saliency!r} is no saliency scheme.\n  Choose one of {', '.join(SCHEMES)}, or its settings object."
    )
