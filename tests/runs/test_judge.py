"""A language model that is asked whether solutions are right, and which of two is better."""

import dataclasses
import math
import string

import numpy as np
import pytest
import tiny

from qstar.data import tokenizer as tokenizers
from qstar.decoding import score as reading
from qstar.models import lm as language_models
from qstar.policy import Policy
from qstar.runs import judge
from qstar.runs.judge import BEGUN, PAIR, WHOLE, Judge

LETTERS = tokenizers.characters(string.printable, words=(" Yes", " No", " A", " B"))
SHAPE = dataclasses.replace(tiny.LM, vocab=LETTERS.size, max_len=512)
DEFINITION = language_models.definition(SHAPE)
POLICY = Policy.of_language_model(SHAPE, tiny.weights_of(DEFINITION), LETTERS, "a model")
CLOSE = {"atol": 64 * np.finfo(np.float32).eps}
PROMPTS, STEPS = ["1 + 1?", "{x} or 2?"], [("It is", " 2."), ("{x}",)]


def by_itself(text, yes, no):
    """The probability of the first answer among the two after a text that is read alone."""
    logits = reading.logits(DEFINITION, POLICY.params, np.array([LETTERS.encode_prompt(text)]))[0, -1].astype(float)
    (yes,), (no,) = LETTERS.encode(yes), LETTERS.encode(no)
    return 1 / (1 + math.exp(logits[no] - logits[yes]))


def test_a_step_has_the_probability_of_yes_after_the_solution_up_to_it():
    scored = Judge(POLICY, "min", batch_size=2).score(PROMPTS, STEPS)
    texts = [
        BEGUN.format(prompt="1 + 1?", solution="It is"),
        WHOLE.format(prompt="1 + 1?", solution="It is 2."),
        WHOLE.format(prompt="{x} or 2?", solution="{x}"),
    ]
    expected = [by_itself(text, " Yes", " No") for text in texts]
    np.testing.assert_allclose(np.concatenate(scored.steps), expected, **CLOSE)
    assert scored.solutions.tolist() == [scored.steps[0].min(), scored.steps[1][0]]
    assert scored.cost.prompt_tokens == sum(len(LETTERS.encode(text)) for text in texts)


def test_two_answers_are_compared_in_both_orders():
    better, _ = Judge(POLICY).compare(["1 + 1?"], ["2"], ["3"])
    orders = [PAIR.format(prompt="1 + 1?", first=first, second=second) for first, second in (("2", "3"), ("3", "2"))]
    first, second = (by_itself(text, " A", " B") for text in orders)
    np.testing.assert_allclose(better, [(first + 1 - second) / 2], **CLOSE)
    other, _ = Judge(POLICY).compare(["1 + 1?"], ["3"], ["2"])
    np.testing.assert_allclose(better + other, 1, **CLOSE)


def test_rollouts_are_decoded_for_the_judge(monkeypatch):
    monkeypatch.setattr(judge.load, "load_model", lambda source: POLICY)
    other = tokenizers.characters("".join(reversed(string.printable)))
    texts = [(other.encode(prompt), [other.encode(step) for step in steps]) for prompt, steps in zip(PROMPTS, STEPS)]  # noqa: B905
    scores = judge.of_steps(judge.opened("judge:a model"), other)(texts)
    for ours, theirs in zip(scores, Judge(POLICY).score(PROMPTS, STEPS).steps, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_answers_that_begin_with_one_token_are_refused(monkeypatch):
    spaced = dataclasses.replace(POLICY, tokenizer=tokenizers.characters(string.printable))
    monkeypatch.setattr(judge.load, "load_model", lambda source: spaced)
    with pytest.raises(ValueError, match="'Yes' and 'No'"):
        judge.opened("judge:a model")


def test_a_judge_that_cannot_read_english_is_refused():
    with pytest.raises(ValueError, match=r"judge bundled:cups .*character 'H' at 0"):
        judge.opened("judge:bundled:cups")


def test_a_question_without_a_place_and_a_solution_without_steps_are_refused():
    with pytest.raises(ValueError, match=r"judge\.pair lacks \{second\}"):
        Judge(POLICY, pair="{prompt} {first}")
    with pytest.raises(ValueError, match="solution 1 has no steps"):
        Judge(POLICY).score(PROMPTS, [STEPS[0], ()])
