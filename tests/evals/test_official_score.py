"""The probability score against the released evaluation: golden arrays of tests/golden/make_official_score.py.

The released model answered questions after thoughts of five tokens and eval_helpers.py scored its logits. Ours answers
the same questions with the same weights and the same thoughts; both vocabularies are cut to the tokens that occur.
"""

import dataclasses
import json
import runpy
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from golden import letters

from qstar.evals.probability import Direct
from qstar.methods.quiet_star import QuietStar
from qstar.paths import ROOT
from qstar.policy import Policy
from qstar.tasks import commonsense_qa, gsm8k
from qstar.thoughts.fill import Inner
from qstar.thoughts.thinking import Thinking

parity = SimpleNamespace(**runpy.run_path(str(ROOT / "experiments" / "checks" / "official_parity.py")))
GOLDEN = parity.Golden.load(ROOT / "tests" / "golden" / "official_score.npz")
VOCABULARY = GOLDEN.arrays["vocabulary"].tolist()
BOS = letters.SPECIAL["<s>"]
ROWS = dict(zip(("gsm8k", "csqa"), json.loads(str(GOLDEN.arrays["rows"])), strict=True))
DIRECT = {"gsm8k": gsm8k.direct, "csqa": commonsense_qa.direct}


@dataclass(frozen=True)
class GivenThinking(Thinking):
    """Thoughts that are given: [texts][anchors][tokens]."""

    given: tuple = ()

    def inner(self, thinker, *_):
        tokens = jnp.asarray(self.given)[:, None]
        return Inner(thinker.lm.embed(tokens), tokens)


@dataclass(frozen=True)
class Given(QuietStar):
    """Quiet-STaR with such thoughts."""

    given: tuple = ()

    @property
    def thinking(self):
        return GivenThinking(**vars(super().thinking), given=self.given)


def items_of(task):
    return DIRECT[task](ROWS[task], letters, bos=BOS)


def given(task, items):
    """Thoughts at every anchor of every item, padded to the item with most by its last."""
    most = max(len(item.anchors) for item in items)
    rows = zip(items, GOLDEN.arrays[f"{task}/thoughts"], strict=True)  # those before the last ten tokens of each
    places = [
        (thoughts, np.array([*item.anchors, *[item.anchors[-1]] * most])[:most] - len(item.ids))
        for item, thoughts in rows
    ]
    return tuple(tuple(map(tuple, cut(thoughts[place]).tolist())) for thoughts, place in places)


def cut(ids):
    """Ids of the vocabulary of the tokens that occur."""
    return np.searchsorted(VOCABULARY, ids)


def subject():
    method = GOLDEN.method
    definition = GOLDEN.definition
    leaves = [jnp.asarray(leaf) for leaf in GOLDEN.tree("weight", definition).values()]
    decoder = SimpleNamespace(decode=lambda ids: letters.decode([VOCABULARY[id] for id in ids]))
    return Policy(method, definition, jax.tree.unflatten(jax.tree.structure(definition.abstract), leaves), decoder)


def narrowed(item):
    parts = {name: tuple(cut(getattr(item, name)).tolist()) for name in ("ids", "targets", "valid")}
    return dataclasses.replace(item, **parts)


@pytest.mark.parametrize("task", ["gsm8k", "csqa"])
def test_prompts_are_those_of_the_released_evaluation(task):
    for item, row in zip(items_of(task), GOLDEN.arrays[f"{task}/tokens"].tolist(), strict=True):
        padding = [letters.SPECIAL["</s>"]] * (len(row) - len(item.ids))
        assert [*item.ids, *padding] == row


@pytest.mark.parametrize("task", ["gsm8k", "csqa"])
def test_scores_after_thoughts_are_those_of_the_released_evaluation(x64, task):
    items = items_of(task)
    asked = subject()
    fields = {field.name: getattr(asked.method, field.name) for field in dataclasses.fields(asked.method)}
    asked = dataclasses.replace(asked, method=Given(**fields, given=given(task, items)))
    measure = Direct(task, tuple(map(narrowed, items)), batch_size=len(items))
    rows = measure.ask(asked, ("greedy",), range(len(items)), jax.random.key(0))
    expected = GOLDEN.arrays[f"{task}/score"]
    bound = 10 * tolerances.forward(GOLDEN.lm, 64, 8, 1.0)  # a product of a probability for every token of an answer
    np.testing.assert_allclose([row["score"] for row in rows], expected, rtol=bound)
    assert measure.figures(rows)["probability"].value == pytest.approx(float(GOLDEN.arrays[f"{task}/mean"]), rel=bound)
