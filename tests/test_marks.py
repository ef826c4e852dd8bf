"""Verdicts, corrections and thoughts, in the ways in which judges write them."""

import time
import unicodedata

import pytest

from helpers import judgments_kept
from helpers.kept import changed
from nlft.collect.opinions import read_opinion
from nlft.core import prompts
from nlft.core.marks import (
    corrections,
    names_correction,
    names_verdict,
    narrow,
    says_right,
    says_wrong,
    verdict,
)
from nlft.core.prompts import without_corrections
from nlft.core.thoughts import without_thoughts
from nlft.data.records import Example
from nlft.models.reply_reading import read_text

WRONG = (
    "not entirely correct|not quite right|never right|hardly right|far from right|It cannot be right|can't be correct"
    "|nicht ganz richtig|不完全正确|不正确|正しいとは言えない|inaccurate|erroneous|mistaken|it is invalid|untrue"
    "|False. The sum is incorrect|false: it has errors|no, it is wrong|the response is false|the result is not true"
    "|pas tout à fait correct|no es del todo correcto|contains an error|anything but right|wasn’t right|맞지 않음"
    "|by no means correct|不太对|正しくない|non è corretto, è sbagliato|isn't really accurate|nowhere near correct"
    "|no right answer|No correct steps.|no correcto|none correct|not one right step|geen juist antwoord"
    "|no result and errors|not right because of errors"
)
RIGHT = (
    "not wrong|not incorrect|nothing wrong|没有错误|間違いはない|nicht falsch|no errors|no mistakes|isn't wrong"
    "|誤りなし|free of errors|没错|不错|틀리지 않음|não é errado|True. No errors.|yes, it is correct|no errors."
    "|pas faux|keine Fehler|sin errores|not at all wrong|There is nothing wrong."
    "|does not contain errors|doesn't have any errors|did not find any mistakes|not a single error|pas d'erreur"
    "|no step is wrong|não contém erros|ошибок не найдено|не содержит ошибок"
    "|cannot see any wrong step|sin ningún error"
)
UNSURE = (
    "correct?|right?|almost right|right or wrong|mostly correct|not wrong, but not right|incorrect?|correct: no"
    "|errors: none|without a correct answer|aucune réponse correcte|pas de réponse correcte|no answer is right"
    "|does not reach the right answer|it did not find the error|does not fix the error|not the only error"
    "|not without errors"
)
AFFIRM = (
    "true|False.|**TRUE**|not true|not false|it is true|that's false|true, since 6 + 4 is 10|falso|não é falso|cierta"
    "|yes|No.|✅ True|True ✓|❌ **False**|✔️ yes|No ❌"
)


def says(text):
    example = Example("a", "How many?", "6 + 4 = 11", False, "10")
    return read_opinion(f'The step "6 + 4 = 11" is off.\n{text}', "stop", "p", example).says


@pytest.mark.parametrize(
    "words",
    AFFIRM.split("|"),
)
@pytest.mark.parametrize("form", ["Verdict: @", '{"verdict": "@"}', "<verdict>@</verdict>"])
def test_a_verdict_that_affirms_or_denies_what_nobody_knows_is_refused_and_named(words, form):
    example = Example("a", "How many?", "6 + 4 = 11", False, "10")
    found = read_opinion(f'The step "6 + 4 = 11" is off.\n{form.replace("@", words)}', "stop", "p", example)
    assert (found.judgment, found.says) == (None, None)
    assert words.strip("*") in found.refused


def test_an_assessment_that_only_affirms_is_no_criticism():
    example = Example("a", "How many?", "6 + 4 = 11", False, "10")
    found = read_opinion('{"assessment": "true", "feedback": "It is off."}', "stop", "p", example)
    assert (found.says, found.feedback) == (None, "It is off.")
    assert "true" in found.refused


@pytest.mark.parametrize(("truth", "found"), [("true", "right"), ("false", "wrong"), ("False. It is off.", "wrong")])
def test_a_truth_is_a_verdict_where_its_name_says_what_is_true(truth, found):
    assert says(f'{{"correct": "{truth}", "feedback": "It is off."}}') == found
    assert says(f"| Why | Correct? |\n|---|---|\n| It is off. | {truth} |") == found


@pytest.mark.parametrize(("words", "found"), [(WRONG, "wrong"), (RIGHT, "right"), (UNSURE, None)])
def test_a_negation_turns_a_verdict_and_a_question_is_none(words, found):
    assert {words: says(f"Verdict: {words}") for words in words.split("|")} == dict.fromkeys(words.split("|"), found)


IN_LANGUAGES = (
    "الحكم صحيح خطأ|الحكم صحيحة خاطئة|الحكم صواب غير~صحيح|Werdykt poprawne błędne|Werdykt prawidłowa nie~jest~poprawna"
    "|Werdykt bez~błędów niepoprawnie|Verdikt správně špatně|Verdikt správné není~správně|Verdikt rätt fel"
    "|Verdikt inte~fel inte~rätt|Вирок вірно хибно|Вирок правильно невірно|निर्णय सही गलत|निर्णय गलत~नहीं सही~नहीं"
    "|판정 정답 오답|Verdict corect greșit|Verdict corect incorect|Karar doğru doğru~değil|Putusan benar tidak~benar"
    "|判定 ○ ×|Verdict ✅ ❌|Verdict ✓ ✗|Verdict pass fail|Verdict passed failed|Verdict ok not~ok|Verdict good bad"
    "|Verdict acceptable unacceptable|My~verdict~is right wrong"
)


@pytest.mark.parametrize("case", IN_LANGUAGES.split("|"))
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_verdict_is_understood_in_each_language_of_its_mark(case, form):
    mark, right, wrong = (unicodedata.normalize(form, word.replace("~", " ")) for word in case.split(" "))
    assert (says(f"{mark}: {right}"), says(f"{mark}: {wrong}")) == ("right", "wrong")
    assert (says(f"### {mark}\n{right}"), says(f"### {mark}\n**{wrong}**")) == ("right", "wrong")


NEGATED = {
    "right": (
        "Brak błędów|nie ma błędów|nie ma błędu|nie jest błędna|Немає помилок|Помилок немає|нема помилок|ошибок нет"
        "|žádné chyby|není chyba|bez chyby|det er ikke noe feil|inga fel|Svaret är rätt"
        "|कोई गलती नहीं है|لا أخطاء|ليس فيه خطأ"
        "|nu correct|Nu goed|nu are greșeli|오답이 아닙니다|틀린 곳이 없습니다|정답입니다|정답."
        "|tidak ada yang salah|yanlış yok|الحل صحيح"
    ),
    "wrong": (
        "정답이 아닙니다|정답과 다릅니다|정답과 다름|오답 (답이 29가 아님)|nu este corect|nu e corect|nie jest poprawna"
        "|Svaret er feil|inte helt rätt|Je to špatně|Krok 2 jest błędny|فيه خطأ|الحل خطأ|गलत है"
    ),
    None: (
        "정답이라고 할 수 없다|오답이라고 할 수 없다|정답과 다르지 않다|거의 정답입니다"
        "|nie widać tu błędów|není v tom chyba"
        "|لا هذا خطأ|ما في خطأ|bukan jawaban yang benar|nästan rätt|fel saknas|सही उत्तर नहीं|Nu corect|chyba dobrze"
    ),
}


@pytest.mark.parametrize("found", NEGATED)
def test_a_negation_turns_a_verdict_in_each_language_or_leaves_it_open(found):
    assert {words: says(f"Verdict: {words}") for words in NEGATED[found].split("|")} == dict.fromkeys(
        NEGATED[found].split("|"), found
    )


@pytest.mark.parametrize("words", ["❌ OK", "✗ pass", "✅ fail", "× pass", "○ fail", "× correct", "✅ wrong", "✅ ❌"])
def test_a_sign_against_a_word_is_no_verdict(words):
    assert says(f"Verdict: {words}") is None


@pytest.mark.parametrize(
    "mark",
    [
        '{"verdict": "@"}',
        '"Verdict": "@"',
        "<verdict>@</verdict>",
        "| Verdict | @ |",
        "Verdict -> @",
        "Verdict → @",
        "Verdict is @",
        "'verdict': '@'",
        "<b>Verdict:</b> @",
    ],
)
def test_a_verdict_is_found_in_every_form(mark):
    assert says(mark.replace("@", "wrong")) == "wrong"
    assert says(mark.replace("@", "right")) == "right"


CORRECTIONS = (
    '{"correction": "17"}|"Correction": "17"|<correction>17</correction>|[ Correction [ 17 [|Correction -> 17'
    "|Correction → 17|Correction => 17|Correction is 17|更正为：17|修正後：17|修正后的答案：17|Should be: 17"
    "|Correction: do it again:~~12 + 5 = 17|Correction: see below~~12 + 5 = 17|Fix: 17|'correction': 17|应为：17"
    "|Correction:~First:~~12 + 5 = 17|Suggested fix: 17|It should be: 17"
)


@pytest.mark.parametrize("correction", CORRECTIONS.split("|"))
def test_no_form_of_a_correction_stays_in_the_judgment(correction):
    judgment = "The sum is off.\n" + correction.replace("~", "\n").replace("[", "|")
    assert "17" not in without_corrections(judgment)
    assert "The sum is off." in without_corrections(judgment)


@pytest.mark.parametrize("mark", ["Corrección: 17", "Réponse correcte: 17", "Correção: 17", "정정: 17", "Διόρθωση: 17"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_may_be_a_character_of_its_own(mark, form):
    assert "17" not in without_corrections("It is off.\n" + unicodedata.normalize(form, mark))
    assert says("Urteil: " + unicodedata.normalize(form, "erronée")) == "wrong"


def test_words_that_only_name_a_correction_are_kept():
    for judgment in (
        "Correct: no",
        "It is not correct: a step is off.",
        "Correction is needed in step 2.",
        "No fix was tried.",
        "It should be shorter.",
    ):
        assert without_corrections(judgment) == judgment


@pytest.mark.parametrize(
    ("judgment", "kept"),
    [
        ('"durable" should be: "strong"', '"durable"'),
        ("'durable' should be: strong", "'durable'"),
        ('"durable" - correction: strong', '"durable"'),
        ("`durable` fix: strong", "`durable`"),
        ("“durable” Korrektur: strong", "“durable”"),
        ('The step "64 - 35 = 34" correction: 64 - 35 = 29', 'The step "64 - 35 = 34"'),
        ('He says "Correct answer: 5". Correction: 6', 'He says "Correct answer: 5".'),
    ],
)
def test_a_correction_leaves_the_quote_beside_it_whole(judgment, kept):
    assert without_corrections(judgment) == kept


@pytest.mark.parametrize(
    "judgment",
    [
        'The reply says "correct answer": Do not announce.',
        'The reply says "Correct answer: 5" and “Fix: 6”: Do not announce.',
        '"Correct answer: 5" announces.',
        'It is chatty. "Sure! Correct answer: 5" announces.',
    ],
)
def test_a_mark_in_a_quote_of_the_reply_is_no_correction(judgment):
    assert without_corrections(judgment) == judgment
    assert corrections(judgment) == []


@pytest.mark.parametrize(
    "judgment",
    [
        '"It is off. Correction: 17"',
        '{"judgment": "It is off. Correction: 17"}',
        '{\n  "judgment": "It is off. Correction: 17"\n}',
        'It is off. "Correction": 17',
        "It is off. `Correction:` 17",
        'It is "off. Correction: say "17".',
        'It is 5" off. Correction: 17" off.',
    ],
)
def test_a_judge_may_put_its_own_correction_in_quotation_marks(judgment):
    assert "17" not in without_corrections(judgment)


def test_a_line_that_a_judge_repeats_is_searched_once(monkeypatch):
    searched = []
    monkeypatch.setattr(
        prompts, "corrections", lambda line, **given: searched.append(line) or corrections(line, **given)
    )
    assert without_corrections("It is off.\nCorrection: 17.\n" * 50 + "\nEnd.") == "It is off.\nEnd."
    assert sorted(searched) == ["", "Correction: 17.", "End.", "It is off."]


@pytest.mark.parametrize(
    "thought",
    [
        "<|think|>@<|/think|>",
        "<mm:think>@</mm:think>",
        "<longcat_think>@</longcat_think>",
        "<rationale>@</rationale>",
        "<cot>@</cot>",
        "<chain_of_thought>@</chain_of_thought>",
        "<inner_thoughts>@</inner_thoughts>",
        "＜think＞@＜/think＞",
        "<|thinking_start|>@<|thinking_end|>",
        "<think_never_used_51bce0c7>@</think_never_used_51bce0c7>",
    ],
)
def test_every_models_thoughts_are_left_out(thought):
    assert without_thoughts(thought.replace("@", "Perhaps 12?") + "It is 5.") == "It is 5."
    assert without_thoughts(thought.split("@")[0] + "Perhaps 12?") == ""


def test_a_part_that_is_a_thought_is_no_text_and_types_have_any_case():
    assert read_text({"content": [{"text": "Perhaps 12?", "thought": True}, {"type": "TEXT", "text": "5"}]}) == "5"
    assert read_text({"content": [{"text": "5", "thought": False}]}) == "5"


@pytest.mark.parametrize(
    "piece", ["not ", "not be ", "no error ", "correction ", '"correction"', "<think ", "<a_", "没有", "|"]
)
def test_the_time_grows_no_faster_than_the_text(piece):
    text = piece * (100_000 // len(piece))
    for read in (corrections, verdict, says_right, says_wrong, without_corrections, without_thoughts):
        began = time.process_time()
        read(text)
        assert time.process_time() - began < 1, read


def test_nothing_that_is_read_in_judges_words_has_changed_unseen():
    assert not changed(judgments_kept.found(), judgments_kept.KEPT)


def test_a_name_is_that_of_a_verdict_or_a_correction_if_it_ends_in_words_for_one():
    names = (
        "verdict",
        "final verdict",
        "verdicts",
        "correction",
        "correct answer",
        "fix",
        "note",
        "answer",
        "verdicted",
    )
    assert [name for name in names if names_verdict(name)] == ["verdict", "final verdict", "verdicts"]
    assert [name for name in names if names_correction(name)] == ["correction", "correct answer", "fix"]


def test_every_full_width_sign_is_read_as_that_of_ascii_and_no_other():
    assert (
        narrow("".join(map(chr, range(0xFF00, 0xFF60)))) == "\uff00" + "".join(map(chr, range(0x21, 0x7F))) + "\uff5f"
    )
