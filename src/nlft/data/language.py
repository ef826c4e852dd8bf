"""Guess which language a text is in from its commonest words. No library and no model."""

import re
import unicodedata
from collections import Counter
from functools import cache

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LETTERS = re.compile(r"[^\W\d_]")

_LANGUAGES = {
    "English": "the of and to is in that it was for on are with as his they be at have this from not but what were",
    "German": "der die das und ist nicht ein eine den dem des mit von zu auf für es sich auch wird im wie aber oder",
    "French": "le la les et est une des du pas que qui dans pour ce sur au il elle avec sont ne par l'on n'est plus",
    "Spanish": "el la los las y es una del que en por con para se no lo un está como más pero su aquí son al",
    "Italian": "il lo la gli e è una del che di in per con non si un sono come più ma della questo nel al dei",
    "Portuguese": "o a os as e é uma do da que em por com para não se um está como mais mas na no dos ao",
    "Dutch": "de het een en is niet van op te dat die in voor met zijn er aan ook als maar om bij wordt naar",
}
# Letters and words that occur in English texts too: "3 a week", "2 plus 2", "to die".
_BOTH = "a e o as an in on no do me son plus die al per est was is he for that or so come van"
_ENGLISH_TOO = frozenset(_BOTH.split())
_STOPWORDS = {
    name: frozenset(words.split()) - (frozenset() if name == "English" else _ENGLISH_TOO)
    for name, words in _LANGUAGES.items()
}
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "HANGUL", "HIRAGANA", "KATAKANA")
LANGUAGES = tuple(_LANGUAGES)
"""The languages that `language` knows."""

SCRIPTS = tuple(f"{script.capitalize()} script" for script in (*_SCRIPTS[1:], "CJK"))
"""What `language` returns for a text that is not in Latin letters."""


def words(text: str) -> list[str]:
    """Split a text into lower-case words. Numbers count as words."""
    return [word.replace("’", "'") for word in WORD.findall(text.lower())]


def is_common(word: str) -> bool:
    """Tell whether a lower-case word is among the commonest of a language."""
    return any(word in common for common in _STOPWORDS.values())


def language(text: str) -> str | None:
    """Guess a text's language from its commonest words. Return the script's name if the script is not Latin.

    Return None if the text is too short or too mixed.
    """
    letters = Counter(_script(letter) for letter in _LETTERS.findall(text[:2000]))
    if not letters:
        return None
    script, count = letters.most_common(1)[0]
    if count < 0.6 * letters.total():
        return None
    if script != "LATIN":
        return f"{script.capitalize()} script"
    all_words = words(text)
    hits = {name: sum(word in common for word in all_words) for name, common in _STOPWORDS.items()}
    (best, most), (_, second) = sorted(hits.items(), key=lambda item: -item[1])[:2]
    return best if most >= 3 and most > 1.5 * second and most >= 0.12 * len(all_words) else None


@cache
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "OTHER")
    return next((script for script in _SCRIPTS if name.startswith(script)), "CJK" if "CJK" in name else "OTHER")
