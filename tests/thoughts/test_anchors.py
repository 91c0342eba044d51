import jax
import jax.numpy as jnp
import numpy as np
import tiny

from qstar.thoughts import anchors

# Documents of 3 and 4 tokens, then padding; the target at position 5 does not count.
BATCH = tiny.batch(
    tokens=[[10, 11, 12, 20, 21, 22, 23, 0]],
    segment=[[1, 1, 1, 2, 2, 2, 2, 0]],
    mask=[[1, 1, 1, 1, 1, 0, 1, 0]],
)


def test_every_position_thinks_by_default():
    assert anchors.choose(BATCH, 1.0, jax.random.key(0)).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_a_share_of_the_positions_is_chosen_in_order_without_repeats():
    rows = jax.tree.map(lambda x: jnp.tile(x, (400, 1)), BATCH)
    chosen = np.asarray(anchors.choose(rows, 0.3, jax.random.key(0)))
    assert chosen.shape == (400, 3)  # the ceiling of 0.3 * 8
    assert np.all(np.diff(chosen, axis=1) > 0)
    often = np.bincount(chosen.ravel(), minlength=8)
    assert np.all(np.abs(often - 150) < 45)  # 400 * 3 / 8, within 4.6 standard deviations


def test_targets_end_with_the_document_the_window_and_the_mask():
    everywhere = jnp.arange(8)[None]
    assert anchors.target_counts(BATCH, everywhere, 3)[0].astype(int).tolist() == [
        [1, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_target_index_is_clipped_to_the_window():
    assert anchors.target_index(BATCH, jnp.array([[2, 6]]), 3).tolist() == [[[3, 4, 5], [7, 7, 7]]]


def test_next_token_targets_of_the_language_model():
    assert anchors.next_counts(BATCH)[0].astype(int).tolist() == [1, 1, 0, 1, 0, 1, 0]
