"""Decoding without banned words: it goes back where a word began, and stays as it was where none is said."""

import re

import pytest
import torch

from helpers import tiny
from nlft.core.spans import Span, WordFinder
from nlft.models.answerer import CompletionRequest, complete
from nlft.models.banning import BanningModel, ban_outcome
from nlft.models.loaded import loaded_answerer

WORDS = ("red", "blue", "green", "Bluebird", "a", "very")
TOKENIZER = tiny.tokenizer(words=tuple(f" {word}" for word in WORDS))
PROMPTS = [CompletionRequest(str(n), f"colour {n}?") for n in range(4)]


def speaker(batch_size=3, tokens=14, seed=2):
    """A random model that mostly says our words."""
    net = tiny.model(seed=seed, vocabulary=len(TOKENIZER))
    ids = [TOKENIZER.convert_tokens_to_ids(f"Ġ{word}") for word in WORDS]
    head = net.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(len(TOKENIZER)))
    head.bias.data[ids] = 30.0
    return loaded_answerer(net, TOKENIZER, max_new_tokens=tokens, batch_size=batch_size)


def texts(model):
    return [answer.text for answer in complete(PROMPTS, model, "")]


def slowly(plain, words, prompt, limit):
    """Decode one answer token by token, without a cache and from the definition."""
    ids, masks, finder = plain.encoder.prompt_ids(prompt), {}, re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    start, end = len(ids), plain.encoder.end_of_turn_id
    while True:
        text = TOKENIZER.decode(ids[start:], skip_special_tokens=True)
        over = len(ids) - start >= limit or ids[-1] == end
        hit = finder.search(text)
        if hit and (hit.end() < len(text) or over):
            at = next(k for k in range(start, len(ids)) if len(TOKENIZER.decode(ids[start : k + 1])) > hit.start())
            masks = {place: banned for place, banned in masks.items() if place <= at}
            masks.setdefault(at, []).append(ids[at])
            ids = ids[:at]
        elif over:
            return text.strip()
        with torch.no_grad():
            logits = plain.model(torch.tensor([ids])).logits[0, -1]
        logits[masks.get(len(ids), [])] = -torch.inf
        ids.append(int(logits.argmax()))


@pytest.mark.parametrize("words", [["Blue", "green"], ["a very"], ["Bluebird", "a"]])
def test_no_answer_has_a_banned_word_and_each_is_what_going_back_by_hand_gives(words):
    plain = speaker()
    banning = BanningModel(plain, words, 99)
    said = [re.compile(rf"\b{word}\b", re.IGNORECASE) for word in words]
    assert any(pattern.search(text) for pattern in said for text in texts(plain)), "nothing to ban"
    found = texts(banning)
    assert not any(pattern.search(text) for pattern in said for text in found)
    assert found == [slowly(plain, words, request.prompt, 14) for request in PROMPTS]
    assert ban_outcome(found, words, 99) == {"words": words, "tries": 99, "answers_with_a_banned_word": 0}


def test_a_longer_word_is_not_banned_and_other_answers_stay():
    plain = speaker(seed=0)
    said = texts(plain)
    assert all("Bluebird" in text for text in said)
    assert texts(BanningModel(plain, ["blue", "bird", "purple"], 99)) == said


def test_the_batch_does_not_change_an_answer():
    assert texts(BanningModel(speaker(1), ["red", "very"], 99)) == texts(BanningModel(speaker(5), ["red", "very"], 99))


def test_at_the_limit_the_answer_goes_on_without_the_ban_and_is_counted():
    plain = speaker()
    banning = BanningModel(plain, ["red", "blue", "green", "very"], 1)
    found = complete(PROMPTS, banning, "")
    assert all(answer.tokens == 14 or answer.finish_reason == "stop" for answer in found)
    left = ban_outcome([answer.text for answer in found], banning.words, 1)["answers_with_a_banned_word"]
    assert 0 < left == sum(bool(re.search(r"\b(?:red|blue|green|very)\b", answer.text)) for answer in found)


def test_the_words_and_the_limit_are_part_of_the_name_of_an_answer():
    plain = speaker()
    names = [BanningModel(plain, words, tries).identity for words, tries in ((["red"], 5), (["red"], 6), (["a"], 5))]
    assert all(one != other for at, one in enumerate([plain.identity, *names]) for other in names[at:])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("It is Sleek.", (6, 11)),
        ("sleekness, unsleek", None),
        ("a must–have, sleek", (2, 11)),
        ("well\nmade and sleek", (0, 9)),
    ],
)
def test_the_first_banned_word_is_found_whole_and_in_any_case(text, place):
    assert WordFinder(["sleek", "must-have", "well made"]).first(text) == (place and Span(*place))
