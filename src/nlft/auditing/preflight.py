"""A minute before training on a habit: how often the model breaks each rule, what a prompt does about it, what to do.

`decide` has the rules of the decision; docs/AUDIT.md gives the reasons for its constants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from nlft.auditing.alternatives import StruckPlace
from nlft.auditing.rules import FoundRule
from nlft.core.conditions import ConditionEncoder, EncodedExample
from nlft.core.prompts import Prompt, as_messages, fill_prompt, prompt_text
from nlft.core.quotes import quote_places
from nlft.core.schemes.strike import StrikeSettings
from nlft.core.spans import blame, quoted_spans
from nlft.data.checks import Check, check_reply, word_count
from nlft.data.phrases import copied, runs_of
from nlft.data.records import Example, completion_text, reply_to
from nlft.data.rules_file import Rule, checks_of, guide_text, rule_text
from nlft.data.template_columns import inputs_of
from nlft.models.answerer import CompletionRequest, complete
from nlft.progress import note, table

if TYPE_CHECKING:
    from nlft.models.answerer import Answerer

Verdict = Literal[
    "use the prompt",
    "strike",
    "train on what is liked",
    "these judgments are about one example each and will not transfer",
]

MOST_PROMPTS = 32
"""Most training prompts that are asked."""

MOST_TOKENS = 256
"""Longest reply that is asked for, in tokens; less if the training replies are shorter."""

SELDOM = 0.10
"""A rule is kept if fewer than this proportion of the replies break it."""

LEAST_REPLIES = 10
"""Fewer replies do not decide whether a prompt is enough: `SELDOM` of them is less than one reply."""

LEAST_LENGTH = 0.5
"""A prompt counts only if its replies have at least this proportion of the words that replies without it have."""

MOST_COPIES = 0.25
"""A prompt counts only if fewer than this proportion of its replies copy a reply that it shows."""

ALONE = 0.8
"""The judgments do not transfer if this proportion of the judged examples carries no rule of several prompts."""

ALIGNED = 0.5
"""Striking needs at least this proportion of the quotes in their replies."""

STILL_SAID = StrikeSettings().stop_below
"""Striking needs struck tokens with a mean probability above this: below it, `strike` ends training."""

LIKED = 8
"""Fewer liked replies are too few to train on."""

PLAIN, PROHIBITED, REWORDED = "as it is", "the rule in the prompt", "the rule reworded"
SHOWN = "two liked replies before it"
PROMPT = "{prompt}\n\n{rule}"


@dataclass(frozen=True)
class Asked:
    """The replies to the training prompts in one form.

    Attributes:
        name: the form of the prompts.
        replies: how many replies there are.
        broken: for each check, how many replies fail it. Without a file of checks, each rule is one: a reply fails it
            that has any of its words.
        words: mean length of a reply in words.
        copies: how many replies copy one that the prompt shows: at least a half of their runs of six words.
    """

    name: str
    replies: int
    broken: Mapping[str, int]
    words: float
    copies: int = 0

    @property
    def worst(self) -> float:
        """Return the proportion of replies that break the rule that is broken most often."""
        return max(self.broken.values(), default=0) / self.replies

    def is_enough(self, plain: "Asked") -> bool:
        """Return whether the prompt keeps the rules, and its replies are neither far shorter nor copies."""
        return (
            self.worst < SELDOM
            and self.words >= LEAST_LENGTH * plain.words
            and self.copies < MOST_COPIES * self.replies
        )


@dataclass(frozen=True)
class Preflight:
    """What is known before training.

    Attributes:
        asked: the replies to each form of the prompts, the plain prompts first; empty if there was no rule to check.
        skipped: the forms that were not asked, each with the reason.
        quotes, aligned: quotes and marks of the wrong examples, and how many of them are in their reply.
        places: how many places were struck: a quote may stand at several, and neighbours may share a token.
        probability: mean probability of the struck tokens where they were said; None without places.
        alternatives: mean number of tokens that hold more than 5% at a struck place; None without places.
        liked: right replies in scope.
        judged, alone: wrong examples with a judgment, and those that carry no rule of several prompts.
        verdict: what to do.
        reason: the figures that decided it.
    """

    asked: Sequence[Asked]
    skipped: Sequence[str]
    quotes: int
    aligned: int
    places: int
    probability: float | None
    alternatives: float | None
    liked: int
    judged: int
    alone: int
    verdict: Verdict = "strike"
    reason: str = ""

    def lines(self) -> list[str]:
        """Render it for a terminal. The last line is the verdict."""
        lines = ["", "PREFLIGHT"]
        if self.asked:
            names = list(self.asked[0].broken)
            rows = [
                (
                    one.name,
                    one.replies,
                    *(_share(one.broken[name], one.replies) for name in names),
                    f"{one.words:.1f}",
                    _share(one.copies, one.replies) if one.name == SHOWN else "",
                )
                for one in self.asked
            ]
            lines += ["", *table(rows, ("prompt", "replies", *names, "words", "copy what is shown")).split("\n"), ""]
            lines.append(
                "Under each name: replies that fail this check, or have a word of this rule. The replies are greedy; "
                "sampled ones may differ."
            )
        lines += [f"not asked: {reason}" for reason in self.skipped]
        lines.append(f"quotes and marks: {self.aligned} of {self.quotes} are in their reply, at {self.places} places")
        if self.probability is not None:
            lines.append(
                f"struck tokens: mean probability {self.probability:.3f} where they were said; without them, "
                f"{self.alternatives:.1f} other tokens per place hold more than 5%"
            )
        return [*lines, "", self.verdict_line]

    @property
    def says_train(self) -> bool:
        """Whether the verdict is to train on these examples."""
        return self.verdict in ("strike", "train on what is liked")

    @property
    def has_enough_liked(self) -> bool:
        """Whether there are enough liked replies to train on."""
        return self.liked >= LIKED

    @property
    def verdict_line(self) -> str:
        """Return what to do, and the figures that decided it."""
        return f"verdict: {self.verdict}: {self.reason}"

    def json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def preflight(
    examples: Sequence[Example],
    found: Sequence[FoundRule],
    rules: Sequence[Rule],
    places: Sequence[StruckPlace],
    model: "Answerer | None",
    checks: Sequence[Check] = (),
) -> Preflight:
    """Ask the model, and decide.

    Args:
        found: the rules of the examples' judgments.
        rules: the rules to show and to check: those of a file, or else those that were found.
        places: the struck places, as the model scores them.
        model: answers greedily; None if there are no rules.
        checks: what a reply must pass, in place of the rules' words. Those that ask a judge are passed over.
    """
    prompts = training_prompts(examples)
    liked = [e for e in examples if e.label and not e.keep]
    asked, skipped = ([], ["the model: no rule has words and more than one prompt"])
    if rules and model is not None:
        forms, skipped = prompt_forms([e.prompt for e in prompts], rules, liked)
        decided = [check for check in checks if check.kind != "judge"]
        asked = _ask(prompts, forms, decided or checks_of(rules), model)
    quotes, aligned = count_quotes(examples)
    carried = {index for one in found if one.prompts > 1 for index in one.members}
    judged = [at for at, e in enumerate(examples) if not e.label and (e.spans or (e.judgment or "").strip())]
    count = len(places)
    figures = Preflight(
        asked=asked,
        skipped=skipped,
        quotes=quotes,
        aligned=aligned,
        places=count,
        probability=sum(place.probability for place in places) / count if count else None,
        alternatives=sum(len(place.alternatives) for place in places) / count if count else None,
        liked=len(liked),
        judged=len(judged),
        alone=sum(at not in carried for at in judged),
    )
    verdict, reason = decide(figures)
    return Preflight(**{**vars(figures), "verdict": verdict, "reason": reason})


def decide(figures: Preflight) -> tuple[Verdict, str]:
    """Return what to do, and the figures that decided it. The first rule that applies decides."""
    if figures.judged and figures.alone >= ALONE * figures.judged:
        return (
            "these judgments are about one example each and will not transfer",
            f"{figures.alone} of {figures.judged} judged examples share no rule with another prompt",
        )
    if figures.asked:
        plain, *prompted = figures.asked
        enough = plain.replies >= LEAST_REPLIES
        if enough and plain.worst < SELDOM:
            return "use the prompt", f"nothing to strike: as it is, {_worst(plain)}"
        kept = [one for one in prompted if one.is_enough(plain)]
        if enough and kept:
            return "use the prompt", f"{_best(kept)}; as it is, {_worst(plain)}"
        few = "" if enough else f"{plain.replies} prompts are too few to judge a prompt by; "
        before = f"{few}as it is, {_worst(plain)}; {_best(prompted)}; "
    else:
        before = ""
    there = f"{figures.aligned} of {figures.quotes} quotes are in their reply"
    if figures.probability is None and figures.aligned:
        none = "no token is struck: the tokenizer is a slow one, or the examples are over max_length"
        return "train on what is liked", f"{before}{none}; {_liked(figures)}"
    if figures.probability is None or figures.aligned < ALIGNED * figures.quotes:
        return "train on what is liked", f"{before}{there}, too few to strike; {_liked(figures)}"
    said = f"struck tokens have a mean probability of {figures.probability:.3f}"
    if figures.probability <= STILL_SAID:
        return "train on what is liked", f"{before}{said}, so strike would end at once; {_liked(figures)}"
    return "strike", f"{before}{there}; {said}"


def training_prompts(examples: Sequence[Example]) -> list[Example]:
    """Return at most `MOST_PROMPTS` examples in scope with different prompts, evenly spread over the file."""
    first: dict[str, Example] = {}
    for example in (e for e in examples if not e.keep):
        first.setdefault(prompt_text(example.prompt), example)
    different = list(first.values())
    count = min(MOST_PROMPTS, len(different))
    return [different[at * len(different) // count] for at in range(count)]


def prompt_forms(
    prompts: Sequence[Prompt], rules: Sequence[Rule], liked: Sequence[Example]
) -> tuple[dict[str, list[Prompt]], list[str]]:
    """Return the prompts in each form, and the forms that cannot be made, each with the reason."""
    forms: dict[str, list[Prompt]] = {PLAIN: list(prompts)}
    forms[PROHIBITED] = [fill_prompt(prompt, PROMPT, rule=rule_text(rules)) for prompt in prompts]
    skipped = []
    if any(rule.reworded for rule in rules):
        forms[REWORDED] = [fill_prompt(prompt, PROMPT, rule=guide_text(rules)) for prompt in prompts]
    else:
        skipped.append(f"{REWORDED} (no rule has `reworded`; --rules FILE reads it)")
    shown = [_shown_before(prompt, liked) for prompt in prompts]
    if all(shown):
        forms[SHOWN] = [one for one in shown if one]
    else:
        skipped.append(f"{SHOWN} (some prompt has fewer than two liked replies to other prompts)")
    return forms, skipped


def count_quotes(examples: Sequence[Example]) -> tuple[int, int]:
    """Count the quotes and marks of the wrong examples, and those of them that are in their reply."""
    quotes = aligned = 0
    for example in (e for e in examples if not e.label):
        judgment, text = blame(example.judgment), completion_text(example)
        each = [quoted_spans(text, judgment[start:end]).spans for start, end in quote_places(judgment)]
        quotes += len(each) + len(example.spans)
        aligned += sum(map(bool, each)) + len(example.spans)
    return quotes, aligned


def longest_reply(encoded: Sequence[EncodedExample]) -> int:
    """Return how many tokens a reply may have: as many as the longest training reply, at most `MOST_TOKENS`."""
    return min(MOST_TOKENS, max((len(one.completion) for one in encoded), default=MOST_TOKENS))


def announce(prompts: int, tokens: int) -> None:
    """Say what the preflight costs, before it starts."""
    note(
        f"preflight: up to {4 * prompts} replies of at most {tokens} tokens, about a minute for a small model "
        "(--preflight false skips it)"
    )


def answerer_above(model: Any, encoder: ConditionEncoder, tokens: int, batch_size: int) -> "Answerer":
    """Return the loaded model as a greedy answerer."""
    from nlft.models.loaded import loaded_answerer

    return loaded_answerer(
        model,
        encoder.tokenizer,
        max_new_tokens=tokens,
        batch_size=batch_size,
        system_prompt=encoder.templates.system_prompt,
        inputs=encoder.templates.inputs,
    )


def _ask(
    asked: Sequence[Example], forms: Mapping[str, Sequence[Prompt]], checks: Sequence[Check], model: "Answerer"
) -> list[Asked]:
    found = []
    for name, prompts in forms.items():
        requests = [
            CompletionRequest(f"{at}", prompt, inputs_of(example.extra))
            for at, (example, prompt) in enumerate(zip(asked, prompts, strict=True))
        ]
        texts = [answer.text for answer in complete(requests, model, f"preflight: {name}")]
        replies = [reply_to(example, text) for example, text in zip(asked, texts, strict=True)]
        broken = {check.name: sum(check_reply(check, reply).passed is False for reply in replies) for check in checks}
        copies = sum(map(_copies, prompts, texts)) if name == SHOWN else 0
        found.append(Asked(name, len(texts), broken, sum(map(word_count, texts)) / len(texts), copies))
    return found


def _copies(prompt: Prompt, reply: str) -> bool:
    """Return whether a reply copies one that stands in its prompt."""
    shown = [turn["content"] for turn in as_messages(prompt) if turn["role"] == "assistant"]
    known, runs = copied([reply], runs_of(shown))
    return reply in shown or 2 * known >= runs > 0


def _shown_before(prompt: Prompt, liked: Sequence[Example]) -> Prompt | None:
    """Put two liked replies to other prompts before the prompt, as earlier turns."""
    others = [e for e in liked if prompt_text(e.prompt) != prompt_text(prompt)][:2]
    if len(others) < 2:
        return None
    turns = [
        message
        for e in others
        for message in (*as_messages(e.prompt), {"role": "assistant", "content": completion_text(e)})
        if message["role"] != "system"
    ]
    own = as_messages(prompt)
    system = [message for message in own[:1] if message["role"] == "system"]
    return [*system, *turns, *own[len(system) :]]


def _liked(figures: Preflight) -> str:
    few = f", fewer than {LIKED}: collect more first" if not figures.has_enough_liked else ""
    return f"{figures.liked} replies are liked{few}"


def _worst(asked: Asked) -> str:
    if len(asked.broken) == 1:
        return f"{_share(next(iter(asked.broken.values())), asked.replies)} of the replies break the rule"
    name = max(asked.broken, key=lambda name: asked.broken[name])
    return f"{_share(asked.broken[name], asked.replies)} of the replies break the rule {name}, the most broken one"


def _best(prompted: Sequence[Asked]) -> str:
    best = min(prompted, key=lambda one: one.worst)
    but = f" and {_share(best.copies, best.replies)} copy what is shown" if best.copies else ""
    return f"with {best.name}, {_worst(best)}{but}"


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f}% ({count} of {total})"
