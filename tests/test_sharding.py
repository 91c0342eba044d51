import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
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
EXACT = dataclasses.replace(LM, dtype="float64")  # sums in another order are then far from what a mistake changes
OPTIM = OptimConfig(lr=0.01, warmup_steps=0, delimiter_lr_scale=2.0)
MESHES = {
    "data": MeshConfig(data=8),
    "tensor": MeshConfig(tensor=2),
    "fsdp": MeshConfig(fsdp=8),
    "fsdp_tensor": MeshConfig(fsdp=4, tensor=2),
    "data_fsdp_tensor": MeshConfig(data=2, fsdp=2, tensor=2),
}

# Collectives of a compiled step, by the depth of the loops they stand in: around all loops; in a loop over layers or
# over the tokens of thoughts; in the loop over layers of one such token.
COLLECTIVES = {
    # Sums of token counts, and of all other gradients with the metrics; in a layer's backward pass, of text and of
    # columns, the sum of its gradients. Thoughts are sampled without a word to the others.
    "data": [{"all-reduce": 2}, {"all-reduce": 2}],
    # The nine weights of a layer are gathered where they are used: text, columns and both again backwards (recomputed
    # or transposed), and once more for every token of a thought. Beside them the embedding, head and thinker's weights.
    "fsdp": [{"all-gather": 17, "all-reduce": 10}, {"all-gather": 40, "all-reduce": 2}, {"all-gather": 9}],
    # Two sums in a layer, behind attention and behind the feed-forward, forwards and backwards and for every token of a
    # thought. Of a sampled token's logits only the best of each half and its id are gathered; its embedding is summed.
    "tensor": [{"all-reduce": 8}, {"all-reduce": 11, "all-gather": 2}, {"all-reduce": 2}],
    # Both.
    "fsdp_tensor": [
        {"all-gather": 17, "all-reduce": 21},
        {"all-gather": 42, "all-reduce": 13},
        {"all-gather": 9, "all-reduce": 2},
    ],
}
COLLECTIVE = re.compile(r" = .*? (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(")
CALL = re.compile(r"(body|condition|to_apply|calls|branch_computations)=\{?%?([\w.\-]+)")


def collectives(text):
    """Counts of the collectives in a compiled program by kind, for every depth of loops."""
    calls, found, here, entry = collections.defaultdict(list), collections.defaultdict(list), "", ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            here = head[2]
            entry = here if head[1] else entry
        calls[here] += [(name, kind == "body") for kind, name in CALL.findall(line)]
        found[here] += COLLECTIVE.findall(line)
    depths = []

    def count(name, depth):
        depths.extend(collections.Counter() for _ in range(depth + 1 - len(depths)))
        depths[depth].update(found[name])
        for called, loop in calls[name]:
            count(called, depth + loop)

    count(entry, 0)
    while depths and not depths[-1]:
        depths.pop()
    return [dict(kinds) for kinds in depths]


def eight_rows():
    """Eight rows of nine tokens: packed documents, masked targets and padding."""
    rows = tiny.packed()
    shifted = [rows.replace(tokens=(rows.tokens + 3 * k) % 14) for k in range(4)]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *shifted)


def run(cfg, lm=EXACT):
    """Metrics of some steps on a mesh, the thoughts that the last weights think, and the collectives of the step."""
    model, params = tiny.thinker_of(lm)
    mesh, tx = sharding.make_mesh(cfg), optimizer(OPTIM, STEPS)
    places = state_sharding(model, tx, mesh, ema=True)
    state = new_state(jax.tree.map(np.array, params), tx, jax.random.key(1), ema=True)
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
        counts = collectives(step.lower(state, batch).compile().as_text())  # the program that was called
        tokens = np.asarray(thoughts(model, state.params, batch))
    return history, tokens, counts


@functools.partial(jax.jit, static_argnums=0)
def thoughts(model, params, batch):
    thinker = model.bind(params)
    anchors = jnp.broadcast_to(jnp.arange(9)[None], (8, 9))
    return METHOD.thinking.inner(thinker, tiny.context(thinker, batch, anchors), jax.random.key(2), 2, 1.0).tokens


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


# The collectives of two kinds are those of each, and that their losses are right is seen with data as the third.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "data_fsdp_tensor" else pytest.mark.slow) for name in MESHES]
)
def test_devices_have_the_thoughts_and_loss_of_one_with_minimal_communication(name, x64, capfd, caplog, compile_afresh):
    expected_history, expected_tokens, alone = on_one_device()
    capfd.readouterr()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        history, tokens, counts = run(MESHES[name])
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
    assert sum("XLA compilation of jit(step)" in message for message in caplog.messages) == 1
    np.testing.assert_array_equal(tokens, expected_tokens)
    # Adam divides small gradients by their size: updates are wrong by more than the largest gradient is.
    bound = tolerances.trained(EXACT, STEPS, OPTIM.lr, update=100 * tolerances.gradient(EXACT))
    for found, expected in zip(history, expected_history, strict=True):
        assert found == pytest.approx(expected, rel=bound, abs=bound)
    losses = [metrics["loss"] for metrics in expected_history]
    assert len(set(losses)) == STEPS
    assert alone == []
    if name in COLLECTIVES:
        assert counts == COLLECTIVES[name]


@pytest.mark.slow  # in float64 they compute what one device does
def test_bfloat16_on_eight_devices_stays_finite(x64):
    history, _, _ = run(MESHES["data_fsdp_tensor"], dataclasses.replace(LM, dtype="bfloat16"))
    assert np.isfinite([list(metrics.values()) for metrics in history]).all()
    # Weights and sums are rounded to 2^-9: a log-prob of typical size 1.2 errs by 2^-9 * condition * 1.2 = 0.02, and
    # the mean of them by less.
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
    ("cfg", "devices", "expected"),
    [
        (MeshConfig(), 8, (1, 1, 1)),
        (MeshConfig(fsdp=-1), 8, (1, 8, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), 8, (2, 2, 2)),
        (MeshConfig(fsdp=2), 3, (1, 2, 1)),
    ],
)
def test_mesh_sizes_for_a_number_of_devices(cfg, devices, expected):
    assert cfg.resolve(devices) == expected


def test_meshes_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"= \(4, 4, 1\) .* 16 devices, found 8"):
        MeshConfig(data=4, fsdp=4).resolve(8)
    with pytest.raises(ValueError, match="8 devices are not a multiple of 3"):
        MeshConfig(data=3, fsdp=-1).resolve(8)
    for wrong in ({"data": 0}, {"data": -1, "fsdp": -1}):
        with pytest.raises(ValueError, match="sizes are positive, at most one may be -1"):
            MeshConfig(**wrong)
    with pytest.raises(ValueError, match=r"mesh\.fsdp = -2"):
        MeshConfig(fsdp=-2)


GB = 10**9


@pytest.mark.parametrize(
    ("devices", "rows", "held", "memory", "expected"),
    [
        (1, 8, 100 * GB, 80 * GB, (1, 1, 1)),
        (8, 8, 16 * GB, 80 * GB, (8, 1, 1)),  # a billion weights at 16 bytes
        (8, 8, 16 * GB, 40 * GB, (1, 8, 1)),
        (8, 8, 16 * GB, None, (8, 1, 1)),
        (64, 128, 112 * GB, 80 * GB, (2, 32, 1)),  # 64 ways do not divide the width of 96
        (8, 4, 16 * GB, 80 * GB, (4, 1, 2)),
        (8, 4, 112 * GB, 80 * GB, (1, 4, 2)),
        (8, 4, 48 * GB, 80 * GB, (4, 1, 2)),  # half of it a device
        (8, 1, 16 * GB, 80 * GB, (1, 1, 4)),  # four heads: the other devices are left over
        (6, 4, 16 * GB, 80 * GB, (4, 1, 1)),
        (3, 4, 16 * GB, 80 * GB, (2, 1, 1)),
    ],
)
def test_auto_picks_sizes_for_the_devices_the_memory_and_the_batch(devices, rows, held, memory, expected):
    fits = lambda sizes: 96 % sizes["fsdp"] == 0 and 4 % sizes["tensor"] == 0  # noqa: E731
    assert sharding.pick(devices, rows, held, memory, fits).resolve(devices) == expected


def test_auto_that_finds_nothing_says_so():
    with pytest.raises(
        ValueError, match=r"mesh=auto: 3 rows of a batch .* do not divide over 8 devices; make the batch"
    ):
        sharding.pick(8, 3, GB, None, lambda sizes: sizes["tensor"] == 1, spare=False)
    with pytest.raises(ValueError, match=r"mesh=auto with \(data, fsdp, tensor\) = \(1, 8, 1\)"):
        MeshConfig(fsdp=8, auto=True)
    with pytest.raises(ValueError, match="picked before a mesh is made"):
        MeshConfig(auto=True).resolve(8)


def test_mesh_axes_are_placed_by_the_compiler():
    mesh = sharding.make_mesh(MeshConfig(fsdp=2))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_constraints_are_the_identity_without_a_mesh_and_want_a_name_for_every_axis():
    x = jnp.ones((2, 3))
    assert sharding.shard(x, "batch", None) is x
    with pytest.raises(ValueError, match=r"1 axis names \('batch',\) for an array of shape \(2, 3\)"):
        sharding.shard(x, "batch")
