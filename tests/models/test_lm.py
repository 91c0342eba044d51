import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import sequential
from tolerances import EXACT

from qstar.models import lm as language_model
from qstar.models import lora
from qstar.models.lm import LMConfig
from qstar.models.lora import LoraConfig
from qstar.ops import attention, rows
from qstar.ops.rotary import Scaling

ANCHORS = jnp.array([[1, 7], [0, 4]])


@pytest.mark.parametrize("tied", [False, True])
def test_documents_of_a_packed_batch_equal_each_run_by_itself(x64, tied):
    cfg = dataclasses.replace(tiny.EXACT, tied=tied)
    model, params = tiny.lm_of(cfg)
    batch = tiny.packed()
    text = jax.jit(lambda params: model.bind(params).text(batch))(params)
    lm = sequential.as_numpy(params)
    expected = sequential.text_hidden({"lm": lm}, cfg, batch)
    real = np.asarray(batch.segment) > 0
    np.testing.assert_allclose(np.asarray(text.hidden)[real], expected[real], rtol=0, atol=EXACT)
    assert ("head" in params) is not tied
    logits = jax.jit(lambda params, hidden: model.bind(params).logits(hidden))(params, text.hidden)
    np.testing.assert_allclose(logits[0, 3], sequential.logits(lm, expected[0, 3]), rtol=0, atol=EXACT)


def test_one_column_at_a_time_equals_all_columns_at_once(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    batch = tiny.packed()
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 4, 16), "float64")

    @jax.jit
    def both(params):
        lm = model.bind(params)
        text, mask = lm.text(batch), attention.anchor_mask(batch.segment, ANCHORS)
        position = jnp.take_along_axis(batch.position, ANCHORS, 1)
        own, grown = lm.own_keys(2, 3, 2, 4), []
        for c in range(4):
            hidden, own = lm.column(x[:, :, :, c : c + 1], jnp.array(c), position, text, mask, own)
            grown.append(hidden)
        return jnp.concatenate(grown, axis=3), lm.columns(x, position, text, mask)

    one_by_one, at_once = both(params)
    np.testing.assert_allclose(one_by_one, at_once, rtol=0, atol=EXACT)


FAMILIES = {
    "llama": tiny.EXACT,
    "mistral": dataclasses.replace(tiny.EXACT, window=3, remat="none"),
    "qwen": dataclasses.replace(
        tiny.EXACT, window=4, global_layers=(0,), qkv_bias=True, qk_norm=True, rope_scaling=Scaling(8.0, 1.0, 4.0, 20)
    ),
    "gemma": dataclasses.replace(
        tiny.EXACT, window=3, global_layers=(1,), local_rope_theta=10.0, qk_norm=True, post_norms=True,
        norm_offset=1.0, activation="gelu_tanh", embed_scale=4.0, query_scalar=7.0, tied=True,
    ),
}  # fmt: skip
PROMPTS = [[3, 7, 1, 9], [5, 2]]
TEXTS = [[[4, 6, 0, 11, 8], [12, 1, 0, 0, 0]], [[10, 6, 1, 7, 3], [5, 0, 0, 0, 0]]]  # which may be padded


@pytest.mark.parametrize(  # gemma has the windows and norms of the other two
    "family",
    ["gemma", "adapters", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "mistral", "qwen"))],
)
def test_texts_after_a_shared_prompt_equal_each_in_a_row_of_its_own(family, x64):
    """Log-probs and gradients."""
    model = language_model.definition(FAMILIES.get(family, tiny.EXACT))
    if family == "adapters":
        model = lora.adapted(model, LoraConfig(rank=2, targets=("all",)))
    params = tiny.weights_of(model, 0, jnp.float64)
    weight = np.random.default_rng(0).standard_normal((2, 2, 5))
    prompts, texts = jax.tree.map(jnp.asarray, rows.padded(PROMPTS, 5)), jnp.array(TEXTS)

    def together(params):
        lm = model.bind(params)
        return lm.logprobs_after(lm.before(prompts, texts), texts)

    def apart(params):
        whole = [prompt + text for prompt, both in zip(PROMPTS, TEXTS, strict=True) for text in both]
        lm, batch = model.bind(params), jax.tree.map(jnp.asarray, rows.padded(whole, 9))
        logprobs = lm.next_logprobs(lm.text(batch), batch.tokens)
        return jnp.stack([logprobs[row, len(line) - 6 : len(line) - 1] for row, line in enumerate(whole)]).reshape(
            2, 2, 5
        )

    def taken(function):
        total = lambda params: ((weight * (logprobs := function(params))).sum(), logprobs)  # noqa: E731
        return jax.jit(jax.grad(total, has_aux=True))(params)

    (slopes, found), (of_rows, expected) = taken(together), taken(apart)
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)
    assert jax.tree.leaves(of_rows)
    for slope, of_row in zip(jax.tree.leaves(slopes), jax.tree.leaves(of_rows), strict=True):
        assert tiny.relative_error(slope, of_row) < tolerances.gradient(tiny.EXACT)


def test_a_text_of_one_token_is_predicted_from_its_prompt(x64):
    model, params = tiny.lm_of(tiny.EXACT)
    lm, prompts = model.bind(params), jax.tree.map(jnp.asarray, rows.padded(PROMPTS, 5))
    hidden = lm.text(prompts).hidden
    found = lm.before(prompts, jnp.array(TEXTS)[:, :, :1])
    for row, last in enumerate((3, 1)):
        for text in range(2):
            np.testing.assert_allclose(found[row, text, 0], hidden[row, last], rtol=0, atol=EXACT)


@pytest.mark.parametrize("remat", ["full", "minimal"])
def test_recomputing_changes_no_gradient(x64, remat):
    def gradient(remat):
        model, params = tiny.lm_of(dataclasses.replace(tiny.EXACT, remat=remat))
        total = lambda params: jnp.sum(model.bind(params).text(tiny.packed()).hidden ** 3)  # noqa: E731
        return jax.jit(jax.grad(total))(params)

    for found, expected in zip(jax.tree.leaves(gradient(remat)), jax.tree.leaves(gradient("none")), strict=True):
        bound = (
            tolerances.gradient(tiny.EXACT) * np.abs(expected).max()
        )  # the output table has no part in it: exactly 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_bfloat16_computes_in_it_and_gives_float32_logits_close_to_float32():
    batch = tiny.packed()

    def run(dtype):
        model, params = tiny.lm_of(dataclasses.replace(tiny.LM, dtype=dtype))
        hidden = jax.jit(lambda params: model.bind(params).text(batch).hidden)(params)
        return hidden, jax.jit(lambda params, hidden: model.bind(params).logits(hidden))(params, hidden)

    hidden, logits = run("bfloat16")
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    expected = run("float32")[1]
    assert tiny.relative_error(logits, expected) < 0.05  # eight bits of mantissa, twice eight roundings


WEIGHTS = {
    "embedding": ((13, 16), ("vocab", "embed")),
    "head": ((13, 16), ("vocab", "embed")),
    "norm/scale": ((16,), ("embed",)),
    "blocks/attention_norm/scale": ((2, 16), (None, "embed")),
    "blocks/mlp_norm/scale": ((2, 16), (None, "embed")),
    "blocks/query": ((2, 16, 4, 4), (None, "embed", "heads", None)),
    "blocks/key": ((2, 16, 2, 4), (None, "embed", "kv_heads", None)),
    "blocks/value": ((2, 16, 2, 4), (None, "embed", "kv_heads", None)),
    "blocks/out": ((2, 4, 4, 16), (None, "heads", None, "embed")),
    "blocks/gate": ((2, 16, 20), (None, "embed", "ff")),
    "blocks/up": ((2, 16, 20), (None, "embed", "ff")),
    "blocks/down": ((2, 20, 16), (None, "ff", "embed")),
}


def test_weights_by_name_shape_and_logical_axes():
    model, _ = tiny.lm_of()
    axes = jax.tree_util.tree_leaves_with_path(model.axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in axes}
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(model.abstract)
    }
    assert {name: (shapes[name], named[name]) for name in shapes} == WEIGHTS
    assert model.size == sum(int(np.prod(shape)) for shape, _ in WEIGHTS.values())


def test_initial_weights_have_the_spread_of_their_fan_in_and_repeat_with_the_key():
    model = language_model.definition(dataclasses.replace(tiny.LM, vocab=400, width=64, head_size=16))
    params = model.init(jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert np.std(params["embedding"]) == pytest.approx(64**-0.5, rel=tolerances.spread(400 * 64))
    assert np.std(params["blocks"]["query"]) == pytest.approx(64**-0.5, rel=tolerances.spread(2 * 64 * 64))
    # Four heads of 16, and two layers of two branches that add up.
    assert np.std(params["blocks"]["out"]) == pytest.approx((64 * 2 * 2) ** -0.5, rel=tolerances.spread(2 * 64 * 64))
    assert np.all(params["norm"]["scale"] == 1)
    assert np.any(params["blocks"]["query"][0] != params["blocks"]["query"][1])
    again, other = model.init(jax.random.key(0)), model.init(jax.random.key(1))
    np.testing.assert_array_equal(params["blocks"]["up"], again["blocks"]["up"])
    assert np.any(params["blocks"]["up"] != other["blocks"]["up"])


def test_check_lists_what_is_missing_unexpected_and_of_another_shape():
    model, params = tiny.lm_of()
    wrong = {**params, "extra": params["head"], "embedding": params["embedding"][:5]}
    del wrong["head"]
    with pytest.raises(ValueError) as error:
        model.check(wrong, "the file")
    assert str(error.value).splitlines() == [
        "the file do not fit this model:",
        "  missing head (13, 16)",
        "  unexpected extra (13, 16)",
        "  embedding is (5, 16), expected (13, 16)",
        "is it a checkpoint of another model?",
    ]
    model.check(params)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 0}, r"model.layers = 0: expected a positive integer"),
        ({"kv_heads": 3}, r"model.heads = 4 is not a multiple of model.kv_heads = 3"),
        ({"head_size": 5}, r"model.head_size = 5"),
        ({"dtype": "float16"}, r"model.dtype = 'float16': choose one of float32, bfloat16, float64"),
        ({"remat": "all"}, r"model.remat = 'all': choose one of full, minimal, none"),
        ({"attention": "flash"}, r"model.attention = 'flash': choose one of einsum, xla, cudnn"),
        ({"attention": "cudnn"}, r"model.attention = 'cudnn' with model.dtype = 'float32'"),
    ],
)
def test_illegal_shapes_are_named(wrong, message):
    fields = {"vocab": 13, "width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 4, "ff": 20}
    with pytest.raises(ValueError, match=message):
        LMConfig(**(fields | wrong))
