import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, PartitionSpec

from qstar import sharding
from qstar.methods.quiet_star import QuietStar
from qstar.sharding import MeshConfig
from qstar.training.optim import OptimConfig, optimizer
from qstar.training.step import make_step, new_state, state_sharding

# Sizes that two tensor ways and eight fsdp ways divide.
LM = dataclasses.replace(tiny.LM, vocab=14)
METHOD = QuietStar(thought_len=2, lookahead=2, beta=10.0)
STEPS = 3
OPTIM = OptimConfig(lr=0.01, warmup_steps=0, delimiter_lr_scale=2.0)
MESHES = {
    "fsdp": MeshConfig(fsdp=8),
    "fsdp_tensor": MeshConfig(fsdp=4, tensor=2),
    "data_fsdp_tensor": MeshConfig(data=2, fsdp=2, tensor=2),
}


def eight_rows():
    """Eight rows of nine tokens: packed documents, masked targets and padding."""
    rows = tiny.packed()
    shifted = [rows.replace(tokens=(rows.tokens + 3 * k) % 14) for k in range(4)]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *shifted)


def run(cfg, lm=LM):
    """Metrics of some steps on a mesh, and the thoughts that the last weights think."""
    model, params = tiny.thinker_of(lm)
    mesh, tx = sharding.make_mesh(cfg), optimizer(OPTIM, STEPS)
    places = state_sharding(model, tx, mesh, ema=True)
    state = new_state(jax.tree.map(jnp.copy, params), tx, jax.random.key(1), ema=True)
    with jax.set_mesh(mesh):
        state = jax.device_put(state, places)
        batch = jax.device_put(eight_rows(), sharding.named(mesh, "batch", None))
        step = make_step(METHOD, model, tx, mesh, ema=0.9)
        history = []
        for _ in range(STEPS):
            state, metrics = step(state, batch)
            history.append({name: mean.value() for name, mean in metrics.items()})
        for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
        tokens = np.asarray(thoughts(model, state.params, batch))
    return history, tokens


@functools.partial(jax.jit, static_argnums=0)
def thoughts(model, params, batch):
    thinker = model.bind(params)
    anchors = jnp.broadcast_to(jnp.arange(9)[None], (8, 9))
    return METHOD.inner(thinker, thinker.lm.text(batch), batch, anchors, jax.random.key(2), 2, 1.0).tokens


@functools.cache
def on_one_device():
    return run(MeshConfig())


@pytest.fixture
def compile_afresh():
    """What the compiler warns of is only said when it compiles."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_think_the_same_thoughts_and_lose_the_same_as_one(name, capfd, caplog, compile_afresh):
    wanted_history, wanted_tokens = on_one_device()
    capfd.readouterr()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        history, tokens = run(MESHES[name])
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
    assert sum("XLA compilation of jit(step)" in message for message in caplog.messages) == 1
    np.testing.assert_array_equal(tokens, wanted_tokens)
    for found, wanted in zip(history, wanted_history, strict=True):
        assert found == pytest.approx(wanted, rel=2e-5, abs=1e-6)  # float32 sums in another order, over three steps
    losses = [metrics["loss"] for metrics in wanted_history]
    assert len(set(losses)) == STEPS


def test_bfloat16_on_eight_devices_stays_finite():
    history, _ = run(MESHES["data_fsdp_tensor"], dataclasses.replace(LM, dtype="bfloat16"))
    assert np.isfinite([list(metrics.values()) for metrics in history]).all()
    # Rounded to eight bits, yet of the same model.
    assert history[0]["nll"] == pytest.approx(on_one_device()[0][0]["nll"], rel=0.02)


SPECS = {
    "lm/embedding": ("tensor", "fsdp"),
    "lm/head": ("tensor", "fsdp"),
    "lm/norm/scale": ("fsdp",),
    "lm/blocks/attention_norm/scale": (None, "fsdp"),
    "lm/blocks/mlp_norm/scale": (None, "fsdp"),
    "lm/blocks/query": (None, "fsdp", "tensor", None),
    "lm/blocks/key": (None, "fsdp", "tensor", None),
    "lm/blocks/value": (None, "fsdp", "tensor", None),
    "lm/blocks/out": (None, "tensor", None, "fsdp"),
    "lm/blocks/gate": (None, "fsdp", "tensor"),
    "lm/blocks/up": (None, "fsdp", "tensor"),
    "lm/blocks/down": (None, "tensor", "fsdp"),
    "start": ("fsdp",),
    "end": ("fsdp",),
    "pause": ("fsdp",),
    "mixing/first": ("fsdp", None),
    "mixing/first_bias": (None,),
    "mixing/second": ("fsdp", None),
    "mixing/second_bias": (None,),
    "mixing/last": ("fsdp", None),
}


def specs(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(place.spec) for path, place in flat}


def test_weights_averages_and_moments_live_where_the_table_says():
    model, _ = tiny.thinker_of(LM, pause=True)
    mesh = sharding.make_mesh(MESHES["data_fsdp_tensor"])
    places = state_sharding(model, optimizer(OPTIM, STEPS), mesh, ema=True)
    assert specs(places.params) == SPECS
    assert specs(places.ema) == SPECS
    (adam,) = [part for part in places.opt_state if hasattr(part, "mu")]
    assert specs(adam.mu) == SPECS and specs(adam.nu) == SPECS
    assert places.step.spec == adam.count.spec == PartitionSpec()


def test_batches_are_split_over_data_and_fsdp():
    assert sharding.spec("batch", None) == PartitionSpec(("data", "fsdp"), None)


def test_sizes_that_the_mesh_does_not_divide_are_named_before_anything_compiles():
    model, _ = tiny.thinker_of(tiny.LM)  # a vocabulary of 13
    shapes = jax.tree.map(lambda leaf: leaf.shape, model.abstract)
    with pytest.raises(ValueError) as error:
        sharding.check_divisible(model.axes, shapes, sharding.make_mesh(MeshConfig(tensor=2)))
    assert str(error.value) == (
        "weight lm/embedding (13, 16): its axis 'vocab' of size 13 is not divisible by the mesh axis 'tensor' of "
        "size 2; choose mesh sizes that divide it, or mesh=single"
    )
    sharding.check_divisible(model.axes, shapes, sharding.make_mesh(MeshConfig(fsdp=8)))


@pytest.mark.parametrize(
    ("cfg", "devices", "wanted"),
    [
        (MeshConfig(), 8, (1, 1, 1)),
        (MeshConfig(fsdp=-1), 8, (1, 8, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), 8, (2, 2, 2)),
        (MeshConfig(fsdp=2), 3, (1, 2, 1)),
    ],
)
def test_mesh_sizes_for_a_number_of_devices(cfg, devices, wanted):
    assert cfg.resolve(devices) == wanted


def test_meshes_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"= \(4, 4, 1\) wants 16 devices, found 8; lower a size"):
        MeshConfig(data=4, fsdp=4).resolve(8)
    with pytest.raises(ValueError, match="8 devices are not a multiple of 3"):
        MeshConfig(data=3, fsdp=-1).resolve(8)
    for wrong in ({"data": 0}, {"fsdp": -2}, {"data": -1, "fsdp": -1}):
        with pytest.raises(ValueError, match="sizes are positive, at most one may be -1"):
            MeshConfig(**wrong)


def test_mesh_axes_are_placed_by_the_compiler():
    mesh = sharding.make_mesh(MeshConfig(fsdp=2))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_constraints_are_the_identity_without_a_mesh_and_want_a_name_for_every_axis():
    x = jnp.ones((2, 3))
    assert sharding.shard(x, "batch", None) is x
    with pytest.raises(ValueError, match=r"1 axis names \('batch',\) for an array of shape \(2, 3\)"):
        sharding.shard(x, "batch")
