"""Meshes, and the one table that maps logical axis names to mesh axes.

Weights name their logical axes where they are created (`models`); activations are constrained at a few places through
`shard`. The mesh has three axes, always all three: `data` (batch only), `fsdp` (batch, and weights along the model
width), `tensor` (heads, feed-forward, vocabulary). Axes are Auto: the compiler places what is not named.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from qstar import settings
from qstar.settings import Range
from qstar.typing import PyTree

AXES = ("data", "fsdp", "tensor")

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    None: None,
    "batch": ("data", "fsdp"),
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ff": "tensor",
    "vocab": "tensor",
}

# Of `pick`: the share of a device's memory for weights, gradients and optimizer where every device keeps all of them;
# and the most ways of `tensor`, whose sums are waited for in every layer: devices of one machine are close enough.
SHARE, MOST_TENSOR = 1 / 3, 8


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1: all devices that are left."""

    data: Annotated[int, Range(-1)] = 1  # devices that share the batch, each with the whole model
    fsdp: Annotated[int, Range(-1)] = 1  # devices that share the batch and the weights
    tensor: Annotated[int, Range(-1)] = 1  # devices that share heads, feed-forward and vocabulary
    auto: bool = False  # choose sizes for the devices and the model (`pick`)

    def __post_init__(self):
        settings.check(self, "mesh")
        sizes = (self.data, self.fsdp, self.tensor)
        if self.auto and sizes != (1, 1, 1):
            raise ValueError(f"mesh=auto with (data, fsdp, tensor) = {sizes}: give sizes, or let them be picked")
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"mesh (data, fsdp, tensor) = {sizes}: sizes are positive, at most one may be -1")

    def resolve(self, devices: int) -> tuple[int, int, int]:
        """Sizes for this many devices. Raises ValueError when they do not fit."""
        if self.auto:
            raise ValueError("mesh=auto: its sizes depend on the model and are picked before a mesh is made")
        sizes = [self.data, self.fsdp, self.tensor]
        fixed = math.prod(size for size in sizes if size != -1)
        if -1 in sizes:
            if devices % fixed:
                raise ValueError(
                    f"mesh (data, fsdp, tensor) = {tuple(sizes)}: {devices} devices are not a multiple of {fixed}; "
                    "choose sizes whose product divides them, or mesh=single"
                )
            sizes[sizes.index(-1)] = devices // fixed
        elif fixed > devices:
            raise ValueError(
                f"mesh (data, fsdp, tensor) = {tuple(sizes)} needs {fixed} devices, found {devices}; "
                "lower a size, or use mesh=single"
            )
        return tuple(sizes)


def pick(
    devices: int, rows: int, held: int, memory: int | None, fits: Callable[[dict[str, int]], bool], spare: bool = True
) -> MeshConfig:
    """A layout for so many devices.

    Rows are spread as widely as they divide, over `data` where the state of training has room on every device and over
    `fsdp` where it has not; heads, feed-forward and vocabulary are split where there are fewer rows than devices.

    Args:
        rows: of a batch (a micro-batch where there are several).
        held: bytes of weights, gradients and optimizer.
        memory: bytes of one device; None where it is unknown, which counts as enough.
        fits: whether the model's sizes divide over these sizes of the mesh axes.
        spare: devices may be left over where nothing else fits.

    Raises ValueError where nothing fits.
    """
    for used in range(devices, 0 if spare else devices - 1, -1):
        for ways in _divisors(used):
            tensor = used // ways
            if rows % ways or tensor > MOST_TENSOR:
                continue
            room = memory is None or held / tensor <= SHARE * memory
            for fsdp in [1] if room else _divisors(ways):
                if fits({"data": ways // fsdp, "fsdp": fsdp, "tensor": tensor}):
                    return MeshConfig(ways // fsdp, fsdp, tensor)
    raise ValueError(
        f"mesh=auto: {rows} rows of a batch and the model's sizes do not divide over {devices} devices; make the batch "
        f"a multiple of {devices} (batch_size, micro_batches), or give the sizes (mesh.auto=false mesh.data=...)"
    )


def _divisors(number: int) -> list[int]:
    """Largest first."""
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]


def make_mesh(cfg: MeshConfig, devices: list | None = None) -> jax.sharding.Mesh:
    """The mesh of these devices; by default of those of all processes, each of which must have some of them.

    Raises ValueError where the sizes do not fit.
    """
    everywhere, devices = devices is None, jax.devices() if devices is None else devices
    shape = cfg.resolve(len(devices))
    taking_part = {device.process_index for device in devices[: math.prod(shape)]}
    if everywhere and len(taking_part) < jax.process_count():
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {shape} is of {math.prod(shape)} of {len(devices)} devices, which belong to "
            f"{len(taking_part)} of {jax.process_count()} processes: give mesh=auto, or sizes for all devices"
        )
    # make_mesh defaults to Explicit axes, under which lookups, gathers and top-k of a sampler are refused.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: math.prod(shape)])


def on(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """The mesh for the time of a block; None: whatever mesh is set."""
    return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


def spec(*names: str | None) -> PartitionSpec:
    return PartitionSpec(*(RULES[name] for name in names))


def named(mesh: jax.sharding.Mesh, *names: str | None) -> NamedSharding:
    return NamedSharding(mesh, spec(*names))


def places(axes: dict, mesh: jax.sharding.Mesh) -> dict:
    """Where the leaves of a tree lie whose logical axis names these are."""
    return jax.tree.map(lambda names: named(mesh, *names), axes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def put(tree: PyTree, places: PyTree) -> PyTree:
    """Copies of the leaves where they belong; with several processes every one of them has all of every leaf."""
    if jax.process_count() == 1:
        return jax.device_put(tree, places, may_alias=False)
    return jax.tree.map(_put, tree, places)


def spread(params: PyTree, axes: dict) -> PyTree:
    """Weights over the mesh that is set, as their logical axes say; on the default device where none is."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(params)
    check_divisible(axes, jax.tree.map(lambda leaf: leaf.shape, params), mesh)
    return jax.device_put(params, places(axes, mesh))


def full(rows: int) -> int:
    """At least so many rows, and as many as divide over the mesh that is set."""
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else _ways("batch", mesh.shape)
    return -(-rows // ways) * ways


def _put(leaf: jax.Array | np.ndarray, place: NamedSharding) -> jax.Array:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), place), impl=jax.random.key_impl(leaf))
    here = np.asarray(leaf)
    return jax.make_array_from_callback(here.shape, place, lambda index: np.array(here[index]))  # a copy: steps donate


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain an activation to the layout of its logical axes; the identity outside a mesh."""
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names {names} for an array of shape {x.shape}")
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*names))


def row_ways(mesh: jax.sharding.Mesh) -> int:
    """Devices that the rows of a batch are spread over."""
    return _ways("batch", mesh.shape)


def check_rows(rows: int, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError where a batch of so many rows does not divide over the mesh."""
    ways = row_ways(mesh)
    if rows % ways:
        raise ValueError(
            f"a batch of {rows} rows does not divide over data x fsdp = {ways} of the mesh: "
            f"make the batch a multiple of {ways} (a micro-batch where there are several), or these mesh sizes smaller"
        )


def check_divisible(axes: dict, shapes: dict, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError naming the first weight whose size the mesh does not divide.

    `axes` and `shapes` are trees of one structure: logical axis names and shapes of every weight.
    """
    odd = _odd(axes, shapes, mesh.shape)
    if odd:
        path, shape, name, size = odd
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(
            f"weight {where} {shape}: its axis {name!r} of size {size} is not divisible by the mesh axis "
            f"{RULES[name]!r} of size {_ways(name, mesh.shape)}; choose mesh sizes that divide it, or mesh=single"
        )


def divides(axes: dict, shapes: dict, sizes: Mapping[str, int]) -> bool:
    """Whether every weight divides over a mesh of these sizes; `axes` and `shapes` as in `check_divisible`."""
    return _odd(axes, shapes, sizes) is None


def _odd(axes: dict, shapes: dict, sizes: Mapping[str, int]) -> tuple | None:
    """Path, shape, axis and its size of the first weight that does not divide."""
    flat_axes = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    flat_shapes = jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for (path, names), shape in zip(flat_axes, flat_shapes, strict=True):
        for name, size in zip(names, shape, strict=True):
            if size % _ways(name, sizes):
                return path, shape, name, size
    return None


def _ways(name: str | None, sizes: Mapping[str, int]) -> int:
    """Devices that a logical axis is split over."""
    rule = RULES[name]
    return math.prod(sizes[axis] for axis in ((rule,) if isinstance(rule, str) else rule or ()))
