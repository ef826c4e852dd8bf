"""Run the audit: check the examples in one pass before training, and report what to fix."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from nlft.auditing import preflight as flight
from nlft.auditing.alternatives import StruckPlace, alternatives_of, struck_places
from nlft.auditing.copies import copies, overlap
from nlft.auditing.findings import SPOILT, Finding, worst_first
from nlft.auditing.report import AuditReport
from nlft.auditing.rules import FoundRule, find_rules, is_habit, prompt_words, with_proposals, written_rules
from nlft.auditing.settings import AuditSettings
from nlft.auditing.signal import Margins, Measured, figures, has_signal, margins, measure, signal_findings
from nlft.auditing.text import text_findings
from nlft.core.conditions import ConditionEncoder, EncodedExample
from nlft.core.limits import limits_of
from nlft.core.schemes.nlft import NLFTSettings
from nlft.data.checks import Check
from nlft.data.encoding import encode
from nlft.data.grading import MARK, Grader, get_grader, needs_answers
from nlft.data.old_feedback import feedback_note
from nlft.data.records import Example, Question
from nlft.data.rules_file import Rule
from nlft.errors import ProblemsError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKED_RATE = 0.9  # `auto` chooses the number grader if at least this proportion of the answers has GSM8K's mark


def audit(
    examples: Sequence[Example],
    model: torch.nn.Module | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    settings: AuditSettings | None = None,
    *,
    test: Sequence[Question] | None = None,
    saliency: NLFTSettings | None = None,
    places: Mapping[str | int, str] | None = None,
    name: str = "the examples",
    rules: Sequence[Rule] | None = None,
    checks: Sequence[Check] = (),
) -> AuditReport:
    """Check examples before training, and report what to fix.

    Args:
        examples: the examples to check. A wrong example may lack a judgment. The report then has a finding about it.
        model: scores the completions. Without a model, the audit checks only the texts and, if there is a
            tokenizer, their lengths.
        tokenizer: the model's tokenizer; required with a model.
        settings: default `AuditSettings()`. Its templates render the prompts.
        test: the test questions; the audit reports examples that overlap with them.
        saliency: the settings of the scheme `nlft` that training will use; default `NLFTSettings()`.
        places: file and line of each example, by id.
        name: the data's name in the report.
        rules: the rules that the preflight shows and checks; default: those of the examples' judgments.
        checks: what the preflight counts, in place of the rules' words. It passes over those that ask a judge.

    Raises:
        UserError: there are no examples, the grader does not exist, or the model has no tokenizer.
    """
    settings = settings or AuditSettings()
    _refuse(examples, model, tokenizer, name)
    grader, notes = _grader(examples, settings)
    notes += [note] if (note := feedback_note(examples)) else []
    limits = limits_of(model) if model is not None else None
    encoder = ConditionEncoder(tokenizer, settings.templates(), limits=limits) if tokenizer is not None else None
    notes += _not_checked(model, tokenizer, test)
    findings = _by_text(examples, grader, encoder, test, settings)
    measured: list[Measured] = []
    margin = Margins()
    found, ready = (find_rules(examples) if is_habit(examples) else []), None
    if encoder is not None:
        fitting, refused = _encoded(examples, encoder, settings.max_length, findings)
        findings += refused
        if model is not None:
            found, ready = _before_training(model, encoder, examples, fitting, found, rules, checks, settings)
            fitting, unjudged = _with_judge(fitting)
            measured, margin = _measured(model, encoder, fitting, settings, saliency or NLFTSettings())
            findings += _without_symptoms(signal_findings(measured, margin), findings)
            notes += [*_placebo_notes(measured, settings), *unjudged]
    notes += _unchecked(rules, checks, ready, found, model, settings)
    return AuditReport(
        name=name,
        examples=examples,
        findings=worst_first(findings),
        usable=_usable(measured, margin, findings) if model is not None else None,
        notes=notes,
        places=places or {},
        measured=[figures(one, margin) for one in measured],
        settings={**asdict(settings), "margin_gap": margin.gap, "margin_fit": margin.fit},
        most_listed=settings.most_listed,
        rules=found,
        preflight=ready,
    )


def _refuse(
    examples: Sequence[Example],
    model: torch.nn.Module | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    name: str,
) -> None:
    """Raise UserError if there is nothing to audit, or a model without its tokenizer."""
    if not examples:
        raise UserError(f"{name}: there are no examples to audit.\n  Give a file with at least one.")
    if model is not None and tokenizer is None:
        raise UserError("The audit got a model without its tokenizer.\n  Pass tokenizer=... as well.")


def _by_text(
    examples: Sequence[Example],
    grader: Grader | None,
    encoder: ConditionEncoder | None,
    test: Sequence[Question] | None,
    settings: AuditSettings,
) -> list[Finding]:
    """Return the findings that need no model."""
    special = sorted(set(encoder.tokenizer.all_special_tokens)) if encoder else []
    findings = text_findings(examples, grader, special, settings.judge_shows_correction)
    findings += copies(examples, settings.near_duplicate)
    return findings + (overlap(examples, test, settings.near_duplicate) if test is not None else [])


def _unchecked(
    rules: Sequence[Rule] | None,
    checks: Sequence[Check],
    ready: flight.Preflight | None,
    found: Sequence[FoundRule],
    model: torch.nn.Module | None,
    settings: AuditSettings,
) -> list[str]:
    """Return a note for the rules and checks that the user gave and no preflight counted."""
    if ready is not None and ready.asked:
        passed_over = ", ".join(check.name for check in checks if check.kind == "judge")
        return (
            [f"the preflight does not ask a judge, so it passed over the checks {passed_over}"] if passed_over else []
        )
    if not rules and not checks:
        return []
    why = "--preflight false" if found and not settings.preflight else "the examples are not about a habit"
    why = "no model was given (--model_name_or_path)" if model is None else why
    given = " and ".join(f"{len(many)} {what}" for many, what in ((rules, "rules"), (checks, "checks")) if many)
    return [f"the {given} were not checked: {why}"]


def _before_training(
    model: torch.nn.Module,
    encoder: ConditionEncoder,
    examples: Sequence[Example],
    fitting: Sequence[tuple[Example, EncodedExample]],
    found: Sequence[FoundRule],
    rules: Sequence[Rule] | None,
    checks: Sequence[Check],
    settings: AuditSettings,
) -> tuple[list[FoundRule], flight.Preflight | None]:
    """Add the model's own proposals to the rules, and run the preflight unless the settings skip it.

    Without rules, the examples are not about a habit, and the model is not asked.
    """
    if not found:
        return [], None
    index = {example.id: at for at, example in enumerate(examples)}
    encoded = [(index[example.id], one) for example, one in fitting]
    places: list[StruckPlace] = struck_places(model, encoder, encoded, settings.batch_size)
    prompts = [prompt_words(example) for example in examples]
    proposed = alternatives_of(found, places, prompts)
    found = [with_proposals(one, proposed[one.rule.name], first=True) for one in found]
    if not settings.preflight:
        return found, None
    checked = list(rules) if rules else written_rules(found)[0]
    answerer = None
    if checked:
        tokens = flight.longest_reply([one for _, one in encoded])
        flight.announce(len(flight.training_prompts(examples)), tokens)
        answerer = flight.answerer_above(model, encoder, tokens, settings.batch_size)
    return found, flight.preflight(examples, found, checked, places, answerer, checks)


def _not_checked(
    model: torch.nn.Module | None, tokenizer: "PreTrainedTokenizerBase | None", test: Sequence[Question] | None
) -> list[str]:
    """Return one note for each missing input, with the checks that the audit skips without it."""
    notes = []
    if test is None:
        notes.append("overlap with test questions was not checked: no test file was given (--test_file)")
    if model is None:
        checks = "which tokens the judgments move" if tokenizer else "lengths, and which tokens the judgments move"
        notes.append(f"no model was given (--model_name_or_path). Not checked: {checks}")
    return notes


def _grader(examples: Sequence[Example], settings: AuditSettings) -> tuple[Grader | None, list[str]]:
    """Return the grader that checks the labels, and a note if the audit chose this grader instead of the user."""
    name, notes = settings.grader, []
    if name == "auto":
        marked = sum(MARK in (e.answer or "") for e in examples) >= _MARKED_RATE * len(examples)
        name = "number" if marked else "label"
        reason = f"most answers have {MARK}" if marked else f"few answers have {MARK}; labels were not checked"
        notes = [f"grader: {name}, because {reason} (--grader)"]
    if name == "label":
        return None, notes
    grader = get_grader(name, **({"extraction": settings.extraction} if name == "number" else {}))
    if needs_answers(grader) and (without := sum(e.answer is None for e in examples)):
        notes.append(f"{without} of {len(examples)} examples have no answer, so the grader did not check their labels")
    return grader, notes


def _encoded(
    examples: Sequence[Example], encoder: ConditionEncoder, max_length: int | None, earlier: Sequence[Finding]
) -> tuple[list[tuple[Example, EncodedExample]], list[Finding]]:
    """Encode the examples.

    Returns:
        The examples that training would accept, each with its ids, and one finding for each other example, unless a
        finding in `earlier` explains it.
    """
    unlimited = encoder.limited_to(None)
    explained = {finding.id for finding in earlier if finding.kind in ("no-judgment", "correction-only")}
    fitting, refused = [], []
    for example in examples:
        try:
            encoded = encode(unlimited, example)
        except ProblemsError as error:
            if example.id not in explained:
                refused.append(Finding("unreadable", example.id, "; ".join(p.what for p in error.problems)))
            continue
        if over := _too_long(encoded, max_length):
            refused.append(Finding("too-long", example.id, f"{over}, over max_length {max_length}"))
        else:
            fitting.append((example, encoded))
    return fitting, refused


def _with_judge(
    fitting: list[tuple[Example, EncodedExample]],
) -> tuple[list[tuple[Example, EncodedExample]], list[str]]:
    """Return the examples whose judgment can be measured, and a note about wrong ones that have only spans."""
    judged = [(example, encoded) for example, encoded in fitting if encoded.label or encoded.judge is not None]
    count = len(fitting) - len(judged)
    return judged, [f"{count} wrong completions have spans, but no judgment to measure"] if count else []


def _too_long(encoded: EncodedExample, max_length: int | None) -> str:
    """List each condition whose length exceeds `max_length`, with the length. Return an empty text if there is none."""
    patched = encoded.patched.ids if encoded.patched else []
    replies = (encoded.completion, encoded.target or [], patched)
    lengths = {
        "base": len(encoded.base) + max(map(len, replies)),
        "standard": len(encoded.standard) + len(encoded.completion),
        "judge": len(encoded.judge) + len(encoded.completion) if encoded.judge else 0,
    }
    over = [f"{length} tokens under {name}" for name, length in lengths.items() if max_length and length > max_length]
    return ", ".join(over)


def _measured(
    model: torch.nn.Module,
    encoder: ConditionEncoder,
    fitting: Sequence[tuple[Example, EncodedExample]],
    settings: AuditSettings,
    saliency: NLFTSettings,
) -> tuple[list[Measured], Margins]:
    """Score the examples, and derive the margins from their placebos."""
    measured = measure(
        model,
        encoder.limited_to(settings.max_length),
        fitting,
        saliency,
        placebos=settings.placebos,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return measured, margins(measured, settings.placebo_level)


def _without_symptoms(signal: Sequence[Finding], earlier: Sequence[Finding]) -> list[Finding]:
    """Drop `style-movement` and `untagged` findings of an example whose text has a defect that explains them."""
    spoilt = {finding.id for finding in earlier if finding.kind in SPOILT or finding.kind == "language"}
    return [f for f in signal if f.kind not in ("style-movement", "untagged") or f.id not in spoilt]


def _placebo_notes(measured: Sequence[Measured], settings: AuditSettings) -> list[str]:
    wrong = [one for one in measured if not one.label]
    short = sum(len(one.placebos) < settings.placebos for one in wrong)
    if wrong and not settings.placebos:
        return ["judgments were not compared with other examples' judgments (--placebos 0)"]
    if short:
        return [f"{short} wrong completions had fewer than {settings.placebos} other judgments to compare with"]
    return []


def _usable(measured: Sequence[Measured], margin: Margins, findings: Sequence[Finding]) -> frozenset[str | int]:
    spoilt = {finding.id for finding in findings if finding.kind in SPOILT}
    return frozenset(one.id for one in measured if has_signal(one, margin) and one.id not in spoilt)
