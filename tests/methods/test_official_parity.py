"""Preset `quiet_star_official` against the released code: golden arrays of tests/golden/make_official.py."""

import dataclasses
import runpy
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tolerances

from qstar.methods.protocol import Models
from qstar.paths import ROOT

parity = SimpleNamespace(**runpy.run_path(str(ROOT / "experiments" / "checks" / "official_parity.py")))
GOLDEN = ROOT / "tests" / "golden" / "official"
CASES = sorted(file.stem for file in GOLDEN.glob("*.npz"))
# One, two and three passes, padding, tied tables, zero losses, both betas; the rest of the grid takes twice as long.
QUICK = {"gqa_11_2_padded", "gqa_8_4_tied", "gqa_6_2_three_padded", "mha_5_1_certain"}
WEIGHTS = 3 + 5 + 1 + 9  # without the output table: embedding and delimiters, mixing head, last norm, one of each block


@pytest.fixture(params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES])
def golden(request):
    return parity.Golden.load(GOLDEN / f"{request.param}.npz")


def test_losses_rewards_and_gradients_are_those_of_the_released_code(x64, golden):
    case, errors = golden.case, parity.errors(golden)
    # Weights are drawn so that logits and scores have a variance of about 1; rewards are differences.
    bound = 2 * tolerances.gradient(golden.lm, tokens=64, size=8, scores=1.0)
    assert max(errors.values()) < bound, max(errors, key=errors.get)
    gradients = [name for name in errors if name.startswith("gradient/")]
    assert len(gradients) == WEIGHTS + 9 * (case["layers"] - 1) + (not case["tied"])
    talks = {f"talk/{n}" for n in range(1, case["n_ahead_talk"] + 1)}
    credit = {"reward", "policy"} if case["policy"] else set()
    assert set(errors) - set(gradients) == {"base", "total"} | talks | credit


def test_the_golden_arrays_cover_the_grid_and_every_weight_matters():
    cases = [parity.Golden.load(GOLDEN / f"{name}.npz") for name in CASES]
    assert {golden.case["n_ahead"] for golden in cases} == set(range(3, 13))
    assert {golden.case["n_ahead_talk"] for golden in cases} == {1, 2, 3, 4, 5, 6}
    assert {golden.case["n_passes"] for golden in cases} == {1, 2, 3}
    assert {golden.case["heads"] // golden.case["kv_heads"] for golden in cases} == {1, 2, 4}
    assert {golden.case["beta"] for golden in cases} == {1.0, 1e6}
    for golden in cases:
        arrays, case = golden.arrays, golden.case
        weights = {name.removeprefix("weight/") for name in arrays if name.startswith("weight/")}
        assert weights == {name.removeprefix("gradient/") for name in arrays if name.startswith("gradient/")}
        # Everything of theirs but the second rows of the delimiters has a counterpart, and is pushed somewhere.
        assert len(weights) == WEIGHTS + 9 * (case["layers"] - 1) + (not case["tied"])
        for name in weights:
            assert np.any(arrays[f"gradient/{name}"]), name
        for name in ("start_embedding", "end_embedding"):
            assert not np.any(arrays[f"gradient/{name}"][1])
        assert arrays["thoughts"].shape == (*_samples(arrays, case), case["n_ahead"] - 3)
        assert np.any(arrays["certain"] > 0) == bool(case["certain"])
        if case["policy"]:
            assert arrays["reward"].shape[2] == arrays["tokens"].shape[1] - 1 - case["n_ahead_talk"]
            assert arrays["policy"] > 0


def _samples(arrays, case):
    rows, size = arrays["tokens"].shape
    return rows, case["n_passes"], size


def test_an_empty_thought_is_start_and_end_alone(x64):
    """The released code's n_ahead=3, which runs with its policy loss off only: nothing is drawn, so no key matters."""
    golden = parity.Golden.load(GOLDEN / "gqa_3_2_padded.npz")
    method = dataclasses.replace(golden.method, beta=1e6)
    assert method.thought_len == 0 and not method.reinforces
    definition = golden.definition
    params = jax.tree.unflatten(
        jax.tree.structure(definition.abstract), list(golden.tree("weight", definition).values())
    )
    loss, metrics = jax.jit(lambda params, key: method.loss(Models(definition.bind(params)), golden.batch, key))(
        params, jax.random.key(0)
    )
    assert float(loss) == pytest.approx(float(golden.arrays["total"]), abs=tolerances.forward(golden.lm, 64, 8, 1.0))
    assert metrics["nll"].value() == pytest.approx(
        float(golden.arrays["base"]), abs=tolerances.forward(golden.lm, 64, 8, 1.0)
    )
    assert "policy_loss" not in metrics
