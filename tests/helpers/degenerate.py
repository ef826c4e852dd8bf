"""Pieces that a text repeats when a model loops, and that slow patterns stumble over."""

FEW_SIGNS = list("30.,-–\n \t#*()[{}\\\"'`“„«‘’$<=+/%^_|:!a中٣²½\u0301\u202e\x1b\x00…−\u2028")
LOOPS = [
    *("not good ", "not ", "good ", "1/3 = 0.333", "0.333", "1 ", "1,", "1/", "1-", "1+1=2 ", "1 = ", "= 3 3 ", "x=1"),
    *("((1", "(1)", "1)\n", "\n\n", "\r\n", "\n \n", " \n", "####", "#### 5\n", "answer is ", "The answer is 5. "),
    *("Answer: 5 ", "Correction: 5\n", "Verdict: wrong\n", "\nuser", "<think>", "</think>", "<<1=", "\\boxed{", "$1$"),
    *("\\frac{1}{2}", "**a", '"a', '" ', "'a ", "s' ", "`a", "``", "“a", 'a" ', '"a b" is right.\n', '"a ... ', "..."),
    *("[...]", "-- ", "a-", "a' ", "a.", "a. ", "a b ", "is 3 a", ": 3.", "3 apples ", "yes ", "\x1b[", "the answer "),
    *("n't ", "mistake", "the correct answer ", "{a}", "1, 2, 3", "12,000 ", "twenty-", "and ", "Step 1", "A) ", "1½"),
    *("option A ", "not A ", "3 3 "),
]
PIECES = [*FEW_SIGNS, *LOOPS]
WORST = ["3", " ", "\n", "-", "*", "#", "(", '"', "“", "not good ", "1/3 = 0.333", "1+1=2 ", "\n \n", "..."]
WORST += ["a b ", ",", "a. ", '" => "', ":"]
"""What was once read in quadratic time or worse. The long tests try all of `PIECES`."""
