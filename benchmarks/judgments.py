"""Do the judgments work? Share of planted mistakes that a judgment makes salient, and of right tokens with them.

    python benchmarks/judgments.py templates NAME=FOLDER ... --gsm8k FILE    compare prompt templates
    python benchmarks/judgments.py measure NAME=FOLDER ... --gsm8k FILE      the tables, on other questions
    python benchmarks/judgments.py write                                     docs/JUDGMENTS.md from the counts

Each example is scored once under each prompt, and all schemes are computed from the same log-probabilities. The counts
stand in docs/judgments.json; a model's are replaced when it is measured again. Its "notes" are printed as they stand.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from math import log
from pathlib import Path
from typing import Any

from planted import (
    FOLLOWS,
    MISTAKE,
    RIGHT,
    Wrong,
    own_mistakes,
    planted_examples,
    question_sets,
    shuffled,
    token_kinds,
)

from nlft.core.conditions import ConditionEncoder, pad_rows
from nlft.core.prompts import JUDGE_PROMPT_TEMPLATE, STANDARD_PROMPT_TEMPLATE, fill
from nlft.core.saliency import ConditionLogprobs, TokenWeights
from nlft.core.schemes.cut import CutSettings, cut_weights
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights
from nlft.data.records import Question
from nlft.progress import progress

DOCS = Path(__file__).parent.parent / "docs"
NUMBERS = DOCS / "judgments.json"

DEFAULT = "default | default"
VAGUE = "The final answer is wrong."
BATCH = 24

STANDARD_TEMPLATES = {
    "default": STANDARD_PROMPT_TEMPLATE,
    "correct": "{prompt}\n\nThe correct answer is:\n{answer}\n\nWrite the correct answer.",
    "repeat": "{prompt}\n\nThis answer is correct:\n{answer}\n\nRepeat it word for word.",
}
JUDGE_TEMPLATES = {
    "default": JUDGE_PROMPT_TEMPLATE,
    "deserves": "{prompt}\n\nWrite a response that deserves this judgment:\n{judgment}",
    "student": "{prompt}\n\nA student's answer was marked as wrong:\n{judgment}\n\n"
    "Write the student's answer, with the mistake in it.",
    "mistake": "{prompt}\n\nMake the mistake that is described here:\n{judgment}",
    "before": "A reviewer wrote about a response to the question below:\n{judgment}\n\nQuestion: {prompt}\n\n"
    "Write that response as it was, mistakes included.",
    "word-for-word": "{prompt}\n\nA wrong response to this was judged as follows:\n{judgment}\n\n"
    "Write the wrong response word for word.",
}

SCHEMES: dict[str, Callable[[ConditionLogprobs], TokenWeights]] = {
    "nlft": partial(nlft_weights, settings=NLFTSettings()),
    "nlft + contradiction": partial(nlft_weights, settings=NLFTSettings(contradiction=True)),
    # No token is likelier than 1: the judgment's own test finds nothing.
    "contradiction alone": partial(nlft_weights, settings=NLFTSettings(contradiction=True, mistake_floor=1.0)),
    "cut": partial(cut_weights, settings=CutSettings()),
}


# What the judge prompt is told of a completion.
TOLD = ("rules", "correction shown", "vague", "shuffled", "shuffled, correction shown")


# Scores and counts.


@dataclass
class Counts:
    """Tagged tokens of some examples.

    Attributes:
        examples, mistakes: how many, and how many have a token of the wrong number tagged.
        first: ... have its first wrong token tagged.
        before: ... have the token before that tagged, which is right.
        right, right_tagged: right tokens, and those of them that are tagged.
        clean: examples without a right token tagged.
        follows, follows_tagged: tokens of later numbers that are wrong because of the mistake.
        sure, sure_tagged: mistakes whose first wrong token the model gives more than 2/3 under base, where pJ/pB
            cannot exceed 1.5.
    """

    examples: int = 0
    mistakes: int = 0
    first: int = 0
    before: int = 0
    clean: int = 0
    right: int = 0
    right_tagged: int = 0
    follows: int = 0
    follows_tagged: int = 0
    sure: int = 0
    sure_tagged: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def add(self, kinds: Sequence[int], tagged: Sequence[bool], base: Sequence[float]) -> None:
        """Count one example, given its tokens' log-probabilities under base."""
        of = {kind: [t for k, t in zip(kinds, tagged, strict=True) if k == kind] for kind in (RIGHT, MISTAKE, FOLLOWS)}
        place = kinds.index(MISTAKE)
        self.examples += 1
        self.mistakes += any(of[MISTAKE])
        self.first += tagged[place]
        self.before += place > 0 and tagged[place - 1]
        self.clean += not any(of[RIGHT])
        self.right += len(of[RIGHT])
        self.right_tagged += sum(of[RIGHT])
        self.follows += len(of[FOLLOWS])
        self.follows_tagged += sum(of[FOLLOWS])
        sure = base[place] > log(2 / 3)
        self.sure += sure
        self.sure_tagged += sure and any(of[MISTAKE])


class Study:
    """A model, and the prompts that completions are scored under."""

    def __init__(self, folder: str) -> None:
        from nlft.core.logprobs import enable_scoring
        from nlft.models.loading import ModelSettings, load_model, load_tokenizer

        # Eager attention: with sdpa a row's bf16 scores depend on how far it is padded.
        settings = ModelSettings(model_name_or_path=folder, dtype="bfloat16", attn_implementation="eager")
        self.model = load_model(settings, trainable=False).eval()
        enable_scoring(self.model)
        self.tokenizer = load_tokenizer(settings)
        self.encoder = ConditionEncoder(self.tokenizer)

    def kinds(self, wrong: Wrong) -> list[int]:
        found = self.tokenizer(wrong.completion, add_special_tokens=False, return_offsets_mapping=True)
        end = (len(wrong.completion), len(wrong.completion) + 1)
        return token_kinds(wrong, [*found["offset_mapping"], end])

    def scores(self, examples: Sequence[Wrong], prompts: dict[str, Sequence[str]]) -> dict[str, list[Any]]:
        """Log-probabilities of each completion's tokens under each named list of prompts."""
        import torch

        from nlft.core.logprobs import score

        rows = [
            (name, i, self.encoder.prompt_ids(text), self.encoder.completion_ids(examples[i].completion))
            for name, texts in prompts.items()
            for i, text in enumerate(texts)
        ]
        rows.sort(key=lambda row: len(row[2]) + len(row[3]))
        found: dict[str, list[Any]] = {name: [None] * len(examples) for name in prompts}
        with torch.no_grad(), progress("scoring", len(rows), "row") as bar:
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                out = score(self.model, pad_rows([row[2:] for row in batch], self.tokenizer.pad_token_id))
                for (name, i, _, completion), logp in zip(batch, out.logp, strict=True):
                    found[name][i] = logp[: len(completion)]
                bar.update(len(batch))
        return found


def tally(
    kinds: Sequence[Sequence[int]], base: Sequence[Any], standard: Sequence[Any], judge: Sequence[Any], scheme: str
) -> Counts:
    """Count what a scheme tags, given log-probabilities example by example."""
    import torch

    counts = Counts()
    for kind, b, s, j in zip(kinds, base, standard, judge, strict=True):
        row = ConditionLogprobs(
            base=b[None],
            standard=s[None],
            judge=j[None],
            mask=torch.ones(1, len(b), dtype=torch.bool),
            label=torch.zeros(1, dtype=torch.bool),
            band=torch.zeros(1, len(b), 17, dtype=torch.float16),  # neighbours are no tags, and are not counted
        )
        counts.add(kind, SCHEMES[scheme](row).salient[0].tolist(), b.tolist())
    return counts


def judge_prompts(examples: Sequence[Wrong], judgments: Sequence[str], template: str, shows: bool) -> list[str]:
    """The judge prompts, made as training makes them."""
    from nlft.core.prompts import without_corrections

    shown = judgments if shows else [without_corrections(j) for j in judgments]
    return [fill(template, prompt=e.prompt, judgment=j) for e, j in zip(examples, shown, strict=True)]


def standard_prompts(examples: Sequence[Wrong], template: str) -> list[str]:
    return [fill(template, prompt=e.prompt, answer=e.answer) for e in examples]


# The two measurements.


def measure_templates(study: Study, sets: dict[str, list[Question]], count: int) -> dict[str, Any]:
    """{source: {"standard | judge": {"rules" or "shuffled": counts}}}, tags by `nlft`."""
    found: dict[str, Any] = {}
    for source, questions in sets.items():
        examples = planted_examples(questions, count, seed=1)
        kinds = [study.kinds(e) for e in examples]
        judgments = [e.judgment for e in examples]
        told = {"rules": judgments, "shuffled": shuffled(judgments, seed=2)}
        prompts: dict[str, Sequence[str]] = {"base": [e.prompt for e in examples]}
        prompts |= {f"standard {n}": standard_prompts(examples, t) for n, t in STANDARD_TEMPLATES.items()}
        for name, template in JUDGE_TEMPLATES.items():
            prompts |= {f"{k} {name}": judge_prompts(examples, j, template, False) for k, j in told.items()}
        scores = study.scores(examples, prompts)
        found[source] = {
            f"{s} | {j}": {
                k: asdict(tally(kinds, scores["base"], scores[f"standard {s}"], scores[f"{k} {j}"], "nlft"))
                for k in told
            }
            for s in STANDARD_TEMPLATES
            for j in JUDGE_TEMPLATES
        }
    return found


def merit(by_judgment: dict[str, dict[str, int]]) -> float:
    """Mistakes tagged by their judgments, less by shuffled ones, less right tokens tagged; shares.

    What templates are chosen by: tags that are there, because of what the judgment says, and nowhere else.
    """
    real, other = (Counts(**by_judgment[name]) for name in ("rules", "shuffled"))
    return (real.mistakes - other.mistakes) / real.examples - real.right_tagged / real.right


def ranking(numbers: dict[str, Any]) -> list[tuple[str, float]]:
    """Template pairs with their merit, the mean over models and sources; the best first."""
    found = [pairs for by_source in numbers["templates"].values() for pairs in by_source.values()]
    means = {pair: sum(merit(pairs[pair]) for pairs in found) / len(found) for pair in found[0]}
    return sorted(means.items(), key=lambda item: -item[1])


def measure_judgments(study: Study, sets: dict[str, list[Question]], count: int, pairs: list[str]) -> dict[str, Any]:
    """{source: {"standard | judge": {judgments: {scheme: counts}}}}."""
    groups = {source: planted_examples(questions, count, seed=3) for source, questions in sets.items()}
    groups["own"] = own_mistakes(study.model, study.encoder, sets["problems"][-300:], count)
    return {source: _measure_group(study, examples, pairs) for source, examples in groups.items() if len(examples) > 1}


def _measure_group(study: Study, examples: list[Wrong], pairs: list[str]) -> dict[str, Any]:
    kinds = [study.kinds(e) for e in examples]
    judgments = [e.judgment for e in examples]
    other = shuffled(judgments, seed=4)
    vague = [VAGUE] * len(examples)
    words = [(judgments, False), (judgments, True), (vague, False), (other, False), (other, True)]
    told = dict(zip(TOLD, words, strict=True))
    prompts: dict[str, Sequence[str]] = {"base": [e.prompt for e in examples]}
    for pair in pairs:
        standard, judge = pair.split(" | ")
        prompts[f"standard {standard}"] = standard_prompts(examples, STANDARD_TEMPLATES[standard])
        for name, (text, shows) in told.items():
            prompts[f"{name} {judge}"] = judge_prompts(examples, text, JUDGE_TEMPLATES[judge], shows)
    scores = study.scores(examples, prompts)

    def counts(pair: str, name: str, scheme: str) -> dict[str, int]:
        standard, judge = pair.split(" | ")
        seen = scores["base"], scores[f"standard {standard}"], scores[f"{name} {judge}"]
        return asdict(tally(kinds, *seen, scheme))

    return {pair: {name: {s: counts(pair, name, s) for s in SCHEMES} for name in told} for pair in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["templates", "measure", "write"])
    parser.add_argument("models", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--gsm8k", type=Path, help="GSM8K's .jsonl; without it, generated problems alone")
    parser.add_argument("--count", type=int, default=100, help="mistakes of each source")
    parser.add_argument("--pairs", nargs="*", default=[DEFAULT], help='templates of `measure`: "standard | judge"')
    args = parser.parse_args()
    for model in args.models if args.what != "write" else []:
        name, _, folder = model.partition("=")
        began, study = time.monotonic(), Study(folder)
        sets = question_sets(args.gsm8k, fresh=args.what == "measure")
        if args.what == "templates":
            found = measure_templates(study, sets, args.count)
        else:
            found = measure_judgments(study, sets, args.count, args.pairs)
        numbers = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
        numbers.setdefault(args.what, {})[name] = found
        save(numbers)
        print(f"{name}: {time.monotonic() - began:.0f} s")
    from judgments_page import PAGE, page

    if args.what == "write":
        PAGE.write_text(page(json.loads(NUMBERS.read_text())), encoding="utf-8")


def save(numbers: dict[str, Any]) -> None:
    """Write the counts, one `Counts` a line."""
    text = re.sub(r"\{\s*([^{}]*?)\s*\}", lambda m: "{" + " ".join(m[1].split()) + "}", json.dumps(numbers, indent=1))
    NUMBERS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
