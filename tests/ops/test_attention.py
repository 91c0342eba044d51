import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import sequential
from tolerances import rounding

from qstar.ops import attention, chunk

columns = jax.jit(attention.columns, static_argnums=7)

# Two documents; then one document and padding.
SEGMENT = jnp.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]])


def test_text_sees_itself_and_what_is_before_it_in_its_own_document():
    mask = attention.text_mask(SEGMENT).astype(int)
    assert mask[0].tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert mask[1].tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_a_thought_sees_the_text_that_its_anchor_sees():
    mask = attention.anchor_mask(SEGMENT, jnp.array([[1, 2, 4], [0, 2, 3]])).astype(int)
    assert mask.tolist() == [
        [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]],
        [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0]],
    ]


def uniform_queries(text_mask, own_mask):
    """Attention of columns whose queries are zero, so that every visible key gets the same weight; the value of text
    key u is 2^u and that of own key e is 2^(8 + e), so that the sum of what was seen can be read off its bits."""
    (_, slots, _, keys), (cols, owns) = text_mask.shape, own_mask.shape
    query = jnp.zeros((1, 1, slots, cols, 1, 2))
    text = jnp.broadcast_to(2.0 ** jnp.arange(keys)[None, :, None, None], (1, keys, 1, 2))
    own = jnp.broadcast_to(2.0 ** (8 + jnp.arange(owns))[None, None, None, :, None, None], (1, 1, slots, owns, 1, 2))
    found = columns(query, jnp.ones_like(text), text, text_mask, jnp.ones_like(own), own, own_mask)
    seen = text_mask.sum(-1)[:, None] + own_mask.sum(-1)[None, None, None, :]
    return np.round(found[..., 0, 0] * seen).astype(int)[0, 0]


def test_a_column_sees_the_text_up_to_its_anchor_and_its_own_earlier_columns():
    text_mask = jnp.array([[[[1, 1, 0, 0]], [[0, 0, 1, 1]]]], bool)
    own_mask = jnp.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    assert [[f"{bits:011b}" for bits in row] for row in uniform_queries(text_mask, own_mask)] == [
        ["00100000011", "01100000011", "11100000011"],
        ["00100001100", "01100001100", "11100001100"],
    ]


def test_columns_may_see_different_parts_of_the_text():
    text_mask = jnp.array([[[[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]]], bool)
    own_mask = jnp.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]], bool)
    assert [f"{bits:011b}" for bits in uniform_queries(text_mask, own_mask)[0]] == [
        "00100000111",
        "01100000110",
        "11000000100",
    ]


def test_a_window_of_three_positions_is_the_token_itself_and_two_before():
    found = attention.within(jnp.array([[4, 9]]), jnp.array([[0, 1, 2, 3, 4, 7, 9]]), 3)
    assert found.astype(int).tolist() == [[[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]]


def test_scores_are_divided_by_the_root_of_the_scalar():
    query, key = jnp.array([[[[2.0, 0.0]]] * 2]).reshape(1, 2, 1, 2), jnp.array([[[[0.0, 0.0]], [[3.0, 0.0]]]])
    value = jnp.array([[[[0.0, 0.0]], [[1.0, 1.0]]]])
    mask = jnp.ones((1, 2, 2), bool)
    # Scores 0 and 6 / sqrt(36) = 1; without the scalar 6 / sqrt(2).
    found = attention.causal(query, key, value, mask, 36.0)
    np.testing.assert_allclose(found[0, 0, 0, 0], 1 / (1 + np.exp(-1.0)), rtol=rounding(4))
    plain = attention.causal(query, key, value, mask)
    np.testing.assert_allclose(plain[0, 0, 0, 0], 1 / (1 + np.exp(-6 / np.sqrt(2))), rtol=rounding(4))
    own = jnp.full((1, 1, 2, 1, 1, 2), -1e6)
    thought = columns(query[:, None, :, None], key, value, mask[:, :, None], own, own, jnp.ones((1, 1), bool), 36.0)
    np.testing.assert_allclose(thought[0, 0, 0, 0, 0, 0], 1 / (1 + np.exp(-1.0)), rtol=rounding(4))


@pytest.mark.parametrize("heads", [(4, 2), (2, 2), (4, 1)])
def test_columns_equal_one_softmax_over_the_keys_laid_side_by_side(x64, heads):
    heads, groups = heads
    rng = np.random.default_rng(0)
    draw = lambda *shape: 3 * rng.standard_normal(shape)  # noqa: E731
    query, text_key, text_value = draw(1, 2, 3, 2, heads, 4), draw(1, 5, groups, 4), draw(1, 5, groups, 4)
    own_key, own_value = draw(1, 2, 3, 2, groups, 4), draw(1, 2, 3, 2, groups, 4)
    text_mask = np.array([[[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]]], bool)
    own_mask = np.array([[1, 0], [1, 1]], bool)
    everything = (query, text_key, text_value, text_mask[:, :, None], own_key, own_value, own_mask)
    found = np.asarray(columns(*map(jnp.asarray, everything)))
    for r, a, c, h in np.ndindex(2, 3, 2, heads):
        g = h // (heads // groups)
        keys = np.concatenate([text_key[0, text_mask[0, a], g], own_key[0, r, a, own_mask[c], g]])
        values = np.concatenate([text_value[0, text_mask[0, a], g], own_value[0, r, a, own_mask[c], g]])
        expected = sequential.softmax(keys @ query[0, r, a, c, h] / 2.0) @ values
        # Sums over 4 channels and 7 keys; a probability errs by what its score does, which is below 4 * 9 * 9 / 2.
        np.testing.assert_allclose(
            found[0, r, a, c, h], expected, rtol=0, atol=rounding(4 + 7, "float64", size=162 * 9)
        )


def test_fully_masked_rows_are_finite_and_so_are_their_gradients():
    def total(x):
        nothing = jnp.zeros((1, 3, 3), bool)
        text = attention.causal(x, x, x, nothing)
        own = x[:, None, :, None]  # every position thinks one column
        columns = attention.columns(own, x, x, nothing[:, :, None], own, own, jnp.zeros((1, 1), bool))
        return jnp.sum(text) + jnp.sum(columns)

    x = 1e3 * jax.random.normal(jax.random.key(0), (1, 3, 1, 2))
    value, gradient = jax.jit(jax.value_and_grad(total))(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_huge_scores_do_not_overflow():
    query = jnp.full((1, 1, 1, 1, 1, 2), 1e4)
    own, text = jnp.full((1, 1, 1, 1, 1, 2), 1e4), jnp.full((1, 2, 1, 2), -1e4)
    mask, own_mask = jnp.ones((1, 1, 1, 2), bool), jnp.ones((1, 1), bool)
    found = columns(query, text, text, mask, own, own, own_mask)
    np.testing.assert_array_equal(found, own)


@pytest.mark.parametrize("scalar", [None, 3.0])
def test_the_kernel_that_jax_offers_gives_the_same_attention_and_gradients(scalar):
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 6, heads, 4)) for i, heads in enumerate((4, 2, 2)))
    mask = attention.text_mask(jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0]]))

    def run(kernel):
        total = lambda *args: jnp.sum(attention.causal(*args, mask, scalar, kernel) ** 3)  # noqa: E731
        attend = lambda *args: attention.causal(*args, mask, scalar, kernel)  # noqa: E731
        both = lambda *args: (attend(*args), jax.grad(total, (0, 1, 2))(*args))  # noqa: E731
        return jax.jit(both)(query, key, value)

    for found, expected in zip(jax.tree.leaves(run("xla")), jax.tree.leaves(run("einsum")), strict=True):
        # Channels, keys, and the queries that a key's gradient is summed over; jax's kernel is in float32 always.
        bound = rounding(4 + 6 + 6 * 2, size=np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_the_fused_kernel_is_refused_without_its_gpu():
    x = jnp.zeros((1, 2, 1, 2), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"model.attention = 'cudnn' on cpu: .* NVIDIA GPU"):
        attention.causal(x, x, x, jnp.ones((1, 2, 2), bool), kernel="cudnn")


def test_columns_in_slices_of_the_anchors_are_the_columns_of_all_of_them(x64, monkeypatch):
    batch, samples, anchors, cols, heads, width, text = 2, 2, 5, 3, 4, 4, 6
    shapes = [(batch, samples, anchors, cols, heads, width), (batch, text, 2, width), (batch, text, 2, width)]
    shapes += [(batch, samples, anchors, cols, 2, width)] * 2
    arrays = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    seen = attention.anchor_mask(jnp.ones((batch, text), int), jnp.array([[0, 1, 2, 4, 5]] * batch))[:, :, None]
    own = jnp.tril(jnp.ones((cols, cols), bool))

    def run(budget):
        monkeypatch.setattr(chunk, "BUDGET_BYTES", budget)
        attend = lambda q, k, v, ks, vs: attention.columns(q, k, v, seen, ks, vs, own)  # noqa: E731
        total = lambda *args: jnp.sum(attend(*args) ** 3)  # noqa: E731
        text = str(jax.make_jaxpr(attend)(*arrays))
        both = lambda *args: (attend(*args), jax.grad(total, range(5))(*args))  # noqa: E731
        return "scan[" in text, *jax.jit(both)(*arrays)

    (whole, *expected), (sliced, *found) = run(2**20), run(batch * samples * cols * heads * text * 4 * 2)
    assert sliced and not whole
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Channels, keys, and the columns that a key's gradient is summed over.
        bound = rounding(4 + 6 + 3 + 2 * 5 * 3 * 2, "float64", size=np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=bound)
