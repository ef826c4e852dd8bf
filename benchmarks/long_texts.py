"""How long two passes over much text take: the rules' judge on one long answer, and the audit's search for copies.

    python benchmarks/long_texts.py

Prints the CPU seconds for completions of 100,000 characters, the slowest pieces first, and for 5,000 and 10,000
examples of which half are near-copies of the others.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace

from nlft.auditing.copies import copies
from nlft.collect.rules import judge_by_rules
from nlft.data.problems import generate_problems
from nlft.data.records import Example

LENGTH = 100_000
ALPHABETS = ("0123456789+-*/= ", "01 =x().,%$\n", "abc ,.0=\n")
PIECES = ("(", "1", "1,", "1+", "1 = ", "=", "#### ", " ", "a ", "((1)) = ", "5 x 5 = 5 ", "9 * 9 = ", "5 - ", "½", "0")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    question, answer = "Tom had 64 marbles and lost 35. How many are left?", "64 - 35 = 29\n#### 29"
    texts = {repr(piece): (piece * LENGTH)[:LENGTH] for piece in PIECES}
    texts |= {f"random {letters!r}": "".join(random.Random(0).choices(letters, k=LENGTH)) for letters in ALPHABETS}
    times = {name: seconds(lambda t=text: judge_by_rules(question, t, answer)) for name, text in texts.items()}
    print(f"rules judge on {LENGTH:,} characters")
    for name, taken in sorted(times.items(), key=lambda pair: -pair[1]):
        print(f"  {name:32} {taken:6.2f} s")
    for count in (5_000, 10_000):
        made = half_copied(count)
        print(f"copies among {count:,} examples: {seconds(lambda m=made: copies(m, 0.7)):.2f} s")


def half_copied(count: int) -> list[Example]:
    """Worked problems, and each again in other words."""
    questions = generate_problems(count // 2, seed=6)
    problems = [Example(q.id, q.prompt, q.answer, True, q.answer) for q in questions]
    return [*problems, *(replace(e, id=f"copy-{e.id}", prompt=f"Please: {e.prompt}") for e in problems)]


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
