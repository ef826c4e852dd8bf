"""Grade replies by checks. Checks of kind `judge` ask a model, whose answers are kept."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from nlft.core.marks import narrow
from nlft.core.prompts import fill, prompt_text
from nlft.core.thoughts import without_thoughts
from nlft.data.checks import ALL_CHECKS, Check, CheckResult, all_passed, check_reply, only_thoughts, said_part, spans_of
from nlft.data.checks_file import read_checks
from nlft.data.grading import CHECKS, ExtractionSettings, Grade, Grader, GraderSettings, Reply, ReplyGrader
from nlft.errors import UserError

if TYPE_CHECKING:  # importing it loads torch, which most checks do not need
    from nlft.models.answerer import Answerer
    from nlft.models.ledger_file import Ledger
    from nlft.models.settings import CallSettings

JUDGE_PROMPT = """\
Below are a question and a reply to it.

Question:
{prompt}

Reply:
{reply}

{check}
Begin your answer with yes or no. Then say why in one sentence, and quote in double quotes the words of the reply that \
show it."""
JUDGE_TOKENS = 128
"""Maximum length of the judge's answer, in tokens. Its first word decides."""

_YES_OR_NO = r"\W*(yes|no)\b(?!\W+(?:and|or)\W+(?:yes|no)\b|/|\s+(?:idea|opinion|clue|way to))"
_DECIDED = re.compile(_YES_OR_NO, re.IGNORECASE)
_STATED = re.compile(rf"\b(?:answer|verdict)(?:\s+is|\W*:){_YES_OR_NO}", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"\n]{2,})"|“([^“”\n]{2,})”')


class QuestionNeeds(TypedDict, total=False):
    """Keyword arguments of `read_questions`."""

    require_answer: bool
    needed_fields: Collection[str]


OpenJudge = Callable[[], "Answerer"]
"""Opens the model that decides checks of kind `judge`. Called once, when it is first needed."""


class ChecksGrader:
    """Grades a reply right if it passes every check."""

    def __init__(self, checks: Sequence[Check], judge: "Answerer | OpenJudge | None" = None) -> None:
        """
        Args:
            judge: the model that decides checks of kind `judge`, or a function that opens it.

        Raises:
            UserError: a check needs a judge, and there is none.
        """
        self.checks = list(checks)
        self._judge = judge
        asking = [check for check in self.checks if check.kind == "judge"]
        if asking and judge is None:
            raise UserError(
                f"{asking[0].where}: the check {asking[0].name} asks a judge, but no model is named.\n"
                "  Add --judge_model NAME, and --judge_base_url ADDRESS if it is on a server; or remove the check."
            )

    def anywhere(self) -> "ChecksGrader":
        """Return a grader of the checks that name no field of a question, so that any reply can be graded."""
        return ChecksGrader([check for check in self.checks if not check.slots], self._judge)

    @property
    def needed_fields(self) -> frozenset[str]:
        """The fields of questions that the checks name."""
        return frozenset[str]().union(*(check.slots for check in self.checks))

    def check(self, replies: Sequence[Reply]) -> list[list[CheckResult]]:
        """Return the results of all checks for each reply, in the order of the checks.

        Raises:
            UserError: a question lacks a field that a check names, or a user's function failed.
        """
        decided = {
            check.name: [check_reply(check, reply) for reply in replies]
            for check in self.checks
            if check.kind != "judge"
        }
        decided |= self._ask([check for check in self.checks if check.kind == "judge"], replies)
        return [[decided[check.name][at] for check in self.checks] for at in range(len(replies))]

    def grade(self, replies: Sequence[Reply]) -> list[Grade]:
        """Return for each reply: right if it passes all checks, else wrong or ungraded."""
        return [all_passed(results, reply.text) for results, reply in zip(self.check(replies), replies, strict=True)]

    @property
    def readings(self) -> list[str]:
        """The names under which an evaluation reports: all checks together, then each check."""
        return [ALL_CHECKS, *(check.name for check in self.checks)]

    def _ask(self, checks: Sequence[Check], replies: Sequence[Reply]) -> dict[str, list[CheckResult]]:
        """Ask the judge each check's question about each reply."""
        from nlft.models.answerer import CompletionRequest, complete

        if not checks or not replies:
            return {check.name: [] for check in checks}
        if self._judge is not None and not hasattr(self._judge, "answer"):
            self._judge = self._judge()
        said = [said_part(reply) for reply in replies]
        asked = [
            (check, at, part, start, check.filled(part)[0])
            for check in checks
            for at, (part, start) in enumerate(said)
            if part is not None
        ]
        requests = [
            CompletionRequest(
                f"{part.key}#check-{check.name}",
                fill(JUDGE_PROMPT, prompt=prompt_text(part.prompt), reply=part.text, check=question),
            )
            for check, _, part, _, question in asked
        ]
        answers = complete(requests, self._judge, "checking")  # type: ignore[arg-type]
        results = {check.name: [only_thoughts(check)] * len(replies) for check in checks}
        for (check, at, part, start, question), answer in zip(asked, answers, strict=True):
            results[check.name][at] = _judged(check, part, question, answer.text).moved(start)
        return results


def says_yes(text: str) -> bool | None:
    """Read a judge's answer: whether it says yes. Return None if it says neither yes nor no, or both."""
    text = narrow(text)
    if match := _DECIDED.match(text):
        return match[1].lower() == "yes"
    stated = {found.lower() for found in _STATED.findall(text)}
    return stated.pop() == "yes" if len(stated) == 1 else None


def _judged(check: Check, reply: Reply, question: str, answer: str) -> CheckResult:
    answer = without_thoughts(answer)
    yes = says_yes(answer)
    kept = {"question": question, "answer": answer, "says": None if yes is None else "yes" if yes else "no"}
    if yes is None:
        return CheckResult(check.name, None, (), "the judge's answer says neither yes nor no", kept)
    hits: set[tuple[int, int]] = set()
    if yes:  # the words that show a no are not in the reply
        hits = {span for a, b in _QUOTED.findall(answer) for span in spans_of(a or b, reply.text)}
    evidence = f"the judge says {'yes' if yes else 'no'}"
    return CheckResult(check.name, yes == check.must, tuple(sorted(hits)), evidence, kept)


@dataclass
class CheckSettings(GraderSettings):
    """Settings of checks, which grade replies that have no standard answer."""

    checks: str | None = field(
        default=None,
        metadata={"help": "File of checks, .yaml. Implies --grader checks."},
    )
    judge_model: str | None = field(
        default=None, metadata={"help": "Model that decides checks of kind judge: a folder or a name."}
    )
    judge_base_url: str | None = field(
        default=None, metadata={"help": "Address of the server that has --judge_model. Without it, it is loaded here."}
    )
    judge_api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the key of that server."}
    )

    def settle_checks(self, also: Sequence[str] = ()) -> None:
        """Let `checks` choose the grader.

        Args:
            also: other graders that may stand beside checks.

        Raises:
            UserError: there are checks and another grader, or a setting of the checks without checks.
        """
        if self.checks and self.grader == "number":
            self.grader = CHECKS
        if self.checks and self.grader not in (CHECKS, *also):
            raise UserError(
                f"--grader {self.grader} and --checks: only one of them can grade.\n  Leave one of them out."
            )
        if not self.checks:
            for name in ("judge_model", "judge_base_url"):
                if getattr(self, name):
                    raise UserError(f"--{name} is for checks, but there are none.\n  Add --checks FILE, or remove it.")
            if self.grader == CHECKS:
                raise UserError("--grader checks needs a file of checks.\n  Give it with --checks FILE.")

    def make_checks(self, ledger: "Path | Ledger | None", calls: "CallSettings | None" = None) -> ChecksGrader:
        """Return the grader that the file of checks describes.

        Args:
            ledger: file of the judge's answers, or the open file of the answers that it checks; None keeps no answers.
            calls: limits on the judge's answers.

        Raises:
            UserError: the checks cannot be used, or need a model that is not named.
        """
        assert self.checks is not None
        opens = (lambda: self._open_judge(ledger, calls)) if self.judge_model else None
        return ChecksGrader(read_checks(self.checks), opens)

    def _open_judge(self, ledger: "Path | Ledger | None", calls: "CallSettings | None") -> "Answerer":
        from nlft.models.loading import ModelSettings
        from nlft.models.opening import open_model
        from nlft.models.settings import BackendSettings, CallSettings

        judge = open_model(
            ModelSettings(model_name_or_path=self.judge_model),
            BackendSettings(base_url=self.judge_base_url, api_key_env=self.judge_api_key_env),
            max_new_tokens=JUDGE_TOKENS,
            batch_size=8,
        )
        if ledger is None:
            return judge
        from nlft.models.ledger import Ledgered
        from nlft.models.ledger_file import Ledger

        return Ledgered(judge, Ledger(ledger) if isinstance(ledger, Path) else ledger, calls or CallSettings())


def make_grader(
    settings: ExtractionSettings, ledger: "Path | Ledger | None", calls: "CallSettings | None" = None
) -> Grader | ReplyGrader:
    """Return the grader that the settings name: their checks, or another one. For the arguments, see `make_checks`."""
    if settings.grader == CHECKS and isinstance(settings, CheckSettings):
        return settings.make_checks(ledger, calls)
    return settings.make_grader()


def needs_of_questions(checks: str | Path | None) -> QuestionNeeds:
    """Return what `read_questions` must require for a file of checks.

    Checks need no standard answer, unless one of them names it.

    Args:
        checks: the file; None: no checks.
    """
    if checks is None:
        return {}
    slots = frozenset[str]().union(*(check.slots for check in read_checks(checks)))
    return {"require_answer": "answer" in slots, "needed_fields": slots}
