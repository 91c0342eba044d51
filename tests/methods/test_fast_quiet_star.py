import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT

from qstar.methods import fast_quiet_star
from qstar.methods.fast_quiet_star import FastQuietStar
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.ops import chunk

TEACHER = QuietStar(thought_len=2, lookahead=2, mix="hidden")
PAPER = FastQuietStar(teacher="runs/teacher", reinforce_temperature=2.0)
# (row, position) whose next token is a target: see test_plain_lm.py.
TARGETS = [(0, 0), (0, 1), (0, 2), (0, 4), (0, 6), (0, 7), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


@functools.partial(jax.jit, static_argnames=("method", "model", "teacher"))
def loss_of(method, model, params, teacher, taught, batch, key):
    return method.loss(Models(model.bind(params), teacher.bind(taught), TEACHER), batch, key)


@functools.cache
def setting():
    student, params = tiny.lm_of(tiny.EXACT)
    teacher, taught = tiny.thinker_of(tiny.EXACT, seed=3)
    return student, params, teacher, taught, tiny.packed()


def student_distributions(params, batch):
    """Logits [13] at every target, by the sequential reference."""
    lm = sequential.as_numpy(params)
    hidden = sequential.text_hidden({"lm": lm}, tiny.EXACT, batch)
    return {at: sequential.logits(lm, hidden[at]) for at in TARGETS}


@functools.cache
def teacher_by_hand():
    """Log-prob of every target after the teacher's likeliest thought."""
    _, _, _, taught, batch = setting()
    anchors = np.array([range(8)] * 2)
    tokens, _ = sequential.sample(taught, tiny.EXACT, 1.0, batch, anchors, jax.random.key(0), 2, 1, temperature=0)
    how = sequential.Mixing("raw", "thought", 0.0)
    scored = sequential.talk(taught, tiny.EXACT, 1.0, batch, anchors, tokens, 1, "hidden", how=how)
    return {(b, s): scored.mixed[b, 0, s, 0] for b, s in TARGETS}


def rewards(params, batch):
    taught = teacher_by_hand()
    logits = student_distributions(params, batch)
    return {at: sequential.log_softmax(logits[at])[batch.tokens[at[0], at[1] + 1]] - taught[at] for at in TARGETS}


@pytest.mark.parametrize("clamp", [True, False])
def test_the_papers_student_reinforces_true_tokens_likelier_than_for_the_teacher(x64, clamp):
    student, params, teacher, taught, batch = setting()
    method = dataclasses.replace(PAPER, clamp=clamp)
    loss, metrics = loss_of(method, student, params, teacher, taught, batch, jax.random.key(2))
    reward, logits = rewards(params, batch), student_distributions(params, batch)
    assert min(reward.values()) < 0 < max(reward.values())
    terms = []
    for (b, s), gain in reward.items():
        score = sequential.log_softmax(logits[b, s] / 2.0)[batch.tokens[b, s + 1]]
        terms.append(-(max(gain, 0.0) if clamp else gain) * score)
    assert float(loss) == pytest.approx(np.mean(terms), abs=tolerances.POLICY)
    assert metrics["reward"].value() == pytest.approx(np.mean(list(reward.values())), abs=tolerances.REWARD)
    assert metrics["nll_teacher"].value() == pytest.approx(-np.mean(list(teacher_by_hand().values())), abs=EXACT)


def test_the_gradient_passes_through_the_log_probs_alone(x64):
    student, params, teacher, taught, batch = setting()
    grad = jax.jit(
        jax.grad(lambda params: loss_of(PAPER, student, params, teacher, taught, batch, jax.random.key(2))[0])
    )(params)
    reward = rewards(params, batch)
    direction = tiny.weights_of(student, 7, jnp.float64)

    def loss(step):
        moved = jax.tree.map(lambda weight, way: np.asarray(weight) + step * way, params, direction)
        logits = student_distributions(moved, batch)
        score = {at: sequential.log_softmax(one / 2.0)[batch.tokens[at[0], at[1] + 1]] for at, one in logits.items()}
        return np.mean([-max(reward[at], 0.0) * score[at] for at in TARGETS])

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    found = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grad, direction)), strict=True))
    assert abs(expected) > 1e-2
    assert found == pytest.approx(expected, abs=tolerances.difference(tiny.EXACT, 1e-5, expected))


def test_the_released_student_reinforces_its_own_draws(x64):
    """At temperature 1 their expected score has no gradient, whatever the rewards: the mean over draws goes to zero,
    where the paper's form does not."""
    student, params, teacher, taught, batch = setting()
    released = dataclasses.replace(PAPER, student="released", reinforce_temperature=1.0)
    keys = jax.random.split(jax.random.key(0), 256)

    @functools.partial(jax.jit, static_argnames="method")
    def slopes(method, params, keys):
        def of(key):
            loss = lambda params: loss_of(method, student, params, teacher, taught, batch, key)[0]  # noqa: E731
            return jax.grad(loss)(params)["norm"]["scale"]

        return jax.lax.map(of, keys)

    drawn = np.asarray(slopes(released, params, keys))
    error = drawn.std(0) / 16
    assert np.all(np.abs(drawn.mean(0)) < 4 * error)
    true = np.asarray(
        slopes(dataclasses.replace(released, student="paper"), params, jax.random.split(jax.random.key(1), 2))
    )
    np.testing.assert_allclose(true[0], true[1], rtol=0, atol=tolerances.gradient(tiny.EXACT) * np.abs(true).max())
    assert np.any(np.abs(true[0]) > 4 * error)


def test_the_teacher_is_read_in_slices_without_changing_what_it_says(x64, monkeypatch):
    _, _, teacher, taught, batch = setting()
    for budget in (2**26, 2 * 3 * 13 * 4 * 3):  # everything at once; slices of three positions
        monkeypatch.setattr(chunk, "BUDGET_BYTES", budget)
        found = jax.jit(
            lambda taught: fast_quiet_star.teacher_logprobs(TEACHER, teacher.bind(taught), batch, jax.random.key(0))
        )(taught)
        for (b, s), expected in teacher_by_hand().items():
            assert float(found[b, s]) == pytest.approx(expected, abs=EXACT)


def test_the_reference_is_the_teachers_run_for_good():
    assert dataclasses.asdict(PAPER.reference) == {"decay": 1.0, "run": "runs/teacher"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": ""}, "method.teacher is empty: give method.teacher=RUN"),
        ({"student": "mine"}, "method.student = 'mine': choose one of paper, released"),
        ({"reinforce_temperature": 0.0}, r"method.reinforce_temperature = 0.0: expected a positive number"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PAPER, **settings)
