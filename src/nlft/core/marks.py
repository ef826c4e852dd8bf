"""The marks that judges put before a correction and a verdict, in several languages and ways to write them.

Needs neither tokenizer nor torch.
"""

import re
from collections.abc import Iterator

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # ：to :, and Ｖ to V
_COLON = "[:﹕∶꞉ː︰]"
_BOLD = "[*_`]{0,4}"
_BEFORE = r" \t*_#>`(\[•·-"  # signs for lists and bold type
_ANSWERS = "answer|result|value|number|step|solution|calculation|equation|version"
# Words are found in any case. Scripts without spaces join the words of the second group to others.
_CORRECTIONS = (
    rf"(?:the\s)?(?:corrections?|(?:correct(?:ed)?|right|expected)\s(?:{_ANSWERS})|corrected)"
    r"|korrekturen|korrektur|korrigiert|berichtigung(?:en)?|richtigstellung|richtige\s(?:antwort|lösung|rechnung)"
    r"|corrigé|rectification|(?:bonne\sréponse|réponse\scorrecte)|correcci(?:ón|ones)|corregido|respuesta\scorrecta"
    r"|corre[cç]?[cç](?:ão|ões)|resposta\scorreta|correzion[ei]|risposta\scorretta|correctie|verbetering"
    r"|juiste\santwoord|исправлени[ея]|исправлено|правильный\sответ|виправлення|poprawka|korekta|oprava|rättelse"
    r"|düzeltme|koreksi|perbaikan|corectare|διόρθωση|sửa\slại|đính\schính",
    "更正|纠正|糾正|修正|改正|订正|訂正|正确答案|正確答案|正しい答え|정정|수정|교정|올바른 답|تصحيح|सुधार|תיקון",
)
_VERDICTS = (
    r"(?:final\s)?verdicts?|urteil|veredi[ct]?to|verdetto|oordeel|вердикт|вирок|werdykt|verdikt|karar|putusan",
    "结论|結論|判定|裁定|裁决|裁決|判断|判斷|判决|判決|评判|評判|판정|평결|결론|الحكم|निर्णय",
)
_SPACE = r"[ \t\xa0\u202f]"  # French puts a narrow one before a colon
_WHICH = (
    rf"(?:{_SPACE}?\([^()\n]{{0,40}}\)|{_SPACE}(?:#|no\.?{_SPACE}?)?\d{{1,3}}|{_SPACE}(?:of|for|to|in) [^\n:]{{1,40}})?"
)


def _mark(words: tuple[str, str]) -> re.Pattern[str]:
    """Make a pattern for a mark: its words and a colon; or, at a line's start, its words alone or with a dash."""
    spaced, joined = words
    first = "".join(sorted({word.lstrip("(?:")[0] for group in words for word in group.split("|")}))
    # The first letter decides quickly that most places hold no mark.
    named = rf"(?=[{first}])(?:(?<![^\W_])(?:{spaced})|(?:{joined})){_BOLD}{_WHICH}{_BOLD}"
    at_start = rf"^[{_BEFORE}]*(?:\d{{1,2}}[.)][ \t*_]*)?"
    return re.compile(
        rf"{at_start}{named}[ \t\r]*(?:$|[-–—=]+(?=\s))|(?:{at_start})?{named}{_SPACE}?{_COLON}{_BOLD}",
        re.IGNORECASE | re.MULTILINE,
    )


_CORRECTION, _VERDICT = _mark(_CORRECTIONS), _mark(_VERDICTS)


def corrections(text: str) -> list[tuple[int, int]]:
    """Return where the marks of corrections stand, such as `**Correction:**`: (start, end), `end` exclusive."""
    return list(_places(_CORRECTION, text))


def verdict(text: str) -> tuple[int, int] | None:
    """Return where the first mark of a verdict stands, such as `Verdict:`. Return None if there is none."""
    return next(_places(_VERDICT, text), None)


def _places(mark: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of a mark, with the signs for lists and bold type before it."""
    end = 0
    for match in mark.finditer(narrow(text)):
        start = match.start()
        while start > end and text[start - 1] in " \t*_#>`([•·-":
            start -= 1
        end = match.end()
        yield start, end


def without_heading(text: str) -> str:
    """Remove the heading that some judges put before their first words, such as `Feedback:`."""
    match = _HEADING.match(narrow(text))
    return text[match.end() :] if match else text


_HEADING = re.compile(
    rf"^[\s*_#]*(?:feedback|judge?ment|assessment|反馈|评价|評価|평가|bewertung|évaluation|evaluación|avaliação|valutazione"
    rf"|beoordeling|оценка){_BOLD}{_SPACE}?{_COLON}{_BOLD}\s*",
    re.IGNORECASE,
)

_RIGHT = (
    r"right|correct[aeo]?|richtig|korrekt|juste?|exacte?|ciert[ao]|corret[ao]|cert[ao]|corrett[ao]|giust[ao]|juist|goed"
    r"|верно|правильно|верный|doğru|benar"
)
_WRONG = (
    r"wrong|incorrect[aeo]?|falsch|inkorrekt|unrichtig|fehlerhaft|fau(?:x|sse)|inexacte?|erronée?|err[oóô]ne[ao]"
    r"|equivocad[ao]|fals[ao]|incorret[ao]|errad[ao]|scorrett[ao]|sbagliat[ao]|errat[ao]|fout|onjuist|verkeerd|неверно"
    r"|неправильно|неверный|ошибочно|yanlış|salah"
)
_NOT = r"(?:not|isn['’]t|nicht|pas|no|no\ses|non|não|niet|не)"
_JOINED_RIGHT = "正[确確解]|正しい|[对對]|合って|맞음|맞다|맞습니다|옳음|올바름"
_JOINED_WRONG = "不正[确確解]|不[对對]|正しくない|[错錯][误誤]?|有误|誤り|間違|틀림|틀렸|틀린|오답|잘못|맞지 않"
_SAYS_WRONG = re.compile(rf"\b(?:{_WRONG}|{_NOT}\s(?:{_RIGHT}))\b|{_JOINED_WRONG}", re.IGNORECASE)
_SAYS_RIGHT = re.compile(rf"\b(?:{_RIGHT})\b|{_JOINED_RIGHT}", re.IGNORECASE)


def says_wrong(verdict: str) -> bool:
    """Return whether a verdict has a word for wrong, such as "incorrect" or "not right"."""
    return _SAYS_WRONG.search(verdict) is not None


def says_right(verdict: str) -> bool:
    """Return whether a verdict has a word for right, besides its words for wrong."""
    return _SAYS_RIGHT.search(_SAYS_WRONG.sub(" ", verdict)) is not None


def narrow(text: str) -> str:
    """Replace full-width signs and letters by those of ASCII. Every character keeps its place."""
    return text.translate(_FULL_WIDTH)
