"""Write the characters of a text plainly: digits of every script, minus signs, powers, LaTeX and Markdown.

All of it is linear in the length of the text.
"""

import re
import unicodedata
from functools import lru_cache

# The en dash stays: between two numbers it is a range, before one number it is a minus sign.
_SIGNS = {
    **dict.fromkeys("−﹣‐‑", "-"),
    **dict.fromkeys("—―", " — "),
    **dict.fromkeys("·⋅∙•", "×"),
    "∗": "*",
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("≃≅", "≈"),
    **dict.fromkeys("’‘ʼ′", "'"),
    **dict.fromkeys("“”„«»", '"'),
    "٬": "'",
    "٫": ".",
    "、": ",",
    "،": ",",
    "。": ". ",
    "…": "...",
    "٪": "%",
    "⇒": " so ",
    "⟹": " so ",
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile(r"[⁻⁺]?[⁰¹²³⁴-⁹]+")
_MOST_ACCENTS = 30  # in a row, as in Unicode's stream-safe format
_VULGAR = re.compile(r"(?:([0-9]) ?)?([¼-¾⅐-⅞])")


def plain_characters(text: str) -> str:
    """Replace characters by the ASCII characters that mean the same, if there are any.

    Digits of every script become ASCII digits, `½` becomes `1/2`, `m²` becomes `m^2`, and `−5` becomes `-5`.
    """
    if text.isascii():
        return text
    text = "".join(map(_plain_character, composed(text)))
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    return _VULGAR.sub(lambda match: f"{match[1] or ''}{' ' * bool(match[1])}{_fraction(match[2])} ", text)


def composed(text: str) -> str:
    """Return a text in Unicode's normal form C: an `e` with an accent after it becomes `é`.

    A text with more than 30 accents in a row stays as it is, because Python needs quadratic time to sort them.
    """
    row = 0
    for character in text:
        row = row + 1 if unicodedata.combining(character) else 0
        if row > _MOST_ACCENTS:
            return text
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if "！" <= character <= "～":  # full-width forms of ASCII
        character = chr(ord(character) - 0xFEE0)
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Zs":
        return " "
    return "" if category == "Cf" else character


@lru_cache(maxsize=64)
def _fraction(character: str) -> str:
    return unicodedata.normalize("NFKC", character).replace("⁄", "/")


_ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator marks: 64-35=<<64-35=29>>29
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,60}>")
_FRAC = re.compile(
    r"(?:(?P<before>[0-9]) ?)?\\[dtc]?frac ?"
    r"(?:\{(?P<a>[^{}\n]{0,40})\} ?\{(?P<b>[^{}\n]{0,40})\}|(?P<c>[0-9]) ?(?P<d>[0-9]))"
)
_EXPONENT = re.compile(r"\^ ?\{ ?([-+]?[0-9]{1,9}) ?\}")
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z])_(?:\{[^{}\n]{0,20}\}|[0-9A-Za-z])")
_COMMAND = re.compile(r"\^?\\(?:([A-Za-z]+)\*?|(.))", re.DOTALL)
_MATH = re.compile(r"\$(?=[^\s$])([^$\n]*)(?<=[^\s$])\$(?![0-9])")
_FACTORIAL = re.compile(r"(?<=[0-9a-z)])!")
_POWER = re.compile(r"(?<=[0-9])(?:\*\*| \*\* )(?=[0-9])")
_COMMANDS = {
    **dict.fromkeys(("times", "cdot", "ast"), "×"),
    "div": "÷",
    "pm": "±",
    **dict.fromkeys(("approx", "simeq", "cong"), "≈"),
    "sim": "~",
    **dict.fromkeys(("le", "leq", "leqslant"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant"), "≥"),
    "lt": "<",
    "gt": ">",
    **dict.fromkeys(("ne", "neq"), "≠"),
    "pi": "π",
    "infty": "∞",
    "sqrt": "√",
    **dict.fromkeys(("circ", "degree"), "°"),
    **dict.fromkeys(("implies", "Rightarrow", "therefore", "Longrightarrow"), " so "),
    **dict.fromkeys(("dots", "ldots", "cdots"), "..."),
    **dict.fromkeys(("pounds", "textsterling"), "£"),
    "euro": "€",
    "textdollar": "$",
}
_WRAPPERS = re.compile(
    "text(?:bf|it|rm|sf|style)?|emph|math(?:rm|bf|it|sf|bb|cal)|boldsymbol|bm|operatorname|[mhf]box|boxed|underline"
    "|displaystyle|left|right|[bB]igg?|q?quad|bf|rm|it|cancel"
)
_ESCAPED = {"!": "", "{": "(", "}": ")", "\\": "\n", "n": "\n"} | {sign: sign for sign in "%$#&_"}
UNKNOWN = "¤"  # stands for a LaTeX command that is not known


def plain_markup(text: str) -> str:
    r"""Take LaTeX, Markdown, HTML and calculator marks out of a text with plain characters.

    >>> plain_markup(r"It is **$\frac{1}{2}\text{ m}^2$**")
    'It is 1/2 m^2'
    """
    text = _ANNOTATION.sub("", text)
    if "<" in text:
        text = _TAG.sub("", text)
    if "\\" in text:
        text = _COMMAND.sub(_command, _FRAC.sub(_frac, text.replace("{,}", ",")))
    if "$" in text:
        text = _MATH.sub(lambda match: _FACTORIAL.sub(f" {UNKNOWN}", match[1]), text.replace("$$", " "))
    text = _SUBSCRIPT.sub("", _EXPONENT.sub(r"^\1", text)).replace("{", "").replace("}", "")
    return _POWER.sub("^", text).replace("**", "").replace("__", "").replace("`", "")


def _frac(match: re.Match[str]) -> str:
    before = match["before"] or ""
    above, below = match["a"] or match["c"] or "", match["b"] or match["d"] or ""
    if not re.fullmatch(r" ?[-+]?[0-9][0-9,]* ?/ ?[0-9][0-9,]* ?", f"{above}/{below}"):
        return f"{before} ({above})/({below})"
    return f"{before}{' ' * bool(before)}{above.strip()}/{below.strip()}"


def _command(match: re.Match[str]) -> str:
    if match[1] is None:
        return _ESCAPED.get(match[2], " ")
    if _WRAPPERS.fullmatch(match[1]):
        return "^" * match[0].startswith("^")
    if match[1] in ("circ", "degree"):
        return "°"
    return _COMMANDS.get(match[1], f" {UNKNOWN} ")
