"""What is no answer, and what else a number may mean: each pair is a reply and the number that it must not state."""

import time
from fractions import Fraction

import pytest

from nlft.data.answers.final_answers import read_final
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
She has 7 apples.~Length: 5 words|She has 7 apples.~**Time: 5 minutes**|She has 7 apples.~The time: 5 minutes
She has 7 apples.~Length of the reply: 5 words|She has 7.~Rating: 5/5|She has 7.~**Score: 5**
She has 7.~Length: 5 tokens.
Sie hat 7.~Dauer: 5 Minuten|她有7个。~用时:5分钟
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
She walks 3 km.~The total time: 5 hours|She walks 3 km.~Her total walking time: 5 hours
It is 3 km.~Time in total: 5 hours
Elle fait 3 km.~La durée totale : 5 heures|Sie geht 3 km.~Die Gesamtzeit: 5 Stunden
The width is 3 cm.~Length: 5 cm|The area is 15.~The length: 5|They shot 3 times.~Score: 5 points
"""
BESIDE = """
If we add 3, the answer is 5.|If you add 2 and 3 the answer is 5.|I am not sure, but the answer is 5.
There is no doubt that the answer is 5.|Not counting Tom, the answer is 5.|I suppose the answer is 5.
I assume the answer is 5.|I would say the answer is 5.|Since she does not eat 3, the answer is 5.
It is not 4, so the answer is 5.|The answer for those who do not play is 5.|It is not wrong to say that the answer is 5.
If the answer is 4, it fails. The answer is 5.|I don't think the answer is 4. The answer is 5.
Wrong answer: 4~Answer: 5|Assuming 3 per box, the answer is 5.|Assume each has 3. The answer is 5.
"""


AGAINST = r"""
However, she gave 2 away, so it is 18.|However, it is 18.|However, the total is 18.|But it must be 18.
But wait, she ate 2, so 18 are left.|However, she gave 2 away. That leaves 18.|However, she gave 2 away. 18 remain.
However, 2 broke, and 18 are left.|But 2 are broken, leaving her with 18.
However, we must subtract the 2 that she ate: 20 - 2 = 18.
However, it is necessary to subtract the 2 rotten ones: 18.|But the actual number is 18.
However, there are actually 18.|But this means 18 eggs.|Yet two of them broke, and therefore we get 18.
Nevertheless, the correct count should be 18.|But it is not 20, because she ate 2.|However, it isn't 20 but 18.
However, if we subtract the 2 that she ate, it is 18.|However, since she gave 2 away, the answer would be 18.
However, if we also count the 2 that she gave away, we get 22.
However, if she had kept them it would be 20; she gave 2 away, so it is 18.|But that is not 19, it is 18.
However, the question asks for what is left, which is 18.|However, she also gave 2 away, which makes 18.
But she needs 2 for breakfast, giving 18.|但是她送了2个，因此是18。
However, if the 2 eggs are broken, so only 18 can be sold, it is 18.|But if 2 of these are broken, then 18 are left.
However, had we read the question well, we would have got 18.
However, the right one would be 18, if we read the question well.|But it can't be 20, so it would be 18.
However, it cannot be more than 18, so 18.|However, that would be wrong if she ate 2; it should be 18.
However, it was never 20.|But no, not 20. It is 18.|However, we should not count the 2 broken ones, so it is 18.
However, if she did not break 2, it would be 20, so it is 18.|However, as it would be rounded down, it is 18.
But, not counting the 2 she ate, the total is 18.|However, I did not subtract the 2 she ate, so the result is 18.
However, that is before the 2 she ate; the final number is 18.|However, without the 2 that broke it is 18.
However, the problem would not be solved yet: she ate 2, so it is 18.|However, only 18 are left.
However, she only has 18.|But just 18 of the eggs are whole, so only these count: 18.
However, the final count is just 18.|But I see now that it is 18.|But since 2 broke, it's 18.
But after the break it is really only 18.|Yet the truth is that 18 remain.
Still, we need to take 2 off, which gives 18.|However, she gave 2 away: 20 - 2 = 18.|However, this is wrong, it's 18.
But that is the number before lunch. After lunch it is 18.|But it's a trick question: 2 eggs broke, so 18.
However, it is important to subtract the 2 that she ate, so 18.
However, it is important to note that she ate 2: 20 - 2 = 18.|However, it is worth noting that 2 broke, leaving 18.
However, it's useful to check: 9 + 9 = 18.|However, let me check: 9 + 9 = 18, so it is 18.|However, so it is 20 - 2.
However, that makes it 20 minus 2.|But it is not 20.|But it is not really 20, because she ate 2.
But that's not the same as 20, it's 18.|However, she did not notice that it is 18.
However, I have not yet taken off 2, so 18.|But not 20; 18.|But it isn't 19, 18 is right.|But it is not 19 but 18.
But it's not 21, it's 18.|However, it can't be 19, so it must be 18.|However, as it can not be 20, she has 18.
However, if we had counted right, it would be 18.|However, if I had subtracted the 2, I would have got 18.
However, if the 2 broken ones had been subtracted, it would be 18.
However, if you had read the question, you would have got 18.|However, if the question is about the rest, it is 18.
But if Tom is one of the boys, it would be 18.|However, if she had eaten 2, it would be 18, and she did, so it is 18.
However, if she had sold them all it would be 20. She sold 18, so it is 18.
However, if Tom had not eaten 2, it would be 20; since he did, it is 18.|However, the correct total would be 18.
But the price was in cents, so this means 18 dollars.|However, the number is actually 18.
However, the total comes to 18.|But the answer should have been 18.|But it should be 18!
However, we have to divide by 2, which gives 10.|However, half of these are Tom's, so she gets 10.
However, that's for two days; for one day it's 10.|However, that's the total. For each it is 10.
However, per person it's 10.|However, this counts Tom twice, so we get 19.|But she also has 2 at home, so it's 22.
But she also has 2 at home, for a total of 22.|However, adding the 2 at home gives 22.
However, the 2 at home bring it to 22.|However, the 2 at home must be added, so the total becomes 22.
But with the 2 at home, she has 22.|However, in total she has 22.|Aber es sind nur 18.|Aber sie hat also 18.
Doch in Wahrheit sind es 18.|Allerdings sind 2 kaputt. Es sind 18.|Allerdings müssen wir 2 abziehen: 20 - 2 = 18.
Aber es sind nicht 20.|Aber wenn man die 2 abgezogen hätte, wären es 18.|Mais il en reste 18.
Mais en réalité c'est 18.|Mais il faut enlever 2 : 20 - 2 = 18.|Pero son 18.|Pero en realidad quedan 18.
Pero hay que restar 2: 20 - 2 = 18.|Sin embargo, el total es 18.|Ma sono 18.|Ma il totale è 18.|Mas são 18.
Mas o total é 18.|Но их 18.|Однако всего 18.|Но на самом деле их 18.|但是应该是18。|不过正确答案是18。
しかし正しくは18です。|하지만 따라서 18입니다.|However, I am not convinced that it is 20.|But I doubt that it is 20.
**However**, she ate 2, so it is 18.|However, 2 broke, so she has 18 of them.|But no. Not 20, 18.
However, if there were 2 broken ones, it would be 18.|However, if Tom had eaten 2, it would be 18 and he did.
However, it is -20.|However, it is 20 thousand.|However, Tom took 2 of them home, so 18 stayed.
However, two of those are rotten. We are down to 18.|But hold on: 2 were sold before. So 18.
But she used up 2, bringing the count down to 18.|However, the family eats 2 every day; 18 end up at the market.
But Tuesday's 2 do not count. 18 it is.|Still, one must not forget the 2 lost ones, making it 18.
However, 18 is what is asked for.|But the question wants dollars: 18.|However, 18 would be more accurate.
But 18 is the better answer.|However, she ends up with 18.|However, there were 18 to begin with.
Yet only eighteen of the 20 are usable.|However, I think it should rather be 18.
But then he loses 2 and ends with 18.|However, the tax adds 2, and she pays 22.
However, the tip is 2, and the bill is 22.|But she pays 22 with the tip.|However, minus the fee, 18.
Aber zwei gingen kaputt, macht 18.|Allerdings kommt noch Steuer dazu: 22.|Mais avec la taxe cela fait 22.
Pero con el impuesto son 22.|Ma con la tassa fa 22.|Mas com o imposto dá 22.|Однако с налогом получается 22.
但加上税是22。|However, Sam had already taken 2, which brings us down to 18.
But the last 2 arrived late, so they are out; 18 count.|However, the shop keeps 10%, so Ann receives 18.
Yet this ignores the discount. With it, she pays 18.|However, this is per week. Per day it would be 4.
But he shares them equally with Tom and each one has 10.|However, 2 of them are his own. He therefore gives back 18.
But 18 fits the text better.|However, a closer look shows 18 apples.|However, a recount yields 18 apples.
But the problem says to round down, to 18.|But we were asked for the difference: 18.
However, we were asked about apples, and she has 18 apples.
Nevertheless, what she has at the end of the day is 18 apples.|However, at the end she is left with 18 apples.
However, the boy eats 2 apples and his mother is left with 18.|But I forgot the two that fell: 18.
But we forgot to take out two, hence eighteen (18).|Still, she only needs 18 apples.
However, the two dogs get one each, so 18 remain for us.|Jedoch fehlen 2, sie hat am Ende 18.
Allerdings bekommt Tom die Hälfte, also 10.|Cependant, Tom en prend 2 et elle finit avec 18.
Sin embargo, Tom toma 2 y ella termina con 18.|Tuttavia, Tom ne prende 2 e lei resta con 18.
Porém, Tom pega 2 e ela fica com 18.|Однако Том берёт 2, и у неё 18.|しかし、2個は壊れたので、18個です。
However, Mia returned 2 books, and now she owns 18 books.|But it says half off, thus the cost drops to 10.
Though we still need the change: 5.|However, the train leaves late, so the trip takes 18 hours.
However, you'd better subtract the 2 you gave away; you have 18.
Unfortunately that counts the twins twice; there are 18 kids.|However, Tom's share is only 10.|But what's left is 18.
However, what she keeps is 18.|Yet, correcting for the 2 missing ones, we arrive at 18.
But the correct computation is 9 * 2 = 18.|However, 9 times 2 is 18.
However, the number that matters is eighteen, i.e. 18.|However, the sum of both is 38.|However, doubling it gives 40.
But twice that is needed, 40.|However, converting to minutes, we have 1200.|But in minutes it is 1200.
However, the average is 4.|Except that 2 of those do not fit, 18 do.|Doch Tom nimmt 2, sie behält 18.
Pourtant, il en manque 2, il y en a 18.|Pero al final se queda con 18.|Ma alla fine ne ha 18.|Mas no fim tem 18.
Но в конце у неё 18.|但实际上只有18个。|그러나 2개를 먹어서 18개입니다.|However, she ends up with 2000.
However, so she has 18, and Tom 20.
"""
HARMLESS = r"""
However, if she had sold 20 instead, it would be 40.|However, if she sold 20 eggs instead, the total would be 40.
However, had she sold 20, it would have been 40.|However, it would be 40 if she had sold 20.
However, it would have been 40 if she had sold all of them.|But it is not 20, because she ate 2.
But it isn't 20, since she ate 2.|However, that does not mean that it is 20 for everyone.
But this doesn't mean she has 20.|Ma is 40 years old.|Ma is also 40.|Ma has 3 cows, so she is 2 ahead.
Mas is 40 years old, so he is 22 years older.|However, 3 of them are green.
But it is a holiday, and the shop closes at 6.|However, let us check: 16 + 2 = 18, so it is 18.
However, to be sure: 9 * 2 = 18. So it is 18.|But it should not be 20.
However, the total is not 20, as one might think.|However, it can't be 20, because 2 broke.
However, it is never 20.|However, it is possible to solve this in 2 ways.|But the number of eggs was not 20.
However, 3 of them are brown.|However, she can sell only 3 of them per day.
But don't forget that 5 of them are for Tom.|But note: rule 3 says so.
However, if each one had cost 3 dollars, it would have cost 54 dollars.
However, if Tom had eaten 3, it would be 15.|However, had Tom eaten 3, she would have had 15.
However, if he were older, he would have 20.|However, it would have been 15 if Tom had eaten 3.
But it's not 20, since 2 are broken.|But it is not 20 as you may think.|But it can't be 20.|But it isn't 20.
But it does not equal 20.|But this isn't 20% of it.|However, it's important to remember that eggs keep for 7 days.
Still, Tom is 3 years old.|Ma was born in 1950.|Ma is therefore 40.|Pero has 3 dogs, so he pays 3 dollars.
Mas sold 3, so he has 2.|However, let us verify: 9 + 9 = 18.|But let's double-check this: 20 - 2 = 18.
However, we can also see this as 9 * 2 = 18.|So, still 18.|But the answer stays the same: 18.|But it is still 18.
However, this is the same as 18.|However, it's 18 eggs.|Aber 3 davon sind braun.
Allerdings sind es nicht 20, wie man denkt.|Pero no son 20.|Ma non sono 20.|Но 3 из них коричневые.|Но это не 20.
但是其中3个是棕色的。|However, if he had worked 5 days, he would have earned 90.|But it won't be 20 next time.
Still, the shop opens at 8.|But that isn't 19.|However, had it rained, she would have sold 7.
However, had she used the large box, it would have held 30.
But if the tree had been watered, it would have given 50 apples.|But it is definitely not 20.
However, it was never meant to be 25.|But don't be fooled: it is not 21.|However, 5 of those apples are small.
However, this result would be 36 if she had picked twice as many.
Yet it can't be 22 because two were left on the tree.|However, to double-check: 20 - 2 = 18.
But as a check, 9 * 2 = 18.|Cependant, ce n'est pas 20.|Ma is 44 years old and cooks.
However, step 2 could be done faster.|However, if the shop had been closed, she would have earned 0 dollars.
However, this is not 30.|But the answer isn't 19.|But it isn't 16, as some pupils think.
However, 2 of these books are old.|However, 10 of the 18 books are novels.|Still, checking: 20 - 2 = 18.
However, if it were winter, it would be 9.|Mas is 12 years old.|Ma has been away for 3 weeks.
Aber es sind nicht 16.|Pero no son 16.|Mais ce n'est pas 16.|However, this method needs 2 steps.
But he didn't get 20, since 2 were lost.
"""
DOUBTED = r"""
However, she also has 5 cats.|However, note that she also sold 3 yesterday.
But it is important to note that a week has 7 days.|However, it is worth noting that she has 3 kids.
However, this took 3 days.|However, some of these 3 days were holidays.
Aber wenn Tom 3 gegessen hätte, wären es 15.|Mais si Tom en avait mangé 3, il en resterait 15.
Pero si Tom hubiera comido 3, quedarían 15.|But Tom, who is 9, disagrees.|However, prices rose by 5% in 2020.
However, the bus takes 3 hours.|Aber Tom hat 3 Hunde.|Mais Tom a 3 chiens.|Pero Tom tiene 3 perros.
However, Sam also collects 7 stamps.|But it took her 3 hours.|But this assumes that a week has 7 days.
Still, her 4 sisters wanted more apples.|Allerdings hat Tom 4 Schwestern.|Sin embargo, Tom tiene 4 hermanas.
However, this uses 2 assumptions.|However, Mia also has 4 brothers.|But that took her 2 days.
However, the trip requires 2 buses.|But Tom needs 5 minutes more.|Yet Mia can carry 6 bags at once.
"""
ANSWERS = ["The answer is @. ", "#### @~", "Answer: @~~", r"\boxed{@}. ", "**The answer is @.** "]


def after(answer, sentences):
    """Return the answer with each sentence after it, in one of several forms in turn."""
    lines = sentences.strip().replace("\n", "|").split("|")
    forms = [form.replace("@", answer) for form in ANSWERS]
    return [(forms[at % len(forms)] + line).replace("~", "\n") for at, line in enumerate(lines)]


@pytest.mark.parametrize("reply", after("20", AGAINST))
def test_an_answer_that_the_next_sentence_may_take_back_is_not_read(reply):
    assert grade(reply, "20") != "right"


@pytest.mark.parametrize("reply", after("18", HARMLESS))
def test_an_answer_stays_if_the_next_sentence_only_adds_denies_or_supposes(reply):
    assert grade(reply, "18") == "right"


@pytest.mark.parametrize("mark", ["Answer: ", "**Answer:**\n", "<answer>", "Answer:\n\n"])
def test_the_number_of_a_list_s_first_item_is_no_answer(mark):
    assert grade(f"{mark}1. First, add: 9 + 9 = 18.\n2. So she has 18.", "18") == "right"
    assert grade(f"{mark}1. Add.\n2. So she has 18.\nAnswer: 18", "18") == "right"
    assert grade(f"{mark}1. She has 18 eggs.", "18") == "ungraded"
    assert grade(f"{mark}1. 5\n2. 1", "1") == "ungraded"
    assert grade(f"{mark}1. That is because 5 - 4 = 1.", "1") == "right"
    assert grade(f"{mark}1. All others broke.", "1") == "right"


@pytest.mark.parametrize("reply", after("18", DOUBTED))
def test_an_answer_is_ungraded_if_the_next_sentence_against_it_has_another_number_without_a_reason(reply):
    assert grade(reply, "18") == "ungraded"


def test_an_answer_of_several_signs_is_not_the_same_as_a_part_of_it():
    assert grade("The answer is 1/2. However, it is 1.", "1/2") == "ungraded"
    assert grade("The answer is -20. However, it is 20.", "-20") == "ungraded"
    assert grade("The answer is 1,000. But it is not 1000.", "1000") == "ungraded"


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


@pytest.mark.parametrize("pad", range(12))
def test_a_number_in_which_the_read_part_of_a_long_text_begins_is_never_read_as_a_part_of_itself(pad):
    text = "x" * pad + " 12,345.67" + " so" * 665
    assert 1990 < len(text) < 2020
    read = read_final(text)
    assert read is None or read.value in (None, 12345 + Fraction(67, 100))


@pytest.mark.parametrize(("digits", "kind"), [(1000, Fraction), (1001, str)])
def test_a_number_of_over_a_thousand_digits_is_compared_as_text(digits, kind):
    number = "1" + "0" * (digits - 1)
    assert isinstance(read_final(number).value, kind)
    assert grade(number, f"0{number}.0") == "right"
    assert grade(number, number[:-1] + "1") == "wrong"
