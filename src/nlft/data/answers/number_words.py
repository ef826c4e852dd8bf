"""Words and signs that change what a number beside them means. Most are English; measures are abbreviations too."""

_MEASURES = """
% percent pct
dollar dollars usd bucks us$ $
cent cents ¢
euro euros eur €
pound pounds lb lbs £ gbp
yen yuan jpy ¥
rupee rupees rs inr ₹
second seconds sec secs s
minute minutes min mins
hour hours hr hrs h
day days
week weeks
month months
year years yr yrs
mm millimeter millimeters millimetre millimetres
cm centimeter centimeters centimetre centimetres
dm
m meter meters metre metres
km kilometer kilometers kilometre kilometres
inch inches
foot feet ft
yard yards yd
mile miles mi
mg milligram milligrams
g gram grams
kg kilogram kilograms kilo kilos
t ton tons tonne tonnes
ounce ounces oz
ml milliliter milliliters millilitre millilitres
l liter liters litre litres
gallon gallons gal
quart quarts
pint pints
cup cups
mph
kmh kph
degree degrees °
celsius °c
fahrenheit °f
am a.m
pm p.m
th st nd rd
watt watts w
kw
kwh
volt volts v
hz
khz
mhz
ghz
kb
mb
gb
tb
"""
UNITS = {name: line.split()[0] for line in _MEASURES.strip().split("\n") for name in line.split()}
"""Each name of a measure, with one name for all that mean the same."""

CURRENCIES = "$€£¥₹¢"
ORDINAL = UNITS["th"]

SCALES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("hundred", "百"), (100, 1)),
    **dict.fromkeys(("thousand", "thousands", "k", "mille", "tausend", "mil", "千", "тысяч", "тыс"), (1000, 1)),
    **dict.fromkeys(("万", "萬"), (10**4, 1)),
    **dict.fromkeys(("lakh", "lakhs"), (10**5, 1)),
    **dict.fromkeys(("million", "millions", "mio", "mn", "millionen", "millones", "миллион"), (10**6, 1)),
    **dict.fromkeys(("crore", "crores"), (10**7, 1)),
    **dict.fromkeys(("亿", "億"), (10**8, 1)),
    **dict.fromkeys(("billion", "billions", "bn", "milliard", "milliards", "milliarden"), (10**9, 1)),
    **dict.fromkeys(("trillion", "trillions", "trn"), (10**12, 1)),
    **dict.fromkeys(("dozen", "dozens"), (12, 1)),
    **dict.fromkeys(("half", "halves"), (1, 2)),
    **dict.fromkeys(("third", "thirds"), (1, 3)),
    **dict.fromkeys(("quarter", "quarters", "fourth", "fourths"), (1, 4)),
    **dict.fromkeys(("fifth", "fifths"), (1, 5)),
    **dict.fromkeys(("sixth", "sixths"), (1, 6)),
    **dict.fromkeys(("seventh", "sevenths"), (1, 7)),
    **dict.fromkeys(("eighth", "eighths"), (1, 8)),
    **dict.fromkeys(("ninth", "ninths"), (1, 9)),
    **dict.fromkeys(("tenth", "tenths"), (1, 10)),
    **dict.fromkeys(("hundredth", "hundredths"), (1, 100)),
    **dict.fromkeys(("thousandth", "thousandths"), (1, 1000)),
}
"""Words after a number that may multiply it, with the factor as a fraction."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NOT = _set("not never without nicht kein keine pas не")
AFTER_NOT = _set("equal equals to the a an be exactly = simply really")
"""Words that may stand between a negation and its number."""
INSTEAD = frozenset([("instead", "of"), ("rather", "than"), ("opposed", "to")])
NEGATIVE = frozenset(["negative", "minus"])
BOUND_BEFORE = _set(
    "than least most fewer exceeds exceed exceeding above below twice thrice double triple half quarter third fourth "
    "times plus mod modulo log ln sin cos tan exp root roots sqrt power factor choose between either almost nearly "
    "halfway divided multiplied"
)
"""A number after one of these words is a bound, or a part of a calculation."""
BOUND_AFTER = _set("squared cubed factorial times choose plus minus over pi root sqrt")
_OPEN = _set("more less fewer so greater higher above below over under")
OPEN_AFTER = frozenset(("or", word) for word in _OPEN) | {("and", "half"), ("and", "up"), ("and", "above")}
PARTS = frozenset(name for name, (_, below) in SCALES.items() if below > 1)
LABELS = _set(
    "step steps day week year month page question chapter part option room example problem equation line case round "
    "table figure section item level grade exercise stage phase method approach way january february march april may "
    "june july august september october november december jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""A number after one of these words is a name."""
LINKS = _set(
    "is are was were be equals equal makes make made gives give leaves leave left has have had so thus hence therefore "
    "then gets got leaving making giving totaling totalling means ist sind est sont es son remain remains"
)
"""A number before one of these words, and the number after it, are not parts of one quantity."""
JOINS = _set(
    "and or nor in per for of from by after within during every each at on with over under between to before until "
    "plus minus times through till against divided than und oder et ou ni y o e à de pro auf von für и или"
)
"""A number after one of these words may belong to an earlier number."""
DETERMINERS = _set(
    "the a an his her its their my our your all another other additional more next last first these those"
)
TOTALS = _set("total sum amount cost price number average mean result value score balance answer")
TO_A_RESULT = _set("equal equals up amounts amount comes come sums sum adds add rounds round evaluates")
FILLERS = _set("about approximately approx roughly around ca circa exactly only just precisely")
"""Words that change nothing."""
_ONES = "two three four five six seven eight nine"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SPELLED = _set(
    f"{_ONES} ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    f"nineteen {_TENS} hundred thousand dozen zwei drei vier fünf sechs sieben acht neun zehn elf zwölf"
) | {f"{tens}-{one}" for tens in _TENS.split() for one in f"one {_ONES}".split()}
"""Numbers in words, which are not read. `one` is none of them: it is also a pronoun."""
AREAS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3"}
