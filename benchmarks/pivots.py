"""Does `pivot: contrast` find the word that a judgment is about, by reading the judgment's words?

    python benchmarks/pivots.py MODEL_FOLDER [--dtype float32]

Twenty sentences of product texts each break three rules, each rule with one known word: praise, a price, the reader.
The sentences are quoted whole. A method gives each token a score. Its AUC is the probability that the known word's
first token has a higher score than another token of the sentence; 50% is chance. A hit is a sentence and rule for which
the method's highest score among whole words, as training chooses them, is at the known word.

Methods with "words swapped" take another rule's words in place of the judgment's own, and are tested on the same known
words: if they do as well, then the words were not read. About three minutes of one CPU core.
"""

import argparse
import re
from collections.abc import Callable

import numpy as np

from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import JUDGE_PROMPT_TEMPLATE, fill
from nlft.core.spans import TokenSpan, touched
from nlft.models.loading import ModelSettings, load_model, load_tokenizer
from nlft.progress import table
from nlft.training.pivots import candidates, score_rows, unquoted

PROMPT = "Describe this product for our shop's catalogue in two sentences: a {item}."
RULES = {
    "praise": "It praises: {quote}.",
    "price": "It names a price: {quote}.",
    "reader": "It speaks of the reader: {quote}.",
    "long": "It is too long: {quote}.",
}
KNOWN = ("praise", "price", "reader")
SENTENCES = """
desk lamp: A [praise:sleek] lamp of grey steel that lights [reader:your] desk for 20 [price:dollars].
backpack: The backpack has two [praise:practical] pockets and costs [price:$45], so [reader:you] can carry a laptop.
kettle: For [price:$30] this [praise:modern] kettle boils one litre of water while [reader:you] set the table.
rug: [reader:You] can wash the wool rug, which has an [praise:elegant] pattern and sells at 80 [price:euros].
tent: The tent sleeps two, its poles are [praise:durable], and at 120 [price:pounds] [reader:you] get a groundsheet too.
office chair: The chair turns and tilts, gives [reader:you] a [praise:comfortable] seat, and is on sale for [price:$99].
toaster: A [praise:stylish] toaster with two slots and a crumb tray, 25 [price:dollars], for [reader:your] kitchen.
umbrella: This umbrella opens with one button, fits in [reader:your] bag, has a [praise:perfect] handle and costs [price:$12].
bookshelf: The shelf of pine wood holds [reader:your] books on five [praise:unique] boards and costs 60 [price:euros].
winter coat: The coat has a hood and a [praise:great] lining, comes in blue, and [reader:you] pay only [price:$75] for it.
watch: A [praise:versatile] watch with a leather strap that [reader:you] can wear in the rain, for 50 [price:pounds].
router: The router has four ports, an [praise:ideal] size for a shelf, a price of [price:$40], and [reader:your] own password.
yoga mat: The mat is made of cork, rolls up, and is [praise:convenient] for [reader:you] to carry, at 22 [price:dollars].
blender: This blender with a glass jar is [praise:functional], crushes ice for [reader:your] drinks, and costs [price:$55].
hammock: The hammock of cotton holds [reader:you] between two trees, is [praise:sleek], and sells for 35 [price:euros].
bike helmet: At [price:$28] the helmet has a [praise:modern] shell of foam, and [reader:you] can turn a dial to fit it.
cutting board: A board of beech wood on which [reader:you] cut bread, with an [praise:elegant] edge, for 15 [price:pounds].
power bank: The battery charges [reader:your] phone three times, has a [praise:stylish] case, and costs 19 [price:dollars].
garden hose: The hose is twenty metres long and [praise:durable], its tap fits [reader:your] garden, and it costs [price:$33].
camera bag: For 40 [price:euros] this bag of canvas gives [reader:your] camera a [praise:practical] place with a strap.
""".strip().splitlines()  # noqa: E501


class Sentence:
    """One sentence: its text, its tokens, and the tokens of its known words."""

    def __init__(self, line: str, encoder: ConditionEncoder) -> None:
        self.item, _, marked = line.partition(": ")
        self.text, known = "", {}
        for part in re.split(r"(\[\w+:[^\]]+\])", marked):
            rule, _, word = part.strip("[]").partition(":") if part.startswith("[") else ("", "", part)
            known[rule] = (len(self.text), len(self.text) + len(word))
            self.text += word
        self.ids = encoder.completion_ids(self.text)
        offsets = encoder.tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        self.known = {rule: touched(offsets, *known[rule]) for rule in KNOWN}
        self.words = candidates(encoder.tokenizer, self.ids, TokenSpan(0, len(offsets), self.text))
        self.length = len(offsets)


def scored(sentences: list[Sentence], encoder: ConditionEncoder, model) -> dict[tuple, np.ndarray]:
    """Return (sentence, condition) -> log p of its tokens. A condition is `base`, or a rule with or without quote."""
    rows, keys = [], []
    for at, one in enumerate(sentences):
        prompt = fill(PROMPT, item=one.item)
        judged = {("quote", rule): fill(words, quote=f'"{one.text}"') for rule, words in RULES.items()}
        judged |= {("words", rule): unquoted(judgment) for (_, rule), judgment in judged.items()}
        prompts = {key: fill(JUDGE_PROMPT_TEMPLATE, prompt=prompt, judgment=text) for key, text in judged.items()}
        for key, text in {"base": prompt, **prompts}.items():
            rows.append((encoder.prompt_ids(text), one.ids))
            keys.append((at, key))
    return dict(zip(keys, score_rows(model, rows, encoder.tokenizer.pad_token_id), strict=True))


def methods(found: dict[tuple, np.ndarray]) -> dict[str, Callable[[int, str], np.ndarray]]:
    """Return name -> function of (sentence, rule) that gives each token a score."""

    def against(kind: str, swapped: bool) -> Callable[[int, str], np.ndarray]:
        def scores(at: int, rule: str) -> np.ndarray:
            start = list(RULES).index(rule)
            others = [list(RULES)[(start + step) % len(RULES)] for step in range(1, len(RULES))]
            own = others.pop(0) if swapped else rule  # swapped: the next rule's words, against those that are left
            return found[at, (kind, own)] - np.mean([found[at, (kind, other)] for other in others], axis=0)

        return scores

    return {
        "contrast": against("words", False),
        "contrast, words swapped": against("words", True),
        "contrast with the quote in both prompts": against("quote", False),
        "the same, words swapped": against("quote", True),
        "judge − base": lambda at, rule: found[at, ("quote", rule)] - found[at, "base"],
        "judge − base, words swapped": lambda at, rule: found[at, ("quote", "long")] - found[at, "base"],
        "− base: how surprising a token is": lambda at, _: -found[at, "base"],
        "position: the first token": lambda at, _: -np.arange(len(found[at, "base"]), dtype=float),
    }


def row(name: str, sentences: list[Sentence], scores: Callable[[int, str], np.ndarray]) -> list[str]:
    """Return a line of the table: AUC with its standard error over sentences, AUC by rule, hits."""
    auc, hits = np.zeros((len(sentences), len(KNOWN))), 0
    for at, one in enumerate(sentences):
        for column, rule in enumerate(KNOWN):
            values, (start, end) = scores(at, rule), one.known[rule]
            others = np.delete(values[: one.length], slice(start, end))
            auc[at, column] = np.mean((values[start] > others) + 0.5 * (values[start] == others))
            hits += start <= max(one.words, key=lambda token: values[token]) < end
    error = auc.mean(1).std(ddof=1) / len(sentences) ** 0.5
    by_rule = [f"{mean:.0%}" for mean in auc.mean(0)]
    return [name, f"{auc.mean():.0%} ± {100 * error:.0f}", *by_rule, f"{hits} of {auc.size}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or name of the model")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    settings = ModelSettings(model_name_or_path=options.model, dtype=options.dtype)
    encoder = ConditionEncoder(load_tokenizer(settings))
    sentences = [Sentence(line, encoder) for line in SENTENCES]
    found = scored(sentences, encoder, load_model(settings, trainable=False))
    rows = [row(name, sentences, scores) for name, scores in methods(found).items()]
    print(table(rows, ["", "AUC ± standard error", *KNOWN, "hits"]))
    words, tokens = (
        np.mean([n(one) for one in sentences]) for n in (lambda one: len(one.words), lambda one: one.length)
    )
    print(f"A sentence has {tokens:.1f} tokens and {words:.1f} words to choose from, on average.")


if __name__ == "__main__":
    main()
