"""Meshes, and the one table that maps logical axis names to mesh axes.

Weights name their logical axes where they are created (`models`); activations are constrained at a few places through
`shard`. The mesh has three axes, always all three: `data` (batch only), `fsdp` (batch, and weights along the model
width), `tensor` (heads, feed-forward, vocabulary). Axes are Auto: the compiler places what is not named.
"""

import contextlib
import math
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

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


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1: all devices that are left."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"mesh (data, fsdp, tensor) = {sizes}: sizes are positive, at most one may be -1")

    def resolve(self, devices: int) -> tuple[int, int, int]:
        """Sizes for this many devices. Raises ValueError when they do not fit."""
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
                f"mesh (data, fsdp, tensor) = {tuple(sizes)} wants {fixed} devices, found {devices}; "
                "lower a size, or use mesh=single"
            )
        return tuple(sizes)


def make_mesh(cfg: MeshConfig, devices: list | None = None) -> jax.sharding.Mesh:
    devices = jax.devices() if devices is None else devices
    shape = cfg.resolve(len(devices))
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


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain an activation to the layout of its logical axes; the identity outside a mesh."""
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names {names} for an array of shape {x.shape}")
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*names))


def check_rows(rows: int, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError where a batch of so many rows does not divide over the mesh."""
    ways = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    if rows % ways:
        raise ValueError(
            f"a batch of {rows} rows does not divide over data x fsdp = {ways} of the mesh: "
            f"make the batch a multiple of {ways} (a micro-batch where there are several), or these mesh sizes smaller"
        )


def check_divisible(axes: dict, shapes: dict, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError naming the first weight whose size the mesh does not divide.

    `axes` and `shapes` are trees of one structure: logical axis names and shapes of every weight.
    """
    flat_axes = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    flat_shapes = jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for (path, names), shape in zip(flat_axes, flat_shapes, strict=True):
        for name, size in zip(names, shape, strict=True):
            rule = RULES[name]
            ways = math.prod(mesh.shape[axis] for axis in ((rule,) if isinstance(rule, str) else rule or ()))
            if size % ways:
                where = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"weight {where} {shape}: its axis {name!r} of size {size} is not divisible by the mesh axis "
                    f"{rule!r} of size {ways}; choose mesh sizes that divide it, or mesh=single"
                )
