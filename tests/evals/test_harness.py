"""A model as lm-evaluation-harness asks it: the numbers are those of qstar's own functions."""

import dataclasses
import sys

import jax
import numpy as np
import pytest
import tiny
import tolerances

from qstar.cli import harness_command
from qstar.data import tokenizer as tokenizers
from qstar.decoding import score
from qstar.evals.harness import Asked
from qstar.methods.quiet_star import QuietStar
from qstar.policy import Policy
from qstar.thoughts.read import read

TOKENIZER = tokenizers.characters("abcdefghijklm")
METHOD = QuietStar(thought_len=2, delimiter_init="random", mix="hidden")
PAIRS = [("abc", "de"), ("a", "bcdefghijklmabcdefghijk"), ("fgh", "i")]
SHAPE = dataclasses.replace(tiny.LM, max_len=32)
BOUND = tolerances.forward(SHAPE)  # of one token's log-prob


@pytest.fixture(scope="module")
def policy():
    """A thinker that reads 32 tokens."""
    definition = METHOD.definition(SHAPE, TOKENIZER)
    return Policy(METHOD, definition, tiny.weights_of(definition), TOKENIZER, "tiny")


def ids(text):
    return TOKENIZER.encode(text)


def test_without_thoughts_log_likelihoods_are_the_trainer_s(policy):
    asked = Asked(policy).loglikelihood(PAIRS)
    expected = score.score(policy.definition, policy.params, [ids(a) for a, _ in PAIRS], [ids(b) for _, b in PAIRS])
    for (value, _), row in zip(asked, expected, strict=True):
        assert value == pytest.approx(row.sum(), abs=len(row) * BOUND)


def test_with_thoughts_log_likelihoods_are_those_that_a_reading_gives(policy):
    asked = Asked(policy, "greedy").loglikelihood(PAIRS[::2])
    for (context, continuation), (value, _) in zip(PAIRS[::2], asked, strict=True):
        reading = read(
            METHOD, policy.definition, policy.params, ids(context + continuation), jax.random.key(0), greedy=True
        )
        steps = reading.steps[len(context) - 1 :]
        assert value == pytest.approx(sum(step.mixed for step in steps), abs=len(steps) * BOUND)


def test_a_continuation_is_greedy_where_each_of_its_tokens_is_likeliest(policy):
    asked = Asked(policy)
    likeliest = int(score.logits(policy.definition, policy.params, np.array([ids("abc")]))[0, -1].argmax())
    first, other = TOKENIZER.decode([likeliest]), TOKENIZER.decode([(likeliest + 1) % 13])
    assert [greedy for _, greedy in asked.loglikelihood([("abc", first), ("abc", other)])] == [True, False]
    wrong_later = first + asked.generate_until([("abc" + first, {"max_gen_toks": 1})])[0]
    assert asked.loglikelihood([("abc", wrong_later)])[0][1]


def test_rolling_scores_every_token_once_with_full_windows(policy):
    text = "abcdefghijklm" * 3  # 39 tokens of a model that reads 32; the first one has nothing before it
    (value,) = Asked(policy).loglikelihood_rolling([text])
    every = ids(text)
    first, last = score.score(policy.definition, policy.params, [every[:1], every[7:32]], [every[1:32], every[32:]])
    assert value == pytest.approx(first.sum() + last.sum(), abs=len(every) * BOUND)
    (thinking,) = Asked(policy, "greedy").loglikelihood_rolling(["abcd"])
    reading = read(METHOD, policy.definition, policy.params, ids("abcd"), jax.random.key(0), greedy=True)
    assert thinking == pytest.approx(sum(step.mixed for step in reading.steps), abs=len(reading.steps) * BOUND)


@pytest.mark.parametrize("thoughts", ["none", "greedy"])
def test_what_is_written_ends_before_the_first_stop_text(policy, thoughts):
    asked = Asked(policy, thoughts, batch_size=2)
    (whole,) = asked.generate_until([("abc", {"max_gen_toks": 6})])
    assert len(whole) == 6
    stop = whole[3:5]
    cut = asked.generate_until([("abc", {"max_gen_toks": 6, "until": [stop, "zzz"]}), ("b", {"max_gen_toks": 2})])
    assert cut[0] == whole[: whole.find(stop)] and len(cut[1]) == 2


def test_other_thoughts_and_models_that_have_none_are_refused(policy):
    with pytest.raises(ValueError, match="thoughts = 'sampled'"):
        Asked(policy, "sampled")
    plain = Policy.of_language_model(tiny.LM, {}, TOKENIZER, "plain")
    with pytest.raises(ValueError, match="plain was trained with PlainLM, which does not think"):
        Asked(plain, "greedy")


def test_the_harness_gets_a_model_of_its_own_kind(policy):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

    model = harness_command.register()(policy, thoughts="greedy")
    assert isinstance(model, LM)
    request = Instance("loglikelihood", {}, PAIRS[0], 0)
    assert model.loglikelihood([request]) == Asked(policy, "greedy").loglikelihood(PAIRS[:1])


def test_a_task_of_the_harness_is_evaluated_with_and_without_thoughts(policy, tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"q": "ab", "a": "{letter}"}}\n' for letter in "cdef"))
    task = {
        "task": "letters", "dataset_path": "json", "dataset_kwargs": {"data_files": str(tmp_path / "rows.jsonl")},
        "test_split": "train", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
        "doc_to_choice": ["c", "d", "e", "f"], "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    for thoughts in ("none", "greedy"):
        model = harness_command.register()(policy, thoughts=thoughts)
        done = lm_eval.simple_evaluate(model, tasks=[task], bootstrap_iters=0)
        assert done["results"]["letters"]["acc,none"] == 0.25  # it picks one letter, whatever the answer


def test_a_missing_harness_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api", None)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    harness_command.register.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "\.\[harness\]"'):
        harness_command.register()
