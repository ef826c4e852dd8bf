"""Spans: read and written, found from a judgment's quotes, and as tokens."""

import json
import time
import unicodedata
from dataclasses import replace

import pytest
from tokenizers import normalizers

import nlft
from helpers import spans_kept, tiny
from helpers.kept import changed
from nlft.auditing.run import audit
from nlft.collect.human_judge import judge_by_hand
from nlft.core.batches import BatchBuilder
from nlft.core.conditions import ConditionEncoder
from nlft.core.schemes.nlft_original import misread_rows
from nlft.core.spans import (
    Quoted,
    Span,
    TokenSpan,
    WordFinder,
    merged_spans,
    occurrences,
    patched_text,
    quoted_spans,
    token_spans,
    touched,
)
from nlft.core.word_search import LONGEST_GAP, SearchedText
from nlft.data.build import BuildSettings, read_pool
from nlft.data.encoding import encode, encode_examples
from nlft.data.records import Example, as_examples, as_record, marked_spans, read_examples, write_examples
from nlft.data.training_file import data_fingerprint
from nlft.errors import ProblemsError, RecordsError
from nlft.page.feedback import Edit, Feedback, Mark
from nlft.runs.run_dir import RunDir, WatchedExample
from nlft.training.start import spans_line

TEXT = (
    "Dear customer, we are\nnot liable. You’ll get a state‑of‑the‑art, durable bike. "
    "The art is in the start, 34 not 34.5."
)


def found(judgment: str, text: str = TEXT) -> list[str]:
    return [text[span.start : span.end] for span in quoted_spans(text, judgment).spans]


def wrong(**changes: object) -> Example:
    fields = {"id": "w", "prompt": "q?", "completion": "a durable bike", "label": False, "answer": "a"}
    return Example(**{**fields, **changes})


# Quotes.


@pytest.mark.parametrize(
    ("judgment", "places"),
    [
        ('"durable" is a cliché.', ["durable"]),
        ("“durable”, «liable»", ["liable", "durable"]),
        ("„durable“ und »liable«", ["liable", "durable"]),
        ("« durable bike » et 「liable」", ["liable", "durable bike"]),
        ("`durable` and ```liable```", ["liable", "durable"]),
        ("'durable' and ‘liable’", ["liable", "durable"]),
        ('"You\'ll get"', ["You’ll get"]),
        ("‘You’ll get’ sounds cheap", ["You’ll get"]),
        ('"state-of-the-art"', ["state‑of‑the‑art"]),
        ('"we are not   liable"', ["we are\nnot liable"]),
        ('"customer, we\nare not"', ["customer, we are\nnot"]),
        ('"art" is vague', ["art", "art"]),  # all places, and not inside "start"
        ('"34"', ["34"]),  # not inside 34.5
        ('"WE are"', ["we are"]),
        ('"Durable," it says', ["durable"]),
        ('"Dear ... liable"', ["Dear customer, we are\nnot liable"]),
        ('"get a state"', ["get a state"]),
    ],
)
def test_a_quote_is_found_whatever_its_marks_spaces_and_dashes(judgment, places):
    assert found(judgment) == places
    assert quoted_spans(TEXT, judgment).missing == ()


def test_case_counts_if_the_quote_is_there_with_its_own_case():
    assert found('"art"', "Art and art") == ["art"]
    assert [(s.start, s.end) for s in quoted_spans("Art and art", '"art"').spans] == [(8, 11)]
    assert found('"ART"', "Art and art") == ["Art", "art"]


@pytest.mark.parametrize(
    "judgment", ["the customers' bikes and the riders' gear", "don't say '90s, it's '80s", '5" or 7"']
)
def test_an_apostrophe_or_an_inch_is_no_quotation_mark(judgment):
    quoted = quoted_spans("bikes and the riders, s it, or 7, don", judgment)
    assert (quoted.spans, quoted.missing) == ((), ())


def test_a_plural_apostrophe_inside_single_quotes_belongs_to_the_quote_if_the_completion_has_it():
    assert found("'the riders' gear' is vague", "We clean the riders' gear.") == ["the riders' gear"]
    assert found("'our riders' is what the shops' owners say", "We like our riders.") == ["our riders"]


def test_quotes_that_are_nowhere_are_named_once_each():
    quoted = quoted_spans(TEXT, '"sturdy", “sturdy”, "We are ... sturdy" and "durable"')
    assert quoted.missing == ("sturdy", "We are ... sturdy")
    assert len(quoted.spans) == 1
    # Of the readings that the marks allow, the shortest is surely the reader's.
    assert quoted_spans(TEXT, "'the riders' gear' is vague").missing == ("the riders",)


def test_an_ellipsis_stands_for_a_bounded_gap_and_begins_at_the_nearest_place():
    text = "We are glad. We are not liable." + " x" * 200 + " sorry"
    assert found('"We are ... liable"', text) == ["We are not liable"]
    assert found('"We are … sorry"', text) == []
    assert found('"... liable."', text) == ["liable."]
    for gap, marked in ((" x" * 99 + "  ", True), (" x" * 100 + " ", False)):
        assert found('"glad … sorry"', text := f"glad{gap}sorry") == [text] * marked


def test_corrections_and_marks_of_right_words_are_no_quotes():
    assert found('Too formal.\nCorrection: "durable" is better') == []
    assert found('"durable" is right.\n"liable" is wrong.') == ["liable"]


def test_a_quote_beside_a_correction_or_with_the_mark_of_one_is_found():
    assert quoted_spans("The pan is durable", '"durable" should be: "strong"') == Quoted((Span(11, 18),), ())
    assert found('It says "correct answer": Do not announce.', "The correct answer: 5") == ["correct answer"]


def test_overlapping_quotes_unite_and_scripts_without_spaces_are_searched_inside():
    assert found('"a durable" and "durable bike"', "It is a durable bike.") == ["a durable bike"]
    assert found("「自転車」", "新しい自転車です") == ["自転車"]


@pytest.mark.parametrize(
    ("text", "quote", "places"),
    [
        ("You can't use it; you can.", "can", [22]),
        ("Don’t shop", "Don", []),
        ("we're", "we", []),
        ("we're", "re", []),
        ("five o'clock", "clock", []),
        ("the customer's bike", "customer", [4]),  # a genitive ends the word
        ("d'une durée et l’eau", "eau", [17]),  # an elided article is a word of its own
        ("कमाल का है, दाम कम है", "कम", [16]),  # vowel signs and accents are inside a word
        ("தமிழ் தமி", "தமி", [6]),
        ("கம்", "கம", []),
        ("cafe\u0301s are cafe", "cafe", [11]),
        ("naïve", "nai", []),
        ("nai\u0308ve", "na", []),
        ("می\u200cشود می", "می", [7]),
        ("क्\u200dष", "क", []),
        ("👨\u200d👩\u200d👧 👨", "👨", [6]),  # part of a character is no word
        ("👨\u200d👩 👩", "👩", [4]),
        ("👍🏽 👍", "👍", [3]),
        ("❤\ufe0fyou", "you", [2]),
        ("1 000 and 000", "000", [10]),
        ("1 000", "1 000", [0]),
        ("1\u202f000 kg", "1", []),
        ("1’000 kg", "000 kg", []),
        ("12 500 000", "500", []),
        ("in 1990 500 came", "500", [8]),
        ("12:30 and 30", "30", [10]),
        ("ends: 5", "ends", [0]),
    ],
)
def test_a_quote_never_marks_a_part_of_a_word_a_number_or_a_character(text, quote, places):
    assert [span.start for span in quoted_spans(text, f'"{quote}" is odd').spans] == places


@pytest.mark.parametrize("text", ["a cafe\u0301 here", "a café here"])
@pytest.mark.parametrize("quote", ["cafe\u0301", "café", "CAFÉ"])
def test_accents_may_be_characters_of_their_own_in_the_quote_or_in_the_reply(text, quote):
    assert found(f'"{quote} here" is odd', text) == [text[2:]]
    assert found(f'"{quote}" is odd', text) == [text[2:-5]]


@pytest.mark.parametrize(
    ("text", "quote", "places"),
    [
        ("A well-known pan — it lasts 5–10 years.", "—", [17]),
        ("A well-known pan - it lasts 5–10 years.", "—", []),
        ("A — b – c - d-e.", "-", [10, 13]),
        ("wait... and… so", "…", [11]),
        ("wait... so", "…", []),
        ('“a” and "b"', '"', [8, 10]),
        ("pan — it, pan - it", "pan — it", [0]),
        ("pan - it, pan–it", "pan — it", [0, 10]),  # if it is nowhere as written
        ("don't, don’t", "don’t", [0, 7]),  # the same word
        ("state‑of‑the-art, state-of-the-art", "state-of-the-art", [0, 18]),
    ],
)
def test_dashes_and_marks_have_their_own_form_if_they_are_there_in_it(text, quote, places):
    quoted = quoted_spans(text, f"Too many: “{quote}”")
    assert [span.start for span in quoted.spans] == places
    assert quoted.missing == (() if places else (quote,))


def test_a_list_has_its_own_dashes_and_any_form_of_its_words():
    assert WordFinder(["—"]).first("a-b – c — d") == Span(8, 9)
    assert WordFinder(["—"]).first("a-b – c") is None
    assert WordFinder(["don't", "well-known"]).first("Well‑known") == Span(0, 10)
    assert [span.start for span in occurrences("a-b – c — d", ["—"], any_case=True)] == [8]
    assert len(occurrences("Don't, don’t", ["don't"], any_case=True)) == 2


def test_korean_letters_may_be_written_one_by_one():
    apart = "\u1112\u1161\u11ab"
    assert found('"한국"', f"{apart}국어 x") == [f"{apart}국"]
    assert found(f'"{apart}국"', "한국어 x") == ["한국"]


@pytest.mark.parametrize(
    "quote",
    ["״%s״", "《%s》", "〈%s〉", "〝%s〞", "〝%s〟", "＂%s＂", "''%s''", "``%s''", "‘‘%s’’", ",,%s''", "｢%s｣", "❝%s❞"],
)
def test_quotation_marks_of_other_writings_are_known(quote):
    assert found(quote % "durable" + " and " + quote % "bike" + " are dull") == ["durable", "bike"]


@pytest.mark.parametrize(
    "quote",
    [
        '„%s"', "“%s“", '"%s”', '“%s"', "”%s“", "”%s”", "»%s»", '«%s"', '＂%s"', "’%s’", "`%s'", "´%s´", "❛%s❜",
        '\\"%s\\"',
    ],
)  # fmt: skip
def test_marks_that_writers_mix_or_mistake_are_a_pair(quote):
    assert found(quote % "durable" + " and " + quote % "bike" + " are dull") == ["durable", "bike"]
    assert found(quote % "not 34.5") == ["not 34.5"]


@pytest.mark.parametrize(
    ("judgment", "places"),
    [
        ('„34" und “bike”', ["bike", "34"]),
        ('“He said "not" to me” and "bike"', ["bike"]),
        ('"He said “not” to me" and “bike”', ["bike"]),
        ('„Er sagte "not" dazu“ und „bike“', ["bike"]),
        ("a” is wrong, and so is “bike”", ["bike"]),
        ('"not a ”big problem, but “bike”', ["bike"]),
        ("“bike”’s and the art’ is’ a", ["bike"]),
        ("the ’60s’ and ’em’, the riders’ bike and the dogs’ art", []),
        ("»not » customer » bike", []),
    ],
)
def test_marks_of_two_quotes_are_no_pair(judgment, places):
    assert found(judgment) == places


@pytest.mark.parametrize(
    ("text", "quote", "marked"),
    [
        ("很耐用的", "很耐用。", "很耐用"),
        ("とても耐用です", "耐用！", "耐用"),
        ("यह टिकाऊ है और", "टिकाऊ है।", "टिकाऊ है"),
        ("C'est durable et beau", " durable\u00a0! ", "durable"),
        ("Er ist durable und", "durable –", "durable"),
        ("34 or", "34%", ""),
        ("a C or", "C#", ""),
    ],
)
def test_the_last_punctuation_of_any_writing_may_be_missing(text, quote, marked):
    assert found(f"«{quote}»", text) == [marked] * bool(marked)


def test_quotation_marks_without_a_quote_that_can_be_read_are_a_lost_quote():
    assert quoted_spans(TEXT, 'It says "durable, which is dull.').missing == ('"durable, which is dull.',)
    assert quoted_spans(TEXT, 'It says "durable, and “bike”.').missing == ()
    for judgment in ('5" or 7" wide', 'It says " and "".', "don't say it"):
        assert quoted_spans(TEXT, judgment).missing == ()


@pytest.mark.parametrize("judgment", ["צה״ל וארה״ב", "it returns '' or ''", "5'' wide or 7'' wide", "rock ''"])
def test_a_mark_inside_a_word_or_of_inches_or_of_nothing_is_no_quotation_mark(judgment):
    assert quoted_spans(judgment, judgment).missing == ()
    assert quoted_spans(judgment, judgment).spans == ()


def test_a_mark_of_inches_inside_a_quote_belongs_to_the_quote_if_the_reply_has_it():
    text = 'It is 5" wide, 5 cm high, and 5" x 7" big.'
    assert found('"5" wide" is wrong, and so is "big"', text) == ['5" wide', "big"]
    assert found('"5" x 7" big" is wrong', text) == ['5" x 7" big']
    assert found('"5" and "7" are wrong', "5 or 7") == ["5", "7"]
    assert quoted_spans("none", '"5" wide" is wrong').missing == ("5",)


@pytest.mark.parametrize(
    "mark", ['"', "‘", "`", "“a", '"a... ', "''a ", "״a", "``a", '"5" a" ', "„", "”a ", "“a“b ", "`a' ", "´a ", "’a "]
)
def test_many_open_marks_take_no_long_time(mark):
    start = time.perf_counter()
    quoted_spans("a " * 2000, mark * 5000)
    assert time.perf_counter() - start < 2


# Own spans.


def test_marked_spans_are_the_own_ones_and_the_quotes_beside_them():
    own = Span(2, 9, "solid")
    example = wrong(judgment='"a durable" and "bike" are dull.', spans=(own,))
    assert marked_spans(example) == (own, Span(10, 14))
    assert marked_spans(replace(example, label=True)) == (own,)
    assert merged_spans((Span(4, 5), Span(0, 1), Span(4, 5, note="again")), ()) == (Span(0, 1), Span(4, 5))


def test_spans_survive_a_file_a_table_and_a_chat(tmp_path):
    spans = (Span(2, 9, "solid", "a cliché"), Span(10, 14, ""))
    chat = {
        "prompt": [{"role": "user", "content": "q?"}],
        "completion": [{"role": "assistant", "content": "a durable bike"}],
    }
    examples = [wrong(spans=spans), wrong(id=2, **chat, spans=spans), wrong(id=3, judgment="No.")]
    write_examples(tmp_path / "a.jsonl", examples)
    assert read_examples(tmp_path / "a.jsonl") == examples  # without a judgment too
    assert as_examples(examples) == examples
    first, _, last = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert first["spans"] == [
        {"start": 2, "end": 9, "replace": "solid", "note": "a cliché"},
        {"start": 10, "end": 14, "replace": ""},
    ]
    assert "spans" not in last
    table = [{**first, "spans": [{"start": 0, "end": 1, "replace": None, "note": None}]}]
    assert as_examples(table)[0].spans == (nlft.Span(0, 1),)


def test_wrong_spans_are_named_by_line_and_number(tmp_path):
    rows = [wrong(id=n, spans=()) for n in range(3)]
    write_examples(tmp_path / "a.jsonl", rows)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    bad = [[{"start": 0, "end": 15}], [{"start": 1, "end": 3}, {"start": 2, "end": 4}], [{"start": 0, "end": True}]]
    text = "".join(json.dumps({**line, "spans": spans}) + "\n" for line, spans in zip(lines, bad, strict=True))
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(RecordsError) as error:
        read_examples(tmp_path / "a.jsonl")
    assert [(p.where[-9:], p.field) for p in error.value.problems] == [(f"a.jsonl:{n}", "spans") for n in (1, 2, 3)]
    assert all(n in str(error.value) for n in ("0 to 15", "14 characters", "1 to 3", "2 to 4", "span 1"))


def test_identical_spans_are_no_overlap():
    spans = [{"start": 0, "end": 1}, {"start": 0, "end": 1}]
    assert as_examples([{**vars(wrong()), "spans": spans, "extra": None}])[0].spans == (Span(0, 1),) * 2


def test_the_fingerprint_of_examples_without_spans_is_the_old_one():
    old = "61ef"
    assert data_fingerprint([wrong(judgment="No.")])[:4] == old
    assert data_fingerprint([wrong(judgment="No.", spans=(Span(0, 1),))])[:4] != old


def test_build_takes_spans_for_a_judgment_for_nlft_alone(tmp_path):
    write_examples(tmp_path / "a.jsonl", [wrong(spans=(Span(0, 1),))])
    assert read_pool([tmp_path / "a.jsonl"], BuildSettings()).examples[0].spans == (Span(0, 1),)
    with pytest.raises(RecordsError, match=r'a\.jsonl: example "w"'):
        read_pool([tmp_path / "a.jsonl"], BuildSettings(to="original"))


# Marks on the page and in the terminal.


def test_marks_of_the_page_become_spans_that_later_marks_replace(tmp_path):
    run = RunDir(tmp_path)
    tokens = ["a", " durable", " bike", "<|end|>"]
    watched = [WatchedExample("w", False, "q?", "a", None, tokens)]
    feedback = Feedback(run)

    def save(*marks: Mark) -> tuple[Span, ...]:
        named = feedback.save([Edit(0, "w", False, "Dull.", list(marks))], watched, "ann")["file"]
        return read_examples(tmp_path / named)[0].spans

    assert save(Mark(1, 2, "wrong"), Mark(2, 4, "wrong")) == (Span(2, 9), Span(10, 14))
    assert save() == (Span(2, 9), Span(10, 14))
    assert save(Mark(0, 2, "wrong")) == (Span(0, 9), Span(10, 14))
    assert save(Mark(2, 3, "right"), Mark(3, 4, "wrong")) == (Span(0, 9),)
    other = Feedback(RunDir(tmp_path / "other"), [as_record(wrong(completion="a  durable bike", spans=(Span(0, 1),)))])
    other.save([Edit(0, "w", False, "Dull.", [Mark(1, 2, "wrong")])], watched, "ann")
    # The tokens do not spell the completion, so only the judgment's quote can say where the mark is.
    assert read_examples(other.folder / "examples-v2.jsonl")[0].spans == (Span(0, 1),)


def test_a_label_that_the_page_changes_takes_along_what_belonged_to_the_old_one(tmp_path):
    said = {"verdict": "wrong", "judge_verdict": "wrong", "item": "x"}
    judged = wrong(completion="a durable bike", judgment="It fails.", spans=(Span(2, 9, note="It fails."),), extra=said)
    kept = wrong(id="k", completion="a bike", label=True, judgment=None, keep=True)
    both = (judged, kept)
    watched = [WatchedExample(e.id, e.label, "q?", e.completion, None, [e.completion, "<|end|>"]) for e in both]
    feedback = Feedback(RunDir(tmp_path), list(map(as_record, both)))
    feedback.save([Edit(0, "w", True, None), Edit(1, "k", False, "Dull.")], watched, "ann")
    right, dull = read_examples(feedback.folder / "examples-v2.jsonl")
    assert (right.label, right.judgment, right.spans, right.extra) == (True, None, (), {"item": "x"})
    assert (dull.label, dull.judgment, dull.keep) == (False, "Dull.", False)
    assert feedback.save([Edit(1, "k", False, "Flat.")], watched, "ann")["changed"] == 1
    assert read_examples(feedback.folder / "examples-v3.jsonl")[0] == right, "the next version has the earlier edits"


def test_the_terminal_marks_text_wherever_it_stands(monkeypatch, tmp_path, capsys):
    typed = iter(["/mark zebra", "/mark durable => solid", "/mark a", "", "/unmark", "", "/mark bike", "/quit"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    saved = []
    examples = [wrong(completion="a durable, durable bike"), wrong(id="v")]
    judged = judge_by_hand(examples, lambda now: saved.append([len(e.spans) for e in now]))
    marked = (Span(0, 1), Span(2, 9, "solid"), Span(11, 18, "solid"))
    assert [e.spans for e in judged.examples] == [marked, (Span(10, 14),)]
    assert judged.failed == {}
    assert saved == [[2, 0], [3, 0], [3, 1]]
    assert "zebra" in capsys.readouterr().out


# Tokens.


def test_a_token_that_a_span_begins_or_ends_in_belongs_to_it():
    with_space, without = [(0, 1), (1, 9), (9, 14)], [(0, 1), (2, 9), (10, 14)]
    for offsets in (with_space, without):
        spans = (Span(2, 9, "solid"), Span(10, 12))
        expected = (TokenSpan(1, 2, "durable", " solid"), TokenSpan(2, 3, "bi"))
        assert token_spans("a durable bike", offsets, spans) == expected
        assert token_spans("a durable bike", offsets, [Span(2, 9, "")]) == (TokenSpan(1, 2, "durable", ""),)
        assert token_spans("a durable bike", offsets, [Span(2, 5, "x")]) == (TokenSpan(1, 2, "dur", " xable"),)


def test_spans_in_one_token_become_one():
    offsets = [(0, 1), (1, 9), (9, 14)]
    both = token_spans("a durable bike", offsets, [Span(2, 4, "x"), Span(6, 9, "y")])
    assert both == (TokenSpan(1, 2, "durable", " xray"),)
    assert token_spans("a durable bike", offsets, [Span(2, 4, "x"), Span(6, 9)]) == (
        TokenSpan(1, 2, "durable", dropped=1),
    )


def test_a_character_of_several_tokens_is_covered_by_all_of_them():
    encoder = ConditionEncoder(tiny.tokenizer())
    example = wrong(completion="so é!", spans=(Span(3, 4, "e"),))
    encoded = encode(encoder, example)
    assert encoded.spans == (TokenSpan(3, 5, "é", "e"),)
    assert encoder.tokenizer.decode(encoded.completion[3:5]) == "é"


def test_a_tokenizer_that_composes_accents_keeps_each_word_apart():
    made = tiny.own_tokenizer()
    made.backend_tokenizer.normalizer = normalizers.NFC()
    encoder = ConditionEncoder(made)
    text = unicodedata.normalize("NFD", "le café durable là")
    for words in (["café", "durable"], ["là"]):
        judgment = " ".join(f'"{word}"' for word in words)
        encoded = encode(encoder, wrong(completion=text, judgment=judgment))
        assert [unicodedata.normalize("NFC", span.text) for span in encoded.spans] == words
        decoded = [made.decode(encoded.completion[span.start : span.end]).strip() for span in encoded.spans]
        assert decoded == words
    for at, instead in ((3, "le bar durable là"), (17, "le café durable bar")):
        end = text.find(" ", at) if " " in text[at:] else len(text)
        encoded = encode(encoder, wrong(completion=text, spans=(Span(at, end, "bar"),)))
        assert made.decode(encoded.patched.ids) == f"{instead}<|end|>"


def test_every_token_of_a_span_decodes_to_its_text():
    encoder = ConditionEncoder(tiny.tokenizer())
    example = wrong(completion=TEXT, judgment='"durable", "art" and "not liable" are poor.')
    spans = encode(encoder, example).spans
    assert [s.text for s in spans] == ["not liable", "art", "durable", "art"]
    ids = encoder.completion_ids(TEXT)
    assert [encoder.tokenizer.decode(ids[s.start : s.end]) for s in spans] == [s.text for s in spans]


def test_white_space_that_the_template_removes_is_no_token():
    made = tiny.own_tokenizer()
    made.chat_template = tiny.CHAT_TEMPLATE.replace("m.content", "m.content | trim")
    encoder = ConditionEncoder(made)
    for place in ((0, 1), (0, 2), (11, 13), (12, 13)):
        with pytest.raises(ProblemsError, match=rf"{place[0]} to {place[1]} covers no token"):
            encode(encoder, wrong(completion="  bad reply  ", spans=(Span(*place),)))
    for place, text in (((0, 3), "b"), ((10, 13), "y"), ((0, 13), "bad reply"), ((5, 6), " ")):
        encoded = encode(encoder, wrong(completion="  bad reply  ", spans=(Span(*place, "so"),)))
        [span] = encoded.spans
        assert made.decode(encoded.completion[span.start : span.end]) == text
        assert made.decode(encoded.patched.ids) == "bad reply".replace(text, "so", 1) + "<|end|>"


def test_a_token_that_the_template_adds_belongs_to_no_span():
    offsets = [(2, 2), (2, 5), (5, 9), (9, 9)]
    assert [touched(offsets, *place) for place in ((0, 5), (0, 2), (2, 9), (9, 11))] == [(1, 2), (0, 0), (1, 3), (4, 4)]


def test_a_place_without_characters_is_at_the_token_that_ends_after_it():
    offsets = [(0, 1), (1, 9), (9, 14)]
    assert [touched(offsets, at, at) for at in (0, 1, 9, 14)] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert touched(offsets, 1, 9) == (1, 2)
    assert touched(offsets, 0, 10) == (0, 3)


def test_replacements_stand_in_the_place_of_their_tokens_and_say_where_they_stand_now():
    text, offsets = "a durable bike fast", [(0, 1), (1, 9), (9, 14), (14, 19)]
    spans = [TokenSpan(1, 3, "durable bike", " solid"), TokenSpan(3, 4, "fast")]
    assert patched_text(text, offsets, spans) == ("a solid fast", [(1, 7), (7, 12)])
    assert patched_text(text, offsets, [TokenSpan(1, 2, "durable", "")]) == ("a bike fast", [(1, 1)])
    without_spaces = [(0, 1), (2, 9), (10, 14), (15, 19)]
    assert patched_text(text, without_spaces, spans) == ("a solid fast", [(1, 7), (7, 12)])


def test_a_span_without_a_token_and_a_slow_tokenizer_are_refused_by_id(monkeypatch):
    with pytest.raises(ValueError, match="9 to 10"):
        token_spans("a durable ", [(0, 1), (1, 9)], [Span(9, 10)])
    encoder = ConditionEncoder(tiny.tokenizer())
    monkeypatch.setattr(type(encoder.tokenizer), "is_fast", False)
    with pytest.raises(ProblemsError, match=r"(?s)'w'.*use_fast"):
        encode(encoder, wrong(spans=(Span(0, 1),)))
    # A quote alone must not stop schemes that read no spans.
    assert encode(encoder, wrong(judgment='"durable" is dull.')).spans == ()


# Without a judgment.


def test_a_wrong_example_with_spans_needs_no_judgment_until_a_scheme_reads_one():
    encoder = ConditionEncoder(tiny.tokenizer())
    examples = [wrong(spans=(Span(0, 1),)), wrong(id="v", judgment="Correction: b", spans=(Span(0, 1),))]
    encoded = encode_examples(examples, encoder)
    assert [e.judge for e in encoded] == [None, None]
    with pytest.raises(RecordsError) as error:
        encode_examples(examples, encoder, judge_reader="cut")
    assert all(word in str(error.value) for word in ("'w'", "'v'", "cut", "nlft judge", "--scheme"))
    BatchBuilder(0, needs=frozenset({"standard"}))(encoded)
    with pytest.raises(ProblemsError, match="'w'"):
        BatchBuilder(0, needs=frozenset({"judge"}))(encoded)
    with pytest.raises(ProblemsError, match="'w'"):
        misread_rows(encoded[0])
    with pytest.raises(ProblemsError, match="'w'"):
        encode(encoder, wrong())


# What is counted.


def test_audit_names_quotes_that_are_nowhere_and_measures_judgments_only():
    examples = [
        wrong(id="lost", judgment='"durable" should be "sturdy".'),
        wrong(id="good", prompt="r?", judgment='"bike" is vague.'),
        wrong(id="span", prompt="s?", spans=(Span(0, 1),)),
    ]
    model, tokenizer = tiny.model(), tiny.tokenizer()
    report = audit(examples, model, tokenizer)
    lost = [f for f in report.findings if f.kind == "lost-quote"]
    assert [(f.id, '"sturdy"' in f.what, '"durable"' in f.what) for f in lost] == [("lost", True, False)]
    assert not [f for f in report.findings if f.kind in ("no-judgment", "unreadable")]
    assert {one["id"] for one in report.json()["measured"]} == {"lost", "good"}
    assert any(note.startswith("1 wrong") and "spans" in note for note in report.notes)


def test_the_training_summary_counts_spans_and_lost_quotes():
    examples = [
        wrong(judgment='"durable" or "sturdy"', spans=(Span(0, 1),)),
        wrong(id=2, judgment="Dull."),
        wrong(id=3),
    ]
    line = spans_line(examples)
    assert "2 in 1 of 3" in line
    assert "1 quote" in line
    assert spans_line(examples[1:]) == ""


def test_no_span_has_changed_unseen():
    assert not changed(spans_kept.found(), spans_kept.KEPT)


@pytest.mark.parametrize(
    ("judgment", "marked"),
    [
        ('- Correct: "one"\n- Wrong: "two"', ["two"]),
        ('**Correct:** the idea.\n**Incorrect:** "two" is off.', ["two"]),
        ('Correct: the units. But "two" is not.', ["two"]),
        ('Expected response: x\nActual response: "two"', ["two"]),
        ('Expected answer: "one"\nActual answer: "two". Correction: "three"', ["two"]),
        ('The actual text: "two" is bad.', ["two"]),
        ('Wrong: "two"\nCorrect: "one"\nWrong: "three"\nCorrect: "one"', ["two", "three"]),
        ('Actual answer: "two"', []),
        ('It is off.\nCorrect: 3, but "two" is wrong.', []),
    ],
)
def test_criticism_after_praise_or_an_expected_answer_marks_its_quotes(judgment, marked):
    text = "one two three"
    assert [text[span.start : span.end] for span in quoted_spans(text, judgment).spans] == marked


@pytest.mark.parametrize(
    ("text", "quote", "places"),
    [
        *(("1,5 kg", "5", []), ("1.5", "1", []), ("5. 6", "5", [(0, 1)]), ("12:30", "12", [])),
        *(("123 456", "456", []), ("1234 567", "567", [(5, 8)]), ("1 2345", "2345", [(2, 6)]), ("1'000", "000", [])),
        *(("0 000", "000", []), ("9 999", "999", []), ("a 000", "000", [(2, 5)]), ("1  000", "000", [(3, 6)])),
        *(("x\u0300y x", "x", [(4, 5)]), ("x\u0300y", "x\u0300y", [(0, 3)]), ("\u1100\u1161\u11a8 x", "각", [(0, 3)])),
        *(("e" + 31 * "\u0301", "é" + 30 * "\u0301", [(0, 32)]), ("e" + 33 * "\u0301", "é", [])),
        *(("'t is", "t", [(1, 2)]), ("can't", "t", []), ("Tom's", "Tom", [(0, 3)]), ("l'homme", "homme", [(2, 7)])),
        *((f"start{'.' * LONGEST_GAP}end", "start ... end", [(0, LONGEST_GAP + 8)]),),
        *((f"start{'.' * (LONGEST_GAP + 1)}end", "start ... end", []),),
    ],
)
def test_a_quote_is_found_at_the_edges_of_numbers_accents_and_gaps(text, quote, places):
    assert SearchedText(text).quote(quote) == places
