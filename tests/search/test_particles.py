import numpy as np
import pytest
import toy

from qstar.search.particles import ParticleFilter, logits
from qstar.search.run import search


def run(strategy, one, prompt=("lock",), key=(0,)):
    return search(strategy, [prompt], one.propose, {"prm": one.value}, one.answer, key)[0]


def test_the_known_optimum_is_reached():
    answers = [run(ParticleFilter(64), toy.lock(sampled=True), key=(seed,)).answer for seed in range(10)]
    assert answers.count("1201") >= 9


def test_the_number_of_particles_never_changes():
    one = toy.lock(sampled=True)
    solution = run(ParticleFilter(8), one)
    assert [len(prefixes) for prefixes, _, _ in one.calls] == [8, 8, 8, 8]
    assert solution.cost.candidates == 32


def test_particles_are_drawn_in_proportion_to_their_odds():
    """Scores 0.9 along the code and 0.1 off it: odds 9 and 1/9, from first steps of chance 1/4 and 3/4."""
    one = toy.lock(sampled=True)
    run(ParticleFilter(2000, rounds=2), one)
    right = np.mean([prefix.state[1] == "1" for prefix in one.calls[1][0]])
    assert right == pytest.approx(0.25 * 9 / (0.25 * 9 + 0.75 / 9), abs=0.03)


def test_resampling_is_a_function_of_the_key():
    """Of a policy whose samples do not depend on it."""

    def populations(key):
        one = toy.lock(sampled=True)
        fixed = lambda prefixes, k, _: one.propose(prefixes, k, (0,))  # noqa: E731
        search(ParticleFilter(8), [("lock",)], fixed, {"prm": one.value}, one.answer, key)
        return [[prefix.id for prefix in prefixes] for prefixes, _, _ in one.calls]

    assert populations((1,)) == populations((1,))
    assert populations((1,))[1] != populations((2,))[1]


def test_one_particle_is_one_sample():
    one = toy.random_toy(5, sampled=True)
    solution = run(ParticleFilter(1), one, ("0",))
    assert len(solution.nodes) == solution.chosen.depth + 1
    assert solution.chosen.finished


def test_scores_that_are_not_probabilities_are_refused():
    assert logits("prm", np.array([0.5, 1.0]))[0] == 0
    with pytest.raises(ValueError, match=r"prm: 1\.5"):
        logits("prm", np.array([0.5, 1.5]))
