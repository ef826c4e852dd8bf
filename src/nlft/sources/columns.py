"""Which column of a table is which field: as the user says, or by its name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nlft.errors import UserError
from nlft.sources.label_words import read_label, without_accents
from nlft.sources.raw_records import FIELDS

# `comment` is what is wrong with a wrong reply, and what is liked about a right one. `system` goes before the prompt.
TARGETS = (*FIELDS, "comment", "system")
# Other names of the fields, as people and other tools write them, in English, German, French, Spanish, Italian and
# Portuguese.
_NAMES = {
    "id": "id|uuid|example id|record id|nr|nummer|identifiant|numéro|número|numero",
    "system": "system|system prompt|system message",
    "prompt": "prompt|question|instruction|input|query|request|user|user message|user prompt|user input|task|message"
    "|frage|anfrage|eingabe|aufgabe|nutzerfrage|kundenfrage"
    "|invite|consigne|requête|demande|tâche|entrée"
    "|pregunta|consulta|entrada|instrucción|petición|solicitud|tarea|mensaje"
    "|domanda|richiesta|istruzione|compito|messaggio"
    "|pergunta|questão|instrução|pedido|tarefa|mensagem",
    "completion": "completion|reply|response|output|generation|model output|model reply|model response|model answer"
    "|assistant|assistant message|assistant reply|assistant answer|assistant response|bot|bot reply|bot answer"
    "|bot response|ai reply|ai answer|ai response|ai output|llm output|llm response|prediction|text generated"
    "|antwort|ausgabe|modellantwort|ans"
    "|réponse|réponse du modèle|sortie|respuesta|respuesta del modelo|salida"
    "|risposta|risposta del modello|resposta|resposta do modelo|saída",
    "label": "label|correct|is correct|good|liked|like|thumb|thumbs|thumbs up|rating|verdict|grade|passed|pass|approved"
    "|accepted|right|ok|vote|sentiment|was it good|is it good|is good|helpful|is helpful"
    "|user feedback|user score|correctness|quality|score|kto tag|bewertung|richtig|korrekt|gut"
    "|gefällt|urteil|daumen|hilfreich"
    "|bon|bonne|juste|évaluation|pouce|utile|est bon"
    "|bueno|buena|bien|correcto|correcta|valoración|calificación|puntuación|pulgar|útil|le gusta|es bueno"
    "|buono|buona|corretto|corretta|giusto|giusta|valutazione|giudizio|voto|pollice|va bene"
    "|bom|boa|correto|correta|certo|certa|avaliação|classificação|polegar|gostou",
    "comment": "comment|comments|note|notes|remark|remarks|feedback|user comment|why|reason|explanation|rationale"
    "|kommentar|kommentare|anmerkung|anmerkungen|bemerkung|begründung|warum|notiz|hinweis|rückmeldung"
    "|commentaire|commentaires|remarque|remarques|avis|pourquoi|raison|explication|justification"
    "|comentario|comentarios|nota|notas|observación|observaciones|motivo|razón|por qué|explicación|opinión"
    "|commento|commenti|osservazione|osservazioni|ragione|perché|spiegazione|annotazione"
    "|comentário|comentários|observação|observações|razão|por quê|explicação|opinião",
    "judgment": "judgment|judgement|critique|criticism|what is wrong|whats wrong|what s wrong|problem|issue|mistake"
    "|kritik|fehler|mangel|was ist falsch|problème|erreur|défaut|crítica|problema|errore|difetto|erro|falha|fallo",
    "answer": "answer|reference|reference answer|expected|expected output|expected answer|ground truth|gold|ideal"
    "|correct answer|standard answer|musterantwort|musterlösung|lösung|erwartet"
    "|réponse attendue|réponse correcte|référence|respuesta esperada|respuesta correcta|referencia"
    "|risposta attesa|risposta corretta|riferimento|resposta esperada|resposta correta|referência|gabarito",
    "revision": "revision|correction|corrected|corrected answer|corrected response|rewrite|improved|better"
    "|better answer|better response|edited|edit|korrektur|verbesserung|verbessert|besser|überarbeitung"
    "|réponse corrigée|corrigé|amélioration|meilleure réponse|corrección|respuesta corregida|mejora|mejor respuesta"
    "|correzione|miglioramento|risposta migliore|correção|resposta corrigida|melhoria|melhor resposta",
    "spans": "spans",
    "keep": "keep",
}


def plain_name(name: object) -> str:
    """Return a column's name without case, accents, punctuation and further spaces."""
    return " ".join(re.sub(r"[^\w]|_", " ", without_accents(str(name))).split())


_FIELD_OF = {plain_name(name): target for target, names in _NAMES.items() for name in names.split("|")}


def field_named(name: object) -> str | None:
    """Return the field that a column of this name holds. None: the name says nothing."""
    thumbs = re.sub(r"[\s/|,\ufe0f]", "", str(name))
    return "label" if thumbs and set(thumbs) <= set("👍👎") else _FIELD_OF.get(plain_name(name))


@dataclass(frozen=True)
class Columns:
    """What `--columns` says.

    Attributes:
        given: our field -> the column's name.
        right_from: a rating is right if it is at least this number; None: it must be 1, 0 or a word.
        if_there: whether a table may lack a given column, as a second file may: questions have no ratings.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    right_from: float | None = None
    if_there: bool = False

    @classmethod
    def parse(cls, text: str | None, *, if_there: bool = False) -> "Columns":
        """Read `prompt=question,completion=reply,label=stars:4`. The 4 says from which number on a reply is right.

        Args:
            if_there: whether a table may lack a given column.

        Raises:
            UserError: the text has another form, or names a field that does not exist.
        """
        given, right_from = dict[str, str](), None
        for part in filter(None, map(str.strip, (text or "").split(","))):
            target, equals, name = map(str.strip, part.partition("="))
            if not equals or not name or target not in TARGETS or target in given:
                what = f"gives {target} twice" if target in given else f"has {part!r}"
                raise UserError(
                    f"--columns: {what}.\n  Write FIELD=COLUMN, such as prompt=question,completion=reply. "
                    f"Fields: {', '.join(TARGETS)}."
                )
            if target == "label" and (number := re.fullmatch(r"(.+):([+-]?\d+(?:\.\d+)?)", name)):
                name, right_from = number[1], float(number[2])
            given[target] = name
        return cls(given, right_from, if_there)

    def without_label(self) -> "Columns":
        """Return the choice without what it says of ratings."""
        return replace(self, given={t: name for t, name in self.given.items() if t != "label"}, right_from=None)

    def field_of(self, name: str) -> str | None:
        """Return the field that a score, a question or another part of an export is: as given, else by its name."""
        for target, given in self.given.items():
            if plain_name(given) == plain_name(name):
                return target
        found = field_named(name)
        return None if found in self.given else found

    def label(self, value: object) -> bool | None:
        """Return whether a rating says right; None if it says neither. See `read_label`."""
        return read_label(value, self.right_from)


AS_NAMED = Columns()


@dataclass(frozen=True)
class Chosen:
    """The columns of one table.

    Attributes:
        column: our field -> the column's name as the table writes it.
        guessed: whether any of them was recognised by a name that is neither ours nor given.
        lacking: given columns that the table does not have, where it may lack them.
    """

    column: Mapping[str, str]
    guessed: bool = False
    lacking: tuple[str, ...] = ()

    def shown(self) -> str:
        """Return the choice as `--columns` takes it."""
        return ",".join(f"{target}={name}" for target, name in self.column.items())

    def told(self) -> list[str]:
        """Return what the user must know about the choice, if the names left any doubt."""
        lines = [f"columns: {self.shown()} (others: --columns FIELD=COLUMN,...)"] if self.guessed else []
        if self.lacking:
            lines.append(f"--columns: this file has no column {' or '.join(map(repr, self.lacking))}")
        return lines


def choose_columns(
    names: Iterable[str], columns: Columns, where: str, rows: Sequence[Mapping[str, object]] = ()
) -> Chosen:
    """Decide which column is which field.

    Columns that the user gives come first, then those with our names, then those with other names. In a table with a
    rating and without another reply, `answer` is the reply: only a table without ratings has standard answers there.
    In a table without a rating, a column such as `feedback` that holds only words for right and wrong is the rating.

    Args:
        names: the table's columns.
        where: the table, for messages.
        rows: the first rows, each with its values by column.

    Raises:
        UserError: a given column does not exist, or several columns may hold one field.
    """
    names = list(names)
    lacking = {t: n for t, n in columns.given.items() if columns.if_there and not _same(n, names)}
    chosen = {target: _existing(name, names, where) for target, name in columns.given.items() if target not in lacking}
    offered: dict[str, list[str]] = {}
    for name in names:
        target = field_named(name)
        if target and target not in chosen and name not in chosen.values():
            offered.setdefault(target, []).append(name)
    if "label" not in {*offered, *chosen} and (rating := rating_among(offered.get("comment", []), rows)):
        offered["label"] = [rating]
        offered["comment"].remove(rating)
    if "completion" not in {*offered, *chosen} and "answer" in offered and "label" in {*offered, *chosen}:
        offered["completion"] = offered.pop("answer")
    for target, found in ((target, found) for target, found in offered.items() if found):
        exact = [name for name in found if plain_name(name) == target]
        best = exact or found
        if len(best) > 1:
            listed = " or ".join(f"--columns {target}={name}" for name in best)
            raise UserError(f"{where}: several columns may be the {target}: {', '.join(best)}.\n  Choose: {listed}.")
        chosen[target] = best[0]
    if "judgment" in chosen and plain_name(chosen.get("comment", "")) == "feedback" and "comment" not in columns.given:
        chosen["feedback"] = chosen.pop("comment")  # our own two fields
    ordered = {target: chosen[target] for target in TARGETS if target in chosen}
    guessed = any(name != target for target, name in ordered.items() if target not in columns.given.keys() - lacking)
    return Chosen(ordered, guessed, tuple(lacking.values()))


def rating_among(names: Iterable[str], rows: Sequence[Mapping[str, object]]) -> str | None:
    """Return the column named like a remark whose every value is a rating: `like` and `dislike` under `feedback`."""
    remarks = [name for name in names if field_named(name) == "comment"]
    for name in sorted(remarks, key=lambda name: plain_name(name) != "feedback"):
        said = [value for row in rows if (value := row.get(name)) is not None and str(value).strip()]
        if said and all(read_label(value) is not None for value in said):
            return name
    return None


def recognised(names: Iterable[str]) -> int:
    """Return how many fields these names name."""
    return len({field_named(name) for name in names} - {None})


def _same(name: str, names: list[str]) -> list[str]:
    return [other for other in names if other == name] or [n for n in names if plain_name(n) == plain_name(name)]


def _existing(name: str, names: list[str], where: str) -> str:
    same = _same(name, names)
    if len(same) != 1:
        raise UserError(f"{where}: --columns names {name!r}, which is not a column.\n  Columns: {', '.join(names)}.")
    return same[0]
