"""Measure what a training changed besides its aim, from replies before and after. No torch.

docs/COLLATERAL.md defines each measure.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from nlft.core.prompts import Prompt, prompt_text
from nlft.data.phrases import Phrase, commoner_phrases, copied, grams_of, runs_of, words_of
from nlft.results.settings import CollateralSettings

_REPEATED_WORDS = 3
GATED = ("task", "keep")  # sets whose bounds decide; the near-scope prompts are too few


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        tokens: length in tokens, as the model generated it.
        ended: whether the model ended the reply by itself.
    """

    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Pair:
    """The replies to one prompt of the base model (`before`) and of the trained model (`after`)."""

    id: str
    prompt: Prompt
    before: Reply
    after: Reply


@dataclass(frozen=True)
class Divergence:
    """Sums of KL(base ‖ tuned) over the tokens of the base's replies, in nats.

    Attributes:
        nats, tokens: over the tokens that are not struck.
        struck_nats, struck_tokens: over the struck tokens.
        replies: number of replies that were scored.
    """

    nats: float = 0.0
    tokens: int = 0
    struck_nats: float = 0.0
    struck_tokens: int = 0
    replies: int = 0

    def __add__(self, other: "Divergence") -> "Divergence":
        return Divergence(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def outside(self) -> float | None:
        """Nats per token outside struck tokens."""
        return self.nats / self.tokens if self.tokens else None

    @property
    def everywhere(self) -> float | None:
        """Nats per token of all tokens."""
        tokens = self.tokens + self.struck_tokens
        return (self.nats + self.struck_nats) / tokens if tokens else None


@dataclass(frozen=True)
class Style:
    """What replies look like.

    Attributes:
        words, tokens: mean length of a reply.
        ends: share of replies that the model ended by itself.
        repetition: share of a reply's three-word sequences that repeat an earlier one of the same reply; the mean over
            replies.
        copied: share of the replies' six-word sequences that occur in the training texts; None without such texts.
    """

    words: float
    tokens: float
    ends: float
    repetition: float
    copied: float | None = None


@dataclass(frozen=True)
class Figures:
    """The collateral on one set of prompts.

    Attributes:
        replies: number of prompts; each has a reply before and one after.
        kl: nats per token of KL(base ‖ tuned) outside struck tokens. `kl_everywhere` includes struck tokens. None if
            not measured.
        phrases: the commonest first.
    """

    replies: int
    before: Style
    after: Style
    kl: float | None
    kl_everywhere: float | None
    phrases: tuple[Phrase, ...] = ()


@dataclass(frozen=True)
class Breach:
    """A bound that a method broke.

    Attributes:
        bound: name of the setting.
        prompts: the set of prompts: task or keep.
        what: the measure, with its values before and after, for a sentence.
        limit: the setting's value.
    """

    bound: str
    prompts: str
    what: str
    limit: float


@dataclass(frozen=True)
class PromptSet:
    """All that was measured on one set of prompts; sets of several cells can be added up.

    Attributes:
        pairs: the replies.
        kl: sums of the divergence; None if not measured.
        copied: (sequences that occur in the training texts, all sequences) of the replies before and after; None
            without training texts.
        kl_each: (nats, tokens) outside struck tokens of each scored reply, the first replies of `pairs`. None if not
            measured, in older files, and for several cells together.
    """

    pairs: tuple[Pair, ...]
    kl: Divergence | None = None
    copied: tuple[tuple[int, int], tuple[int, int]] | None = None
    kl_each: tuple[tuple[float, int], ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the set as evaluation.json stores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PromptSet":
        """Read what `as_json` returned, or the same after a passage through a JSON file."""
        pairs = tuple(Pair(p["id"], p["prompt"], Reply(**p["before"]), Reply(**p["after"])) for p in data["pairs"])
        kl, copied = data["kl"], data["copied"]
        counts = ((copied[0][0], copied[0][1]), (copied[1][0], copied[1][1])) if copied else None
        each = data.get("kl_each")
        return cls(
            pairs,
            Divergence(**kl) if kl else None,
            counts,
            None if each is None else tuple((nats, tokens) for nats, tokens in each),
        )


@dataclass(frozen=True)
class Collateral:
    """The collateral of one adapter, or of several cells together, by set of prompts: task, near and keep."""

    sets: Mapping[str, PromptSet] = field(default_factory=dict)

    def figures(self) -> dict[str, Figures]:
        """Return the figures of each set."""
        return {name: figures(prompts) for name, prompts in self.sets.items()}


def prompt_set(
    pairs: Iterable[Pair], kl: Sequence[Divergence] | None = None, trained_on: Collection[str] | None = None
) -> PromptSet:
    """Make a set of prompts.

    Args:
        kl: the divergence on each scored reply; None if not measured.
        trained_on: the texts that the training showed the model; None if they are not known.
    """
    pairs = tuple(pairs)
    total = None if kl is None else sum(kl, Divergence())
    each = None if kl is None else tuple((one.nats, one.tokens) for one in kl)
    if trained_on is None:
        return PromptSet(pairs, total, None, each)
    known = runs_of(trained_on)
    before, after = (copied([reply.text for reply in side], known) for side in _sides(pairs))
    return PromptSet(pairs, total, (before, after), each)


def pooled(found: Sequence[Collateral]) -> Collateral:
    """Add up the collateral of several cells. A divergence or copies that some cell lacks are left out as unknown."""
    names = list(dict.fromkeys(name for one in found for name in one.sets))
    return Collateral({name: _sum([one.sets[name] for one in found if name in one.sets]) for name in names})


def _sum(sets: Sequence[PromptSet]) -> PromptSet:
    pairs = tuple(pair for one in sets for pair in one.pairs)
    known = [one.kl for one in sets if one.kl is not None]
    kl = sum(known, Divergence()) if len(known) == len(sets) else None
    counts = [one.copied for one in sets if one.copied is not None]
    if len(counts) < len(sets):
        return PromptSet(pairs, kl)
    (b, of_b), (a, of_a) = ([sum(c[side][i] for c in counts) for i in (0, 1)] for side in (0, 1))
    return PromptSet(pairs, kl, ((b, of_b), (a, of_a)))


def figures(prompts: PromptSet) -> Figures:
    """Measure one set of prompts."""
    befores, afters = _sides(prompts.pairs)
    shares = [found / total if total else 0.0 for found, total in prompts.copied] if prompts.copied else [None, None]
    kl = prompts.kl
    return Figures(
        replies=len(prompts.pairs),
        before=style(befores, shares[0]),
        after=style(afters, shares[1]),
        kl=kl.outside if kl else None,
        kl_everywhere=kl.everywhere if kl else None,
        phrases=commoner(prompts.pairs),
    )


def style(replies: Sequence[Reply], copied: float | None = None) -> Style:
    """Measure the form of replies. Without replies, every number is 0."""
    count = max(len(replies), 1)
    words = [words_of(reply.text) for reply in replies]
    return Style(
        words=sum(map(len, words)) / count,
        tokens=sum(reply.tokens for reply in replies) / count,
        ends=sum(reply.ended for reply in replies) / count,
        repetition=sum(map(_repetition, words)) / count,
        copied=copied,
    )


def commoner(pairs: Sequence[Pair]) -> tuple[Phrase, ...]:
    """Return the phrases that became commoner; see `commoner_phrases`."""
    return commoner_phrases([(prompt_text(pair.prompt), pair.before.text, pair.after.text) for pair in pairs])


def breaches(found: Mapping[str, Figures], bounds: CollateralSettings) -> tuple[Breach, ...]:
    """Return the bounds that the figures break, on the task's prompts and on those to keep."""
    broken = []
    for name in GATED:
        if name not in found or not found[name].replies:
            continue
        one = found[name]
        before, after = one.before, one.after
        if after.ends < (1 - bounds.max_ends_fall) * before.ends:
            what = f"replies that end by themselves {before.ends:.0%} → {after.ends:.0%}"
            broken.append(Breach("max_ends_fall", name, what, bounds.max_ends_fall))
        longer = after.words / before.words if before.words else inf if after.words else 1.0
        if abs(longer - 1) > bounds.max_length_change:
            what = f"mean length {before.words:.0f} → {after.words:.0f} words"
            broken.append(Breach("max_length_change", name, what, bounds.max_length_change))
        for phrase in one.phrases:
            rare, common = phrase.before / one.replies, phrase.after / one.replies
            if rare < bounds.phrase_rare and common > bounds.phrase_common:
                what = f"“{phrase.text}” in {rare:.0%} → {common:.0%} of replies"
                broken.append(Breach("phrase_common", name, what, bounds.phrase_common))
    return tuple(broken)


def _sides(pairs: Sequence[Pair]) -> tuple[list[Reply], list[Reply]]:
    return [pair.before for pair in pairs], [pair.after for pair in pairs]


def _repetition(words: Sequence[str]) -> float:
    grams = grams_of(words, _REPEATED_WORDS)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
