"""What terminal and page share: the models, held-out prompts, the file of examples, and the blind score."""

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

from nlft.chat.next_round import NextRound
from nlft.chat.score import Choices
from nlft.chat.settings import ChatSettings
from nlft.chat.sides import BURST, Ask, Sides
from nlft.chat.talk import Mark, Reply, Talk, Turn, choose
from nlft.chat.target import Target, find_target
from nlft.data.records import Example, Question, read_questions
from nlft.errors import UserError, typed
from nlft.models.answerer import Generated
from nlft.outputs import refuse_inputs
from nlft.runs.base import recorded_base

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
        score = Path(settings.score) if settings.score else target.home / CHOICES
        inputs = {
            "--prompts": settings.prompts,
            "--rules": settings.rules,
            "the training file": (target.record.get("data") or {}).get("file"),
        }
        out = Path(settings.out) if settings.out else _unread(beside / EXAMPLES, inputs.values())
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

    def ask(self, talk: Talk, asked: str | Question) -> Turn:
        """Begin a turn with the sides that there are now, see `Talk.ask`."""
        talk.sides, talk.rule = self.sides.names, self.sides.rule
        return talk.ask(asked)

    def set_rule(self, rule: str) -> None:
        """Set the rule of the side `rule`, from the next prompt on. An empty text takes the side away."""
        self.sides.rule = rule.strip() or None

    def cut_line(self) -> str:
        """Say what lets a reply end that was cut off. Twice the room is a guess."""
        limit = self.settings.max_new_tokens
        return f"cut off after {limit} tokens: to let it end, start with --max_new_tokens {2 * limit}"

    def score_lines(self) -> list[str]:
        """Return the score of the blind choices, of the rule only as it is now."""
        return self.choices.lines(self.sides.rule)

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
        """Say what the file for the next round holds."""
        return self.next_round.line()

    def next_line(self) -> str:
        """Return the command that goes on from here."""
        target, examples = self.target, self.next_round.examples()
        if not examples:
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
            *self._revision(),
            *adapter,
        ]
        return typed(*words, "--output_dir", _free(target.home), *self._scheme(examples), *self._prompting())

    @property
    def base_to_train(self) -> str:
        """The model that the next round trains: the base under the adapter, or the trained model itself."""
        return self.target.base if self.target.is_adapter else self.target.tuned

    def _revision(self) -> list[str]:
        """Return the base's revision as a flag, if the run was trained on another one than the default."""
        base = recorded_base(self.target.record)
        same = base is not None and base.revision and base.name == self.base_to_train
        return ["--model_revision", str(base.revision)] if base and same else []

    def _scheme(self, examples: Sequence[Example]) -> list[str]:
        """Return the run's scheme as a flag, if the kept examples can train with it."""
        if all(one.label for one in examples):
            return ["--scheme", "uniform"]  # nothing was rejected, so there is only something to imitate
        scheme = self.target.record.get("scheme")
        if scheme == "strike" and not any(one.spans for one in examples):
            return []
        return ["--scheme", scheme] if scheme and scheme != "nlft" else []

    def _prompting(self) -> list[str]:
        """Return the flags that render prompts as they were rendered here."""
        templates = self.sides.encoder.templates
        kwargs = dict(templates.inputs.kwargs)
        system = ["--system_prompt", templates.system_prompt] if templates.system_prompt else []
        return [*system, *(["--chat_template_kwargs", json.dumps(kwargs)] if kwargs else [])]


def _unread(out: Path, inputs: Iterable[str | None]) -> Path:
    """Return the file, or the first one with a number that is no input: the run may have been trained on the first."""
    read = {Path(name).resolve() for name in inputs if name}
    numbered = (out.with_stem(f"{out.stem}-{number}") for number in count(2))
    return next(path for path in chain([out], numbered) if path.resolve() not in read)


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
