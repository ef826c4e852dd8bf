"""Which letter a reply and a standard answer choose."""

import pytest

from nlft.data.answers.denials import without_denied_letters
from nlft.data.grading import get_grader

OPTIONS = (
    "D. Only B is correct|D. Neither A nor B is correct|D: A is correct|(D) B is true|D) choose A|D) Vitamin B is best"
    "|D. The answer is B|(D) Option B|D. None, A is wrong|[D] A and B|**D.** Only B is correct|d) Only B is correct"
    "|#### D. Only B is correct|D. A is not correct|(D) Both (A) and (B) are correct|**D**: B is right"
)
DENIED = (
    "The answer can't be B.|The answer cannot be B|The answer is neither A nor B|It is neither A, B, nor C"
    "|anything but B|The answer is everything except B.|If the answer is B, we get a contradiction."
    "|Is the answer B? No.|Is it B?"
    "|Die Antwort ist nicht B.|La réponse est pas B|A resposta não é B|I doubt the answer is B"
    "|答えはBではありません|B) ❌|Suppose the answer is B.|The answer is never B"
    "|B ist falsch.|The answer is B, right?|It is other than B"
)


def grade(completion, answer):
    return get_grader("choice")(completion, answer).grade


@pytest.mark.parametrize("option", OPTIONS.split("|"))
def test_an_options_letter_is_the_choice_and_its_text_chooses_nothing(option):
    assert grade("The answer is D.", option) == "right"
    assert grade("D", option) == "right"
    assert grade("The answer is B.", option) == "wrong"
    assert grade("(B)", option) == "wrong"


@pytest.mark.parametrize("option", OPTIONS.split("|"))
def test_a_reply_that_is_one_option_chooses_its_letter(option):
    if "The answer is" not in option:
        assert grade(f"{option}.", "D") == "right"
        assert grade(f"I choose\n{option}\nThis follows.", "D") == "right"
    assert grade(option, "B") != "right"


@pytest.mark.parametrize(
    "reply",
    [
        "A. The answer is B",
        "(A) or (B)",
        "A or B",
        "(A) Rome or (B) Paris",
        "A: B",
        "(A) 5 (B) 6",
        "A. Rome.\nI choose B",
    ],
)
def test_a_reply_that_names_another_letter_beside_its_option_is_unclear(reply):
    assert grade(reply, "A") == grade(reply, "B") == "ungraded"


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is A. Wait, no: B is correct.",
        "Answer: A. Actually, B is correct.",
        "Answer: A\n\nCorrection: B",
        r"\boxed{A}. Wait, that is wrong. It's B.",
        "The answer is **A**. Oops, I made a mistake. The correct option is **B**.",
        "<answer>A</answer> I was wrong. It should be B.",
    ],
)
def test_a_choice_that_the_reply_takes_back_is_unclear(reply):
    assert grade(reply, "A") == grade(reply, "B") == "ungraded"


@pytest.mark.parametrize("reply", DENIED.split("|"))
def test_a_letter_that_is_denied_excluded_supposed_or_asked_about_is_not_chosen(reply):
    assert grade(reply, "B") == "ungraded"


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is B, not A.",
        "If we add them, the answer is B.",
        "It isn't A. It's B.",
        "Is it A? No, the answer is B.",
        "I am not sure, but the answer is B.",
        "It can't be A, so the answer is B.",
        "If the answer is A, then X fails. So B is correct.",
        "A common wrong answer is A. The answer is B.",
        "Wrong answer: A\nAnswer: B",
        "The answer is B. Option A looks right, but it is wrong. C is correct only for dogs.",
        "The answer is B. Let me know if that is wrong: A is correct for cats.",
    ],
)
def test_a_denial_reaches_no_further_than_its_clause(reply):
    assert grade(reply, "B") == "right"


def test_only_single_letters_are_taken_out():
    assert without_denied_letters("not a banana, B's or Bob") == "not · banana, B's or Bob"
