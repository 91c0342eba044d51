import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from flax import nnx
from tolerances import EXACT, rounding

from qstar import sharding
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models
from qstar.methods.quiet_star import QuietStar
from qstar.models import lm as language_model
from qstar.models.definition import Definition, join
from qstar.models.lora import LoraConfig, adapted
from qstar.sharding import MeshConfig
from qstar.training.build import Program
from qstar.training.optim import OptimConfig
from qstar.training.step import weights

THINKS = QuietStar(thought_len=2, lookahead=2, beta=10.0, delimiter_init="mean")
METHODS = {"lm": PlainLM(), "quiet_star": THINKS}
ALL = ("query", "key", "value", "out", "gate", "up", "down")
FEW = LoraConfig(rank=3, alpha=6.0, targets=("query", "out", "down"))
EVERY = dataclasses.replace(FEW, targets=("all",))
OPTIM = OptimConfig(lr=0.01, warmup_steps=0, eps=1e-3)  # no division by gradients that are rounding alone
LM = dataclasses.replace(tiny.LM, vocab=14)  # sizes that two tensor ways and eight fsdp ways divide
DOUBLE = dataclasses.replace(LM, dtype="float64")  # what is held in float32 is rounded to it after sums that are not


thinker_without = functools.cache(THINKS.definition)  # one definition, which jit compares by identity


@functools.cache
def thinker(cfg, lora):
    """A thinker with adapters and random weights, B included."""
    model = adapted(thinker_without(cfg), lora)
    return model, tiny.weights_of(model, dtype=jnp.float64 if cfg.dtype == "float64" else jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def total(model, params):
    """A number that depends on text, thoughts and mixing."""
    return THINKS.loss(Models(model.bind(params)), tiny.packed(), jax.random.key(0))[0]


def without(params):
    return {name: part for name, part in params.items() if name != "lora"}


# --- what is computed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [pytest.param(FEW, marks=pytest.mark.slow), EVERY])
def test_adapters_compute_what_the_merged_weights_compute(x64, lora):
    model, params = thinker(tiny.EXACT, lora)
    merged = model.merged(params)
    model.base.check(merged)
    found = float(total(model, params))
    assert found == pytest.approx(float(total(model.base, merged)), abs=EXACT + THINKS.beta * tolerances.POLICY)
    assert abs(found - float(total(model.base, without(params)))) > 1e-3


def test_in_float32_the_difference_is_rounding():
    model, params = thinker(tiny.LM, EVERY)
    found, expected = (
        np.asarray(jax.jit(lambda p, model=model: model.bind(p).lm.text(tiny.packed()).hidden)(p))
        for model, p in ((model, params), (model.base, model.merged(params)))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerances.forward(tiny.LM, keys=9, size=5))


def test_merging_adds_alpha_over_rank_times_the_product_of_the_matrices():
    model, params = thinker(tiny.LM, FEW)
    merged, adapters = model.merged(params)["lm"]["blocks"], jax.tree.map(np.asarray, params["lora"])
    for name, sum_over in (("query", "dr,rhk->dhk"), ("out", "hkr,rd->hkd"), ("down", "fr,rd->fd")):
        before = np.asarray(params["lm"]["blocks"][name])
        for layer in range(2):
            a, b = adapters[name]["a"][layer], adapters[name]["b"][layer]
            expected = before[layer] + 2.0 * np.einsum(sum_over, a, b)
            np.testing.assert_allclose(
                merged[name][layer], expected, rtol=0, atol=rounding(4, size=np.abs(expected).max())
            )
    np.testing.assert_array_equal(merged["gate"], params["lm"]["blocks"]["gate"])


def test_new_adapters_change_nothing(x64):
    model, params = thinker(tiny.EXACT, EVERY)
    new = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.adapters(jax.random.key(0)))
    params = {**params, "lora": new}
    assert float(total(model, params)) == float(total(model.base, without(params)))


def test_new_adapters_are_random_in_a_and_zero_in_b():
    wide = dataclasses.replace(tiny.LM, width=128, heads=8, head_size=32)
    model = adapted(PlainLM().definition(wide), LoraConfig(rank=16, targets=("all",)))
    made = model.adapters(jax.random.key(0))
    assert set(made) == set(ALL)
    for name, fan_in in (("query", 128), ("out", 256), ("down", 20)):
        assert float(jnp.std(made[name]["a"])) == pytest.approx(
            fan_in**-0.5, rel=tolerances.spread(made[name]["a"].size)
        )
        assert not np.any(made[name]["b"])
    first, second = made["query"]["a"]
    assert np.all(np.asarray(first) != np.asarray(second))
    model.check(model.init(jax.random.key(0)))


def test_gradients_are_those_of_the_weights_through_the_product(x64):
    """With W' = W + s A B and G the gradient in W': A's is s G B^T, B's is s A^T G; here s = 6 / 3."""
    model = adapted(PlainLM().definition(tiny.EXACT), EVERY)
    params = tiny.weights_of(model, dtype=jnp.float64)
    gradient = lambda model, params: jax.jit(  # noqa: E731
        jax.grad(lambda p: PlainLM().loss(Models(model.bind(p)), tiny.packed(), jax.random.key(0))[0])
    )(params)
    found = gradient(model, params)["lora"]
    expected = gradient(model.base, jax.tree.map(jnp.asarray, model.merged(params)))["blocks"]
    for name, inputs in (("query", 1), ("key", 1), ("value", 1), ("out", 2), ("gate", 1), ("up", 1), ("down", 1)):
        for layer in range(2):
            full = np.asarray(expected[name][layer])
            g = full.reshape(int(np.prod(full.shape[:inputs])), -1)
            a, b = (np.asarray(params["lora"][name][side][layer]) for side in "ab")
            a, b = a.reshape(-1, 3), b.reshape(3, -1)
            for side, product in (("a", 2.0 * g @ b.T), ("b", 2.0 * a.T @ g)):
                one = np.asarray(found[name][side][layer]).reshape(product.shape)
                assert tiny.relative_error(one, product) < tolerances.gradient(tiny.EXACT), (name, side)


# --- what trains --------------------------------------------------------------------------------------------------


@functools.cache
def program(name, mesh, lora=EVERY, lm=LM, micro_batches=1):
    return Program.of(METHODS[name], lm, sharding.make_mesh(mesh), OPTIM, 10, micro_batches, lora)


def eight_rows():
    rows = tiny.packed()
    shifted = [rows.replace(tokens=(rows.tokens + 3 * k) % 14) for k in range(4)]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *shifted)


def base_weights(lm=LM):
    return jax.tree.map(np.asarray, tiny.lm_of(lm)[1])


def run(name, mesh, steps=3, **kwargs):
    """The state before and after some steps, as numpy, and the metrics of each step."""
    one = program(name, mesh, **kwargs)
    with jax.set_mesh(one.mesh):
        state = one.start(base_weights(), seed=1)
        before, history = jax.device_get(state.replace(key=None)), []
        batch = jax.device_put(eight_rows(), sharding.named(one.mesh, "batch", None))
        for _ in range(steps):
            state, metrics = one.step(state, batch)
            history.append({name: mean.value() for name, mean in metrics.items()})
        for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(one.places), strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    return before, jax.device_get(state.replace(key=None)), history


@functools.cache
def on_one_device(name):
    return run(name, MeshConfig(), lm=DOUBLE)


def differs(before, after):
    flat = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): value for path, value in flat}


@pytest.mark.parametrize("name", METHODS)
def test_steps_move_adapters_and_the_methods_parts_and_no_bit_of_the_lm(name, x64):
    before, after, history = on_one_device(name)
    frozen = after.frozen["lm"] if name == "quiet_star" else after.frozen
    jax.tree.map(np.testing.assert_array_equal, frozen, base_weights())
    moved = differs(before.params, after.params)
    assert all(moved.values()), moved
    expected = {f"lora/{target}/{side}" for target in ALL for side in "ab"}
    if name == "quiet_star":
        mixing = ("first", "first_bias", "second", "second_bias", "last")
        expected |= {"start", "end"} | {f"mixing/{leaf}" for leaf in mixing}
    assert set(moved) == expected
    assert history[-1]["loss"] != history[0]["loss"]


def test_only_what_trains_has_moments(x64):
    _, after, _ = on_one_device("quiet_star")
    (adam,) = [part for part in after.opt_state if hasattr(part, "mu")]
    trained = jax.tree.structure(after.params)
    assert jax.tree.structure(adam.mu) == jax.tree.structure(adam.nu) == trained
    assert set(after.params) == {"lora", "start", "end", "mixing"}
    assert set(after.frozen) == {"lm"}


def test_the_bytes_of_a_step_are_counted():
    """Frozen P x 2 bytes in bfloat16, trained Q x 4 bytes four times: values, gradients, two moments."""
    half = dataclasses.replace(EVERY, base="bfloat16")
    held = program("lm", MeshConfig(), lora=half).bytes_held
    # Per layer two norms of 16, q and o 16 x 16, k and v 16 x 8, three of 16 x 20; two tables of 14 x 16, a norm of 16.
    frozen = 2 * (2 * 16 + 2 * 256 + 2 * 128 + 3 * 320) + 2 * 14 * 16 + 16
    # Rank 3 times the inputs and outputs of all seven.
    trained = 2 * 3 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 20))
    assert held == {
        "frozen": 2 * frozen,
        "trained": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": 8 * trained + 2 * 4,  # and two counters of steps
        "average": 0,
        "reference": 0,
    }
    state = program("lm", MeshConfig(), lora=half).start(base_weights(), 0)
    count = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert (count(state.frozen), count(state.params), count(state.opt_state)) == (
        held["frozen"],
        held["trained"],
        held["optimizer"],
    )


def test_no_gradient_of_a_frozen_weight_is_computed():
    """A product of the shape of gate, [16 20], is a gradient of gate: rows are 8 x 9, and no activation has it."""
    model = adapted(PlainLM().definition(LM), EVERY)
    params = model.init(jax.random.key(0))
    trained, frozen = model.split(params)
    loss = lambda trained, frozen: PlainLM().loss(  # noqa: E731
        Models(model.bind(join(trained, frozen))), eight_rows(), jax.random.key(0)
    )[0]

    def products(argnums):
        text = str(jax.make_jaxpr(jax.grad(loss, argnums))(trained, frozen))
        return [line for line in text.splitlines() if "dot_general" in line and "f32[16,20]" in line.split("=")[0]]

    assert products(0) == []
    assert len(products((0, 1))) > 0


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("lm", MeshConfig(2, 2, 2)),
        # Of whose axes these have some; tests/test_sharding.py has the parts of a thinker on meshes.
        pytest.param("lm", MeshConfig(fsdp=8), marks=pytest.mark.slow),
        pytest.param("lm", MeshConfig(fsdp=4, tensor=2), marks=pytest.mark.slow),
        pytest.param("quiet_star", MeshConfig(2, 2, 2), marks=pytest.mark.slow),
        pytest.param("quiet_star", MeshConfig(fsdp=8), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_train_the_same_adapters_as_one(name, mesh, x64):
    _, expected, expected_history = on_one_device(name)
    _, found, history = run(name, mesh, lm=DOUBLE)
    # Ten roundings make an update in float32 of a gradient.
    bound = tolerances.trained(LM, 3, OPTIM.lr, update=rounding(10))
    for one, other in zip(history, expected_history, strict=True):
        assert one == pytest.approx(other, rel=bound, abs=bound)
    # Adam divides by eps at least: a gradient that is wrong by the bound moves a weight by lr / eps times that.
    moved = 3 * OPTIM.lr / OPTIM.eps * bound
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=moved), found.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, found.frozen, expected.frozen)


def test_adapters_lie_on_the_mesh_as_the_axes_of_their_weights_do():
    places = program("quiet_star", MeshConfig(2, 2, 2)).places
    spec = {
        name: {side: tuple(place.spec) for side, place in sides.items()}
        for name, sides in places.params["lora"].items()
    }
    assert spec["query"] == {"a": (None, "fsdp", None), "b": (None, None, "tensor", None)}
    assert spec["out"] == {"a": (None, "tensor", None, None), "b": (None, None, "fsdp")}
    assert spec["down"] == {"a": (None, "tensor", None), "b": (None, None, "fsdp")}
    assert tuple(places.frozen["lm"]["blocks"]["query"].spec) == (None, "fsdp", "tensor", None)


def test_layers_that_are_kept_train_the_same_adapters_as_recomputed_ones(x64):
    assert LM.remat == "full"
    _, expected, _ = run("lm", MeshConfig(), steps=1, lm=DOUBLE)
    _, found, _ = run("lm", MeshConfig(), steps=1, lm=dataclasses.replace(DOUBLE, remat="none"))
    moved = OPTIM.lr * rounding(10)  # one update in float32, of gradients that are equal before they are rounded to it
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=moved), found.params, expected.params)


@pytest.mark.slow  # whole batches move no more above
def test_micro_batches_move_adapters_only():
    before, after, _ = run("lm", MeshConfig(), steps=1, micro_batches=2)
    for target in ALL:
        was, now = before.params["lora"][target], after.params["lora"][target]
        assert not np.any(was["b"]) and np.any(now["b"])
        # A's gradient is a multiple of B, which starts at zero: A only decays, by lr x 1e-3.
        np.testing.assert_allclose(now["a"], was["a"] * (1 - 1e-5), rtol=rounding(2))
    jax.tree.map(np.testing.assert_array_equal, after.frozen, base_weights())


def test_a_base_in_bfloat16_stays_in_it_while_adapters_are_float32():
    half = dataclasses.replace(EVERY, base="bfloat16")
    before, after, history = run("lm", MeshConfig(), lora=half)
    assert {leaf.dtype for leaf in jax.tree.leaves(after.frozen)} == {np.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {np.dtype(np.float32)}
    jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)
    # Weights of eight bits: log-probs of typical size 1.2 err by 2^-9 * condition * 1.2 = 0.02, and their mean by less.
    with jax.enable_x64(True):
        first, expected = history[0]["loss"], on_one_device("lm")[2][0]["loss"]
    assert first != expected and first == pytest.approx(expected, rel=0.02)
    merged = program("lm", MeshConfig(), lora=half).definition.merged(join(after.params, after.frozen))
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {np.dtype(np.float32)}


def test_the_average_is_of_what_trains_and_evaluates_with_the_rest():
    averaging = dataclasses.replace(OPTIM, ema=0.5)
    one = Program.of(PlainLM(), LM, sharding.make_mesh(MeshConfig()), averaging, 10, 1, EVERY)
    with jax.set_mesh(one.mesh):
        state = one.start(base_weights(), 0)
        begun = np.asarray(state.params["lora"]["out"]["b"])
        state, _ = one.step(state, jax.device_put(eight_rows()))
    assert set(state.ema) == set(state.params)
    whole = weights(state)
    one.definition.check(whole)
    now = np.asarray(state.params["lora"]["out"]["b"])
    np.testing.assert_allclose(
        whole["lora"]["out"]["b"], (begun + now) / 2, rtol=0, atol=rounding(2, size=np.abs(now).max())
    )
    assert np.abs(now - begun).max() > 1e-3


# --- configuration ------------------------------------------------------------------------------------------------


def test_without_a_rank_the_definition_is_left_as_it_is():
    base = PlainLM().definition(LM)
    assert adapted(base, LoraConfig()) is base
    assert base.frozen == frozenset()
    assert base.split({"embedding": 1}) == ({"embedding": 1}, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": -1}, r"lora.rank = -1: expected 0 or a positive integer"),
        ({"alpha": 32.0}, "lora.rank = 0 makes no adapters, yet lora.alpha is set: give lora.rank=8 as well"),
        ({"base": "bfloat16", "targets": ("key",)}, "yet lora.targets, lora.base is set"),
        ({"rank": 2, "alpha": 0.0}, "lora.alpha = 0.0: expected a positive number"),
        ({"rank": 2, "base": "int8"}, "lora.base = 'int8': choose one of float32, bfloat16"),
        ({"rank": 2, "targets": ("query", "q_proj")}, "name some of query, key, value, out, gate, up, down, each once"),
        ({"rank": 2, "targets": ()}, r"lora.targets = \(\): name some of"),
        ({"rank": 2, "targets": ("query", "query")}, "each once"),
        ({"rank": 2, "targets": ("all", "key")}, "`all` stands alone"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**values)


def test_a_target_that_the_model_lacks_is_named_with_what_it_has():
    class Gateless(language_model.LM):
        def __init__(self, cfg, rngs):
            super().__init__(cfg, rngs)
            del self.blocks.gate

    base = Definition(lambda rngs: Gateless(tiny.LM, rngs))
    assert "gate" not in base.abstract["blocks"] and issubclass(Gateless, nnx.Module)
    with pytest.raises(ValueError, match="this model has no gate; it has query, key, value, out, up, down"):
        adapted(base, LoraConfig(rank=2, targets=("gate", "up")))
    assert set(adapted(base, LoraConfig(rank=2, targets=("all",))).targets) == set(ALL) - {"gate"}


def test_a_norm_of_one_plus_the_weight_is_not_rounded_to_the_type_it_is_held_in():
    """Gemma's: x / rms(x) (1 + w) with w = 2^-9, which 1 + w in bfloat16 would lose."""
    cfg = dataclasses.replace(tiny.LM, layers=1, norm_offset=1.0)
    model = language_model.definition(cfg)
    held = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 2.0**-9, jnp.bfloat16), model.abstract)
    found = np.asarray(model.bind(held).norm(jnp.ones((1, 16))))
    np.testing.assert_allclose(found, (1 + 2.0**-9) / (1 + cfg.norm_eps) ** 0.5, rtol=rounding(16))
