"""Reference weights: what they begin as, how a step moves them, where they are stored, and how a loss sees them.

They are a part of the train state, so that checkpoints hold them and a resumed run compares with the same. Of a model
with frozen weights only the trained part is doubled.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from qstar import sharding
from qstar.methods.protocol import Compares, Method, Models, Reference
from qstar.models.definition import Definition, join
from qstar.policy import Policy
from qstar.typing import Params


@dataclass(frozen=True)
class Comparison:
    """What a method that compares compares with."""

    spec: Reference
    method: Method
    definition: Definition
    other: Policy | None  # the model of `spec.run`, where there is one

    @classmethod
    def of(cls, method: Method, definition: Definition, other: Policy | None = None) -> "Comparison | None":
        """None for a method that does not compare. `definition` is that of the model that trains."""
        compares = isinstance(method, Compares) and method.reference is not None
        return cls(method.reference, method, definition, other) if compares else None

    def begin(self, trained: Params) -> Params:
        """The reference before the first step, a copy: the step donates both.

        A moving average is held in float32 or better: in bfloat16 a step of a thousandth is rounded away.
        """
        if self.other is not None:
            return jax.tree.map(jnp.asarray, self.other.params)
        if self.spec.decay == 1:
            return jax.tree.map(jnp.copy, trained)
        return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), trained)

    def moved(self, reference: Params, trained: Params) -> Params:
        """The reference after a step that ended at these weights."""
        if self.spec.decay == 1:
            return reference
        wide = jax.tree.map(lambda leaf, kept: leaf.astype(kept.dtype), trained, reference)
        return optax.incremental_update(wide, reference, 1 - self.spec.decay)

    def beside(self, models: Models, reference: Params, frozen: Params | None) -> Models:
        """The models with the reference among them. No gradient reaches it."""
        compared = self.other or self
        params = reference if self.other else join(reference, frozen)
        bound = compared.definition.bind(jax.lax.stop_gradient(params))
        return dataclasses.replace(models, reference=bound, reference_method=compared.method)

    def places(self, mesh: jax.sharding.Mesh, trained: Params) -> Params:
        """Shardings of its leaves; `trained` are those of the weights that train."""
        return trained if self.other is None else sharding.places(self.other.definition.axes, mesh)
