"""The audit: it names planted defects, reports no clean example, and writes safe files."""

import base64
import hashlib
import json
import re
import sys
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.audit_defects import DEFECTS, clean_examples, planted_examples
from nlft import cli
from nlft.auditing.copies import copies, numbers, overlap
from nlft.auditing.endings import endless
from nlft.auditing.findings import KINDS, Finding
from nlft.auditing.report import AuditReport
from nlft.auditing.run import AuditSettings, audit
from nlft.auditing.signal import Margins, Measured, beats_placebo, has_signal, margins, measure, signal_findings
from nlft.auditing.text import text_findings
from nlft.auditing.words import says_nothing, tone
from nlft.core.conditions import ConditionEncoder, pad_rows
from nlft.core.logprobs import enable_scoring, score
from nlft.core.schemes.nlft import NLFTSettings
from nlft.data.language import language
from nlft.data.problems import generate_problems
from nlft.data.records import Example, Question, write_examples
from nlft.errors import UserError
from nlft.experiments.demo import model_cache

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import audit_precision

WITHOUT_MODEL = sorted(set(DEFECTS) - {"style-movement", "too-long"})


def wrong(**changes):
    fields = {
        "id": "w",
        "prompt": "Tom has 64 marbles and gives away 35. How many are left?",
        "completion": "Tom has 64 - 35 = 34 marbles left.\n#### 34",
        "label": False,
        "answer": "Tom has 64 - 35 = 29 marbles left.\n#### 29",
        "judgment": 'The step "64 - 35 = 34" is miscalculated.',
    }
    return Example(**{**fields, **changes})


def right(**changes):
    completion = "64 - 35 = 29 marbles are left.\n#### 29"
    return wrong(**{"id": "r", "completion": completion, "label": True, "judgment": None, **changes})


def kinds(*examples, **settings):
    """The kinds of finding about these examples among clean ones, without a model."""
    others = clean_examples(generate_problems(40, seed=900), 900)
    report = audit([*others, *examples], settings=AuditSettings(grader="number", **settings))
    return {f.kind for f in report.findings if f.id in {e.id for e in examples}}


# Findings without a model.


@pytest.fixture(scope="module")
def found_without_model():
    found = defaultdict(lambda: [0, 0])
    alarms = []
    for seed in (11, 12):
        planted = planted_examples(seed, clean=60, each=3)
        report = audit(planted.examples, settings=AuditSettings(grader="number"), test=planted.test)
        tally = audit_precision.tally(planted, report)["found"]
        for kind in WITHOUT_MODEL:
            found[kind][0] += tally[kind]["named"]
            found[kind][1] += tally[kind]["planted"]
        about = [audit_precision._about(f, planted) for f in report.findings]
        alarms += [f for f, id in zip(report.findings, about, strict=True) if id not in planted.kinds]
    return found, alarms


@pytest.mark.parametrize("kind", WITHOUT_MODEL)
def test_a_planted_defect_is_found_and_named(kind, found_without_model):
    named, planted = found_without_model[0][kind]
    assert planted == 6
    assert named >= (4 if kind == "foreign-answer" else 5)


def test_clean_examples_have_no_finding(found_without_model):
    assert found_without_model[1] == []
    assert kinds(wrong(), right()) == set()


@pytest.mark.parametrize(
    ("judgment", "told"),
    [
        ("Correct, well done.", {"praise"}),
        ("No mistakes here.", {"praise"}),
        ("That is the correct answer.", {"praise"}),
        ("Not bad at all.", {"praise"}),
        ("This is not correct.", {"blame"}),
        ("It forgot to subtract 3.", {"blame"}),
        ("The answer is far from right.", {"blame"}),
        ("You added instead of subtracting.", {"blame"}),
        ("The first step is right, the second is wrong.", {"praise", "blame"}),
        ("The response never states a final answer.", {"doubt"}),
        ("The correct answer is 29.", set()),
        ("Die Rechnung stimmt.", set()),
    ],
)
def test_praise_and_blame_are_recognised_and_reversed_by_a_negation(judgment, told):
    assert tone(judgment) == told


def test_a_judgment_that_contradicts_the_label_is_found_on_both_sides():
    assert kinds(wrong(judgment="Well done, all steps are right.")) == {"contradiction"}
    assert kinds(right(judgment="The result is wrong.")) == {"contradiction"}
    assert kinds(right(judgment="Nothing wrong here.")) == set()
    assert kinds(wrong(judgment='All is right until "64 - 35 = 34", which is wrong.')) == set()


def test_a_judges_own_doubt_about_the_label_is_a_contradiction():
    assert kinds(wrong(extra={"conflict": "says right"})) == {"contradiction"}


def test_one_completion_with_both_labels_is_a_contradiction():
    assert kinds(wrong(), wrong(id="v", label=True, judgment=None)) >= {"contradiction"}


def test_labels_are_checked_only_if_there_is_a_grader():
    flipped = right(label=False, judgment='The step "64 - 35 = 29" is wrong.')
    assert kinds(flipped) == {"grader"}
    report = audit([flipped], settings=AuditSettings(grader="label"))
    assert not {f.kind for f in report.findings} & {"grader", "answer"}


def test_auto_takes_the_number_grader_only_where_answers_are_marked():
    marked = audit([right()])
    assert any("grader: number" in note for note in marked.notes)
    unmarked = audit([right(answer="They liked it.", completion="Dear 34.")])
    assert any("grader: label" in note for note in unmarked.notes)


@pytest.mark.parametrize(
    ("judgment", "is_echo"),
    [
        ("The correct answer is 29.", True),
        ("Tom has 64 - 35 = 29 marbles left.\n#### 29", True),
        ("Wrong. It should be 29.", True),
        ('It says "34", but it should be 29.', False),
        ("34 is wrong, it should be 29.", False),
        ('The step "64 - 35 = 34" is miscalculated.\nCorrection: 64 - 35 = 29.', False),
    ],
)
def test_a_judgment_that_only_repeats_the_answer_is_found(judgment, is_echo):
    assert kinds(wrong(judgment=judgment)) - {"leak"} == ({"echo"} if is_echo else set())


@pytest.mark.parametrize(
    ("judgment", "is_leak"),
    [
        ('It says "34", but it should be 29.', True),
        ("34 is wrong, it should be $29.00.", True),
        ('The step "64 - 35 = 34" is off: it is "64 - 35 = 29".', True),
        ("You took 35 from 64 and got 34; 29 is what is left.\nCorrection: 29.", True),
        ('The step "64 - 35 = 34" is miscalculated.\nCorrection:\n64 - 35 = 29.', False),
        ('The step "64 - 35 = 34" is off.\n**correction:** 29', False),
        ('Step 29 is off: "64 - 35 = 34".', False),
        ('The step "64 - 35 = 34" is off by 5.', False),
    ],
)
def test_a_judgment_that_shows_the_right_number_is_found(judgment, is_leak):
    assert ("leak" in kinds(wrong(judgment=judgment))) == is_leak
    assert "leak" not in kinds(right(judgment=judgment))


def test_a_right_number_is_no_leak_where_the_question_or_a_quote_of_the_completion_has_it_or_corrections_are_shown():
    completion = "64 - 35 = 29\n29 + 1 = 30\n#### 30"
    assert "leak" not in kinds(
        wrong(completion=completion, judgment='After "64 - 35 = 29" the step "29 + 1 = 30" is too much.')
    )
    assert "leak" in kinds(wrong(completion=completion, judgment='After 29, the step "29 + 1 = 30" is too much.'))
    asked = wrong(prompt="Tom says that 64 - 35 is 29. What is it?", judgment='He says 29; "64 - 35 = 34" is off.')
    assert "leak" not in kinds(asked)
    shows = AuditSettings(grader="number", judge_shows_correction=True)
    report = audit([wrong(judgment='"64 - 35 = 34" is off, it is 29.')], settings=shows)
    assert not {f.kind for f in report.findings} & {"leak"}


def test_a_quote_may_differ_in_spaces_signs_and_last_full_stop():
    assert kinds(wrong(judgment='The step "64-35 = 34." is off.')) == set()
    assert kinds(wrong(judgment="The step “64 − 35 … = 34” is off.")) == set()
    assert kinds(wrong(judgment='The step "12 + 5 = 18" is off.')) == {"quote"}
    assert kinds(wrong(judgment="You took 12 from 90 and got 77.")) == {"quote"}


def test_a_correction_may_quote_anything_but_is_not_a_judgment_by_itself():
    assert kinds(wrong(judgment='"64 - 35 = 34" is off.\nCorrection: write "64 - 35 = 29".')) == set()
    assert kinds(wrong(judgment="Correction: 64 - 35 = 29.")) == {"correction-only"}
    shown = AuditSettings(grader="number", judge_shows_correction=True)
    report = audit([wrong(judgment="Correction: it is 64 - 35 = 29.")], settings=shown)
    assert {f.kind for f in report.findings} == {"echo"}


def test_stock_words_alone_say_nothing():
    assert all(map(says_nothing, ["n/a", "-", "TODO", "This is wrong, please try again."]))
    assert not any(map(says_nothing, ["Too formal.", "34 is wrong.", "The tone is wrong.", "Die Summe ist falsch."]))


@pytest.mark.parametrize(
    "completion",
    [
        " ",
        "Tom has 64 marbles and then he",
        "Tom has 64 - 35 = ",
        "We think. " * 4 + "We think",
        "64 - 35 = 34\n#### 34\n\nTom has (",
    ],
)
def test_a_completion_that_does_not_end_is_found(completion):
    assert "unfinished" in kinds(right(completion=completion))


def test_finish_reason_length_is_unfinished_and_a_formula_or_a_list_is_an_end():
    assert "unfinished" in kinds(right(extra={"finish_reason": "length"}))
    for end in ("\n#### 29", "\nSo $x = 29$", "\n- first\n- second.", "\n```py\nprint(29)\n```\n#### 29"):
        assert "unfinished" not in kinds(right(completion=f"64 - 35 = 29 are left.{end}"))


def test_an_open_end_is_not_a_finding_if_most_texts_end_openly():
    haiku = [right(id=i, prompt=f"A haiku about {i} frogs", completion=f"{i} old silent ponds") for i in range(10)]
    assert not [f for f in text_findings(haiku, None) if f.kind == "unfinished"]


def test_a_loop_is_found_when_its_last_round_is_cut_short():
    assert endless("It is 4. so we go on, so we go on, so we go on, so we") == "go on, so we"
    assert endless("one two three one two three four") is None


def test_markup_is_garbage_unless_the_task_is_markup():
    assert kinds(right(completion="<p>64 - 35 = 29</p>\n#### 29")) == {"garbage"}
    page = "Write a paragraph <p>.</p>"
    asked = right(prompt=page, completion="<p>29</p>", answer="<p>So it is.</p>")
    assert "garbage" not in {f.kind for f in text_findings([asked, wrong()], None)}
    many = [right(id=i, completion=f"<b>{i}</b> are left.") for i in range(9)]
    assert "garbage" not in {f.kind for f in text_findings(many, None)}


def test_the_tokenizers_own_control_tokens_are_garbage_anywhere():
    report = audit([wrong(), right(prompt="Say <pad> please. " * 3)], tokenizer=tiny.tokenizer())
    assert [f.id for f in report.findings if f.kind == "garbage"] == ["r"]


def test_the_language_is_recognised_by_words_or_script_or_not_at_all():
    assert language("Die Rechnung ist falsch, und das Ergebnis stimmt nicht.") == "German"
    assert language("The step is not the one that was asked for.") == "English"
    assert language("В этом шаге ошибка.") == "Cyrillic script"
    assert language("64 - 35 = 29") is None
    assert language("2 plus 2 plus 2 miles in a week on a bus") in (None, "English")


def test_a_translation_task_is_not_taken_for_the_wrong_language():
    task = [
        right(
            id=i, prompt=f"Translate what the man said to the {i} of us.", completion="Das ist nicht der Mann und ich."
        )
        for i in range(10)
    ]
    assert "language" not in {f.kind for f in text_findings(task, None)}


def test_bare_answers_are_named_one_by_one_only_where_they_are_the_exception():
    assert kinds(right(answer="#### 29")) == {"bare-answer"}
    bare = audit([right(id=i, answer="#### 29", prompt=f"{i}?") for i in range(9)])
    told = [f for f in bare.findings if f.kind == "bare-answer"]
    assert [f.id for f in told] == [None]
    assert "9 of 9" in told[0].what


def test_one_question_with_two_answers_is_found():
    other = right(id="s", completion="It is 30.\n#### 30", answer="Tom has 64 - 35 = 30 marbles left.\n#### 30")
    assert "foreign-answer" in kinds(right(), other)


# Copies.


def test_problems_of_one_template_with_other_numbers_are_not_near_duplicates():
    problems = clean_examples(generate_problems(2000, seed=5), 5)
    assert copies(problems, 0.5) == []


def test_copies_are_found_whichever_comes_first_and_samples_of_one_question_are_not():
    text = "Tom has 64 marbles and gives 35 of them away to Ada. How many marbles are left in the end?"
    other = [right(id=1, prompt=text), right(id=2, prompt=text, completion="He keeps what Ada leaves: 29.\n#### 29")]
    assert copies(other, 0.7) == []
    found = copies(
        [*other, right(id=3, prompt=f"  {text}\n"), right(id=4, prompt=text.replace("marbles", "marvles"))], 0.7
    )
    assert [(f.kind, f.id, f.others) for f in found] == [("duplicate", 3, (1,)), ("near-duplicate", 4, (1,))]


def test_numbers_count_by_value_in_their_order():
    assert numbers("Three of 1,200.50 and 007") == ("3", "1200.5", "7")
    a, b = (
        right(id=i, prompt=f"A jar has {x} red and {y} blue beads. How many is that?")
        for i, x, y in [(1, 3, 5), (2, 5, 3)]
    )
    assert copies([a, b], 0.5) == []
    spelt = replace(a, id=3, prompt="A jar has three red and five blue beads. How many is that?")
    assert [f.kind for f in copies([a, spelt], 0.5)] == ["near-duplicate"]


def test_an_instruction_around_every_question_neither_makes_duplicates_nor_hides_overlap():
    frame = "You are a careful tutor who answers in 2 short sentences. {}\nThen write #### and the number, please."
    plain = clean_examples(generate_problems(60, seed=8), 8)
    framed = [replace(e, prompt=frame.format(e.prompt)) for e in plain]
    assert copies(framed, 0.7) == []
    test = [Question(f"t{e.id}", e.prompt, e.answer) for e in plain[:10]]
    assert [f.id for f in overlap(framed, test, 0.7)] == [e.id for e in plain[:10]]
    few = overlap(framed[:3], test[:5], 0.7)  # too few to tell a frame: it is inside
    assert [f.others for f in few] == [(q.id,) for q in test[:3]]
    others = [Question(q.id, q.prompt, q.answer) for q in generate_problems(200, seed=9)]
    assert {f.id for f in overlap(framed, others, 0.7)} == set()


def test_each_copy_among_ten_thousand_examples_is_found():
    problems = clean_examples(generate_problems(5000, seed=6), 6)
    copied = [replace(e, id=f"copy-{e.id}", prompt=f"Please: {e.prompt}") for e in problems]
    found = copies([*problems, *copied], 0.7)
    assert {f.id for f in found} == {e.id for e in copied}


# Findings with a model.


def measured(judge, base=0.1, standard=0.1, placebos=(0.1, 0.1), tokens=("a", "3", ".", "b"), tagged=(), label=False):
    def row(values):
        return np.broadcast_to(np.asarray(values, dtype=float), (len(tokens),)).copy()

    return Measured(
        id="m",
        label=label,
        tokens=list(tokens),
        base=row(base),
        standard=row(standard),
        judge=row(judge),
        salient=np.array([token in tagged for token in tokens]),
        placebos={f"p{i}": row(p) for i, p in enumerate(placebos)},
    )


LITTLE = Margins(gap=0.1, fit=0.5)


def finding(one, margin=LITTLE):
    found = signal_findings([one], margin)
    return found[0].kind if found else None


def test_a_judgment_that_moves_content_beyond_placebos_is_fine_and_usable():
    one = measured([0.1, 0.9, 0.1, 0.1], tagged=["3"])
    assert finding(one) is None
    assert has_signal(one, LITTLE)


def test_movement_that_a_placebo_causes_too_is_not_a_signal():
    one = measured([0.1, 0.9, 0.1, 0.1], placebos=([0.1, 0.85, 0.1, 0.1], [0.1, 0.95, 0.1, 0.1]), tagged=["3"])
    assert finding(one) == "placebo"
    assert not has_signal(one, LITTLE)


def test_nothing_tagged_and_no_more_than_placebos_is_no_movement():
    assert finding(measured(0.1)) == "no-movement"


def test_nothing_tagged_but_likelier_than_under_placebos_is_a_note():
    one = measured([0.6, 0.6, 0.1, 0.1], base=0.5, placebos=([0.1, 0.1, 0.1, 0.1],) * 2)
    assert finding(one) == "untagged"
    assert KINDS["untagged"].severity == "note"
    assert not has_signal(one, LITTLE)


def test_movement_on_punctuation_is_style_and_signs_of_a_calculation_are_content():
    assert finding(measured([0.1, 0.1, 0.25, 0.1], tagged=["."])) == "style-movement"
    sign = measured([0.1, 0.1, 0.9, 0.1], tokens=("a", "3", " *", "b"), tagged=[" *"])
    assert finding(sign) is None


def test_margins_come_from_how_placebos_differ_and_grow_with_the_root_of_the_length():
    pairs = [measured(0.1, placebos=(0.1, 0.1 + gap)) for gap in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert margins(pairs, 0.5).gap == pytest.approx(4 * 0.3 / 2)
    assert margins([measured(0.1, placebos=(0.1,))], 0.5) == Margins()
    short, long = (measured(0.2, tokens=["x"] * n) for n in (4, 400))
    assert short.gap == pytest.approx(0.4)
    assert not beats_placebo(short, Margins(0.3, 99))
    assert beats_placebo(long, Margins(0.3, 99))


def test_right_completions_are_usable_by_their_tags_alone():
    assert has_signal(measured(0.1, placebos=(), tagged=["3"], label=True), LITTLE)
    assert not has_signal(measured(0.1, placebos=(), label=True), LITTLE)


@pytest.fixture(scope="module")
def scored():
    """Some examples with a tiny model."""
    examples = clean_examples(generate_problems(12, seed=4), 4)
    model, encoder = tiny.model(), ConditionEncoder(tiny.tokenizer())
    encoded = [(e, encode(encoder, e)) for e in examples]
    found = measure(model, encoder, encoded, NLFTSettings(), placebos=2, batch_size=5, seed=1)
    return examples, model, encoder, found


def encode(encoder, e, **changes):
    fields = {"id": e.id, "prompt": e.prompt, "completion": e.completion, "label": e.label, "answer": e.answer}
    return encoder.encode(**{**fields, "judgment": e.judgment, **changes})


def test_scores_are_those_of_each_row_alone(scored):
    examples, model, encoder, found = scored
    enable_scoring(model)
    for example, one in zip(examples, found, strict=True):
        alone = encode(encoder, example)
        rows = {"base": alone.base, "standard": alone.standard, "judge": alone.judge or alone.base}
        for name, prompt in rows.items():
            with torch.no_grad():
                logp = score(model, pad_rows([(prompt, alone.completion)], 0)).logp[0]
            np.testing.assert_allclose(getattr(one, name), logp.double().exp(), atol=1e-5)
        assert "".join(one.tokens).startswith(str(example.completion)[:20])


def test_placebos_are_other_examples_judgments_on_the_same_completion(scored):
    examples, model, encoder, found = scored
    by_id = {e.id: e for e in examples}
    for example, one in zip(examples, found, strict=True):
        assert len(one.placebos) == (0 if example.label else 2)
        for other, probabilities in one.placebos.items():
            assert by_id[other].judgment != example.judgment
            row = encode(encoder, example, judgment=by_id[other].judgment)
            with torch.no_grad():
                logp = score(model, pad_rows([(row.judge, row.completion)], 0)).logp[0]
            np.testing.assert_allclose(probabilities, logp.double().exp(), atol=1e-5)


def test_the_same_seed_draws_the_same_placebos_and_another_seed_others(scored):
    examples, model, encoder, _ = scored
    encoded = [(e, encode(encoder, e)) for e in examples]

    def drawn(seed):
        found = measure(model, encoder, encoded, NLFTSettings(), placebos=1, batch_size=12, seed=seed)
        return [list(one.placebos) for one in found]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def audited(examples, **settings):
    return audit(examples, tiny.model(), tiny.tokenizer(), AuditSettings(**settings), name="e.jsonl")


def test_a_prompt_over_max_length_is_named_with_each_condition_that_is_too_long():
    long = wrong(judgment='The step "64 - 35 = 34" is off. ' + "Really. " * 60)
    report = audited([wrong(id="fits"), long, right()], max_length=450)
    told = [f for f in report.findings if f.kind == "too-long"]
    assert [f.id for f in told] == ["w"]
    assert re.fullmatch(r"\d+ tokens under judge, over max_length 450", told[0].what)
    assert {figures["id"] for figures in report.measured} == {"fits", "r"}
    assert "w" not in report.usable
    assert not [f for f in audited([long], max_length=None).findings if f.kind == "too-long"]


def test_a_wrong_example_without_a_judgment_is_a_finding_and_the_audit_continues():
    report = audited([wrong(judgment=None), wrong(id="x"), right()])
    assert [f.id for f in report.findings if f.kind == "no-judgment"] == ["w"]
    assert {figures["id"] for figures in report.measured} == {"x", "r"}


def test_a_defect_in_the_text_makes_an_example_unusable_whatever_its_tokens_do():
    examples = [
        replace(e, judgment="n/a") if not e.label else e for e in clean_examples(generate_problems(8, seed=1), 1)
    ]
    report = audited(examples)
    assert report.usable is not None
    assert not {e.id for e in examples if not e.label} & report.usable


def test_one_wrong_example_has_no_placebo_and_the_report_says_so():
    report = audited([wrong(), right()])
    assert any("1 wrong completions" in note for note in report.notes)
    assert any("--placebos 0" in note for note in audited([wrong(), right()], placebos=0).notes)


def test_without_a_model_the_report_names_the_skipped_checks():
    report = audit([wrong(), right()])
    assert report.usable is None
    assert any("--model_name_or_path" in note for note in report.notes)
    assert "--model_name_or_path" in report.lines()[-1]


def test_no_examples_are_refused():
    with pytest.raises(UserError, match="the examples: "):
        audit([])


def test_a_model_without_its_tokenizer_is_refused():
    with pytest.raises(UserError, match="tokenizer"):
        audit([wrong()], tiny.model())


def test_the_settings_templates_decide_what_the_judge_sees():
    only = wrong(judgment="Correction: take 35 from 64.")
    hidden, shown = (audited([only, right()], judge_shows_correction=b) for b in (False, True))
    assert "correction-only" in {f.kind for f in hidden.findings}
    assert "correction-only" not in {f.kind for f in shown.findings}


# Text, JSON and page.


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.said = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture
def nasty():
    attack = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
    example = wrong(
        id="</title><b>",
        prompt=attack,
        completion=f"{attack}\x1b[31m\x00 stops\ud800 and",
        judgment=f'It says "{attack}".',
    )
    return AuditReport(
        name="<i>e</i>.jsonl",
        examples=[example, right()],
        findings=[Finding("untagged", "r", "a note"), Finding("quote", example.id, f"{attack}\x1b[2J\nnext line")],
        usable=frozenset({"r"}),
        places={"r": "e.jsonl:7", example.id: "<u>:3"},
    )


def test_the_page_holds_examples_only_as_text(nasty):
    html = nasty.html()
    html.encode()
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= set(
        "html head meta title style body h1 h2 h3 p br section details summary dl dt dd pre".split()  # noqa: SIM905
    )
    assert "<script>alert(1)</script>" in "".join(page.said)
    assert not re.search("[\x00\x1b]", html)
    style = "".join(page.said[page.said.index(next(s for s in page.said if ":root" in s)) :][:1])
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert f"sha256-{digest}" in policy
    assert not re.search(r"(?:src|href)=(?!x )", html.replace("default-src", ""))


def test_a_terminal_gets_no_control_characters_and_a_line_stays_a_line(nasty):
    lines = nasty.lines()
    assert not any(c in line for line in lines for c in "\x00\x1b\n")
    assert any(r"\x1b[2J\nnext line" in line for line in lines)


def test_findings_come_worst_first_with_place_id_and_cure_and_the_sum_last(nasty):
    lines = nasty.lines()
    assert lines[-1] == "1 of 2 examples carry a usable signal (1 of 1 right, 0 of 1 wrong)"
    assert lines[-2] == "2 findings in 2 of 2 examples"
    assert lines[-3].endswith(": 1 quote, 1 untagged")
    text = "\n".join(lines)
    assert text.index("MISLEADS") < text.index("NOTE")
    assert "e.jsonl:7 'r': a note" in text
    assert f"cure: {KINDS['quote'].cure}" in text
    assert text.index("1 of 2 examples") > text.index("a note")


def test_long_lists_are_shortened_with_a_count_only_in_the_terminal():
    examples = [right(id=i, prompt=f"{i} beads and 3?") for i in range(30)]
    findings = [Finding("untagged", e.id, "x") for e in examples]
    report = AuditReport("e", examples, findings, frozenset(), most_listed=5)
    assert any("and 25 more" in line for line in report.lines())
    assert report.html().count("<details>") == 30
    assert '<a href="compare.html">Comparison</a>' in report.html([("Comparison", "compare.html")])
    assert len(report.json()["findings"]) == 30


def test_json_has_everything_and_is_json():
    report = audited(clean_examples(generate_problems(6, seed=2), 2))
    data = json.loads(json.dumps(report.json(), allow_nan=False))
    assert data["examples"] == 6
    assert len(data["measured"]) == 6
    assert data["summary"] == f"{report.lines()[-2]}; {report.lines()[-1]}"
    assert {f["kind"] for f in data["findings"]} <= set(KINDS)
    assert all(f["cure"] and f["severity"] for f in data["findings"])
    assert data["settings"]["placebos"] == 2


@pytest.fixture
def files(tmp_path):
    questions = generate_problems(8, seed=3)
    examples = clean_examples(questions, 3)
    examples[1] = replace(examples[1], judgment="n/a")
    examples[3] = replace(examples[3], judgment=None)
    write_examples(tmp_path / "e.jsonl", examples)
    (tmp_path / "t.jsonl").write_text(json.dumps(questions[2].as_record()) + "\n")
    return tmp_path


def nlft(*argv):
    return cli.main([str(a) for a in argv])


def test_the_command_prints_file_and_line_writes_both_files_and_exits_with_0(files, model_folder, capsys, monkeypatch):
    monkeypatch.chdir(files)
    options = ["--model_name_or_path", model_folder, "--dtype", "float32", "--test_file", "t.jsonl"]
    assert (
        nlft("audit", "e.jsonl", *options, "--html", "a.html", "--json", "a.json", "--saliency.mistake_ratio", "1.2")
        == 0
    )
    told = capsys.readouterr().out
    assert re.search(r"e\.jsonl:2 'problem-0002': .*\"n/a\"", told)
    assert "e.jsonl:4 'problem-0004': " in told
    assert re.search(r"e\.jsonl:3 'problem-0003': .* test question '", told)
    *_, verdict, following = told.splitlines()
    assert "carry a usable signal" in verdict
    assert following.startswith("next: nlft train e.jsonl ")
    assert "<!doctype html>" in Path("a.html").read_text()
    assert json.loads(Path("a.json").read_text())["examples"] == 8


def test_the_command_works_without_a_model_and_says_so(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert nlft("audit", "e.jsonl") == 0
    told = capsys.readouterr().out
    assert "--model_name_or_path" in told
    assert "--test_file" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--near_duplicate", "2"], "--near_duplicate: is 2"),
        (["--grader", "no.such:thing"], "no.such"),
        (["--test_file", "none.jsonl"], "none.jsonl"),
        (["--judge_prompt_template", "x"], "has no {prompt}"),
        (["--model_name_or_path", "no/such"], "no/such"),
        (["--html", "."], "is a folder"),
        (["--json", "e.jsonl/a.json"], "e.jsonl is a file"),
    ],
)
def test_wrong_settings_are_one_message_and_exit_code_2(options, told, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    more = [] if "--model_name_or_path" in options else ["--model_name_or_path", "never/loaded"]
    assert nlft("audit", "e.jsonl", *options, *(more if "--judge_prompt_template" in options else [])) == 2
    assert told in capsys.readouterr().err


# The docs.


def test_the_tables_in_the_docs_match_the_code_and_the_counts():
    numbers_found = json.loads(audit_precision.NUMBERS.read_text(encoding="utf-8"))
    text = audit_precision.PAGE.read_text(encoding="utf-8")
    assert audit_precision.page(numbers_found, text) == text, "run python benchmarks/audit_precision.py write"
    assert numbers_found["seeds"] == [100, 101, 102, 103, 104]


def test_every_defect_that_is_measured_has_a_finding_of_its_name():
    assert set(audit_precision.PLANTED) == set(DEFECTS) <= set(KINDS)
    assert len(DEFECTS) >= 12


@pytest.mark.skipif(not (model_cache() / "config.json").exists(), reason="SmolLM2 has not been brought here")
@pytest.mark.long
def test_a_real_model_tells_judgments_from_shuffled_ones():
    from nlft.models.loading import ModelSettings, load_model, load_tokenizer

    settings = ModelSettings(model_name_or_path=str(model_cache()))
    examples = [e for e in clean_examples(generate_problems(24, seed=21), 21) if not e.label]
    words = [e.judgment for e in examples]
    shuffled = [replace(e, id=f"s-{e.id}", judgment=words[at - 1]) for at, e in enumerate(examples[:6])]
    model, tokenizer = load_model(settings, trainable=False), load_tokenizer(settings)
    report = audit([*shuffled, *examples[6:]], model, tokenizer, AuditSettings(grader="label"))
    flagged = {f.id for f in report.findings if f.kind in ("placebo", "no-movement")}
    assert len(flagged & {e.id for e in shuffled}) >= 4
    assert len(flagged & {e.id for e in examples[6:]}) <= 1
