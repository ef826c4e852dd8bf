"""What terminal and page share: the models, held-out prompts, the file of examples, and the blind score."""

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

from nlft.chat.next_round import NextRound
from nlft.chat.score import Choices
from nlft.chat.settings import ChatSettings
from nlft.chat.sides import BURST, Ask, Sides
from nlft.chat.talk import Mark, Reply, Talk, Turn, choose
from nlft.chat.target import Target, find_target
from nlft.data.records import Question, read_questions
from nlft.errors import UserError, display_path, typed
from nlft.models.answerer import Generated
from nlft.outputs import refuse_inputs

CHOICES, EXAMPLES = "chat-choices.jsonl", "examples-next.jsonl"


class Session:
    """Everything that outlives one conversation."""

    def __init__(self, name: str, settings: ChatSettings) -> None:
        """Check all files first, then load the models.

        Args:
            name: see `find_target`.

        Raises:
            UserError: a file or a model cannot be used.
        """
        target = find_target(name, settings.model_name_or_path)
        self.settings = settings
        self.questions: list[Question] = read_questions(settings.prompts) if settings.prompts else []
        beside = target.home if target.from_hub else target.home.resolve().parent
        out = Path(settings.out) if settings.out else beside / EXAMPLES
        score = Path(settings.score) if settings.score else target.home / CHOICES
        inputs = {
            "--prompts": settings.prompts,
            "--rules": settings.rules,
            "the training file": (target.record.get("data") or {}).get("file"),
        }
        refuse_inputs("--out", out, inputs)
        refuse_inputs("--score", score, {**inputs, "--out": out})
        self.next_round = NextRound(out)
        Choices(score, {})  # a wrong file is an error before the models are loaded
        self.sides = Sides(target, settings)
        self.about = self.sides.about()
        self.choices = Choices(score, self.about)

    @property
    def target(self) -> Target:
        """What is talked to."""
        return self.sides.target

    def talk(self) -> Talk:
        """Begin a conversation."""
        return Talk(self.sides.names, seed=self.settings.seed, blind=self.settings.blind)

    def write(self, talk: Talk, sides: Sequence[str], burst: int | None = BURST) -> Generator[tuple[str, str]]:
        """Let sides reply in the last turn. Yield each side with its piece of text; the text is empty at its end.

        What a side has written stays in its reply, also if the reader stops it.
        """
        turn = talk.turns[-1]
        asks = {side: Ask(talk.messages(side), talk.key(side), talk.inputs) for side in sides}
        for side, piece in self.sides.write(asks, burst):
            reply = turn.replies[side]
            if isinstance(piece, Generated):
                reply.end(piece)
                yield side, ""
            else:
                reply.text += piece
                yield side, piece

    def mark(self, talk: Talk, turn: Turn, reply: Reply, mark: Mark) -> None:
        """Keep a mark as an example; see `NextRound.keep`."""
        self.next_round.keep(talk, turn, reply, mark, self.about)

    def choose(self, turn: Turn, sides: Sequence[str], seed: int) -> None:
        """Take a blind choice, and keep it.

        Raises:
            UserError: see `choose`; or the file cannot be written, and then the choice is not taken.
        """
        choose(turn, sides)
        try:
            self.choices.add(turn, seed)
        except UserError:
            turn.chosen = None
            raise

    def kept_line(self) -> str:
        """Say what was kept for the next round."""
        count, silent = len(self.next_round.kept), self.next_round.without_reason()
        line = f"{count} example{'s' * (count != 1)} in {display_path(self.next_round.path)}"
        return f"{line}; {silent} rejected without a reason: say why, or strike words" if silent else line

    def next_line(self) -> str:
        """Return the command that goes on from here."""
        target = self.target
        if not self.next_round.kept:
            known = target.record and (target.home / "run.yaml").is_file()
            if known:
                return typed("nlft", "map", target.home)
            return typed("nlft", "chat", Path(target.tuned) if target.from_hub else target.home)
        adapter: list[str | Path] = ["--adapter", Path(target.tuned)] if target.is_adapter else []
        words: list[str | Path] = [
            "nlft",
            "train",
            self.next_round.path,
            "--model_name_or_path",
            Path(self.base_to_train),
            *adapter,
        ]
        return typed(*words, "--output_dir", _free(target.home), *self._scheme(), *self._prompting())

    @property
    def base_to_train(self) -> str:
        """The model that the next round trains: the base under the adapter, or the trained model itself."""
        return self.target.base if self.target.is_adapter else self.target.tuned

    def _scheme(self) -> list[str]:
        """Return the run's scheme as a flag, if the kept examples can train with it."""
        rows = self.next_round.kept.values()
        if all(row["label"] for row in rows):
            return ["--scheme", "uniform"]  # nothing was rejected, so there is only something to imitate
        scheme = self.target.record.get("scheme")
        if scheme == "strike" and not any("spans" in row for row in rows):
            return []
        return ["--scheme", scheme] if scheme and scheme != "nlft" else []

    def _prompting(self) -> list[str]:
        """Return the flags that render prompts as they were rendered here."""
        templates = self.sides.encoder.templates
        kwargs = dict(templates.inputs.kwargs)
        system = ["--system_prompt", templates.system_prompt] if templates.system_prompt else []
        return [*system, *(["--chat_template_kwargs", json.dumps(kwargs)] if kwargs else [])]


def _free(home: Path) -> Path:
    """Return a folder for the next run that is not there yet."""
    home = home if home.name not in ("", ".") else home.resolve()
    number = 2
    while (place := home.with_name(f"{home.name}-{number}")).exists():
        number += 1
    return place


def thumb(mark: Mark, good: bool) -> Mark:
    """Set a thumb. A reason for the other thumb no longer fits, so it goes."""
    return replace(mark, good=good, why=mark.why if mark.good in (None, good) else "")
