import numpy as np
import pytest

from qstar.search.confidence import Confidence, confidence
from qstar.search.interface import Candidate
from qstar.search.run import search

LOGPROBS = np.log([0.9, 0.9, 0.1, 0.4, 0.8])


@pytest.mark.parametrize(
    ("measure", "window", "expected"),
    [
        ("mean", 2, (0.9 * 0.9 * 0.1 * 0.4 * 0.8) ** 0.2),
        ("tail", 2, (0.4 * 0.8) ** 0.5),
        ("tail", 99, (0.9 * 0.9 * 0.1 * 0.4 * 0.8) ** 0.2),
        ("lowest", 2, (0.1 * 0.4) ** 0.5),
        ("bottom", 2, (0.1 * 0.4) ** 0.5),  # one window of four
    ],
)
def test_measures_by_hand(measure, window, expected):
    assert confidence(LOGPROBS, measure, window) == pytest.approx(expected, rel=1e-12)


def test_the_bottom_tenth_of_many_windows_is_a_mean_over_several():
    logprobs = np.log(np.linspace(0.05, 1.0, 20))
    assert confidence(logprobs, "bottom", 1) == pytest.approx((0.05 * 0.1) ** 0.5, rel=1e-12)
    assert confidence(logprobs, "lowest", 1) == pytest.approx(0.05, rel=1e-12)


def test_no_token_is_no_confidence():
    assert confidence(np.array([]), "mean", 4) == 0


def solve(strategy, samples):
    """Solutions of two steps, of an answer and probabilities of its tokens."""

    def propose(prefixes, k, key):
        if prefixes[0].depth == 0:
            return [[Candidate(one, 1, False, logprobs=np.log(one[1][:1])) for one in samples]]
        return [[Candidate(p.state, len(p.state[1]) - 1, True, logprobs=np.log(p.state[1][1:]))] for p in prefixes]

    return search(strategy, ["q"], propose, {}, lambda node: node.state[0], (0,))[0]


SAMPLES = [("1", (0.9, 0.8)), ("2", (0.5, 0.5, 0.5)), ("2", (0.6, 0.6)), ("3", (0.1, 0.1))]


def test_log_probs_of_all_steps_count():
    solution = solve(Confidence(4), SAMPLES)
    assert solution.answer == "1"
    assert solution.value[5:] == pytest.approx([0.72**0.5, 0.5, 0.6, 0.1])


def test_the_most_confident_share_votes_by_confidence():
    assert solve(Confidence(4, select="weighted"), SAMPLES).answer == "2"
    assert solve(Confidence(4, select="weighted", keep=0.5), SAMPLES).answer == "1"
