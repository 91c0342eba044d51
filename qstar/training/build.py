"""From a configuration to things that run: everything is checked here, before the first compile."""

import functools
from dataclasses import dataclass

import jax
import optax

from qstar import sharding
from qstar.data import pipeline
from qstar.data.dataset import FAR, RandomAccess
from qstar.methods import protocol
from qstar.methods.protocol import AsksAnother, Counts, Method, Vocabulary
from qstar.models import lora
from qstar.models.cost import Pass
from qstar.models.definition import Definition, join
from qstar.models.lm import LMConfig
from qstar.models.lora import LoraConfig
from qstar.policy import Policy
from qstar.structs import Batch, TrainState
from qstar.training import optim, step
from qstar.training.optim import OptimConfig
from qstar.training.reference import Comparison
from qstar.training.sources import Stream
from qstar.typing import Key, Params, PyTree


def stream(dataset: RandomAccess) -> Stream:
    """Batches in order, from the first."""
    return Stream(pipeline.iterate(dataset))


def abstract_batch(dataset: RandomAccess, batch_size: int, mesh: jax.sharding.Mesh) -> Batch:
    """Shapes, types and places of a batch, as `Program.compile` wants them."""
    place = sharding.named(mesh, "batch")
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype, sharding=place), dataset[FAR]
    )


@dataclass(frozen=True)
class Program:
    """A method's model on a mesh, with its optimiser and its compiled step."""

    method: Method
    lm: LMConfig
    definition: Definition
    mesh: jax.sharding.Mesh
    tx: optax.GradientTransformation
    step: step.Step
    steps: int  # of the whole training, which the schedule of the learning rate spans
    ema: bool
    optim: OptimConfig
    comparison: Comparison | None = None
    micro_batches: int = 1

    @classmethod
    def of(
        cls,
        method: Method,
        lm: LMConfig,
        mesh: jax.sharding.Mesh,
        cfg: OptimConfig,
        steps: int,
        micro_batches: int,
        adapters: LoraConfig | None = None,
        other: Policy | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> "Program":
        """`other` is the model of the run that a method that compares names, `vocabulary` that of the model.

        Raises ValueError when the model's sizes do not divide over the mesh, it has no place for the adapters, or the
        method names a token that the vocabulary does not have.
        """
        definition = lora.adapted(method.definition(lm, vocabulary), adapters or LoraConfig())
        for checked in (definition, other.definition) if other else (definition,):
            sharding.check_divisible(checked.axes, jax.tree.map(lambda leaf: leaf.shape, checked.abstract), mesh)
        tx = optim.optimizer(cfg, steps * protocol.updates(method))
        comparison = Comparison.of(method, definition, other)
        return cls(
            method,
            lm,
            definition,
            mesh,
            tx,
            step.make_step(method, definition, tx, mesh, micro_batches, cfg.ema, comparison),
            steps,
            cfg.ema > 0,
            cfg,
            comparison,
            micro_batches,
        )

    def passes(self, length: int) -> tuple[Pass, ...]:
        """What a step computes on a window of `length` tokens, the model of another run that it asks included; nothing
        for a method that does not count."""
        own = self.method.passes(length) if isinstance(self.method, Counts) else ()
        other = self.comparison.other if self.comparison else None
        asked = other is not None and isinstance(self.method, AsksAnother)
        return (*own, *(self.method.other_passes(other.method, length) if asked else ()))

    def start(self, lm_params: Params, seed: int, extras: Params | None = None) -> TrainState:
        """The state before the first step, laid out on the mesh; `extras` replace what the method adds, by name."""
        init, run = jax.random.split(jax.random.key(seed))
        params, frozen = self._weights(lm_params, init)
        params = {**params, **(extras or {})}
        self.definition.check(join(params, frozen), "the weights to start from")
        params = optim.held(params, self.optim)
        state = step.new_state(params, self.tx, run, self.ema, frozen, self.comparison)
        # Copied: the first step consumes its state, and the loaded weights start the control as well.
        return sharding.put(state, self.places)

    def _weights(self, lm_params: Params, key: Key) -> tuple[Params, Params | None]:
        """What trains, and what is frozen, before the first step."""
        if not self.definition.frozen:
            return self.method.start_from(self.definition, lm_params, key), None

        def added(key: Key, lm_params: Params) -> Params:
            return self.definition.split(self.method.start_from(self.definition.base, lm_params, key))[0]

        method_key, adapters_key = jax.random.split(key)
        # Jitted, so that a random language model, which the method's own weights come with, is not made.
        params = {**jax.jit(added)(method_key, lm_params), lora.NAME: self.definition.adapters(adapters_key)}
        return params, self.definition.freeze(lm_params)

    def compile(self, batch: Batch) -> None:
        """Compile the step for a batch of these shapes and places; its first call finds it compiled."""
        _, frozen = self.definition.split(self.definition.abstract)
        state = self.abstract_state(0).replace(frozen=_placed(frozen, self.places.frozen))
        with jax.set_mesh(self.mesh):  # a thread begins without the mesh of the one that started it
            self.step.lower(state, batch).compile()

    def with_frozen(self, state: TrainState, frozen: Params | None) -> TrainState:
        """A restored state with the frozen weights, which checkpoints leave out."""
        return state.replace(frozen=sharding.put(frozen, self.places.frozen))

    @property
    def bytes_held(self) -> dict[str, int]:
        """Bytes of what a step holds besides activations, over all devices: the account of `models/lora.py`."""
        state, (_, frozen) = self.abstract_state(0), self.definition.split(self.definition.abstract)
        parts = {
            "frozen": frozen,
            "trained": state.params,
            "gradients": state.params,
            "optimizer": state.opt_state,
            "average": state.ema,
            "reference": state.reference,
        }
        return {
            name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part)) for name, part in parts.items()
        }

    @functools.cached_property
    def places(self) -> TrainState:
        return step.state_sharding(self.definition, self.tx, self.mesh, self.ema, self.comparison)

    def abstract_state(self, seed: int) -> TrainState:
        """Shapes, types and places of the state without frozen weights, to restore a checkpoint into."""
        trained, _ = self.definition.split(self.definition.abstract)
        begin = lambda params: step.new_state(  # noqa: E731
            optim.held(params, self.optim), self.tx, jax.random.key(seed), self.ema, comparison=self.comparison
        )
        return _placed(jax.eval_shape(begin, trained), self.places.replace(frozen=None))


def _placed(shapes: PyTree, places: PyTree) -> PyTree:
    """Abstract arrays with the places where they will be."""
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)
