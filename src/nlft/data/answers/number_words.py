"""Words and signs that change what a number beside them means. Most are English; measures are abbreviations too."""

_MEASURES = """
% percent pct prozent procent porcento процент процента процентов 퍼센트
dollar dollars usd bucks us$ $ dólar dólares dollari долларов 美元 달러
cent cents ¢ centimes céntimos centesimi centavos центов
euro euros eur € евро 欧元
pound pounds lb lbs £ gbp
yen yuan jpy ¥ 円 元 日元
won 원
ruble rubles руб рублей рубля рублях
rupee rupees rs inr ₹
second seconds sec secs s sekunde sekunden seconde secondes segundo segundos secondi seconden сек секунд секунды 秒 초
minute minutes min mins minuten minuto minutos minuti мин минут минуты минута 分钟 分鐘 分 분
hour hours hr hrs h stunde stunden std heure heures hora horas ore uur uren час часа часов 小时 小時 時間 시간
day days tag tage tagen jour jours día días dia dias giorno giorni dag dagen день дня дней 天 日 일
week weeks woche wochen semaine semaines semana semanas settimana settimane weken неделя недели недель 周 週間 星期 주
month months monat monate monaten mois mes meses mese mesi mês maanden месяц месяца месяцев 个月 個月 ヶ月 か月 개월
year years yr yrs jahr jahre jahren ans année années año años ano anos anno anni jaar год года лет 年 년
mm millimeter millimeters millimetre millimetres мм 毫米
cm centimeter centimeters centimetre centimetres zentimeter centimètre centimètres centímetros centimetri см 厘米 公分
dm
m meter meters metre metres metern mètre mètres metro metros metri метр метра метров м 米 公尺 미터
km kilometer kilometers kilometre kilometres kilometern kilomètres kilómetros quilômetros chilometri км 公里 千米
Mm
inch inches
foot feet ft
yard yards yd
mile miles mi
mg milligram milligrams мг 毫克
Mg
g gram grams gramm gramme grammes gramo gramos grammi грамм граммов 克 그램
kg kilogram kilograms kilo kilos kilogramm kilogrammes kilogramos кг 公斤 千克
t ton tons tonne tonnes tonnen
ounce ounces oz
ml milliliter milliliters millilitre millilitres мл 毫升
Ml ML
l liter liters litre litres litern litro litros litri литр литра литров л 升 리터
gallon gallons gal
quart quarts
pint pints
cup cups
mph
kmh kph
degree degrees ° grad degré degrés grado grados grau graus gradi градус градуса градусов 度 도
celsius °c
fahrenheit °f
am a.m
pm p.m
th st nd rd
watt watts w
mW
kw
MW
GW
kwh
mV
volt volts v
kV
MV
mHz
hz
khz
MHz mhz
ghz
mA
mJ
MJ
kJ
ms
Mb
kb
mb
gb
tb
"""
UNITS = {name: line.split()[0] for line in _MEASURES.strip().split("\n") for name in line.split()}
"""Each name of a measure, with one name for all that mean the same."""

CASED = frozenset(name for name in UNITS if name != name.lower())
"""Names of measures that mean another one in small letters: a megawatt is no milliwatt."""

CURRENCIES = "$€£¥₹¢"
ORDINAL = UNITS["th"]

SCALES: dict[str, tuple[int, int]] = {
    name: factor
    for factor, names in {
        (100, 1): "hundred 百 백 hundert",
        (
            1000,
            1,
        ): "thousand thousands k mille tausend tsd mil mila 千 천 тысяч тыс тысяча тысячи tys tysiąc tysiące tysięcy "
        "duizend tusen tisíc bin ribu nghìn ngàn ألف آلاف हज़ार हजार χιλιάδες",
        (10**4, 1): "万 萬 만",
        (10**5, 1): "lakh lakhs लाख",
        (
            10**6,
            1,
        ): "million millions mio mn mln millionen millones millón milhões milhão milione milioni miljoen miljoner "
        "milion miliony milionów milyon juta triệu миллион миллиона миллионов млн مليون ملايين εκατομμύρια",
        (10**7, 1): "crore crores करोड़ करोड",
        (10**8, 1): "亿 億 억",
        (
            10**9,
            1,
        ): "billion billions bn mrd mld milliard milliards milliarden miliardo miliardi miljard miliard miliardy "
        "miliardów milyar miliar bilhão bilhões tỷ миллиард миллиарда миллиардов млрд مليار",
        (10**12, 1): "trillion trillions trn 兆 조",
        (12, 1): "dozen dozens dutzend douzaine douzaines docena docenas dozzina dozzine dúzia dúzias дюжина дюжин",
        (1, 2): "half halves",
        (1, 3): "drittel tiers tercio tercios terzi terços",
        (1, 4): "viertel quarts cuarto cuartos quarti",
        (1, 5): "fünftel",
    }.items()
    for name in names.split()
} | {
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
JOINED_SCALES = frozenset("百千万萬亿億兆백천만억조")
"""Those that may follow each other: 3百万."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NOT = _set(
    "not never cannot neither nor hardly scarcely except excluding without nicht kein keine keinen außer ohne weder "
    "pas ni sauf sans nunca excepto salvo non tranne senza não exceto sem niet geen behalve zonder не ни кроме nie "
    "değil 不 非 没 沒 未 无 不是 没有 除了 并不是 並不是 并非"
)
AFTER_NOT = _set(
    "equal equals to the a an be been exactly = simply really possibly possible ever actually necessarily quite for "
    "have has had get gets ist sind sein genau être est es son ser hay è é são essere is are 是 为 為 等于 有 "
    "可能 может быть"
)
"""Words that may stand between a negation and its number."""
INSTEAD = frozenset(
    [
        *[("instead", "of"), ("rather", "than"), ("opposed", "to"), ("except", "for"), ("statt", "der")],
        *[(one, "but") for one in ("anything", "everything", "all")],
        *[("no", verb) for verb in ("es", "son", "hay", "era", "serán", "será")],
    ]
)
"""A number after one of these pairs is excluded."""
DOUBT = _set(
    "doubt doubts unlikely if suppose supposing assume assuming unless whether wenn falls 如果 若 もし если jeśli"
)
"""A number behind one of these words is supposed, or doubted."""
IS_NOT = frozenset(
    [
        *[
            (verb, word)
            for verb in ("is", "are", "was", "were", "would")
            for word in ("not", "wrong", "incorrect", "false")
        ],
        *[("is", word) for word in ("impossible", "excluded", "never", "niet", "fout", "onjuist")],
        *[("ist", word) for word in ("nicht", "falsch", "unmöglich", "ausgeschlossen")],
        *[(verb, word) for verb in ("est", "es", "è", "é", "n'est") for word in ("pas", "faux", "falso", "incorrecto")],
        *[("no", "es"), ("non", "è"), ("não", "é"), ("can", "not")],
    ]
)
"""A number before one of these pairs is denied."""
DENIED_AFTER = _set("isn't aren't wasn't cannot can't couldn't değil नहीं")
NEGATIVE = frozenset(["negative", "minus", "零下", "moins", "menos", "meno", "минус", "マイナス"])
BELOW_ZERO = frozenset([("below", "zero"), ("under", "zero"), ("unter", "null"), ("sous", "zéro"), ("bajo", "cero"),
                        ("sotto", "zero"), ("onder", "nul"), ("ниже", "нуля")])  # fmt: skip
BELOW_A_LEVEL = frozenset(
    [("below", "sea"), ("below", "ground"), ("below", "freezing"), ("below", "the"), ("in", "debt")]
)
BOUND_BEFORE = _set(
    "than least most fewer exceeds exceed exceeding above below over twice thrice double triple half quarter third "
    "fourth times plus mod modulo log ln sin cos tan exp root roots sqrt power factor choose between either almost "
    "nearly halfway divided multiplied maximum minimum beyond "
    "mindestens höchstens wenigstens maximal minimal als über unter bis fast beinahe zwischen hälfte wurzel doppelt "
    "mal moins presque jusqu'à fois moitié racine double triple entre dépasse minimum maximum tiers quart "
    "más menos casi hasta mitad raíz doble veces mínimo máximo supera "
    "più meno almeno massimo minimo quasi fino metà radice doppio volte tra fra oltre "
    "mais até quase metade raiz dobro vezes acima abaixo "
    "minstens hoogstens meer minder dan tot bijna helft wortel keer ponad najmniej najwyżej niż prawie połowa "
    "менее более больше меньше почти до свыше половина половину половины корень минимум максимум чем раза вдвое "
    "至少 最少 最多 至多 超过 超過 不到 不足 大于 大於 小于 小於 多于 多於 少于 少於 低于 高于 "
    "不少于 不超过 接近 将近 少なくとも 最低 最大 最小 最高 "
    "최소 최대 적어도"
)
"""A number after one of these words is a bound, or a part of a calculation."""
OF = _set("of to by than as de d' von aus der di du des da do à a que dei del zu wie van из")
"""Words that may stand between those words and the number."""
AS = _set("as wie que como come")
BOUND_AFTER = _set(
    "squared cubed factorial times choose plus minus over pi root sqrt hoch mal fois veces volte vezes keer quadrat "
    "以上 以下 以内 未満 未满 より 余り を超 多 余 이상 이하 미만 초과 의절반 の半分 の倍 的一半 的平方"
)
BOUND_AFTER_COUNT = _set("以上 以下 以内 未満 未满 이상 이하 미만 초과")
"""The same, also behind a word that says what is counted: 5個以上."""
_OR = _set("or oder ou o of или et y e und en and")
_OPEN = _set(
    "more less fewer so greater higher above below over under up mehr weniger darüber darunter plus moins más menos "
    "più meno mais meer minder более больше менее меньше"
)
OPEN_AFTER = frozenset((one, word) for one in _OR for word in _OPEN) - {("and", "so"), ("and", "less"), ("and", "more")}
OPEN_AFTER |= {("and", "half")}
PARTS = frozenset(name for name, (_, below) in SCALES.items() if below > 1)
LABELS = _set(
    "step steps day week year month page question chapter part option room example problem equation line case round "
    "table figure section item level grade exercise stage phase method approach way january february march april may "
    "june july august september october november december jan feb mar apr jun jul aug sep sept oct nov dec "
    "januar februar märz mai juni juli oktober dezember janvier février mars avril juin juillet août septembre octobre "
    "novembre décembre enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre "
    "gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre janeiro fevereiro "
    "março maio junho julho setembro "
    "outubro novembro dezembro januari "
    "februari maart mei augustus января февраля марта апреля мая июня июля августа "
    "сентября октября ноября декабря schritt étape paso passo seite frage aufgabe kapitel"
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
REASONS = _set("because weil da parce porque perché потому 因为 satisfies satisfying")
ASIDES = REASONS | _set(
    "since though although whereas while compared vs versus having if obwohl während puisque bien "
    "aunque mientras sebbene mentre хотя 虽然 after before"
)
"""A number behind one of these words may be no result, but explain the number before."""
CONCLUDES = _set(
    "so then therefore thus hence now total altogether giving makes making means leaving finally combined together "
    "result results answer conclusion"
)
"""Words that make a number the result of those before it."""
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
NO_NUMBER = SPELLED | _set(
    "none no nothing zero nil null one infinite infinitely infinity unlimited undefined unknown unclear impossible "
    "indeterminate insufficient cannot can't nobody never neither keine keiner null aucun aucune zéro ninguno ninguna "
    "cero nessuno nenhum unendlich infini infinito"
)
"""An answer of few words with one of these is no number, or none in digits."""
BEGINS = _set(
    "solution explanation step steps calculation simple easy clear obvious straightforward below above follows found "
    "given calculated computed obtained determined shown as let lets let's first here sure okay ok well to we the then "
    "therefore thus so now this that it in by if since because correct right explained reasoning work"
)
"""How a solution begins, or a sentence that announces an answer."""
AREAS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3"}

OF_JOINED_SCRIPTS = frozenset(
    name
    for names in (UNITS, SCALES, NOT, AFTER_NOT, DOUBT, NEGATIVE, BOUND_BEFORE, BOUND_AFTER, ASIDES)
    for name in names
    if len(name) > 1 and name[0] > "\u0fff" and not "\u1e00" <= name[0] <= "\u1fff"
)
"""Words of scripts that put no space between words: a reader must know them."""
