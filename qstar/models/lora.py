"""Low-rank adapters (Hu et al. 2021): a projection W x becomes W x + (alpha / rank) B A x, and only A and B train.

B starts at zero, so the adapted model starts as the model. W is frozen: no gradient of it is computed, no optimiser
keeps moments for it, and it may be held in bfloat16. What a method adds to the language model (delimiters, mixing
head) trains as before. With P weights of b bytes below and Q trained ones in float32, a step of Adam holds
P b + 16 Q bytes: values, gradients and two moments (`training.build.Program.bytes_held` counts them).
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qstar import settings
from qstar.models.definition import Definition
from qstar.settings import OneOf, Positive, Whole
from qstar.typing import Array, Key, Params

# How many of a projection's leading axes are inputs; the others are outputs.
PROJECTIONS = {"query": 1, "key": 1, "value": 1, "out": 2, "gate": 1, "up": 1, "down": 1}
BASES = ("float32", "bfloat16")
NAME = "lora"  # of the adapters in the tree of weights


@dataclass(frozen=True)
class LoraConfig:
    """Adapters instead of all weights. The defaults but for the rank: query and value, as in the paper's section 7.1.

    `targets` are names of projections (query, key, value, out, gate, up, down), or `all`.
    """

    rank: Whole = 0  # r; 0: no adapters, every weight trains
    alpha: Positive = 16.0  # the change is scaled by alpha / rank
    targets: tuple[str, ...] = ("query", "value")  # projections that get adapters: these names, or `all`
    base: Annotated[str, OneOf(BASES)] = "float32"  # type of the frozen weights: float32 or bfloat16
    keep_base: bool = True  # a copy of the frozen weights in the run directory; false: model.source is read again

    def __post_init__(self):
        object.__setattr__(self, "targets", tuple(self.targets))
        settings.check(self, "lora")
        unknown = [name for name in self.targets if name not in (*PROJECTIONS, "all")]
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"lora.targets = {self.targets}: name some of {', '.join(PROJECTIONS)}, each once, or all")
        if "all" in self.targets and len(self.targets) > 1:
            raise ValueError(f"lora.targets = {self.targets}: `all` stands alone")
        changed = [
            f"lora.{field.name}" for field in dataclasses.fields(self) if getattr(self, field.name) != field.default
        ]
        if changed and not self.rank:
            raise ValueError(
                f"lora.rank = 0 makes no adapters, yet {', '.join(changed)} is set: give lora.rank=8 as well"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@struct.dataclass
class Adapted:
    """A projection's weight with its adapter, in the place of the weight alone."""

    weight: Array  # [*in *out]
    a: Array  # [*in rank]
    b: Array  # [rank *out]
    scale: float = struct.field(pytree_node=False)


@functools.cache  # one for a model and its adapters, so that compiled functions are reused
def adapted(base: Definition, cfg: LoraConfig) -> Definition:
    """`base` with adapters, or `base` itself where there are to be none.

    Raises ValueError where the model lacks a target.
    """
    return WithAdapters(base, cfg) if cfg.rank else base


class WithAdapters(Definition):
    """A definition whose language model is frozen; the adapters are one more part of its tree, named `lora`."""

    def __init__(self, base: Definition, cfg: LoraConfig):
        self.base, self.cfg = base, cfg
        blocks = _language_model(base.abstract)["blocks"]
        there = [name for name in PROJECTIONS if name in blocks]
        self.targets = there if cfg.targets == ("all",) else cfg.targets
        missing = [name for name in self.targets if name not in there]
        if missing:
            raise ValueError(f"lora.targets: this model has no {', '.join(missing)}; it has {', '.join(there)}")
        self._shapes = {name: _sides(name, blocks[name].shape, cfg.rank) for name in self.targets}

    @property
    def frozen(self) -> frozenset[str]:
        return frozenset({"lm"} if "lm" in self.base.abstract else self.base.abstract)

    @property
    def abstract(self) -> Params:
        held = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(self.cfg.base))  # noqa: E731
        trained, frozen = self.split(self.base.abstract)
        shapes = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), self._shapes, is_leaf=lambda x: type(x) is tuple
        )
        return {**trained, **jax.tree.map(held, frozen), NAME: shapes}

    @property
    def axes(self) -> dict:
        blocks = _language_model(self.base.axes)["blocks"]
        return {**self.base.axes, NAME: {name: _sides(name, blocks[name], None) for name in self.targets}}

    def init(self, key: Key) -> Params:
        base, adapters = jax.random.split(key)
        return {**self.base.init(base), NAME: self.adapters(adapters)}

    def adapters(self, key: Key) -> Params:
        """New adapters: A normal with variance 1 / fan-in, B zero."""
        made = {}
        for name, subkey in zip(self.targets, jax.random.split(key, len(self.targets)), strict=True):
            shape = self._shapes[name]
            fan_in = math.prod(shape["a"][1:-1])
            made[name] = {"a": jax.random.normal(subkey, shape["a"]) * fan_in**-0.5, "b": jnp.zeros(shape["b"])}
        return made

    def freeze(self, lm: Params) -> Params:
        """The frozen part of the tree from the language model's weights, in the type that they are held in (numpy)."""
        held = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.dtype(self.cfg.base)), lm)
        return {"lm": held} if "lm" in self.base.abstract else held

    def bind(self, params: Params):
        """The module whose adapted projections hold an `Adapted`; W + B A is formed nowhere."""

        def change(name: str, weight: Array) -> Adapted:
            return Adapted(weight, **params[NAME][name], scale=self.cfg.scale)

        return self.base.bind(self._changed(params, change))

    def merged(self, params: Params) -> Params:
        """The weights of `base` that compute the same without adapters, in float32 or better (numpy)."""

        def change(name: str, weight: Array) -> np.ndarray:
            adapter = jax.tree.map(np.asarray, params[NAME][name])
            product = adapter["a"].reshape(len(weight), -1, self.cfg.rank) @ adapter["b"].reshape(
                len(weight), self.cfg.rank, -1
            )
            return np.asarray(weight) + np.asarray(self.cfg.scale * product, product.dtype).reshape(weight.shape)

        wide = lambda leaf: np.asarray(leaf, np.promote_types(np.asarray(leaf).dtype, np.float32))  # noqa: E731
        return self._changed(jax.tree.map(wide, params), change)

    def _changed(self, params: Params, change) -> Params:
        """The tree of `base`, each adapted weight replaced by what `change` makes of it."""
        rest = {name: part for name, part in params.items() if name != NAME}
        lm = _language_model(rest)
        blocks = {**lm["blocks"], **{name: change(name, lm["blocks"][name]) for name in self.targets}}
        lm = {**lm, "blocks": blocks}
        return {**rest, "lm": lm} if "lm" in rest else lm


def _language_model(tree: dict) -> dict:
    return tree.get("lm", tree)


def _sides(name: str, weight: tuple, between) -> dict[str, tuple]:
    """Sizes, or logical names, of the axes of A and B from those of a stacked weight."""
    layers, inputs = weight[:1], 1 + PROJECTIONS[name]
    return {"a": (*weight[:inputs], between), "b": (*layers, between, *weight[inputs:])}
