import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

from qstar.ops import chunk

X = np.arange(2 * 7 * 3, dtype=np.float32).reshape(2, 7, 3) / 10


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 100])
def test_slices_of_any_size_give_the_whole(size):
    found = chunk.chunked(lambda xs: (xs[0] * xs[1], xs[0].sum(-1)), (jnp.asarray(X), jnp.asarray(X) + 1), 1, size)
    np.testing.assert_allclose(found[0], X * (X + 1), rtol=rounding(2))
    np.testing.assert_allclose(found[1], X.sum(-1), rtol=rounding(3))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_gradients_count_the_padding_of_the_last_slice_as_nothing(size):
    def total(x, scale):
        return chunk.chunked(lambda x: jnp.sin(x) * scale, x, 1, size).sum()

    by_x, by_scale = jax.grad(total, (0, 1))(jnp.asarray(X), 2.0)
    np.testing.assert_allclose(by_x, 2 * np.cos(X), rtol=0, atol=rounding(2, size=2))
    np.testing.assert_allclose(by_scale, np.sin(X).sum(), rtol=0, atol=rounding(X.size, size=np.abs(np.sin(X)).sum()))


def test_a_function_never_sees_more_than_a_slice():
    seen = []
    chunk.chunked(lambda x: seen.append(x.shape) or x, jnp.asarray(X), 1, 3)
    assert set(seen) == {(2, 3, 3)}


def test_slice_size_keeps_to_the_budget_in_equal_slices(monkeypatch):
    monkeypatch.setattr(chunk, "BUDGET_BYTES", 400)
    assert chunk.slice_size(10, 10) == 10  # 400 bytes: all at once
    assert chunk.slice_size(11, 10) == 6  # 440 bytes: two slices of 6 and 5, not of 10 and 1
    assert chunk.slice_size(100, 10) == 10
    assert chunk.slice_size(5, 1000) == 1  # one entry alone is over the budget


@pytest.mark.parametrize(
    ("backend", "memory_gib", "mib"),
    [("cpu", 64, 64), ("gpu", 72, 1024), ("gpu", 24, 384), ("gpu", 1, 64), ("gpu", 0, 64)],
)
def test_slices_are_larger_on_a_gpu_that_has_the_memory(monkeypatch, backend, memory_gib, mib):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": memory_gib * 2**30} if memory_gib else None

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert chunk.budget() == mib * 2**20
