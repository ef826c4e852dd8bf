"""A calculation that words around it make right is never called miscalculated."""

import time

import pytest

from nlft.collect.arithmetic import find_calculations
from nlft.collect.other_arithmetic import is_unclear

OTHER = r"""
5 * 1000000 = 5 Mio|5 * 1000 = 5 Tausend|5 * 1000 = 5 mil|5 * 1000 = 5 тыс.|5 * 10000 = 5万人|5 * 1000 = 5 k
20 / 3 = 7 (aufgerundet)|20 / 3 = 7 (arrondi)|20 / 3 = 7 (redondeado)|20 / 3 = 7（四舍五入）
Since we round up, 20 / 3 = 7
aufgerundet 20 / 3 = 7|7 / 2 = 3 Rest 1|7 / 2 = 3, reste 1|7 / 2 = 3 resto 1|7 / 2 = 3 with 1 left over|7 / 2 = 3余1
20 / 3 = 6 and 2/3|20 / 3 = 6 ⅔|20 / 3 = 6.(6)|20 / 3 = 6.\overline{6}|20 / 3 = 6 full boxes|5 / 2 = 2 and a half
9 + 4 = 1 (mod 12)|22 + 4 = 2 Uhr|22 + 4 = 2 h|0x10 + 1 = 17|In binary, 1 + 1 = 10|1011 + 1 = 1100 in binary
5 / 2 = 2 und ein halb|0b11 + 1 = 4|In base 8, 7 + 1 = 10|350° + 22° = 12°
"""
WRONG = """
64 - 35 = 34|64 - 35 = 34 left|7 / 2 = 4 left|20 / 3 = 8 full boxes|5 * 1000 = 5 apples|22 + 4 = 3 Uhr
6 + 5 = 12 and 2 more
We round later. 3 + 4 = 9|17 / 4 = 4|10 * 5 = 60|5 + 3 = 9 hours
"""


def blamed(line):
    return [one.written for one in find_calculations(line) if not one.right]


@pytest.mark.parametrize("line", OTHER.strip().replace("\n", "|").split("|"))
def test_other_arithmetic_is_not_blamed(line):
    assert blamed(line) == []


@pytest.mark.parametrize("line", WRONG.strip().replace("\n", "|").split("|"))
def test_plain_mistakes_still_are(line):
    assert blamed(line)


def test_scales_of_every_language_are_unclear():
    assert all(map(is_unclear, ("million", "Mrd", "млн", "万人", "만", "M", "Tsd")))
    assert not any(map(is_unclear, ("apples", "Uhr", "m")))


@pytest.mark.parametrize("piece", ["1 + 1 = 3 ", "1 + 1 = 10 and ", "1 / 2 = 0 left "])
def test_a_long_line_is_read_as_fast(piece):
    began = time.process_time()
    list(find_calculations(piece * (50_000 // len(piece))))
    assert time.process_time() - began < 2
