"""Likelihood of documents against a direct computation, and what the figures are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from reference import sequential
from tolerances import EXACT

from qstar.data import tokenizer as tokenizers
from qstar.evals import perplexity
from qstar.evals.measure import item_keys
from qstar.evals.perplexity import Document, Likelihood, PerplexityEval, windows
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.models.thinker import Tokens
from qstar.ops import chunk
from qstar.policy import Policy
from qstar.structs import Batch

LETTERS = tokenizers.characters("abcdefghijklm")
THINKING = QuietStar(thought_len=2)
DOCUMENTS = (
    Document("all-0", (3, 7, 1, 9, 4, 6, 0, 11, 8, 2, 2)),
    Document("all-1", (5, 12)),
    Document("all-2", (10, 1, 7, 3, 0, 6, 5)),
)
CFG = PerplexityEval(("unused",), length=6, overlap=2, batch_size=2, thoughts=("none", "greedy", "sampled"))


def measured(cfg=CFG, documents=DOCUMENTS):
    return Likelihood("perplexity", documents, cfg)


def thinker(lm=tiny.EXACT, method=THINKING):
    model, params = tiny.thinker_of(lm, tokens=Tokens(forbidden=(12,)))
    return Policy(method, model, params, LETTERS)


def asked(measure, subject, ways, key=7):
    """Rows of all batches by (document, way)."""
    rows = [row for index in measure.batches() for row in measure.ask(subject, ways, index, jax.random.key(key))]
    return {(row["item"], row["thoughts"]): row for row in rows}


# --- windows ------------------------------------------------------------------------------------------------------


def test_windows_score_every_token_but_the_first_once_after_the_overlap():
    found = [(one.start, one.scored, one.tokens) for one in windows((10, 11, 12, 13, 14, 15, 16, 17, 18), 4, 2)]
    assert found == [
        (0, 1, (10, 11, 12, 13)),
        (2, 4, (12, 13, 14, 15)),
        (4, 6, (14, 15, 16, 17)),
        (6, 8, (16, 17, 18)),
    ]
    assert [(one.start, one.scored, one.tokens) for one in windows((1, 2, 3, 4, 5), 3, 1)] == [
        (0, 1, (1, 2, 3)),
        (2, 3, (3, 4, 5)),
    ]
    assert [one.tokens for one in windows((1, 2), 4, 3)] == [(1, 2)]


def test_batches_hold_every_document_once_and_fill_up_with_windows():
    documents = tuple(Document(str(n), tuple(range(n))) for n in (2, 30, 3, 4, 12, 2))
    found = measured(CFG, documents).batches()
    assert found == [[1], [4], [3, 2], [0, 5]]  # of windows: 7, 3, 1 and 1, 1 and 1


# --- likelihoods --------------------------------------------------------------------------------------------------


def row_of(tokens):
    tokens = np.asarray([tokens])
    return Batch(tokens, np.ones_like(tokens, bool), np.ones_like(tokens), np.arange(tokens.size)[None])


def after_thought(params, batch, position, thought):
    """Distribution behind one thought: the normalised blend of both predictions, step by step."""
    exact, target = sequential.as_numpy(params), np.asarray(batch.tokens)[0, : position + 1]
    base = sequential.hidden_states(exact["lm"], tiny.EXACT, exact["lm"]["embedding"][target])[-1]
    embedded = sequential.sequence(exact, 1.0, batch, 0, position, thought, [])
    after = sequential.hidden_states(exact["lm"], tiny.EXACT, embedded)[-1]
    w = sequential.share_of_thought(exact, base, after, sequential.Mixing())
    both = [sequential.log_softmax(sequential.logits(exact["lm"], state)) for state in (base, after)]
    return sequential.log_softmax((1 - w) * both[0] + w * both[1]), both[0]


def direct(params, document, way, num_thoughts=1):
    """Log-probs of all tokens but the first."""
    found = []
    for one in windows(document.tokens, 6, 2):
        batch, anchors = row_of(one.tokens), np.arange(len(one.tokens))[None]
        thoughts = np.zeros((1, 1, len(one.tokens), 2), int)
        if way != "none":
            # A window's key is that of its document and start, then that of its first slice; half of it draws.
            key = jax.random.fold_in(item_keys(jax.random.key(7), [document])[0], one.start)
            draw = jax.random.split(jax.random.fold_in(key, 0))[1]
            count, temperature = (num_thoughts, 1.0) if way == "sampled" else (1, 0.0)
            shape = (tiny.EXACT, 1.0, batch, anchors, draw, 2, count, temperature, (12,))
            thoughts = sequential.sample(params, *shape)[0]
        for position in range(one.scored - one.start - 1, len(one.tokens) - 1):
            each = [after_thought(params, batch, position, thoughts[0, r, position]) for r in range(thoughts.shape[1])]
            token = one.tokens[position + 1]
            mean = np.mean([np.exp(mixed[token]) for mixed, _ in each])
            found.append(each[0][1][token] if way == "none" else np.log(mean))
    return np.array(found)


@pytest.mark.parametrize(("way", "num_thoughts"), [pytest.param("greedy", 1, marks=pytest.mark.slow), ("sampled", 3)])
def test_every_token_has_the_log_prob_of_a_direct_computation(x64, way, num_thoughts):
    subject = thinker()
    found = asked(measured(dataclasses.replace(CFG, num_thoughts=num_thoughts)), subject, ("none", way))
    for document in DOCUMENTS:
        base = direct(subject.params, document, "none")
        mixed = direct(subject.params, document, way, num_thoughts)
        plain, row = found[document.id, "none"], found[document.id, way]
        np.testing.assert_allclose(plain["logprobs"], base, rtol=0, atol=EXACT)
        np.testing.assert_allclose(row["logprobs"], mixed, rtol=0, atol=EXACT)
        np.testing.assert_allclose(row["logprobs_none"], base, rtol=0, atol=EXACT)
        assert row["nats"] == pytest.approx(-mixed.sum(), abs=len(mixed) * EXACT)
        assert np.abs(mixed - base).max() > 1e-3
        assert row["ids"] == list(document.tokens[1:]) and row["tokens"] == len(document.tokens) - 1


def test_scores_depend_on_neither_batches_nor_slices_nor_the_other_documents(x64, monkeypatch):
    subject, ways = thinker(), ("greedy", "sampled")
    whole = asked(measured(), subject, ways)
    one = asked(measured(dataclasses.replace(CFG, batch_size=1), DOCUMENTS[2:]), subject, ways)
    for way in ways:
        np.testing.assert_allclose(one["all-2", way]["logprobs"], whole["all-2", way]["logprobs"], rtol=0, atol=EXACT)
    other = asked(measured(dataclasses.replace(CFG, batch_size=1), DOCUMENTS[2:]), subject, ways, key=8)
    assert np.abs(np.subtract(other["all-2", "sampled"]["logprobs"], one["all-2", "sampled"]["logprobs"])).min() > 1e-6
    monkeypatch.setattr(chunk, "BUDGET_BYTES", 3 * 13 * 4 * 8)  # eight positions a slice, of 32
    sliced = asked(measured(CFG, DOCUMENTS[:1]), subject, ("greedy",))
    assert sliced["all-0", "greedy"]["logprobs"] == pytest.approx(whole["all-0", "greedy"]["logprobs"], abs=EXACT)


def test_a_model_that_does_not_think_has_the_likelihoods_of_its_language_model(x64):
    subject = thinker()
    plain = Policy(PlainLM(), PlainLM().definition(tiny.EXACT), subject.params["lm"], LETTERS)
    found = asked(measured(), plain, ("none",))
    np.testing.assert_allclose(
        found["all-0", "none"]["logprobs"], direct(subject.params, DOCUMENTS[0], "none"), rtol=0, atol=EXACT
    )


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary_and_bits_by_the_byte():
    tokenizer = tokenizers.characters("abcdefghijé€😀")  # thirteen tokens of 1, 2, 3 and 4 bytes
    model, params = tiny.thinker_of()
    subject = Policy(THINKING, model, jax.tree.map(jnp.zeros_like, params), tokenizer)
    documents = (Document("0", (11, 10, 0, 12)), Document("1", (12, 0, 0)))  # €éa😀, 😀aa
    measure = measured(CFG, documents)
    rows = list(asked(measure, subject, ("greedy",)).values())
    assert [(row["tokens"], row["bytes"]) for row in rows] == [(3, 7), (2, 2)]
    figures = measure.figures(rows)
    assert figures["nll"].value == pytest.approx(2.5649493574615367)  # ln 13
    assert figures["perplexity"].value == pytest.approx(13)
    assert figures["bits_per_byte"].value == pytest.approx(3.700439718141092 * 5 / 9)  # log2 13, 5 tokens, 9 bytes
    assert (figures["perplexity"].low, figures["perplexity"].high) == pytest.approx((13, 13))


def test_figures_weigh_documents_by_their_tokens_and_bytes():
    rows = [
        {"item": "a", "tokens": 1, "bytes": 4, "nats": 2.0, "bits": 3.0},
        {"item": "b", "tokens": 3, "bytes": 6, "nats": 4.0, "bits": 5.0},
    ]
    found = measured().figures(rows)
    assert (found["nll"].value, found["bits_per_byte"].value) == (6 / 4, 8 / 10)
    assert found["perplexity"].value == pytest.approx(4.4816890703)  # e to the 1.5
    assert (found["nll"].low, found["nll"].high) == pytest.approx((4 / 3, 2.0))


def test_gains_are_of_every_token_of_all_rows():
    rows = [
        {"logprobs": [-1.0, -2.0], "logprobs_none": [-1.5, -1.0]},
        {"logprobs": [-4.0], "logprobs_none": [-4.0]},
    ]
    np.testing.assert_array_equal(perplexity.gains(rows), [0.5, -1.0, 0.0])


# --- which text ---------------------------------------------------------------------------------------------------


def test_documents_are_the_first_of_the_split_cut_to_their_limit(tmp_path):
    texts = ["abcde", "fgh", "a", "bb", "mlkjih", "ddd"]
    (tmp_path / "text.txt").write_text("\n<|doc|>\n".join(texts))
    settings = {"cache_dir": str(tmp_path / "cache"), "document_tokens": 4}
    [found] = PerplexityEval((str(tmp_path / "text.txt"),), items=4, **settings).measures(LETTERS)
    assert [LETTERS.decode(one.tokens) for one in found.items] == ["abcd", "fgh", "bb", "mlkj"]  # "a" has no next token
    split = {"heldout_fraction": 0.22, **settings}
    halves = [PerplexityEval((str(tmp_path / "text.txt"),), split=name, **split) for name in ("heldout", "train")]
    kept = [[LETTERS.decode(one.tokens) for one in half.measures(LETTERS)[0].items] for half in halves]
    # SHA-256 of the texts, as shares of its range: 0.214, 0.214, 0.791, 0.232, 0.135, 0.449.
    assert kept == [["abcd", "fgh", "mlkj"], ["bb", "ddd"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "eval.split = 'test': choose one of train, heldout, all"),
        ({"split": "heldout"}, "eval.split = 'heldout' with eval.heldout_fraction = 0.0"),
        ({"heldout_fraction": 0.1}, "eval.split = 'all' with eval.heldout_fraction = 0.1"),
        ({"num_thoughts": 0}, "eval.num_thoughts = 0"),
        ({"document_tokens": 1}, "eval.document_tokens = 1"),
        ({"overlap": 0}, "eval.overlap = 0: expected a positive integer"),
        ({"overlap": 6}, "eval.overlap = 6"),
        ({"thoughts": ("some",)}, "eval.thoughts"),
        ({"items": 0}, "eval.items = 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CFG, **change)


def test_windows_longer_than_the_model_are_refused():
    cfg = dataclasses.replace(CFG, length=100)
    with pytest.raises(ValueError, match="70 tokens, the model was built for 64"):
        asked(measured(cfg, (Document("0", (1,) * 70),)), thinker(tiny.LM), ("none",))


def test_text_without_documents_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("a")
    cfg = PerplexityEval((str(tmp_path / "text.txt"),), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"eval.split = 'all' of .*text.txt has no document of two tokens"):
        cfg.measures(LETTERS)


def test_weights_that_are_not_numbers_are_refused():
    model, params = tiny.thinker_of()
    broken = params | {"lm": params["lm"] | {"embedding": params["lm"]["embedding"] * jnp.nan}}
    with pytest.raises(ValueError, match="not a number"):
        asked(measured(), Policy(THINKING, model, broken, LETTERS), ("none",))
