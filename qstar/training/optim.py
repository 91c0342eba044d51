"""AdamW with warm-up, a schedule, global-norm clipping, and learning-rate scales for the parts Quiet-STaR adds."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from qstar import settings
from qstar.settings import Decay, NonNegative, OneOf, Positive, Whole
from qstar.typing import Array, Params

SCHEDULES = ("constant", "linear", "cosine")
WEIGHTS = ("float32", "bfloat16")
PARTS = {"start": "delimiter", "end": "delimiter", "pause": "delimiter", "mixing": "mixing", "gate": "mixing"}
PARTS["helpfulness"] = "mixing"


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019). Defaults: Quiet-STaR's Appendix A.

    `delimiter_lr_scale` and `mixing_lr_scale` multiply the learning rate of start, end and pause embeddings and of the
    mixing head (and of a gate or a helpfulness head), `lm_lr_scale` that of all other weights. The paper weights the
    delimiters' gradients by 100, which Adam would cancel: the step is what counts. A scale of 0 freezes its part: its
    gradient does not count in the global norm either.
    """

    lr: Positive = 1e-6  # learning rate after the warm-up; 1e-6 is that of Quiet-STaR on 7 billion weights
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"  # of the learning rate after the warm-up
    warmup_steps: Whole = 20  # steps in which the learning rate grows to lr
    final_lr: NonNegative = 0.0  # as a share of lr, reached at the last step by linear and cosine
    beta1: Decay = 0.9  # of Adam's first moment
    beta2: Decay = 0.999  # of Adam's second moment
    eps: Positive = 1e-8  # in the denominator of Adam's step
    weight_decay: NonNegative = 1e-3  # on all weights except norms, biases and delimiters
    clip: NonNegative = 1.0  # maximal global norm of the gradient; 0: no clipping
    delimiter_lr_scale: NonNegative = 100.0  # learning rate of start, end and pause embeddings, in lr
    mixing_lr_scale: NonNegative = 1.0  # learning rate of the mixing head and other small heads, in lr
    lm_lr_scale: NonNegative = 1.0  # learning rate of all other weights, in lr; 0 freezes a part
    schedule_steps: Whole = 0  # steps of the schedule, where the run is a part of a longer one; 0: those of the run
    steps_before: Whole = 0  # steps of the schedule taken before this run
    moments_of: str = ""  # run directory whose moments training continues with; empty: fresh ones
    ema: Decay = 0.0  # decay of the exponential moving average of the weights; 0: none
    # Type of weights and moments. `bfloat16` is what the released code does, without a copy in float32:
    # an Adam step of 1e-6 is less than half the distance between neighbours around 0.02 (1.2e-4) and is rounded away.
    # In 100 steps at that rate about 2 % of weights with a standard deviation of 0.02 can change at all, in float32 all
    # of them: another optimiser, which needs a learning rate of its own. It also halves the state.
    weights: Annotated[str, OneOf(WEIGHTS)] = "float32"

    def __post_init__(self):
        settings.check(self, "optim")
        if self.weights == "bfloat16" and self.ema:
            raise ValueError(
                f"optim.ema = {self.ema} with optim.weights = 'bfloat16': the average's small steps would be rounded "
                "away; use optim.weights=float32 or optim.ema=0"
            )


def schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, linear or cosine down to `final_lr` of it."""
    whole = _whole_schedule(cfg, cfg.schedule_steps or steps)
    return (lambda step: whole(step + cfg.steps_before)) if cfg.steps_before else whole


def _whole_schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    rest = max(1, steps - cfg.warmup_steps)
    body = {
        "constant": lambda: optax.constant_schedule(cfg.lr),
        "linear": lambda: optax.linear_schedule(cfg.lr, cfg.lr * cfg.final_lr, rest),
        "cosine": lambda: optax.cosine_decay_schedule(cfg.lr, rest, cfg.final_lr),
    }[cfg.schedule]()
    if not cfg.warmup_steps:
        return body
    # Step 0 already moves: (k + 1) / warmup of the full rate.
    warmup = optax.linear_schedule(cfg.lr / cfg.warmup_steps, cfg.lr, cfg.warmup_steps - 1 or 1)
    return optax.join_schedules([warmup, body], [cfg.warmup_steps])


def _decays(path: tuple, leaf: jax.Array) -> bool:
    names = [entry.key for entry in path]
    return not (names[0] in ("start", "end", "pause") or any("norm" in name or "bias" in name for name in names))


def held(params: Params, cfg: OptimConfig) -> Params:
    """The weights in the type they are held in."""
    return params if cfg.weights == "float32" else jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


def _rounded(x: Array) -> Array:
    """To the precision of bfloat16, in float32. A cast there and back may be optimised away, this may not."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def scale_by_bfloat16_adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Adam as `torch.optim.AdamW` computes it on weights in bfloat16: moments in it, every operation rounded to it.

    Updates are in float32; adding them to the weights rounds once more. Among what the rounding does: a second moment
    times 0.999 is rounded back to itself, so it never decays.
    """

    def init(params: Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, jnp.bfloat16), params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(grads: Params, state: optax.ScaleByAdamState, params: Params | None = None):
        wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)  # noqa: E731
        narrow = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)  # noqa: E731
        count = optax.safe_increment(state.count)
        first, second = (-jnp.expm1(count * math.log(beta)) if beta else 1.0 for beta in (beta1, beta2))
        grads = jax.tree.map(_rounded, wide(grads))
        mu = jax.tree.map(lambda m, g: _rounded(m + (1 - beta1) * (g - m)), wide(state.mu), grads)
        nu = jax.tree.map(lambda v, g: _rounded(_rounded(beta2 * v) + (1 - beta2) * g * g), wide(state.nu), grads)
        scale = lambda v: _rounded(_rounded(_rounded(jnp.sqrt(v)) / jnp.sqrt(second)) + eps)  # noqa: E731
        updates = jax.tree.map(lambda m, v: m / scale(v) / first, mu, nu)
        return updates, optax.ScaleByAdamState(count, narrow(mu), narrow(nu))

    return optax.GradientTransformation(init, update)


def with_moments(state: tuple, other: tuple) -> tuple:
    """The optimizer's state with Adam's part of another one; the schedule stays where it is."""
    return tuple(old if isinstance(new, optax.ScaleByAdamState) else new for new, old in zip(state, other, strict=True))


def optimizer(cfg: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The updates to add to the weights; in float32 whatever type these are held in.

    The same settings give the same one, for which a step was compiled; how many steps there are matters to a rate that
    decays, and not to a constant one.
    """
    return _made(cfg, 0 if cfg.schedule == "constant" else steps)


@functools.lru_cache(8)
def _made(cfg: OptimConfig, steps: int) -> optax.GradientTransformation:
    scales = {"lm": cfg.lm_lr_scale, "delimiter": cfg.delimiter_lr_scale, "mixing": cfg.mixing_lr_scale}

    def by_part(function: Callable[[float, Array], Array], tree: Params) -> Params:
        """`function` of the scale of its part and of each leaf."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: function(scales[PARTS.get(path[0].key, "lm")], leaf), tree
        )

    clip = optax.clip_by_global_norm(cfg.clip) if cfg.clip else optax.identity()

    def clip_trained(grads: Params, state: optax.OptState, params: Params | None = None):
        return clip.update(by_part(lambda scale, g: g if scale else jnp.zeros_like(g), grads), state, params)

    adam = scale_by_bfloat16_adam if cfg.weights == "bfloat16" else optax.scale_by_adam
    return optax.chain(
        optax.GradientTransformation(clip.init, clip_trained),
        adam(cfg.beta1, cfg.beta2, cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, lambda params: jax.tree_util.tree_map_with_path(_decays, params)),
        optax.stateless(lambda updates, params: by_part(lambda scale, update: update * scale, updates)),
        optax.scale_by_learning_rate(schedule(cfg, steps)),
    )
