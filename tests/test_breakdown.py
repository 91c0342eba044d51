"""experiments/benchmarks/breakdown.py reads a compiled program: products by their kind, with their FLOPs."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def breakdown(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "experiments" / "benchmarks"))
    return importlib.import_module("breakdown")


def test_products_are_found_by_kind_with_their_flops(breakdown):
    def model(x, weight, table):
        x = jnp.tanh(x @ weight)
        scores = jnp.einsum("bqd,bkd->bqk", x.reshape(4, 24, 48), x.reshape(4, 24, 48))
        return scores.sum(), x @ table

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((96, 64), (64, 48), (48, 300))]
    hlo = jax.jit(model).lower(*shapes).compile().as_text()
    found = {op.kind: op.flops for op in breakdown.operations(hlo, vocab=300).values() if op.flops}
    assert found == {
        "products with weights": 2 * 96 * 64 * 48,
        "products of attention": 2 * 4 * 24 * 24 * 48,
        "products with the output layer": 2 * 96 * 48 * 300,
    }


def test_what_runs_at_once_shares_the_time(breakdown):
    edges = [(0, True, "a"), (4, False, "a"), (2, True, "b"), (6, False, "b"), (9, True, "a"), (10, False, "a")]
    assert breakdown.shared(edges) == {"a": 2 + 1 + 1, "b": 1 + 2}
