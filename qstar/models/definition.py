"""How a model becomes a plain dict of arrays and back.

`flax.nnx` is used for definitions only: a module is immutable once built, its parameters live outside as a nested
dict, and `bind(params)` gives a callable module inside the function that jax transforms.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qstar.typing import Key, Params


def param(rngs: nnx.Rngs, init: Callable, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    """A float32 weight that carries the logical names of its axes."""
    return nnx.Param(init(rngs.params(), shape, jnp.float32), axes=axes)


def fan_in(size: int) -> Callable:
    """Normal initialisation with variance 1 / fan-in."""
    return nnx.initializers.normal(size**-0.5)


def stacked(build: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, count: int) -> nnx.Module:
    """`count` modules of one shape as one module whose weights have a leading layer axis, for `jax.lax.scan`."""
    return jax.vmap(build)(rngs.split(count))


class Definition:
    """A model without its weights: hashable by what it was built from, free to close over in jit.

    Args:
        build: makes the nnx module from an `nnx.Rngs`.
    """

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module]):
        self._build = build
        self._graph, abstract = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)
        self._abstract = nnx.to_pure_dict(abstract)
        metadata = jax.tree.map(
            lambda leaf: leaf.get_metadata()["axes"], abstract, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
        )
        self._names = nnx.to_pure_dict(metadata)

    def init(self, key: Key) -> Params:
        return nnx.to_pure_dict(nnx.state(self._build(nnx.Rngs(params=key)), nnx.Param))

    def bind(self, params: Params) -> Any:
        """The module with these weights. Call it inside the function that is transformed."""
        return nnx.merge(self._graph, params)

    @property
    def abstract_model(self) -> Any:
        """The module with shapes for weights: its configuration is read from it."""
        return self.bind(self.abstract)

    @property
    def abstract(self) -> Params:
        """Shapes and types of the weights, as a tree of `jax.ShapeDtypeStruct`."""
        return self._abstract

    @property
    def axes(self) -> dict:
        """Logical axis names of every weight, as a tree of tuples (a stacked layer axis is named None)."""
        return jax.tree.map(
            lambda names, leaf: (None,) * (leaf.ndim - len(names)) + names,
            self._names,
            self._abstract,
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.abstract))

    @property
    def frozen(self) -> frozenset[str]:
        """Top-level names of the tree under which nothing trains."""
        return frozenset()

    def split(self, tree: dict) -> tuple[dict, dict | None]:
        """A tree of this model in two: what trains, and what is frozen (None where everything trains)."""
        trained = {name: part for name, part in tree.items() if name not in self.frozen}
        return trained, {name: tree[name] for name in self.frozen} or None

    def check(self, params: Params, source: str = "parameters") -> None:
        """Raise ValueError listing every weight that is missing, unexpected or of another shape."""
        problems = differences(shapes(self.abstract), shapes(params))
        if problems:
            raise ValueError(f"{source} do not fit this model:\n  {problems}\nis it a checkpoint of another model?")


def join(trained: Params, frozen: Params | None) -> Params:
    """The whole tree, from the parts that `Definition.split` gives."""
    return {**trained, **(frozen or {})}


def differences(expected: dict[str, tuple[int, ...]], actual: dict[str, tuple[int, ...]]) -> str:
    """What keeps two trees (`shapes` of each) from being of one model, a line each, at most twelve; "" when nothing."""
    problems = [f"missing {name} {expected[name]}" for name in expected if name not in actual]
    problems += [f"unexpected {name} {actual[name]}" for name in actual if name not in expected]
    problems += [
        f"{name} is {actual[name]}, expected {expected[name]}"
        for name in expected
        if name in actual and actual[name] != expected[name]
    ]
    return "\n  ".join(problems[:12]) + (f"\n  and {len(problems) - 12} more" if len(problems) > 12 else "")


def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf under its path, `blocks/query` style."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in flat}
