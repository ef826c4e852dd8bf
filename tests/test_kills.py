"""Killed at random moments and resumed, each command ends with what an unbroken run ends with, bit for bit.

`pytest -m long -rP tests/test_kills.py` tries over 130 kills, and prints how many were tried and what was lost.
"""

import os

import pytest

from helpers.kill_kinds import kill
from helpers.kills import untimed
from nlft.runs.controls import WITHOUT_EFFECT_ON_WEIGHTS

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are of forked processes"),
    pytest.mark.timeout(3600),
]


def test_a_killed_training_ends_as_an_unbroken_one(tmp_path, model_folder):
    """Five kills, over a run with dropout, accumulation, a map, and requests while it trains."""
    tally = kill("train", tmp_path, model_folder, 5, seed=2)
    assert tally.kills == 5
    assert tally.lost == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kills"),
    [
        *(("train", 30), ("sft", 16), ("kto", 16), ("reft", 14), ("rounds", 12), ("tune", 12), ("compare", 10)),
        *(("dpo", 8), ("frozen", 10), ("two processes", 8)),
    ],
)
def test_no_kill_loses_anything(tmp_path, model_folder, name, kills):
    tally = kill(name, tmp_path, model_folder, kills, seed=len(name))
    assert tally.kills >= kills
    assert tally.lost == []


def test_what_the_comparison_leaves_out_is_only_the_clock():
    assert "save" in WITHOUT_EFFECT_ON_WEIGHTS
    assert untimed({"step": 1, "time": "now", "loss": 2.0, "eta_seconds": 3}) == '{"loss": 2.0, "step": 1}'
