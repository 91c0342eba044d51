"""Which questions are asked, and the rows that come of known predictions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from qstar.data import tokenizer as tokenizers
from qstar.evals import suite
from qstar.evals.suite import CupsEval, Evaluator, NoEval, QuestionsEval
from qstar.tasks import cups
from qstar.tasks.cups import Problem

TOKENIZER = tokenizers.characters(cups.ALPHABET)
PLACES = (0, 1, 2, 3, 4)  # the ids of 1 to 5


def test_a_cups_item_scores_the_token_behind_the_equals_sign_among_the_places():
    item = suite.cups_item(Problem(3, "ab"), TOKENIZER)
    # Move a takes the ball from cup 3 to 4, b from 4 to 3; ids count along "12345abcdefghij=-;.".
    assert item.text == "3ab=3"
    assert item.ids == (2, 5, 6, 15, 2)
    assert (item.anchors, item.targets, item.valid) == ((3,), (2,), PLACES)
    assert (item.prompt_len, item.gold, item.cut) == (4, "3", 0)


def test_problems_are_of_the_split_the_same_for_every_run_and_of_the_lengths_asked_for():
    cfg = CupsEval(items=50, min_moves=2, max_moves=3, split="dev")
    problems = cfg.problems()
    assert problems == CupsEval(items=50, min_moves=2, max_moves=3, split="dev", batch_size=7, every=3).problems()
    assert {cups.split_of(problem) for problem in problems} == {"dev"}
    assert {len(problem.moves) for problem in problems} == {2, 3}
    assert problems[:20] == dataclasses.replace(cfg, items=20).problems()
    test = dataclasses.replace(cfg, split="test").problems()
    assert {cups.split_of(problem) for problem in test} == {"test"}


def test_a_tokenizer_that_joins_places_is_refused():
    vocab = {letter: id for id, letter in enumerate(cups.ALPHABET)} | {"=4": 19}
    joined = Backend(models.BPE(vocab=vocab, merges=[("=", "4")]))
    with pytest.raises(ValueError, match="does not write each place behind '3ab=' as one token of its own"):
        suite.cups_item(Problem(3, "ab"), tokenizers.Tokenizer(joined))


def test_a_special_token_count_does_not_move_the_anchor():
    vocab = {letter: id + 2 for id, letter in enumerate(cups.ALPHABET)} | {"<s>": 0, "</s>": 1}
    item = suite.cups_item(Problem(5, "j"), tokenizers.byte_level_bpe(vocab, [], ["<s>", "</s>"], digits=False))
    assert (item.ids, item.anchors, item.valid) == ((6, 16, 17, 3), (2,), (2, 3, 4, 5, 6))


def test_no_questions_give_no_rows():
    assert NoEval().tasks(TOKENIZER) == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CupsEval(items=0), "eval.items = 0"),
        (lambda: CupsEval(batch_size=0), "eval.batch_size = 0"),
        (lambda: CupsEval(every=-1), "eval.every = -1"),
        (lambda: CupsEval(split="train"), "eval.split = 'train': choose dev or test"),
        (lambda: QuestionsEval(gsm8k="", commonsense_qa="", gsm8k_split="dev"), "eval.gsm8k_split = 'dev': choose one"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_questions_left_out_are_not_looked_for():
    assert QuestionsEval(gsm8k="", commonsense_qa="").tasks(TOKENIZER) == {}


# --- rows ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Questions:
    """Three questions with the answers 1, 1 and 2, padded into one batch of two rows and another."""

    greedy: bool = True
    batch_size: int = 2

    def tasks(self, tokenizer):
        # 1 -a-> 5 -c-> 1;  2 -b-> 5 -c-> 1;  1 -b-> 2
        problems = (Problem(1, "ac"), Problem(2, "bc"), Problem(1, "b"))
        return {"cups": [suite.cups_item(problem, tokenizer) for problem in problems]}


class Weights:
    """A model that is its parameters."""

    def bind(self, params):
        return params


class Fixed:
    """Predicts the distribution in its parameters: `plain`, or `thought` where it thinks."""

    def predict(self, model, batch, anchors, key, think, greedy):
        assert greedy
        logprobs = jnp.log(model["thought" if think else "plain"])
        # Only behind "=", the sixteenth character: elsewhere the last token is certain.
        behind = jnp.take_along_axis(batch.tokens, anchors, 1) == 15
        elsewhere = jnp.where(jnp.arange(19) == 18, 0.0, -50.0)
        return jnp.where(behind[..., None], logprobs[None, None], elsewhere[None, None])


def distribution(*places):
    """Over 19 tokens: the five places, and the rest of the probability on the others."""
    return jnp.asarray([*places, *[(1 - sum(places)) / 14] * 14])


PARAMS = {"plain": distribution(0.2, 0.1, 0.1, 0.05, 0.05), "thought": distribution(0.1, 0.6, 0.1, 0.1, 0.1)}


def test_rows_hold_accuracy_renormalised_probability_and_nll_without_and_with_thoughts():
    evaluator = Evaluator(Questions(), Fixed(), Weights(), TOKENIZER, thinks=True)
    plain, thinking = evaluator(PARAMS, jax.random.key(0))
    assert (plain.task, plain.thoughts, plain.n) == ("cups", False, 3)
    assert (thinking.task, thinking.thoughts, thinking.n) == ("cups", True, 3)
    assert plain.accuracy == pytest.approx(2 / 3)
    assert plain.probability == pytest.approx((0.4 + 0.4 + 0.2) / 3, rel=1e-6)
    assert plain.nll == pytest.approx(-(2 * np.log(0.2) + np.log(0.1)) / 3, rel=1e-6)
    assert thinking.accuracy == pytest.approx(1 / 3)
    assert thinking.probability == pytest.approx((0.1 + 0.1 + 0.6) / 3, rel=1e-6)
    assert thinking.nll == pytest.approx(-(2 * np.log(0.1) + np.log(0.6)) / 3, rel=1e-6)
    # Wilson, 2 of 3.
    assert (plain.accuracy_low, plain.accuracy_high) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert plain.probability_low <= plain.probability <= plain.probability_high


def test_a_method_that_does_not_think_is_asked_once():
    rows = Evaluator(Questions(), Fixed(), Weights(), TOKENIZER, thinks=False)(PARAMS, jax.random.key(0))
    assert [row.thoughts for row in rows] == [False]


def test_progress_counts_questions():
    seen = []
    Evaluator(Questions(), Fixed(), Weights(), TOKENIZER, thinks=False)(
        PARAMS, jax.random.key(0), lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 3), (3, 3)]


class Drawn:
    """Predicts by chance: what it draws from its key."""

    def predict(self, model, batch, anchors, key, think, greedy):
        return jax.nn.log_softmax(jax.random.normal(key, (*anchors.shape, 19)))


def test_the_key_decides_what_is_drawn_and_every_batch_draws_anew():
    evaluator = Evaluator(Questions(batch_size=1), Drawn(), Weights(), TOKENIZER, thinks=False)
    items = [Questions().tasks(TOKENIZER)["cups"][0]] * 4
    one = evaluator.scores(PARAMS, jax.random.key(0), items, False).score
    np.testing.assert_array_equal(one, evaluator.scores(PARAMS, jax.random.key(0), items, False).score)
    assert len(set(one.tolist())) == 4
    assert not np.array_equal(one, evaluator.scores(PARAMS, jax.random.key(1), items, False).score)
