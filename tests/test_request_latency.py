"""A request to a running training is taken within a second of the step's end."""

from helpers.request_latency import KINDS, SCORING_SECONDS, measure


def test_a_request_during_a_step_or_a_scoring_is_taken_within_a_second_of_the_steps_end(tmp_path):
    found = measure(tmp_path / "run")
    assert {kind for kind, _ in found} == set(KINDS)
    assert len(found) == 6
    for kind, seconds in found:
        # A scoring of all 8 examples takes 2.4 s here. It gives way after the example that it is at.
        assert 0 <= seconds < SCORING_SECONDS + 0.7, (kind, seconds)
