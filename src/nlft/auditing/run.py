"""The audit: one pass over the examples, before a training run is spent on them, that says what to mend."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from nlft.auditing.copies import copies, overlap
from nlft.auditing.findings import SPOILT, Finding, worst_first
from nlft.auditing.report import AuditReport
from nlft.auditing.signal import Margins, Measured, figures, has_signal, margins, measure, signal_findings
from nlft.auditing.text import text_findings
from nlft.config import Range
from nlft.core.conditions import ConditionEncoder, EncodedExample
from nlft.core.prompts import PromptSettings
from nlft.core.schemes.nlft import NLFTSettings
from nlft.data.encoding import encode
from nlft.data.grading import MARK, Grader, get_grader
from nlft.data.records import Example, Question
from nlft.errors import ProblemsError, UserError

_MARKED_SHARE = 0.9  # with so many answers marked as GSM8K's are, the number grader is meant


@dataclass
class AuditSettings(PromptSettings):
    """What the audit checks, and how; what it shares with training should be set as it is set there."""

    test_file: str | None = field(
        default=None, metadata={"help": "Questions that you will evaluate on: none of them may be trained on."}
    )
    grader: str = field(
        default="auto",
        metadata={
            "help": "Holds the labels to the answers: number, exact, choice, regex, label (nothing to grade), or a "
            "Python function's dotted path. auto: number where the answers have a ####, else none."
        },
    )
    extraction: Literal["strict", "flexible", "original"] = field(
        default="flexible",
        metadata={"help": "How the number grader reads an answer: after ####, or the last number."},
    )
    near_duplicate: Annotated[float, Range(0.3, 1)] = field(
        default=0.7, metadata={"help": "Texts that share so much of their character 5-grams are near-duplicates."}
    )
    placebos: Annotated[int, Range(0, 16)] = field(
        default=2,
        metadata={"help": "Other examples' judgments that each wrong completion is scored under; 0: none."},
    )
    placebo_level: Annotated[float, Range(0, 1)] = field(
        default=0.7,
        metadata={"help": "A judgment must beat placebos by more than this share of them differ from each other."},
    )
    max_length: Annotated[int | None, Range(8, 1e9)] = field(
        default=1024, metadata={"help": "Most tokens of prompt and completion, as in training."}
    )
    batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=16, metadata={"help": "Examples that are scored at a time."}
    )
    most_listed: Annotated[int, Range(1, 1_000_000)] = field(
        default=20, metadata={"help": "Findings of one kind that are printed; files have them all."}
    )
    seed: int = field(default=0, metadata={"help": "Decides which examples' judgments are the placebos."})


def run_audit(
    examples: Sequence[Example],
    model: Any,
    encoder: ConditionEncoder | None,
    settings: AuditSettings,
    *,
    test: Sequence[Question] | None = None,
    saliency: NLFTSettings | None = None,
    places: Mapping[str | int, str] | None = None,
    name: str = "the examples",
) -> AuditReport:
    """Audit examples; wrong ones may still be without a judgment.

    Args:
        model: scores the completions. Without it, None, only what can be seen in the texts is checked.
        encoder: renders and tokenises, as training does; its templates count, not the settings'. None only without
            a model.
        test: questions of the test file, if there is one.
        saliency: the settings that training will have.
        places: file and line of each example, by id.
        name: what the report calls the data.

    Raises:
        UserError: there are no examples, or no such grader.
    """
    if not examples:
        raise UserError(f"{name}: there are no examples to audit.\n  Give a file with at least one.")
    grader, notes = _grader(examples, settings)
    templates = encoder.templates if encoder else settings.templates()
    special = sorted(set(encoder.tokenizer.all_special_tokens)) if encoder else []
    found = text_findings(examples, grader, special, templates.judge_shows_correction)
    found += copies(examples, settings.near_duplicate)
    if test is not None:
        found += overlap(examples, test, settings.near_duplicate)
    else:
        notes.append("no test file was given, so overlap with it was not checked (--test_file)")
    measured: list[Measured] = []
    margin = Margins()
    if encoder is not None:
        fitting, refused = _encoded(examples, encoder, settings.max_length, found)
        found += refused
        if model is not None:
            measured, margin = _measured(model, encoder, fitting, settings, saliency or NLFTSettings())
            found += _without_symptoms(signal_findings(measured, margin), found)
            notes += _placebo_notes(measured, settings)
    if model is None:
        unseen = "what the judgments move" if encoder else "what the judgments move, and lengths,"
        notes.append(f"no model was given, so {unseen} could not be checked (--model_name_or_path)")
    return AuditReport(
        name=name,
        examples=examples,
        findings=worst_first(found),
        usable=_usable(measured, margin, found) if model is not None else None,
        notes=notes,
        places=places or {},
        measured=[figures(one, margin) for one in measured],
        settings={**asdict(settings), "margin_gap": margin.gap, "margin_fit": margin.fit},
        most_listed=settings.most_listed,
    )


def _grader(examples: Sequence[Example], settings: AuditSettings) -> tuple[Grader | None, list[str]]:
    """What labels are held to, and a note if it was not the user who said so."""
    name = settings.grader
    if name == "auto":
        marked = sum(MARK in e.answer for e in examples) >= _MARKED_SHARE * len(examples)
        name = "number" if marked else "label"
        told = f"most answers have {MARK}" if marked else f"few answers have {MARK}: labels were held to nothing"
        notes = [f"grader: {name}, since {told} (--grader)"]
    else:
        notes = []
    if name == "label":
        return None, notes
    options = {"extraction": settings.extraction} if name == "number" else {}
    return get_grader(name, **options), notes


def _encoded(
    examples: Sequence[Example], encoder: ConditionEncoder, max_length: int | None, found: Sequence[Finding]
) -> tuple[list[tuple[Example, EncodedExample]], list[Finding]]:
    """The examples that training would take, with their ids, and a finding for each other one."""
    unlimited = ConditionEncoder(encoder.tokenizer, encoder.templates)
    told = {finding.id for finding in found if finding.kind in ("no-judgment", "correction-only")}
    fitting, refused = [], []
    for example in examples:
        try:
            encoded = encode(unlimited, example)
        except ProblemsError as error:
            if example.id not in told:
                refused.append(Finding("unreadable", example.id, "; ".join(p.what for p in error.problems)))
            continue
        if over := _too_long(encoded, max_length):
            refused.append(Finding("too-long", example.id, f"{over}, over max_length {max_length}"))
        else:
            fitting.append((example, encoded))
    return fitting, refused


def _too_long(encoded: EncodedExample, max_length: int | None) -> str:
    """Each condition's length, of those that are too long."""
    lengths = {
        "base": len(encoded.base) + max(len(encoded.completion), len(encoded.target)),
        "standard": len(encoded.standard) + len(encoded.completion),
        "judge": len(encoded.judge) + len(encoded.completion) if encoded.judge else 0,
    }
    over = [f"{length} tokens under {name}" for name, length in lengths.items() if max_length and length > max_length]
    return ", ".join(over)


def _measured(
    model: Any,
    encoder: ConditionEncoder,
    fitting: Sequence[tuple[Example, EncodedExample]],
    settings: AuditSettings,
    saliency: NLFTSettings,
) -> tuple[list[Measured], Margins]:
    measured = measure(
        model,
        ConditionEncoder(encoder.tokenizer, encoder.templates, settings.max_length),
        fitting,
        saliency,
        placebos=settings.placebos,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return measured, margins(measured, settings.placebo_level)


def _without_symptoms(signal: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """What the judgments move, but for remarks that a defect in the text accounts for already."""
    spoilt = {finding.id for finding in found if finding.kind in SPOILT or finding.kind == "language"}
    return [f for f in signal if f.kind not in ("style-movement", "untagged") or f.id not in spoilt]


def _placebo_notes(measured: Sequence[Measured], settings: AuditSettings) -> list[str]:
    wrong = [one for one in measured if not one.label]
    short = sum(len(one.placebos) < settings.placebos for one in wrong)
    if wrong and not settings.placebos:
        return ["judgments were not compared with other examples' (--placebos 0)"]
    if short:
        return [f"{short} wrong completions had fewer than {settings.placebos} other judgments to compare with"]
    return []


def _usable(measured: Sequence[Measured], margin: Margins, found: Sequence[Finding]) -> frozenset[str | int]:
    spoilt = {finding.id for finding in found if finding.kind in SPOILT}
    return frozenset(one.id for one in measured if has_signal(one, margin) and one.id not in spoilt)
