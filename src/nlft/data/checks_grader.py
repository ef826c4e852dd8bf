"""Grade replies by checks. Checks of kind `judge` ask a model, whose answers are kept."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

from nlft.config import Range
from nlft.core.prompts import fill, prompt_text
from nlft.core.spans import quoted_spans
from nlft.core.thoughts import without_thoughts
from nlft.data.checks import ALL_CHECKS, Check, CheckResult, all_passed, check_reply, only_thoughts, said_part
from nlft.data.checks_file import read_checks
from nlft.data.grading import CHECKS, ExtractionSettings, Grade, Grader, GraderSettings, Reply, ReplyGrader
from nlft.data.yes_or_no import quoting_part, says_yes
from nlft.errors import UserError

if TYPE_CHECKING:  # importing it loads torch, which most checks do not need
    from nlft.models.answerer import Answerer, Generated, Reason
    from nlft.models.ledger import Ledgered
    from nlft.models.settings import BackendSettings, CallSettings

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
"""Usual maximum length of the judge's answer, in tokens."""

_UNFINISHED: "dict[Reason, str]" = {
    "length": "cut off by --judge_max_new_tokens",
    "content_filter": "stopped by the server's content filter",
    "unknown": "ended by the server for an unknown reason",
}


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
            results[check.name][at] = _judged(check, part, question, answer).moved(start)
        _tell_unfinished(answers)
        return results


def _judged(check: Check, reply: Reply, question: str, given: "Generated") -> CheckResult:
    answer = without_thoughts(given.text)
    ended = _UNFINISHED.get(given.finish_reason)
    yes = None if ended else says_yes(answer)  # what was still to come could take back its first word
    kept = {"question": question, "answer": answer, "says": None if yes is None else "yes" if yes else "no"}
    if yes is None:
        why = f"the judge's answer was {ended}" if ended else "the judge's answer says neither yes nor no"
        return CheckResult(check.name, None, (), why, kept)
    # The words that show a no are not in the reply.
    hits = tuple((span.start, span.end) for span in quoted_spans(reply.text, quoting_part(answer)).spans) if yes else ()
    return CheckResult(check.name, yes == check.must, hits, f"the judge says {'yes' if yes else 'no'}", kept)


def _tell_unfinished(answers: "Sequence[Generated]") -> None:
    """Print how many of the judge's answers did not end by themselves."""
    from nlft.models.exchange import tell

    for reason, count in Counter(answer.finish_reason for answer in answers).items():
        if reason in _UNFINISHED:
            cure = " Raise it if the judge thinks before it answers." if reason == "length" else ""
            tell(f"{count} of {len(answers)} answers of the judge were {_UNFINISHED[reason]}: undecided.{cure}")


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

    judge_max_new_tokens: Annotated[int, Range(1, 1_000_000)] = field(
        default=JUDGE_TOKENS,
        metadata={"help": "Maximum length of its answer, in tokens."},
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
            for name in ("judge_model", "judge_base_url", "judge_max_new_tokens"):
                if getattr(self, name) not in (None, "", JUDGE_TOKENS):
                    raise UserError(f"--{name} is for checks, but there are none.\n  Add --checks FILE, or remove it.")
            if self.grader == CHECKS:
                raise UserError("--grader checks needs a file of checks.\n  Give it with --checks FILE.")

    def make_checks(self, beside: "Path | Ledgered | CheckLimits | None") -> ChecksGrader:
        """Return the grader that the file of checks describes.

        Args:
            beside: where the judge's answers are kept, and under which limits. A file; or the model whose replies are
                checked: they share a ledger and its limits; None keeps no answers and has no limits.

        Raises:
            UserError: the checks cannot be used, or need a model that is not named.
        """
        assert self.checks is not None
        opens = (lambda: self._open_judge(beside)) if self.judge_model else None
        return ChecksGrader(read_checks(self.checks), opens)

    def _open_judge(self, beside: "Path | Ledgered | CheckLimits | None") -> "Answerer":
        from nlft.models.ledger import Ledgered
        from nlft.models.ledger_file import Ledger
        from nlft.models.loading import ModelSettings
        from nlft.models.opening import open_model
        from nlft.models.settings import SERVER_LIMITS, BackendSettings, CallSettings

        backend = BackendSettings(base_url=self.judge_base_url, api_key_env=self.judge_api_key_env)
        limits = None if isinstance(beside, Path | None) else beside.backend
        if limits and self.judge_base_url:
            backend = replace(backend, **{name: getattr(limits, name) for name in SERVER_LIMITS})
        judge = open_model(
            ModelSettings(model_name_or_path=self.judge_model),
            backend,
            max_new_tokens=self.judge_max_new_tokens,
            batch_size=8,
        )
        if beside is None:
            return judge
        if isinstance(beside, Path):
            return Ledgered(judge, Ledger(beside), CallSettings())
        ledger = Ledger(beside.ledger) if isinstance(beside.ledger, Path) else beside.ledger
        return Ledgered(judge, ledger, beside.calls)


@dataclass(frozen=True)
class CheckLimits:
    """Where a judge's answers are kept if no other model answers, and under which limits."""

    ledger: Path
    calls: "CallSettings"
    backend: "BackendSettings"


def make_grader(settings: ExtractionSettings, beside: "Path | Ledgered | None") -> Grader | ReplyGrader:
    """Return the grader that the settings name: their checks, or another one. For `beside`, see `make_checks`."""
    if settings.grader == CHECKS and isinstance(settings, CheckSettings):
        return settings.make_checks(beside)
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
