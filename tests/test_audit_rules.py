"""The audit of a habit: judgments as rules, what else they may mean, and the preflight."""

import json
from dataclasses import asdict, replace
from random import Random

import pytest
import torch
from transformers import AutoTokenizer

from helpers import tiny
from helpers.striking import TOKENIZER, Span, records
from nlft import cli
from nlft.auditing import preflight as flight
from nlft.auditing import rules
from nlft.auditing.alternatives import alternatives_of, struck_places
from nlft.auditing.preflight import Asked, Preflight, count_quotes, decide, prompt_forms, training_prompts
from nlft.auditing.rules import find_rules, is_habit, may_be_proposed, objections, prompt_words, written_rules
from nlft.auditing.run import AuditSettings, audit
from nlft.collect.sampling import SamplingSettings
from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import as_messages
from nlft.data.encoding import encode
from nlft.data.records import Example, Question, write_examples
from nlft.data.rules_file import Rule, checks_of, read_rules, write_rules
from nlft.errors import NLFTError
from nlft.experiments import stages
from nlft.experiments.arm_data import as_prompted
from nlft.experiments.arms import BUILT_IN
from nlft.experiments.rule_arms import with_rules
from nlft.experiments.settings import TuneSettings
from nlft.models.answerer import Generated
from nlft.runs.run_dir import RunDir


def wrong(id, completion, judgment, prompt=None, spans=()):
    return Example(id, prompt or f"Describe item {id}.", completion, False, judgment=judgment, spans=spans)


def right(id, completion, **more):
    return Example(id, f"Describe item {id}.", completion, True, **more)


def said(examples):
    return [(one.example, one.text, one.quotes) for one in objections(examples)]


# From judgments to rules.


@pytest.mark.parametrize(
    ("judgment", "text", "quotes"),
    [
        ('It praises: "sleek", "new" and “shiny”.', "It praises.", ("sleek", "new", "shiny")),
        ('The reply says "sleek" and "new": Catalogues do not praise.', "Catalogues do not praise.", ("sleek", "new")),
        ('You write "sleek", which is praise.', "You write …, which is praise.", ("sleek",)),
        ('It greets ("sleek").\nCorrection: say "flat".', "It greets.", ("sleek",)),
        ('It says "gone", which is praise.', "It says …, which is praise.", ()),
        ("It praises.", "It praises.", ()),
    ],
)
def test_a_rule_is_what_a_judgment_says_without_its_quotes(judgment, text, quotes):
    assert said([wrong(1, "A sleek, new, shiny pan.", judgment)]) == [(0, text, quotes)]


def test_each_sentence_with_quotes_is_an_objection_and_a_companion_belongs_to_it():
    checks = 'The reply says "{}": no praise.\nThe reply fails the check item: has no {}.'
    examples = [wrong(n, "a sleek pan", 'The reply says "sleek": no praise.') for n in range(3)]
    examples += [wrong(9, "a sleek pan", checks.format("sleek", "lamp"))]
    assert [(at, text) for at, text, _ in said(examples)][3:] == [
        (3, "No praise."),
        (3, "The reply fails the check item: has no lamp."),
    ]
    one = wrong(1, "a sleek pan", 'Too warm. It says "sleek. Pan". That is an advert.')
    assert [text for _, text, _ in said([one])] == ["Too warm. It says. That is an advert."]
    two = wrong(1, "Hi! a sleek pan", 'It greets with "Hi!" It praises it as "sleek".')
    assert said([two]) == [(0, "It greets with.", ("Hi!",)), (0, "It praises it as.", ("sleek",))]


def test_a_sentence_belongs_to_the_quoting_one_before_it_else_to_the_first_after_it():
    one = wrong(1, "red and blue", 'Bad start. It says "red". We do not. It adds "blue". Nor this.')
    assert said([one]) == [(0, "Bad start. It says. We do not.", ("red",)), (0, "It adds. Nor this.", ("blue",))]


def test_marked_words_stand_for_quotes_and_are_taken_out_of_the_judgment():
    text = "a sleek pan"
    assert said([wrong(1, text, "It says sleek here.", spans=(Span(2, 7),))]) == [(0, "It says … here.", ("sleek",))]
    assert said([wrong(1, text, None, spans=(Span(2, 7, note="Too warm."),))]) == [(0, "Too warm.", ("sleek",))]
    (rule,) = find_rules([wrong(n, text, None, spans=(Span(2, 7),)) for n in range(2)])
    assert (rule.rule.name, rule.rule.rule, rule.rule.words) == ("marked", "Do not say: sleek.", ("sleek",))


def test_judgments_that_differ_in_case_numbers_punctuation_and_the_prompts_words_are_one_rule():
    examples = [
        wrong("pan", "a sleek pan", 'The catalogue must not praise the pan 12 times: "sleek"'),
        wrong("lamp", "A Sleek new lamp", 'the catalogue must not praise the Lamp 3 times: "Sleek", "new".'),
        wrong("rug", "Dear Tom, a rug", 'It greets the customer: "Dear Tom".'),
        wrong("mat", "Dear Ann, a mat", 'It greets a customer: "Dear Ann".'),
        wrong("cup", "a cup", "Too short."),
        right("r", "a big jug", judgment='"big" is wrong'),
    ]
    found = find_rules(examples)
    assert [(one.rule.words, one.members, one.rule.examples) for one in found] == [
        (("sleek", "new"), (0, 1), 2),
        (("Dear Tom", "Dear Ann"), (2, 3), 2),
        ((), (4,), 1),
    ]
    assert len({one.rule.name for one in found}) == 3
    assert find_rules(examples) == found, "the same on each call"


def test_a_judgment_joins_the_first_similar_rule_without_being_compared_with_every_one(monkeypatch):
    random, known = Random(3), [f"word{letter}" for letter in "abcdefgh"]

    def judged(texts):
        return [wrong(n, "c", text, prompt="p") for n, text in enumerate(dict.fromkeys(texts))]

    def compared_with_all(examples):
        groups: list[tuple[set[str], list[int]]] = []
        for at, example in enumerate(examples):
            words = set(example.judgment.split())
            near = (at for one, at in groups if 5 * len(one & words) >= 3 * len(one | words))
            if (joined := next(near, None)) is None:
                groups.append((words, joined := []))
            joined.append(at)
        return sorted(tuple(members) for _, members in groups)

    for _ in range(20):
        examples = judged(" ".join(sorted(random.sample(known, random.randrange(1, 8)))) for _ in range(40))
        assert sorted(one.members for one in find_rules(examples)) == compared_with_all(examples)
    compared = []
    similarity = rules._similarity
    monkeypatch.setattr(rules, "_similarity", lambda one, other: compared.append(1) or similarity(one, other))
    many = ["".join(random.choices("abcdefghijklmnop", k=7)) for _ in range(600)]
    assert len(find_rules(judged(" ".join(random.sample(many, 10)) for _ in range(600)))) == 600
    assert 0 < len(compared) < 40_000, "all pairs would be 359,400"


def test_words_are_listed_without_the_stop_or_comma_of_american_quotes():
    examples = [
        wrong("pan", "a durable pan. It is durable.", 'No praise: "durable."'),
        wrong("lamp", "a sleek, durable lamp", 'No praise: "sleek," or "durable".'),
    ]
    [one] = find_rules(examples)
    assert sorted(one.rule.words) == ["durable", "sleek"]


def test_what_is_about_one_example_or_has_no_words_is_marked_and_not_written():
    examples = [wrong(n, f"pan {n}", "It is too short.") for n in range(3)]
    examples += [wrong(9, "a sleek pan", 'It praises: "sleek".')]
    examples += [wrong(f"s{n}", "Hi there", 'It greets: "Hi there".', prompt="Say what it is.") for n in range(2)]
    remarks = {one.rule.examples: one.remark for one in find_rules(examples)}
    assert "no words" in remarks[3]
    assert remarks[1] == "not a rule: about one example only"
    assert "one prompt" in remarks[2]
    rules, left_out = written_rules(find_rules(examples))
    assert rules == []
    assert len(left_out) == 3


def test_words_that_the_rules_replies_have_far_more_often_are_proposed():
    examples = [
        wrong(n, f"a sleek modern kettle with handle and lid {n}", 'It praises: "sleek".', prompt=f"Kettle {n}?")
        for n in range(6)
    ]
    examples += [right(f"r{n}", f"a kettle with handle and lid {n}") for n in range(6)]
    (rule,) = find_rules(examples)
    assert rule.rule.proposed == ("modern",), "not handle, which right replies have; not kettle, which the prompt has"
    assert find_rules(examples[:6])[0].rule.proposed == (), "without right replies there is nothing to compare with"
    assert find_rules([*examples[:2], *examples[6:]])[0].rule.proposed == (), "two replies are too few"
    scope = [replace(e, keep=True) if e.label else e for e in examples]
    assert find_rules(scope)[0].rule.proposed == (), "kept replies are outside the rule's scope"


def test_a_habit_has_quotes_or_marks_and_no_worked_answers():
    praise = wrong(1, "a sleek pan", 'It praises: "sleek".')
    assert is_habit([praise, right(2, "a pan")])
    assert is_habit([wrong(1, "a sleek pan", None, spans=(Span(2, 7),))])
    assert not is_habit([praise, right(2, "a pan", answer="a pan")])
    assert not is_habit([wrong(1, "a sleek pan", "It praises.")])


# What the model would say instead.


def encoded_records(count=12):
    examples = [replace(e, answer=None) for e in records(count)]
    encoder = ConditionEncoder(TOKENIZER)
    return examples, encoder, [(at, encode(encoder, e)) for at, e in enumerate(examples)]


def test_a_struck_places_probability_is_the_models_and_its_alternatives_have_no_struck_token():
    examples, encoder, encoded = encoded_records()
    model = tiny.model(vocabulary=len(TOKENIZER))
    places = struck_places(model, encoder, encoded, batch_size=3)
    assert [place.text for place in places] == [
        word for e in examples if not e.label for word in ("sleek", "modern") if f" {word} " in e.completion
    ]
    struck = set(TOKENIZER.convert_tokens_to_ids(["Ġsleek", "Ġmodern"]))
    first = places[0]
    ids = encoded[first.example][1]
    at = ids.completion.index(TOKENIZER.convert_tokens_to_ids(f"Ġ{first.text}"))
    with torch.no_grad():
        row = model(torch.tensor([[*ids.base, *ids.completion[:at]]])).logits[0, -1].softmax(0)
    assert first.probability == pytest.approx(float(row[ids.completion[at]]), rel=1e-4)
    assert all(not struck & set(place.alternatives) for place in places)


@pytest.mark.parametrize(
    ("likely", "spelled", "proposed"), [(" sleek", "elegant", ["elegant"]), ("s", "elegantssss", ["elegantssss"])]
)
def test_the_models_own_alternatives_are_proposed_as_whole_words(likely, spelled, proposed, monkeypatch):
    tokenizer = tiny.tokenizer(words=(" sleek", " elegant"))
    model = tiny.model(vocabulary=len(tokenizer))
    scores = torch.zeros(len(tokenizer))
    for token, value in {" sleek": 10.0, " elegant": 10.0, " ele": 9.5, likely: 12.0}.items():
        scores[tokenizer.convert_tokens_to_ids(token.replace(" ", "Ġ"))] = value
    monkeypatch.setattr(
        model.get_output_embeddings(), "forward", lambda states: scores.expand(*states.shape[:-1], -1).clone()
    )
    examples = [wrong(n, f"a sleek pan {n}", 'It praises: "sleek".') for n in range(3)]
    encoder = ConditionEncoder(tokenizer)
    places = struck_places(model, encoder, [(at, encode(encoder, e)) for at, e in enumerate(examples)], batch_size=2)
    assert len(places) == 3
    assert spelled in places[0].words
    prompts = [prompt_words(e) for e in examples]
    (rule,) = find_rules(examples)
    found = alternatives_of([rule], places, prompts)[rule.rule.name]
    assert found[: len(proposed)] == proposed
    assert "ele" not in found, "it has three letters"
    assert alternatives_of([rule], places, [frozenset([spelled])] * 3)[rule.rule.name][:1] != proposed, "the prompt's"


@pytest.mark.parametrize(
    ("word", "may"),
    [("modern", True), ("new", False), ("must-have", False), ("Elegant", True), ("kettle", False), ("sleek", False),
     ("which", False), ("with", False)],
)  # fmt: skip
def test_a_proposed_word_is_long_enough_and_neither_common_nor_the_prompts_nor_quoted(word, may):
    assert may_be_proposed(word, {"kettle"}, {"sleek"}) == may


# The preflight.

RULES = [
    Rule("praise", "It praises.", "State facts.", ("sleek",), (), 4),
    Rule("hi", "It greets.", None, ("Hi",), (), 4),
]


def asked(name, praise, hi=0, replies=20, words=20.0, copies=0):
    return Asked(name, replies, {"praise": praise, "hi": hi}, words, copies)


def figures(*asked_forms, **changes):
    usual = {"quotes": 20, "aligned": 20, "places": 20, "probability": 0.3, "alternatives": 3.0, "liked": 12,
             "judged": 20, "alone": 0}  # fmt: skip
    return Preflight(asked=asked_forms, skipped=(), **{**usual, **changes})


PLAIN, PROMPTED = asked("as it is", 12), asked("the rule in the prompt", 9)


@pytest.mark.parametrize(
    ("found", "verdict", "names"),
    [
        (figures(PLAIN, PROMPTED), "strike", ["60% (12 of 20)", "45% (9 of 20)", "20 of 20", "0.300"]),
        (figures(PLAIN, asked("p", 1, 1)), "use the prompt", ["5% (1 of 20)", "60% (12 of 20)"]),
        (figures(PLAIN, asked("p", 1, 2)), "strike", ["10% (2 of 20)"]),
        (figures(PLAIN, asked("p", 0, words=9.0)), "strike", []),
        (figures(PLAIN, asked("p", 0, copies=5)), "strike", ["25% (5 of 20) copy"]),
        (figures(PLAIN, asked("p", 0, copies=4)), "use the prompt", ["20% (4 of 20) copy"]),
        (figures(asked("as it is", 1, 1), PROMPTED), "use the prompt", ["5% (1 of 20)", "nothing to strike"]),
        (figures(asked("as it is", 0, replies=9), PROMPTED), "strike", ["9 prompts"]),
        (figures(PLAIN, PROMPTED, alone=16), "these judgments are about one example each and will not transfer",
         ["16 of 20"]),
        (figures(PLAIN, PROMPTED, alone=15), "strike", []),
        (figures(PLAIN, PROMPTED, aligned=9), "train on what is liked", ["9 of 20", "12 replies"]),
        (figures(PLAIN, PROMPTED, aligned=10), "strike", ["10 of 20"]),
        (figures(PLAIN, PROMPTED, probability=0.02, liked=7), "train on what is liked", ["0.020", "7 replies", "8"]),
        (figures(probability=None, aligned=0, quotes=0), "train on what is liked", ["0 of 0"]),
        (figures(probability=None, places=0), "train on what is liked", ["max_length", "12 replies"]),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_figures_and_gives_them(found, verdict, names):
    said, reason = decide(found)
    assert said == verdict
    assert [name for name in names if name not in reason] == []
    assert "\n" not in reason


def test_the_prompts_asked_are_different_in_scope_and_spread_over_the_file():
    examples = [wrong(n, "a pan", "It praises.") for n in range(100)]
    examples += [wrong("again", "a pan", "It praises.", prompt=examples[0].prompt), right("kept", "a pan", keep=True)]
    chosen = training_prompts(examples)
    assert len(chosen) == len({e.prompt for e in chosen}) == flight.MOST_PROMPTS
    assert [chosen[0].id, chosen[-1].id] == [0, 96]
    assert [e.id for e in training_prompts(examples[:3])] == [0, 1, 2]


def test_a_prompt_has_the_rules_below_it_or_two_liked_replies_to_other_prompts_before_it():
    liked = [right(n, f"a pan {n}") for n in range(3)]
    forms, skipped = prompt_forms(["Describe item 0."], RULES, liked)
    assert skipped == []
    prohibited = ["It praises. Never use these words: sleek.", "It greets. Never use these words: Hi."]
    assert forms[flight.PROHIBITED] == ["\n".join(["Describe item 0.\n", *prohibited])]
    assert forms[flight.REWORDED] == ["\n".join(["Describe item 0.\n", "State facts.", prohibited[1]])]
    assert [message["content"] for message in forms[flight.SHOWN][0]] == [
        "Describe item 1.", "a pan 1", "Describe item 2.", "a pan 2", "Describe item 0.",
    ]  # fmt: skip
    assert [m["role"] for m in forms[flight.SHOWN][0]] == ["user", "assistant"] * 2 + ["user"]
    forms, skipped = prompt_forms(["Describe item 0."], RULES[1:], liked[:2])
    assert list(forms) == [flight.PLAIN, flight.PROHIBITED]
    assert len(skipped) == 2


@pytest.mark.parametrize(("form", "arm"), [(flight.PROHIBITED, "rule"), (flight.REWORDED, "rule-reworded")])
def test_the_preflight_shows_the_text_that_the_arm_of_a_comparison_shows(form, arm):
    forms, _ = prompt_forms(["Describe item 0."], RULES, [])
    shown = with_rules(BUILT_IN[arm], RULES, [])
    (question,) = as_prompted(shown, [Question(1, "Describe item 0.")], [], SamplingSettings())
    assert forms[form] == [question.prompt]


def test_replies_that_copy_what_the_prompt_shows_are_counted():
    shown, other = "A kettle of steel with a lid and a long spout.", "A grey rug of wool, two metres wide, for halls."
    liked = [right(1, shown), right(2, other)]
    prompts = [wrong(n, "a sleek pan", "It praises.") for n in range(10, 13)]
    answers = {"Describe item 10.": shown, "Describe item 11.": "A pan of steel with two handles and a lid of glass."}

    class Model:
        def answer(self, requests):
            last = [as_messages(request.prompt)[-1]["content"] for request in requests]
            yield {at: Generated(answers.get(text, "A pan."), 3, "stop") for at, text in enumerate(last)}.items()

    asked_forms, _ = prompt_forms([e.prompt for e in prompts], RULES[:1], liked)
    found = {one.name: one.copies for one in flight._ask(prompts, asked_forms, checks_of(RULES[:1]), Model())}
    assert found == {flight.PLAIN: 0, flight.PROHIBITED: 0, flight.REWORDED: 0, flight.SHOWN: 1}
    answers["Describe item 11."] = "Here: a kettle of steel with a lid and a long spout."
    (last,) = flight._ask(prompts, {flight.SHOWN: asked_forms[flight.SHOWN]}, checks_of(RULES[:1]), Model())
    assert last.copies == 2
    assert "67% (2 of 3)" in "\n".join(figures(last).lines())


def test_quotes_are_counted_with_those_that_mark_nothing():
    examples = [
        wrong(1, "a sleek pan, sleek", 'It praises: "sleek", "gone".'),
        wrong(2, "a sleek pan", None, spans=(Span(2, 7),)),
        right(3, "a pan", judgment='"pan"'),
    ]
    assert count_quotes(examples) == (3, 2)


# The commands.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("habit")
    tiny.model(vocabulary=len(TOKENIZER)).save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    write_examples(folder / "examples.jsonl", [replace(e, answer=None) for e in records(18)])
    return folder


@pytest.fixture
def in_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    return tmp_path


def test_audit_writes_the_rules_and_does_not_write_over_a_users_file(in_folder, capsys):
    out = in_folder / "rules.yaml"
    assert cli.main(["audit", "examples.jsonl", "--rules-out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "praises" in printed
    assert "modern, sleek" in printed
    *_, following = printed.splitlines()
    assert following.startswith("next: nlft train examples.jsonl ")
    assert f"--scheme strike --rules {out} " in following
    assert read_rules(out) == [Rule("praises", "It praises.", None, ("modern", "sleek"), (), 12)]
    assert cli.main(["audit", "examples.jsonl", "--rules-out", str(out)]) == 2
    assert "--rules_out" in capsys.readouterr().err
    alone = in_folder / "alone.jsonl"
    write_examples(alone, [wrong(1, "a sleek pan", 'It praises: "sleek".')])
    assert cli.main(["audit", str(alone), "--rules-out", str(in_folder / "none.yaml")]) == 2
    assert not (in_folder / "none.yaml").exists()


def test_audit_finds_rules_in_a_file_with_worked_answers_if_they_are_asked_for(in_folder, capsys):
    answered, out = in_folder / "answered.jsonl", in_folder / "rules.yaml"
    write_examples(answered, records(12))
    assert cli.main(["audit", str(answered)]) == 0
    assert "RULES" not in capsys.readouterr().out
    assert cli.main(["audit", str(answered), "--rules-out", str(out)]) == 0
    assert "modern, sleek" in capsys.readouterr().out
    assert [rule.examples for rule in read_rules(out)] == [8]


def test_audit_of_a_habit_ends_with_the_preflights_verdict(in_folder, capsys):
    rules, told = in_folder / "rules.yaml", in_folder / "audit.json"
    write_rules(rules, [Rule("any", "It has an a.", "No a.", ("a", "e", "i"), (), None)])
    args = ["audit", "examples.jsonl", "--model_name_or_path", "model", "--dtype", "float32", "--placebos", "0"]
    assert cli.main([*args, "--rules", str(rules), "--json", str(told), "--html", str(in_folder / "a.html")]) == 0
    printed = capsys.readouterr().out
    assert "--preflight false" in printed, "it says how to skip what costs time"
    preflight = json.loads(told.read_text())["preflight"]
    assert printed.strip().split("\n")[-1].startswith(f"verdict: {preflight['verdict']}: ")
    assert [(one["name"], one["replies"], list(one["broken"])) for one in preflight["asked"]] == [
        (name, 18, ["any"]) for name in (flight.PLAIN, flight.PROHIBITED, flight.REWORDED, flight.SHOWN)
    ]
    assert (preflight["quotes"], preflight["aligned"], preflight["places"], preflight["liked"]) == (12, 12, 12, 6)
    assert (preflight["judged"], preflight["alone"]) == (12, 0)
    assert "verdict" in (in_folder / "a.html").read_text()
    assert json.loads(told.read_text())["rules"][0]["words"] == ["modern", "sleek"]


@pytest.mark.parametrize("room", [0, -1])
def test_an_example_that_is_too_long_with_its_replacements_is_named_as_training_refuses_it(folder, room):
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    example = wrong(1, "a sleek pan", "It praises.", spans=(Span(2, 7, "long " * 40),))
    encoded = encode(ConditionEncoder(tokenizer), example)
    limit = len(encoded.base) + len(encoded.patched.ids) + room
    report = audit([example], None, tokenizer, AuditSettings(max_length=limit))
    refused = [finding.what for finding in report.findings if finding.kind == "too-long"]
    if room == 0:
        assert refused == []
        encode(ConditionEncoder(tokenizer, max_length=limit), example)
        return
    assert [f"{limit + 1} tokens under base" in text for text in refused] == [True]
    with pytest.raises(NLFTError, match=f"takes {limit + 1} tokens under the base prompt"):
        encode(ConditionEncoder(tokenizer, max_length=limit), example)


def test_a_broken_rule_is_counted_in_the_models_own_replies(folder, monkeypatch):
    examples = [replace(e, answer=None) for e in records(18)]

    class Scripted:
        def answer(self, requests):
            texts = ["sleek" if "It praises" not in str(one.prompt) else "flat" for one in requests]
            yield [(at, type("G", (), {"text": text if at % 3 else "flat"})()) for at, text in enumerate(texts)]

    found = find_rules(examples)
    result = flight.preflight(examples, found, [one.rule for one in found], [], Scripted())
    assert [one.broken for one in result.asked] == [{"praises": 12}, {"praises": 0}, {"praises": 12}]
    assert result.verdict == "use the prompt"
    assert flight.PROHIBITED in result.reason


def test_checks_count_instead_of_words_and_those_that_ask_a_judge_are_named_as_passed_over(in_folder, capsys):
    checks, told = in_folder / "checks.yaml", in_folder / "audit.json"
    checks.write_text(
        "- {name: no-line, must_not: {regex: '(?s).'}}\n- {name: short, must: {max_words: 999}}\n"
        "- {name: polite, must: {judge: 'Is it polite?'}}\n"
    )
    args = ["audit", "examples.jsonl", "--model_name_or_path", "model", "--dtype", "float32", "--placebos", "0"]
    assert cli.main([*args, "--checks", str(checks), "--json", str(told)]) == 0
    report = json.loads(told.read_text())
    assert all(one["broken"] == {"no-line": 18, "short": 0} for one in report["preflight"]["asked"])
    assert report["preflight"]["verdict"] != "use the prompt"
    assert any("polite" in note for note in report["notes"])
    assert cli.main(["audit", "examples.jsonl", "--checks", str(checks)]) == 0
    assert "3 checks" in capsys.readouterr().out


def test_rules_that_are_not_checked_are_named_and_the_preflight_can_be_skipped(in_folder, capsys):
    examples = [replace(e, answer=None) for e in records(12)]
    model = tiny.model(vocabulary=len(TOKENIZER))
    report = audit(examples, model, TOKENIZER, AuditSettings(preflight=False, placebos=0), rules=RULES)
    assert report.preflight is None
    assert report.rules
    assert any("--preflight false" in note and "2 rules" in note for note in report.notes)
    assert any("no model" in note and "2 rules" in note for note in audit(examples, rules=RULES).notes)
    assert audit(records(12), rules=RULES).rules == []


def test_tune_runs_the_preflight_in_its_audit_and_tells_the_verdict(folder, tmp_path, capsys):
    write_examples(tmp_path / "examples.jsonl", [replace(e, answer=None) for e in records(12)])
    (tmp_path / "test.jsonl").write_text(json.dumps({"id": "t", "prompt": "Describe a rug."}) + "\n")
    model = {"model_name_or_path": str(folder / "model"), "dtype": "float32"}
    write_rules(tmp_path / "rules.yaml", RULES)
    (tmp_path / "checks.yaml").write_text("- {name: says-something, must: {regex: '.'}}\n")
    files = {"rules": str(tmp_path / "rules.yaml"), "checks": str(tmp_path / "checks.yaml")}
    settings = asdict(TuneSettings(**files, output_dir=str(tmp_path)))
    stages.audit_stage(tmp_path, {"file": "q.jsonl", "model": model, "settings": settings})
    preflight = json.loads((tmp_path / "audit.json").read_text())["preflight"]
    told = capsys.readouterr().err
    assert f"verdict: {preflight['verdict']}: {preflight['reason']}" in told
    assert "findings: " in told
    assert {one["name"]: list(one["broken"]) for one in preflight["asked"]} == {
        name: ["says-something"] for name in (flight.PLAIN, flight.PROHIBITED, flight.REWORDED, flight.SHOWN)
    }


def test_train_strikes_the_words_of_rules(in_folder, capsys):
    rules = in_folder / "rules.yaml"
    write_rules(rules, [Rule("praise", "It praises.", None, ("sleek", "flat"), ("pan",), None)])
    args = ["train", "examples.jsonl", "--model_name_or_path", "model", "--rules", str(rules)]
    assert cli.main([*args, "--output_dir", str(in_folder / "wrong")]) == 2
    assert "--scheme strike" in capsys.readouterr().err
    run = in_folder / "run"
    more = [
        "--scheme",
        "strike",
        "--strike_words",
        "Flat",
        "wide",
        "--max_steps",
        "1",
        "--watch",
        "0",
        "--dtype",
        "float32",
    ]
    assert cli.main([*args, *more, "--output_dir", str(run), "--per_device_train_batch_size", "2"]) == 0
    assert RunDir(run).settings()["training"]["strike_words"] == ["sleek", "flat", "wide"]
    rules.write_text("rules:\n- name: a\n  rule: x\n")
    assert cli.main([*args, "--scheme", "strike", "--output_dir", str(in_folder / "bad")]) == 2
    assert "'a'" in capsys.readouterr().err
