"""Steps with random weights and text: what is timed is what was requested."""

import jax
import numpy as np

from qstar.methods.plain_lm import PlainLM
from qstar.models.lm import LMConfig
from qstar.training import trial
from qstar.training.build import Program
from qstar.training.optim import OptimConfig

LM = LMConfig(vocab=11, width=8, layers=1, heads=2, kv_heads=1, head_size=4, ff=6, max_len=16)


def test_a_trial_takes_whole_rows_and_times_every_step_but_the_first():
    program = Program.of(PlainLM(), LM, trial.one_device(), OptimConfig(), 10, 1)
    with jax.set_mesh(program.mesh):
        batch = trial.batch(program, 2, 5)
    assert np.asarray(batch.mask).all() and batch.tokens.shape == (2, 5)
    assert np.asarray(batch.tokens).min() >= 1
    found = trial.taken(program, 2, 5, 3)
    assert (found.rows, found.tokens, found.thoughts, len(found.seconds)) == (2, 10, 0, 3)
    assert min(found.seconds) > 0 and found.flops > 0
    # float32 weights and two moments: layer 8 (2 x 8 + 2 x 4) + 3 x 8 x 6, two norms of 8 and the last, two tables.
    assert trial.held_bytes(program) >= 3 * 4 * (192 + 144 + 24 + 11 * 8)


def test_calls_are_timed_after_one_that_compiles():
    calls = []
    assert len(trial.timed(lambda: calls.append(1), 3)) == 3
    assert len(calls) == 4
