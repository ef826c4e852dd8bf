"""Readings and verdicts of lm-evaluation-harness, by its own filters and metric."""

from typing import Any

import pytest

IGNORED = [",", r"\$", "(?s).*#### ", r"\.$"]  # regexes_to_ignore of the harness's gsm8k task


def harness_reading(reading: str, text: str) -> str:
    """What the harness's filter of that name reads."""
    extraction = pytest.importorskip("lm_eval.filters.extraction", reason="compares with lm-eval (pip: lm-eval)")
    pattern, group = {
        "strict": (r"#### (\-?[0-9\.\,]+)", 0),
        "flexible": (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
    }[reading]
    return str(extraction.RegexFilter(pattern, group).apply([[text]], [{}])[0][0])


def harness_verdict(reading: str, completion: str, answer: str) -> int:
    metrics = pytest.importorskip("lm_eval.api.metrics", reason="compares with lm-eval (pip: lm-eval)")
    score: dict[str, Any] = metrics.exact_match_hf_evaluate(
        [harness_reading(reading, completion)], [answer], regexes_to_ignore=IGNORED, ignore_case=True
    )
    return int(score["exact_match"])
