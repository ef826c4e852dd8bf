"""What is no answer, and what else a number may mean: each pair is a reply and the number that it must not state."""

import time

import pytest

from nlft.data.grading import get_grader

DENIED = """
It cannot be 5|anything but 5|La respuesta no es 5.|答案不是5|答案不是5。|答えは5ではありません|정답은 5가 아닙니다
la risposta non è 5|a resposta não é 5|het is niet 5|Is it 5?|So is the total 5?
It can't possibly be 5|all except 5|It is everything but 5|I don't think it is 5
I doubt that it is 5|If it were 5, we would fail|Die Antwort ist nicht 5|It is neither 4 nor 5
5 is not the answer|5 is wrong|It isn't 5|cevap 5 değil|She does not have 5|Suppose it is 5
The answer is hardly 5|это не 5|5 cannot be right|La réponse n'est pas 5
"""
FIRST = r"""
#### no solution~~I tried 5 ways.|Answer: twenty-five~~There were 5 boxes.
The answer is none.~There were 5 boxes.|The answer is infinitely many. I checked 5 cases.
Answer:~5~7|Answer:~7~5|Answer:~x = 7~y = 5|x=7~y=5|Answer: Paris.~5
The answer is twenty-five. There were 5 boxes.
Die Antwort ist fünfundzwanzig. Das sind 5 Kisten zu 5.|Answer: 7~~5
La réponse est vingt. Il y a 5 boîtes.|答案是二十。每箱5个。|Answer: There is no solution.~I tried 5.
#### none~5
"""
PARTS = r"""
mindestens 5|mehr als 5|plus de 5|au moins 5|más de 5|al menos 5|至少5个|超过5|не менее 5|up to 5
over 5|höchstens 5|almeno 5|più di 5|mais de 5|pelo menos 5|meer dan 5|minstens 5|более 5|最多5
少なくとも5|5以上|5個以上|최소 5|5 이상|jusqu'à 5|5 oder mehr|die Hälfte von 5|la moitié de 5|die Wurzel aus 5
deux fois 5|He has twice as many as 5|half as much as 5|половина 5|la mitad de 5|la metà di 5|5の半分
5の2倍|doppelt so viel wie 5|\boxed{5!}|\boxed{f(5)}|f(5)|log(5)|5. Mai 5|5 ou plus|5 o más
a maximum of 5|beyond 5|bis zu 5|as few as 5, or half as many as 5
"""
LATER = """
So x = 7. Substituting back, 3(1)+2 = 5.|It is 7. Check: 1 * 5 = 5. Correct.
The total is 7. (Source: Smith, page of 5)|The total is 7. I'm 5% sure!
The total is 7. Confidence: 5%|The total is 7.~Note: rounded to 5 decimals|She has 7 vs. 5
She has 7 apples left because she ate 5.|She has 7; Tom has 5.|Tom has 7 and Ann has 5.
It is 7, though I first thought 5|She has 7 left after eating 5.|She has 7 while Tom has 5.
The total is 7. [5]|7~~Time taken: 5 seconds|7, since 5 were eaten
The total is 7, because 2 + 3 = 5.|The total is 7. Let me verify: 2 + 3 = 5
Tom has 7 apples, Ann has 5.|She has 7 left, having eaten 5.
Therefore the total is 7, which satisfies 2 + 3 = 5.|She has 7 compared to Tom's 5.
She has 7 apples.~Time: 5 minutes|She has 7 apples.~~**Time:** 5 minutes|She has 7 apples. Time: 5 minutes
She has 7 apples.~Time spent: 5 minutes~Date: 5 May|She has 7.~Reading time: 5 min|She has 7.~Score: 5
She has 7 apples.~Length: 5 words|Sie hat 7.~Dauer: 5 Minuten|她有7个。~用时:5分钟
"""
NOT_STATED = """
The answer cannot be 5. She has 7.|The answer can't possibly be 5. She has 7.|The answer could not be 5. She has 7.
I don't think the answer is 5. It is 7.|It is *not* true that the answer is 5. She has 7.
Whether the answer is 5 depends. She has 7.
I doubt that the answer is 5. She has 7.|Suppose the answer is 5. That fails. So she has 7.|Wrong answer: 5~She has 7.
A common wrong answer is 5. She has 7.|**Wrong answer:** 5~She has 7.|There's no way the answer is 5. She has 7.
If the answer is 5, then 5 + 2 = 9, which is too many. So she has 7.|如果答案是5,就太多了。所以是7。
It would be wrong to say the answer is 5. She has 7.|You might think the answer is 5, but she has 7.
Some say that the answer is 5. They are wrong; she has 7.|An incorrect answer would be 5. The correct value is 7.
My first answer was 5. After checking, she has 7.|The student's answer is 5. The correct result is 7.
Initially I thought the answer was 5. It's 7.|I'm not sure that the answer is 5. Count again: 7.
Angenommen, die Antwort ist 5. Das geht nicht. Also sind es 7.|That doesn't mean the answer is 5. She has 7.
Si la réponse est 5, c'est trop. Donc il y en a 7.|Assuming that the answer is 5, we fail. So it is 7.
"""
TAKEN_BACK = r"""
#### 5~~Wait, this is wrong. The result is 7.|Answer: 5~~Correction: 7|Answer: 5~~**Correction:** 7
The answer is 5.~~Wait, that's wrong. 9 - 2 = 7. So she has 7 left.|Answer: 5~No, wait. She has 7.
\boxed{5}. Wait, that is wrong, since 9-2=7.~~So it's 7.|Answer: 5. Wait, that's wrong. The answer is 7.
So the answer is 5. Wait, I forgot the 2 she gave away. So she has 7 left.|答案是5。不对,应该是7。
Answer: 5~~Oops, I made a mistake. It should be 7.|Actually, wait. The answer is 5. No, it's 7.
The answer is 5 — wait, no, it's 7.|$$\boxed{5}$$~~Hmm, that's not right. She has 7.
<answer>5</answer> Sorry, that is incorrect. 7
The answer is 5. However, she got 2 more, so it is 7.|The answer is 5. But she got 2 more. So 7 are left.
#### 5~~However, she got 2 more, so it is 7.|\boxed{5}. However, she got 2 more, leaving 7.
Answer: 5~But 2 more came, so it should be 7.|**The answer is 5.** However, she got 2 more, so it is 7.
Die Antwort ist 5. Allerdings bekam sie 2, also sind es 7.|答案是5。但是她又拿了2个,所以是7。
La réponse est 5. Cependant elle en a reçu 2, donc il y en a 7.
"""
REFERENCES = """
She has 7 apples (see Fig. 5).|She has 7 apples, see Fig. 5.|She has 7 apples, see Eq. (5).|She has 7 apples, see p. 5.
She has 7 apples. [Ref 5]|She has 7 apples [source 5].|7 students passed [5].|7 students passed [5]. Others failed [5].
She has 7 apples, see Tab. 5.|She has 7 apples. See [5].|She has 7 apples, as Smith says [5].
She has 7 apples【5†source】.
She has 7 apples.~~References:~5. Smith 5|She has 7 apples.~~## Sources~- Smith, page of 5
She has 7 apples.~~Exercise 2: Tom has 5 pears.|She has 7 apples.~~**Example 3:** Tom has 5 pears.
She has 7 apples.~~### Task 2~Tom has 5 pears.|She has 7 apples.~~Aufgabe 2: Tom hat 5 Birnen.
She has 7 apples. [INST] 5 [/INST]|She has 7 apples.<|im_start|>user~And 5 more?
She has 7 apples.~~Tokens used: 5|She has 7 apples.~Difficulty: 5|She has 7 apples.~~P.S. 5 of them are green.
"""
CASES = [
    reply.replace("~", "\n")
    for table in (DENIED, FIRST, PARTS, LATER, NOT_STATED, TAKEN_BACK, REFERENCES)
    for reply in table.strip().replace("\n", "|").split("|")
]


def grade(completion, answer):
    return get_grader("number")(completion, answer).grade


@pytest.mark.parametrize("reply", CASES)
def test_a_number_that_a_reply_does_not_state_is_not_its_answer(reply):
    assert grade(reply, "5") in ("ungraded", "wrong")
    assert grade(reply, "7") in ("ungraded", "right")


EQUAL = """
0.333...=1/3|0.666…=2/3|0.1666...=1/6|0.999...=1|0.142857...=1/7|7 pm=19|12 am=0|50 cents=0.50
50¢=0.5|#### (5)=-5|($5)=-5|(5.00)=-5|5 below zero=-5|5 degrees below zero=-5
Es sind 5 Mrd.=5000000000|5 млн=5000000|5만=50000|5천=5000|5 mila=5000|5 milhões=5000000
5 miliardi=5000000000|5 tys.=5000|3百万=3000000|5千万=50000000|5 Dutzend=60|5 مليون=5000000
5 triệu=5000000|5 Tsd.=5000|5억=500000000|5 लाख=500000|5 miljoen=5000000|5 milyon=5000000
5 centimes=0.05|moins 5=-5|零下5度=-5
"""


@pytest.mark.parametrize("case", EQUAL.strip().replace("\n", "|").split("|"))
def test_an_equal_quantity_is_never_wrong(case):
    reply, answer = case.rsplit("=", 1)
    assert grade(reply, answer) != "wrong"
    assert grade(answer, reply) != "wrong"


UNITS = """
5 Stunden=5 Minuten|5小时=5分钟|5 heures=5 minutes|5 часов=5 минут|5시간=5분|5 mW=5 MW|5 mm=5 Mm
5. Mai 2024=2024|5 Tage=5 Wochen|5 años=5 meses|5 ore=5 minuti|5 км=5 м|5公里=5米|5元=5 dollars
5 Grad=5 Prozent|5 Liter=5 Gramm|5 MHz=5 mHz
"""


@pytest.mark.parametrize("case", UNITS.strip().replace("\n", "|").split("|"))
def test_other_units_are_never_equal(case):
    reply, answer = case.split("=")
    assert grade(reply, answer) == "ungraded"
    assert grade(f"Es sind {reply}.", answer) == "ungraded"


STATED = r"""
5|(5)|[5]|Answer: (5)|So it adds up to 5|The answer is 5, not 6.|If she sells 3, she has 5.
As she sold 3, she has 2 + 3 = 5|Since she ate 3, she has 5 left.
They jump 5 times because 10 / 2 = 5|No, it is 5.|#### no. 5|Answer: Let's see.~2 + 3 = 5
Answer: Natalia sold 48 clips. She sold 24 more, so 5.|The answer is found below.~It is 5
It is 5 (rounded to 2 decimals)|Tom has 3 and Ann has 2, so they have 5.
He had 3 and then he has 5.|The answer is simple. It is 5.|There are 5 hours left.|2x = 10~x = 5
x = 5|Das sind 5 Stunden.|一共5小时|5.00...|f(2) = 5|It is 5!|#### Total~2 + 3 = 5
Is it 4? No, it is 5.
She ate 3, so the total is [5].|With 3 bags of 6 she has [5].|7 - 2 = [5]|[5]|She has [5] apples.
Task 1: Find the bags. 3 bags.~Task 2: Add 2. 3 + 2 = 5
There are 2 tasks.~**Task 1:** She has 4.~**Task 2:** So she has 5.
Exercise 2: She has 5.|He spent 20 on the tab. 5 dollars are left.|As Fig. 3 says, it is 5.|At 3 p.m. 5 people came.
The sources are 3. So 5.|tab: 5|p = 5
Time: 5 minutes|It takes 5 minutes.~Time: 5 minutes|Speed: 2~Time: 10 / 2 = 5|She walks 3 km.~Total time: 5 hours
"""
BESIDE = """
If we add 3, the answer is 5.|If you add 2 and 3 the answer is 5.|I am not sure, but the answer is 5.
There is no doubt that the answer is 5.|Not counting Tom, the answer is 5.|I suppose the answer is 5.
I assume the answer is 5.|I would say the answer is 5.|Since she does not eat 3, the answer is 5.
It is not 4, so the answer is 5.|The answer for those who do not play is 5.|It is not wrong to say that the answer is 5.
If the answer is 4, it fails. The answer is 5.|I don't think the answer is 4. The answer is 5.
Wrong answer: 4~Answer: 5|Assuming 3 per box, the answer is 5.|Assume each has 3. The answer is 5.
The answer is 5. However, 3 of them are green.|The answer is 5. But this assumes that she works for 3 days.
"""


@pytest.mark.parametrize("reply", STATED.strip().replace("\n", "|").split("|"))
def test_a_stated_number_is_right(reply):
    assert grade(reply.replace("~", "\n"), "5") == "right"


@pytest.mark.parametrize("reply", BESIDE.strip().replace("\n", "|").split("|"))
def test_a_denial_or_a_condition_beside_a_stated_answer_leaves_it_stated(reply):
    assert grade(reply.replace("~", "\n"), "5") == "right"
    assert grade(reply.replace("~", "\n") + "\nThere are 3 boxes.", "5") == "right"


@pytest.mark.parametrize(
    "piece",
    [
        "至",
        "百万",
        "5百",
        "because 5 ",
        "if ",
        "5\n",
        "0.3...",
        "check ",
        "(5)",
        "5! ",
        "up to ",
        "as ",
        "if the answer is ",
    ],
)
def test_the_time_grows_no_faster_than_the_text(piece):
    text = piece * (100_000 // len(piece)) + "5"
    for name in ("number", "choice", "exact"):
        began = time.process_time()
        get_grader(name)(text, "5")
        assert time.process_time() - began < 1, name
