"""Read a rating: what people write for right and wrong."""

import re
import unicodedata

from nlft.sources.raw_records import shown

_RIGHT = (
    *("true", "yes", "y", "right", "correct", "good", "great", "ok", "okay", "fine", "like", "liked", "accept"),
    *("accepted", "approve", "approved", "pass", "passed", "positive", "up", "thumbs up", "thumb up", "thumbsup"),
    *("ja", "j", "wahr", "richtig", "korrekt", "gut", "passt", "stimmt", "gefällt", "gefällt mir", "daumen hoch"),
    *("in ordnung", "oui", "vrai", "bon", "bonne", "bien", "juste", "exact", "correcte", "j'aime", "d'accord"),
    *("sí", "verdadero", "cierto", "bueno", "buena", "correcto", "correcta", "me gusta"),
    *("sì", "vero", "buono", "buona", "bene", "va bene", "giusto", "giusta", "corretto", "corretta", "mi piace"),
    *("sim", "verdadeiro", "certo", "certa", "bom", "boa", "correto", "correta", "gosto", "gostei"),
    *("👍", "✓", "✔", "✅", "☑", "🙂", "😀", "😊"),
)
_WRONG = (
    *("false", "no", "n", "wrong", "incorrect", "bad", "poor", "not ok", "dislike", "disliked", "reject", "rejected"),
    *("fail", "failed", "negative", "down", "thumbs down", "thumb down", "thumbsdown", "not good"),
    *("nein", "falsch", "unwahr", "schlecht", "nicht gut", "gefällt nicht", "gefällt mir nicht", "daumen runter"),
    *("passt nicht", "stimmt nicht", "non", "faux", "fausse", "mauvais", "mauvaise", "incorrecte", "pas bon"),
    *("je n'aime pas", "falso", "falsa", "malo", "mala", "mal", "incorrecto", "incorrecta", "no me gusta"),
    *("sbagliato", "sbagliata", "male", "errato", "errata", "scorretto", "non va bene", "non mi piace"),
    *("não", "errado", "errada", "ruim", "incorreto", "incorreta", "não gosto", "não gostei"),
    *("👎", "✗", "✘", "❌", "☒", "🙁", "😞"),
)
_ACCENTS = re.compile("[\u0300-\u036f]")


def without_accents(text: str) -> str:
    """Return a text in small letters without accents: `Sí` and `SI` are one word."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFD", text.replace("\u2019", "'")))
    return unicodedata.normalize("NFC", plain).casefold()


_LABELS = {
    **{without_accents(word): True for word in _RIGHT},
    **{without_accents(word): False for word in _WRONG},
}
_REPLY = re.compile(r"^(?:reponse|respuesta|risposta|resposta) | (?:answer|reply|response|output|antwort|reponse)$")
_UNSEEN = re.compile("[\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff]")  # how an emoji is drawn, and its skin colour
_JOINS = re.compile(r"(?<=[^\W_])[_-](?=[^\W_])")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")
_OR_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")


def read_label(value: object, right_from: float | None = None) -> bool | None:
    """Return whether a rating says right (true) or wrong (false). Return None if it says neither.

    Args:
        value: true or false, a number, or a word such as `yes`, `nein` or `👎`. `1,000` and `1.000` may be one or a
            thousand, so they say something only if both do not differ in it.
        right_from: a number is right if it is at least this. Without it, 1 is right, and 0 and -1 are wrong.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = " ".join(without_accents(_UNSEEN.sub("", value)).split()).strip(" .!:;")
        if not _NUMBER.fullmatch(word):
            word = _JOINS.sub(" ", word)  # thumbs_up
            return _LABELS.get(_REPLY.sub("", word)) if word else None
        value = float(word.replace(",", "."))
        if right_from is not None and _OR_THOUSANDS.fullmatch(word):
            as_thousands = 1000 * value >= right_from
            return as_thousands if as_thousands is (value >= right_from) else None
    if not isinstance(value, int | float):
        return None
    if right_from is not None:
        return value >= right_from
    return True if value == 1 else False if value in (0, -1) else None


def is_number(value: object) -> bool:
    """Return whether a rating is a number, perhaps written as text."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip()) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def label_problem(value: object, name: str) -> tuple[str, str]:
    """Return what is wrong with a rating that is neither right nor wrong, and the cure.

    Args:
        name: the column that it stands in.
    """
    cure = "Write yes or no, true or false, 1 or 0, 👍 or 👎, or yes and no in your language."
    if is_number(value):
        cure += f" For numbers, say from which on a reply is right: --columns label={name}:4."
    if isinstance(value, str) and _OR_THOUSANDS.fullmatch(value.strip()):
        cure += " Write a thousand as 1000, without a mark."
    return f"is {shown(value)}, which is neither right nor wrong.", cure
