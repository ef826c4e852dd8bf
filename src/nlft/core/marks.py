"""The marks that judges put before a correction and a verdict, in several languages and ways to write them.

Needs neither tokenizer nor torch.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator

from nlft.core.quotes import quote_places

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # ：to :, and Ｖ to V
_IS_WIDE = re.compile("[！-～]")
_COLON = "[:﹕∶꞉ː︰]"
_BOLD = "[*_`]{0,4}"
_SIGNS = " \t*_#>`([•·|<{\"'-"  # for lists, bold type, tables, tags and JSON
_BEFORE = _SIGNS.replace("[", r"\[")  # the same in a pattern
_WORD = re.compile(r"\w")
_KEY = re.compile(r"""\w[\w ]{0,40}["']\s{0,9}:\s{0,9}["'\[{\d]""")  # of JSON, on a line of its own
_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？")
_NEAR = 80  # characters before a quote that are read for a sentence's end
_ANSWER = "answer|result|value|number|step|solution|calculation|equation|version|approach"
_ANSWERS = f"{_ANSWER}|response|reply|reasoning|statement|sentence|text"  # the actual ones of these are the reply's
# Words are found in any case. Scripts without spaces join the words of the second group to others.
_CORRECTIONS = (
    rf"(?:the\s)?(?:corrections?|(?:(?:correct(?:ed)?|right|expected|true|proper|revised|fixed)\s(?:{_ANSWERS})"
    rf"|actual\s(?:{_ANSWER}))(?:\s(?:is|was|would\sbe|should\sbe))?|corrected)|fix(?:e[sd])?"
    r"|(?:(?:it|this|that)\s)?should\s(?:be|read|say|have\s(?:been|read|said))"
    r"|korrekturen|korrektur|korrigiert|berichtigung(?:en)?|richtigstellung|richtige\s(?:antwort|lösung|rechnung)"
    r"|corrigé|rectification|(?:bonne\sréponse|réponse\scorrecte)|correcci(?:ón|ones)|corregido|respuesta\scorrecta"
    r"|corre[cç]?[cç](?:ão|ões)|resposta\scorreta|correzion[ei]|risposta\scorretta|correctie|verbetering"
    r"|juiste\santwoord|исправлени[ея]|исправлено|правильный\sответ|виправлення|poprawka|korekta|oprava|rättelse"
    r"|düzeltme|koreksi|perbaikan|corectare|διόρθωση|sửa\slại|đính\schính",
    "更正|纠正|糾正|修正|改正|订正|訂正|正确答案|正確答案|正しい答え"
    "|应为|應為|应该是|應該是|정정|수정|교정|올바른 답|تصحيح|सुधार|תיקון",
)
_VERDICTS = (
    r"(?:(?:my|the|our)\s)?(?:final\s)?verdicts?|urteil|veredi[ct]?to|verdetto|oordeel|вердикт|вирок|werdykt|verdikt|karar"
    r"|putusan",
    "结论|結論|判定|裁定|裁决|裁決|判断|判斷|判决|判決|评判|評判|판정|평결|결론|الحكم|निर्णय",
)
_SPACE = r"[ \t\xa0\u202f]"  # French puts a narrow one before a colon
_WHICH = (
    rf"(?:{_SPACE}?\([^()\n]{{0,40}}\)|{_SPACE}(?:#|no\.?{_SPACE}?)?\d{{1,3}}|{_SPACE}(?:of|for|to|in) [^\n:]{{1,40}})?"
)


# `Correct:` can also praise a part, and a list of errors can follow.
_LINE = rf"^[{_BEFORE}]*(?:the\s)?"
_LABEL_ENDS = rf"{_BOLD}{_SPACE}?{_COLON}"
_WRONG_LABEL = rf"(?:wrong|incorrect|errors?|mistakes?){_LABEL_ENDS}"
_GOES_ON = (
    r"[^\d\n]*(?:[.;,!—–][\s\"”’*]*(?:but(?!\snot\b)|however|yet)\b|\b(?:is|are)\s(?:wrong|incorrect|mistaken)\b)"
    rf"|[^\n]*\n[{_BEFORE}]*{_WRONG_LABEL}"
)
# Words that are marks only where a line begins with them and a colon follows. "Correct: no" is a verdict.
_ONLY_FIRST = (
    rf"(?:correct|instead){_LABEL_ENDS}{_BOLD}(?!\W{{0,4}}(?:yes|no|not|true|false|partly|partially)\b)(?!{_GOES_ON})"
)
_PRAISE = re.compile(r"\A\W*correct\W*\Z", re.IGNORECASE)
_BLAMES = re.compile(rf"{_LINE}{_WRONG_LABEL}", re.IGNORECASE)
_EXPECTED = re.compile(rf"{_LINE}expected\s(?:{_ANSWERS}){_LABEL_ENDS}", re.IGNORECASE | re.MULTILINE)
_ACTUAL = re.compile(rf"{_LINE}actual\s(?:{_ANSWERS}){_LABEL_ENDS}", re.IGNORECASE | re.MULTILINE)

# How Chinese and Japanese go on after the word: 更正为, 修正後, 修正后的答案.
_JOINED_ON = "[为為後后的のしたは如下结結果答案值値]{0,6}"


def _either(pattern: str) -> str:
    """Return a pattern that finds letters with accents as one character, and as a letter with an accent after it."""
    apart = unicodedata.normalize("NFD", pattern)
    return pattern if apart == pattern else f"{pattern}|{apart}"


def _mark(words: tuple[str, str], goes_on: str, only_first: str = r"(?!)") -> re.Pattern[str]:
    """Make a pattern for a mark.

    It is the words and a colon, or a tag; or, at a line's start, the words alone, or with a dash, an arrow, a table's
    bar, or what `goes_on` allows.
    """
    spaced, joined = (_either(group).replace(r"\s", r"[\s_]?") for group in words)  # correct_answer, correctAnswer
    first = "".join(sorted({word.lstrip("(?:")[0] for group in (spaced, joined) for word in group.split("|")}))
    # The first letter decides quickly that most places hold no mark.
    named = rf"(?=[{first}])(?:(?<![^\W_])(?:{spaced})|(?:{joined}){_JOINED_ON}){_BOLD}{_WHICH}{_BOLD}"
    at_start = rf"^[{_BEFORE}]*(?:\d{{1,2}}[.)][ \t*_]*)?"
    return re.compile(
        rf"{at_start}{named}[ \t\r]*(?:$|[-–—=]+>?(?=\s)|[→⇒➔➜⟶|]|{goes_on})"
        rf"|(?:{at_start})?{named}[\"'”’»]?{_SPACE}?{_COLON}{_BOLD}|(?<=<){named}>|{at_start}(?:{only_first})",
        re.IGNORECASE | re.MULTILINE,
    )


# "The correct answer is 29." is criticism too, if poor: the audit says so.
_FIGURE = r"(?=[ \t]*[-−+$€£\"'“(\[\\]?\d)"
_CORRECTION = _mark(_CORRECTIONS, r"(?:(?<=correction )|(?<=corrections ))is\b" + _FIGURE, _ONLY_FIRST)
_VERDICT = _mark(_VERDICTS, r"is\b")


def corrections(text: str, *, expected: bool | None = None) -> list[tuple[int, int]]:
    """Return where the marks of corrections stand, such as `**Correction:**`: (start, end), `end` exclusive.

    Args:
        expected: whether an expected answer is named beside this text, so that an "actual" one is the reply's.
            None: look in the text itself.
    """
    places = list(_places(_CORRECTION, text))
    if not places or not (names_expected(text) if expected is None else expected):
        return places
    return [(start, end) for start, end in places if not _ACTUAL.match(narrow(text[start:end]))]


def names_expected(text: str) -> bool:
    """Return whether a line of a text begins with a mark such as `Expected answer:`."""
    return _EXPECTED.search(narrow(text)) is not None


def criticizes_again(mark: str, line: str, *, expected: bool) -> bool:
    """Return whether a line after a correction is criticism: `Wrong:` after `Correct:`, or `Actual answer:`.

    Args:
        mark: the correction's mark.
        expected: whether the text names an expected answer.
    """
    line = narrow(line)
    return bool((_PRAISE.fullmatch(mark) and _BLAMES.match(line)) or (expected and _ACTUAL.match(line)))


def verdict(text: str) -> tuple[int, int] | None:
    """Return where the first mark of a verdict stands, such as `Verdict:`. Return None if there is none."""
    return next(_places(_VERDICT, text), None)


def names_correction(name: str) -> bool:
    """Return whether a name, as in JSON or a table, ends in words for a correction."""
    return any(end == len(name) + 1 for _, end in corrections(f"{name}:"))


def names_verdict(name: str) -> bool:
    """Return whether a name, as in JSON or a table, ends in words for a verdict."""
    return any(end == len(name) + 1 for _, end in _places(_VERDICT, f"{name}:"))


def _places(mark: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of a mark that are not in a quote, with the signs for lists and bold type before each."""
    narrowed, end, line = narrow(text), 0, None
    for match in mark.finditer(narrowed):
        signs = len(match[0]) - len(match[0].lstrip(_SIGNS + "0123456789.)"))
        word = match.start() + signs
        if line is None or word > line.end:
            line = _Line(narrowed, word)
        if line.quotes_mark(word, match.end()):
            continue
        start = match.start()
        while start > end and text[start - 1] in _SIGNS and start not in line.quote_ends:
            start -= 1
        end = match.end()
        yield start, end


class _Line:
    """A line of a text that has a mark, and its quotes.

    Attributes:
        end: where the line ends.
        quote_ends: where its quotes end. Their marks do not belong to a correction beside them.
    """

    def __init__(self, text: str, at: int) -> None:
        self._text, self._start = text, text.rfind("\n", 0, at) + 1
        self.end = end if (end := text.find("\n", at)) >= 0 else len(text)
        line = text[self._start : self.end]
        self._quotes = [(self._start + start, self._start + stop) for start, stop in quote_places(line)]
        self.quote_ends = {stop for _, stop in self._quotes}
        first = found.start() if (found := _WORD.search(line)) else len(line)
        last = len(line) - (found.start() if (found := _WORD.search(line[::-1])) else len(line))
        self._first_word, self._last_word = self._start + first, self._start + last
        opening = line[max(0, first - _NEAR) : first]
        self._is_json = opening.endswith(("'", '"')) and ("{" in opening or _KEY.match(line, first) is not None)

    def quotes_mark(self, word: int, end: int) -> bool:
        """Return whether a mark is part of a quote of the reply: `The reply says "Correct answer: 5".`

        A judge can also put its own words in quotation marks: the mark alone, a whole line, or a value of JSON.

        Args:
            word: where the mark's first word begins.
            end: where the mark ends.
        """
        at = bisect_right(self._quotes, (word, word)) - 1
        if at < 0 or word >= self._quotes[at][1] or self._is_json:
            return False
        first, last = self._quotes[at]
        before = self._text[max(self._start, first - _NEAR) : first].rstrip(" \t*_")
        if first <= self._first_word or before.endswith(_SENTENCE_ENDS):
            return end < last and last < self._last_word
        return True


def without_heading(text: str) -> str:
    """Remove the heading that some judges put before their first words, such as `Feedback:`."""
    match = _HEADING.match(narrow(text))
    return text[match.end() :] if match else text


_HEADINGS = (
    "feedback|judge?ment|assessment|反馈|评价|評価|평가|bewertung|évaluation|evaluación|avaliação|valutazione|beoordeling"
    "|оценка"
)
_HEADING = re.compile(
    rf"^[\s*_#]*(?:{_either(_HEADINGS)}){_BOLD}{_SPACE}?{_COLON}{_BOLD}\s*",
    re.IGNORECASE,
)

# In these languages, words beside a verdict can turn it in more ways than are known here: `_DOUBTFUL`.
_GUARDED_RIGHT = (
    r"вірн(?:о|ий|а|е)|corect[ăe]?|poprawn(?:[eyai]|ie)|prawidłow(?:[eyao])|správn[ěáéý]|rätt|riktigt?|rigtigt?|صحيحة?"
    r"|صحيح[اهً]{1,2}|سليمة?|صواب"
)
_GUARDED_WRONG = (
    r"невірн\w{1,3}|хибн\w{1,3}|помилков\w{1,3}|błędn(?:[eya]|ie)|niepoprawn\w{1,2}|nieprawidłow\w{1,2}|nesprávn[ěáéý]"
    r"|špatn[ěáéý]|chybn[ěáéý]|fel|felaktigt?|oriktigt?|feil|forkert|greșit[ăe]?|incorect[ăe]?|eronat[ăe]?|خطأ|خاطئة?"
    r"|خاطىء|غلط|مغلوطة?"
)
_GUARDED_ERRORS = r"помилок|błęd(?:u|ów|y)|błąd|chyb[ay]?|greșeli|أخطاء"
_INVERTED_RIGHT, _INVERTED_WRONG = "doğru|benar", "yanlış|hatalı|salah"  # a word behind or far before can turn these
_RIGHT = (
    r"right|correct[aeoă]?|true|accurate|valid|richtig|korrekt|juste?|exacte?|ciert[ao]|corret[ao]|cert[ao]|corrett[ao]"
    r"|giust[ao]|juist|goed|верно|верн(?:ый|ая|ое)|правильн(?:о|ый|ая|ое)"
    rf"|{_GUARDED_RIGHT}|{_INVERTED_RIGHT}"
)
_WRONG = (
    r"wrong|incorrect[aeo]?|false|untrue|inaccurate|erroneous|mistaken|flawed|invalid|falsch|inkorrekt|unrichtig"
    r"|fehlerhaft|fau(?:x|sse)|inexacte?|erronée?|err[oóô]ne[ao]|equivocad[ao]|fals[ao]|incorret[ao]|errad[ao]"
    r"|scorrett[ao]|sbagliat[ao]|errat[ao]|fout|onjuist|verkeerd|неверн\w{1,3}|неправильн\w{1,3}|ошибочн\w{1,3}"
    rf"|miscalculated|unacceptable|{_GUARDED_WRONG}|{_INVERTED_WRONG}"
)
_ERRORS = (
    r"errors?|mistakes?|fehler|erreurs?|errore[si]?|erros?|fouten|ошибок|ошибки"
    rf"|{_GUARDED_ERRORS}"
)
_NOT = (
    r"(?:not|\w{1,6}n['’]t|never|hardly|scarcely|barely|cannot|nothing|neither|nor|far\sfrom|by\sno\smeans|anything\sbut"
    r"|nowhere\snear|less\sthan|nicht|nichts|keineswegs|kaum|nie|pas|rien|jamais|no\ses|nada|nunca|non|niente|não|niet"
    r"|niets|nooit|не|ничего|inte|ikke|není|ne|nu\s(?:este|e)|tidak|bukan|غير|ليس|ليست|لا)"
)
_NONE = (
    r"(?:no|not\san[dy]?|without|free\sof|zero|ohne|keine?|sans|aucune?|sin|ning[uú]n[ao]?|sem|nenhuma?|senza"
    r"|nessun[ao]?|geen|без|нет|bez|utan|inga|inget|ingen|uden|uten|fără|nicio?|nu\s(?:are|au|există|sunt)|لا\sيوجد|لا\sتوجد|بدون|بلا"
    r"|ليس\s(?:فيه|فيها|هناك)|brak|nie\s(?:ma|zawiera|było)|немає|нема|жодн\w{2,4}|žádn\w{1,2}|není|nejsou|nemá|neobsahuje"
    r"|tidak\sada(?:\syang)?)"
)
# Words between a negation and what it negates: "not entirely correct".
_BETWEEN = (
    r"(?:\s(?:be|been|being|is|it|a|an|the|at\sall|so|that|all|any|in|entirely|quite|completely|fully|really|actually"
    r"|strictly|totally|wholly|exactly|technically|altogether|necessarily|possibly|even|very|100%|ist|est|es|è|é|ser|ganz|völlig|wirklich"
    r"|vollständig|komplett|unbedingt|so|tout\sà\sfait|entièrement|vraiment|complètement|del\stodo|completamente"
    r"|totalmente|exactamente|del\stutto|totalmente|exatamente|helemaal|echt|совсем|вполне|полностью|jest|są|całkiem|je|to|úplně|zcela"
    r"|är|er|helt|noe|noen|noget|nogen|något|några|este|tocmai|в|цілком)){0,3}"
)
_SO = "[是太够夠很全完十分能算怎么麼甚並并]{0,4}"
_JOINED_RIGHT = (
    "正[确確解]|正しい|[对對]|合って|맞음|맞다|맞습니다|옳음|올바름|不[错錯]|सही"
    # The word is also a noun: "differs from the right answer".
    "|정답[*_\"'”’`)\\]]*\\s*(?:입니|이다|임|이에요|예요|이야|,?\\s*$|[.!(<|}])"
)
_JOINED_WRONG = "[错錯][误誤]?|有误|誤り|間違い?|틀림|틀렸|틀린|오답|잘못|틀리|ग\u093c?लत(?![ािीुूेैोौ])"
_JOINED_NOT_RIGHT = (
    f"[不非没沒未]{_SO}(?:正[确確]|[对對])|不正解|(?:正し|正解|合って)[^。.\n]{{0,6}}?(?:ない|ません|ありま|無)"
    "|(?:맞|옳|올바르)[^.\n]{0,2}지 ?(?:않|못)|정답[이은]? ?아[님닙니닌]|정답[과와] ?(?:다름|다르다|다릅니다|달라)"
    "|सही (?:\\S{1,4} )?नहीं|doğru değil"
)
_JOINED_NOT_WRONG = (
    f"[没沒无無未][有什么麼任何发發现現何]{{0,5}}(?:{_JOINED_WRONG})|不[错錯](?!误|誤)|不是[错錯]"
    "|(?:誤り|間違い?)[^。.\n]{0,4}?(?:ない|なし|ません|無)|(?:틀리|잘못)[^.\n]{0,4}?(?:않|없)"
    "|오답[이은]? ?아[님닙니닌]|(?:틀린|잘못된?) ?(?:곳|부분|점|것|데)[이은는도]? ?(?:전혀 )?없"
    "|ग\u093c?लत (?:\\S{1,4} )?नहीं|कोई (?:ग\u093c?लती|त्रुटि) नहीं|(?:yanlış|hatalı) (?:değil|yok)"
)
_FINDS = (  # between a negation and errors: "does not contain any errors"
    r"(?:contain|have|has|had|got|show|find|found|see|include|make|made|commit|detect|spot|notice|present|involve|there"
    r"|contiene|tiene|presenta|ci\ssono|há|contém|tem|apresenta|содержит|имеет|нашл\w)"
)
_SOME = (
    r"(?:any\s|a\s(?:single\s)?|one\s)?(?!(?:the|its|his|her|their|this|that|these|those|all|and|but)\b)(?:\w{1,12}\s)?"
)
_NOT_WRONG = re.compile(
    rf"\b(?:{_NOT}{_BETWEEN}\s(?:{_WRONG})|{_NOT}\s{_FINDS}\s{_SOME}(?:{_ERRORS}|{_WRONG})|{_NOT}\sa\ssingle\s(?:{_ERRORS})"
    rf"|(?<!\bnot\s)(?<!\bnicht\s)(?<!\bpas\s)(?<!\bnon\s){_NONE}\s(?:(?!(?:{_RIGHT})\b)\w{{1,12}}\s"
    rf"(?:(?:or|nor|is|are|was|were)\s(?:\w{{1,12}}\s)?)?)?(?:{_ERRORS}|{_WRONG})"
    rf"|لا\s(?:{_ERRORS})|pas\sd['’](?:{_ERRORS})|(?:{_ERRORS}|{_WRONG})\s(?:нет|немає|нема|brak|nie\sma)"
    rf"|(?:{_ERRORS})\sне\s(?:найдено|обнаружено|допущено|видно|нашлось))\b|{_JOINED_NOT_WRONG}",
    re.IGNORECASE,
)
_UNDERSTOOD = re.compile(rf"\b{_NOT}{_BETWEEN}\s(?:{_RIGHT})\b|{_JOINED_NOT_RIGHT}", re.IGNORECASE)
_SAYS_WRONG = re.compile(
    rf"\b(?:{_NOT}{_BETWEEN}\s(?:{_RIGHT})|(?:{_NONE}|none|not\sone)\s(?:{_RIGHT})|{_WRONG}|{_ERRORS})\b|{_JOINED_NOT_RIGHT}"
    rf"|{_JOINED_WRONG}",
    re.IGNORECASE,
)
# "Without a correct answer", "no step is right", "does not reach the right one": the last word says nothing.
_NOT_RIGHT = re.compile(
    rf"\b(?:(?:{_NONE}|none|lacks?|lacking|pas\sde)\s\w{{1,12}}(?:\s(?:is|are|was|were))?|{_NOT}(?:\s\w{{1,12}}){{1,3}})"
    rf"\s(?:{_RIGHT})\b",
    re.IGNORECASE,
)
_SAYS_RIGHT = re.compile(rf"\b(?:{_RIGHT})\b|{_JOINED_RIGHT}", re.IGNORECASE)
# Words that can turn a verdict of these languages, or weaken it, from a distance.
_TURNS = (
    r"(?:nie|ne|není|nejsou|nemá|neobsahuje|žádn\w{1,2}|brak|bez|nu|nicio?|niciun\w?|fără|inte|ikke|ikkje|ej|ingen|inget"
    r"|inga|intet|utan|uden|uten|saknas|mangler|не|ні|без|нет|немає|нема|жодн\w{2,4}|tidak|bukan|tak|tiada|tanpa|yok|değil"
    r"|غير|ليست?|لا|لم|لن|ما|دون|بدون|بلا|nästan|nesten|næsten|delvis|delvist|prawie|częściowo|skoro|téměř|částečně|майже"
    r"|частково|aproape|parțial|hampir|sebagian|neredeyse|kısmen|تقريبا|جزئيا)"
)
_HARMLESS = (
    r"jest|są|to|i|w|na|bo|że|ale|krok|wynik|je|jsou|a|v|že|krok|är|er|det|den|de|och|og|i|på|men|for|för|steg|trin|svar"
    r"|helt|це|є|і|й|у|в|бо|але|крок|este|e|sunt|și|în|la|dar|pasul|الحل|هذا|هذه|هو|هي|إنه|إنها|فيه|فيها|يوجد|هناك|الرد|جواب|إجابة|خطوة"
    r"|في|لأن|no|right|wrong|true|false"
)
_SHORT = rf"(?!(?:{_HARMLESS})\b)[^\W\d]{{1,5}}"
_GUARDED = rf"(?:{_GUARDED_RIGHT}|{_GUARDED_WRONG}|{_GUARDED_ERRORS})"
_TURNED = rf"(?:{_GUARDED}|{_INVERTED_RIGHT}|{_INVERTED_WRONG})"
# A known word for right or wrong beside a word that could turn it, where nothing more is understood. In any language,
# errors after a negation: "it did not find the error".
_DOUBTFUL = re.compile(
    rf"\b(?:{_TURNS}(?:\s\w{{1,20}}){{0,3}}\s{_TURNED}|{_TURNED}(?:\s\w{{1,20}}){{0,3}}\s{_TURNS}"
    rf"|{_NOT}(?:\s(?!(?:and|but|because|since|or)\b)\w{{1,12}}){{1,4}}\s(?:{_ERRORS})"
    rf"|chyba\s(?!(?:je|v)\b)\w{{1,20}}|{_SHORT}\s{_GUARDED}|{_GUARDED}\s(?!(?:{_RIGHT}|{_WRONG})\b){_SHORT})\b"
    r"|(?:정답|맞[음다습]|옳음|올바름|오답|틀[림렸린리]|잘못)[^.,!:;(\n]{0,12}(?:아[님닙니닌]|않|없|(?<!잘)못|다[르릅름른])"
    r"|(?:거의|부분적으로) ?(?:정답|맞|옳|올바|오답|틀)"
    "|(?:सही|ग\u093c?लत)[^।.,\n]{0,20}नहीं|(?:लगभग|आंशिक) ?\\S{0,6} ?(?:सही|ग\u093c?लत)",
    re.IGNORECASE,
)
# Signs, and words that are a verdict only if they are all of it.
TICK, CROSS = "✓✔✅☑", "✗✘❌✖"
_RING, _TIMES = "○◯〇⭕", "×✕"  # verdicts only where they come first: they are also a zero and a product
_FIRST_SIGN = re.compile(rf"\A[^\w{_RING}{_TIMES}]*(?:(?P<right>[{_RING}])|(?P<wrong>[{_TIMES}]))")
_WHOLE = re.compile(
    rf"\A[\W{_RING}]*(?:(?P<right>pass(?:e[ds])?|ok(?:ay)?|good|fine|acceptable)"
    r"|(?P<wrong>fail(?:s|ed|ure)?|bad|not\s(?:ok(?:ay)?|good|fine|acceptable)))(?:\W*|\W*</.*)\Z",
    re.IGNORECASE,
)
_MOST_WORDS = 2000  # characters of a verdict that are read


def says_wrong(verdict: str) -> bool:
    """Return whether a verdict has a word or a sign for wrong, such as "incorrect" or "not quite right"."""
    if _has_sign(verdict, CROSS, "wrong"):
        return True
    if whole := _WHOLE.match(verdict[:_MOST_WORDS]):
        return bool(whole["wrong"])
    rest = _NOT_WRONG.sub(" . ", _one_form(verdict))
    return _SAYS_WRONG.search(rest) is not None and not _is_doubtful(rest)


def says_right(verdict: str) -> bool:
    """Return whether a verdict has a word or a sign for right, such as "not wrong", besides its words for wrong."""
    if _has_sign(verdict, TICK, "right"):
        return True
    if whole := _WHOLE.match(verdict[:_MOST_WORDS]):
        return bool(whole["right"])
    rest, denials = _NOT_WRONG.subn(" . ", _one_form(verdict))
    if _is_doubtful(rest):
        return False
    return denials > 0 or _SAYS_RIGHT.search(_NOT_RIGHT.sub(" ", _SAYS_WRONG.sub(" ", rest))) is not None


def _has_sign(verdict: str, signs: str, side: str) -> bool:
    """Return whether one of the signs stands anywhere, or a ring or cross of that side comes first."""
    first = _FIRST_SIGN.match(verdict[:_MOST_WORDS])
    return any(sign in verdict for sign in signs) or bool(first and first[side])


def _is_doubtful(verdict: str) -> bool:
    """Return whether a word could turn the verdict in a way that is not understood."""
    return _DOUBTFUL.search(_UNDERSTOOD.sub(" . ", verdict)) is not None


def says_something(verdict: str) -> bool:
    """Return whether a verdict has a word or a sign that could decide."""
    return re.search(rf"[\w{TICK}{CROSS}{_RING}{_TIMES}]", verdict) is not None


def _one_form(verdict: str) -> str:
    """Return the beginning of a verdict, with letters and accents in one character."""
    return unicodedata.normalize("NFC", verdict[:_MOST_WORDS])


def narrow(text: str) -> str:
    """Replace full-width signs and letters by those of ASCII. Every character keeps its place."""
    return text.translate(_FULL_WIDTH) if _IS_WIDE.search(text) else text
