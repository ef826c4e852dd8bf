"""`pivot: contrast`: the word of a quoted sentence that a judgment makes likelier than other judgments do."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from helpers import tiny
from helpers.striking import TOKENIZER, trainer
from helpers.training import adapter, lora
from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import JUDGE_PROMPT_TEMPLATE
from nlft.core.schemes.strike import StrikeSettings
from nlft.data.encoding import encode_examples
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.runs.controls import refusal, state_of
from nlft.runs.run_dir import RunDir
from nlft.training.pivots import (
    candidates,
    choose_pivots,
    chosen_words,
    other_rules,
    rules_of,
    unquoted,
    use_pivots,
    with_pivots,
)

CONTRAST = StrikeSettings(stop_below=0, pivot="contrast")
PRAISE, LONG = 'It praises: "a sleek modern pan".', 'It is too long: "a sleek modern pan".'


def wrong(id, judgment, completion="here is a sleek modern pan"):
    return Example(id=id, prompt=f"Describe pan {id}.", completion=completion, label=False, judgment=judgment)


def examples():
    right = Example(id="r", prompt="Describe pan r.", completion="a pan", label=True, answer="a pan")
    one = wrong("c", 'It praises: "sleek".')
    return [wrong("a", PRAISE), wrong("b", LONG), one, right, wrong("d", PRAISE)]


def encoder():
    return ConditionEncoder(TOKENIZER)


def base():
    return tiny.model(vocabulary=len(TOKENIZER))


@pytest.mark.parametrize(
    ("judgment", "words"),
    [
        ('It praises: "sleek", "durable". Our catalogue states facts.', "It praises. Our catalogue states facts."),
        ('It praises "sleek" and “modern”.', "It praises."),
        ('The word "sleek" is praise.', "The word … is praise."),
        ("It is too long.\nCorrection: shorter.", "It is too long."),
        ('"sleek", "durable"', ""),
        (None, ""),
    ],
)
def test_a_judgments_words_are_what_is_left_without_its_quotes(judgment, words):
    assert unquoted(judgment) == words


def test_other_rules_have_other_words_and_the_most_frequent_come_first():
    many = [
        wrong(i, f'{words}: "pan".') for i, words in enumerate(["A is bad", "B", "C", "B", "D", "E", "A is very bad"])
    ]
    rules = rules_of(many)
    assert rules[0] == "B."
    assert other_rules("A is bad.", rules) == ["B.", "C.", "D."]


def test_candidates_are_the_words_that_one_token_spells():
    one = replace(encoder().encode(id="a", prompt="?", completion="a sleek-ish modern pan", label=True))
    texts = [TOKENIZER.decode([token]) for token in one.completion]

    def words(start, end):
        from nlft.core.spans import TokenSpan

        return [texts[at] for at in candidates(TOKENIZER, one.completion, TokenSpan(start, end, ""))]

    assert words(0, len(texts) - 1) == ["a", " modern", " pan"]
    assert words(texts.index(" sleek"), texts.index(" modern")) == [" sleek"]  # no whole word: its beginning


def log_softmax(net, prompt, completion):
    logits = net(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)[range(len(completion)), completion]


def test_the_pivot_has_the_largest_contrast_and_the_quote_has_no_part_in_it():
    """Both prompts, written out by hand. A trained adapter makes no difference: it is switched off."""
    records, net = examples(), base()
    encoded = encode_examples(records, encoder())
    pivots, silent = choose_pivots(net, encoder(), records, encoded, rules_of(records))

    def prompt(words):
        text = JUDGE_PROMPT_TEMPLATE.replace("{prompt}", "Describe pan a.").replace("{judgment}", words)
        return encoder().prompt_ids(text)

    one = encoded[0]
    with torch.no_grad():
        by = log_softmax(net, prompt("It praises."), one.completion)
        by -= log_softmax(net, prompt("It is too long."), one.completion)
    whole = candidates(TOKENIZER, one.completion, one.spans[0])
    assert len(whole) == 4
    assert pivots[0] == [max(whole, key=lambda at: float(by[at]))]
    assert pivots[1] == [min(whole, key=lambda at: float(_contrast_of(net, encoded[1], prompt_of("b"))[at]))]
    assert [len(p) for p in pivots] == [1, 1, 1, 0, 1]
    assert pivots[2] == [encoded[2].spans[0].start]  # one word: nothing to choose
    assert silent == 0
    moved = lora(base())
    with torch.no_grad():
        for parameter in moved.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    assert choose_pivots(moved, encoder(), records, encoded, rules_of(records))[0] == pivots
    requoted = [replace(records[0], judgment='It praises: "sleek modern pan", "a sleek modern pan".'), *records[1:]]
    assert choose_pivots(net, encoder(), requoted, encoded, rules_of(records))[0] == pivots


def prompt_of(id):
    def prompt(words):
        text = JUDGE_PROMPT_TEMPLATE.replace("{prompt}", f"Describe pan {id}.").replace("{judgment}", words)
        return encoder().prompt_ids(text)

    return prompt


def _contrast_of(net, one, prompt):
    """Praise against length: the other way round for an example that is too long."""
    with torch.no_grad():
        return log_softmax(net, prompt("It praises."), one.completion) - log_softmax(
            net, prompt("It is too long."), one.completion
        )


def test_one_rule_alone_is_refused_and_a_judgment_without_words_is_counted():
    alone = [wrong("a", PRAISE), wrong("d", PRAISE)]
    encoded = encode_examples(alone, encoder())
    with pytest.raises(UserError, match=r"'a'.*It praises\."):
        choose_pivots(base(), encoder(), alone, encoded, rules_of(alone))
    silent = [wrong("a", '"a sleek modern pan"'), wrong("b", LONG), wrong("c", 'It praises: "sleek".')]
    encoded = encode_examples(silent, encoder())
    pivots, count = choose_pivots(base(), encoder(), silent, encoded, rules_of(silent))
    assert pivots[0] == [encoded[0].spans[0].start]
    assert count == 1
    words = [wrong("a", 'It praises: "sleek".')]
    encoded = encode_examples(words, encoder())
    assert choose_pivots(base(), encoder(), words, encoded, rules_of(words)) == ([[encoded[0].spans[0].start]], 0)


def test_recorded_pivots_must_lie_in_their_spans():
    encoded = encode_examples(examples(), encoder())
    pivots = [[span.start for span in one.spans] for one in encoded]
    assert [[s.pivot for s in one.spans] for one in with_pivots(encoded, pivots)] == pivots
    for bad in (pivots[1:], [[0], *pivots[1:]], [[], *pivots[1:]]):
        with pytest.raises(ValueError, match="pivot"):
            with_pivots(encoded, bad)


def other_pivots(run):
    """Pivots that the run did not choose: the last candidate of each span, else the first."""
    found = []
    for one in run.train_dataset:
        tokens = [candidates(TOKENIZER, one.completion, span) for span in one.spans]
        found.append([t[-1] if t[-1] != span.pivot else t[0] for t, span in zip(tokens, one.spans, strict=True)])
    return found


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.step
        control.should_save = control.should_training_stop


def test_a_run_records_its_pivots_and_a_resume_takes_them(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "saliency": CONTRAST, "watch": 2}
    cut = trainer(tmp_path / "cut", examples(), **settings)
    chosen = cut.record["pivots"]
    assert [[s.pivot for s in one.spans] for one in cut.train_dataset] == chosen
    assert [cut._dose.pivots[one.id] for one in cut.train_dataset] == chosen
    unlike = other_pivots(cut)
    assert unlike != chosen
    use_pivots(cut, unlike)
    assert [cut._dose.pivots[one.id] for one in cut.train_dataset] == unlike
    assert [one.spans[0].pivot for one in cut._watch.watched if one.spans] != []
    cut.add_callback(StopAt(2))
    cut.train()
    checkpoint = RunDir(tmp_path / "cut").checkpoints_path / "checkpoint-2"
    assert (
        RunDir(tmp_path / "cut").settings()["pivots"] == unlike == json.loads((checkpoint / "pivots.json").read_text())
    )
    whole = trainer(tmp_path / "whole", examples(), **settings)
    use_pivots(whole, unlike)
    whole.train()
    resumed = trainer(tmp_path / "cut", examples(), **settings)
    assert resumed.record["pivots"] == chosen
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert RunDir(tmp_path / "cut").settings()["pivots"] == unlike
    for name, expected in adapter(whole.model).items():
        assert torch.equal(adapter(resumed.model)[name], expected), name


def test_pivots_that_do_not_fit_are_named_and_new_ones_are_used(tmp_path):
    run = trainer(tmp_path, examples(), saliency=CONTRAST)
    chosen = run.record["pivots"]
    with pytest.warns(UserWarning, match="pivot"):
        use_pivots(run, chosen[1:])
    assert run.record["pivots"] == chosen


def test_a_change_to_contrast_while_a_run_trains_is_refused_and_one_from_it_is_taken(tmp_path):
    first = trainer(tmp_path / "first", examples(), saliency=StrikeSettings(stop_below=0))
    state = state_of(first.record, [])
    assert "--saliency.pivot contrast" in refusal("saliency.pivot", "contrast", state)
    assert refusal("saliency.pivot", "all", state) is None
    with pytest.raises(UserError, match="'a'"):
        first.use_scheme("strike", {"pivot": "contrast"})
    run = trainer(tmp_path / "contrast", examples(), saliency=CONTRAST)
    state = state_of(run.record, [])
    assert refusal("saliency.pivot", "contrast", state) is None
    assert refusal("saliency.pivot", "first", state) is None
    run.use_scheme("strike", {"pivot": "first"})
    assert run.builder.plan.strikes(run.train_dataset[0])[0].pivots == (run.train_dataset[0].spans[0].start,)
    run.use_scheme("strike", {"pivot": "contrast"})
    assert run.builder.plan.strikes(run.train_dataset[0])[0].pivots == (run.record["pivots"][0][0],)


def test_the_plan_strikes_the_chosen_word_and_holds_what_stands_before_it():
    records = examples()
    encoded = encode_examples(records, encoder())
    at = encoded[0].completion.index(TOKENIZER.get_vocab()["Ġmodern"])
    pivots = [[span.start for span in one.spans] for one in encoded]
    chosen = with_pivots(encoded, [[at], *pivots[1:]])
    from nlft.core.schemes.registry import get_scheme

    plan = get_scheme("strike").plan(chosen, TOKENIZER, CONTRAST)
    marks, span = plan.marks(chosen[0])[0], chosen[0].spans[0]
    assert marks.roles[at] == 2
    assert set(marks.roles[:at]) == {1}
    assert set(marks.roles[at + 1 : span.end]) <= {3}
    struck = {TOKENIZER.convert_ids_to_tokens(token) for token in plan.words}
    assert struck == {"Ġsleek"}  # quoted alone in example c; the chosen word may be wrong, so it is banned here only


def test_an_edited_example_is_scored_with_the_runs_other_pivots(tmp_path):
    from nlft.data.records import write_examples
    from nlft.training.rescore_worker import RescoreModel

    records = examples()
    run = trainer(tmp_path / "run", records, saliency=CONTRAST)
    RunDir(tmp_path / "run").write_settings(run.record)
    write_examples(tmp_path / "file.jsonl", records)
    worker = RescoreModel.__new__(RescoreModel)  # without a model on disk
    worker.run, worker.file, worker.data = RunDir(tmp_path / "run"), tmp_path / "file.jsonl", {}
    worker.encoder, worker.model = encoder(), run.model
    edited = replace(records[1], judgment='It is too long: "sleek modern".')
    found = worker._encoded(edited, encode_examples([edited], encoder())[0], chosen=True)
    assert [one.id for one in found] == ["b", "a", "c", "r", "d"]
    chosen = dict(zip("abcrd", run.record["pivots"], strict=True))
    assert {one.id: [s.pivot for s in one.spans] for one in found[1:]} == {id: chosen[id] for id in "acrd"}
    assert found[0].spans[0].pivot in range(found[0].spans[0].start, found[0].spans[0].end)


def test_the_twelve_most_frequent_chosen_words_are_shown_and_the_rest_counted():
    encoded = [
        SimpleNamespace(completion=[at], spans=[SimpleNamespace(pivot=0)]) for at in range(15) for _ in range(20 - at)
    ]
    said = chosen_words(SimpleNamespace(decode=lambda ids: f" w{ids[0]}"), encoded, 0)
    assert said.startswith("pivots by contrast: w0 (20), w1 (19)")
    assert said.endswith("w11 (9) and 3 more")
    assert "2 spans" in chosen_words(SimpleNamespace(decode=str), encoded, 2)
