"""AdamW with warm-up, a schedule, global-norm clipping, and learning-rate scales for the parts Quiet-STaR adds."""

from dataclasses import dataclass

import jax
import optax

from qstar.typing import Params

SCHEDULES = ("constant", "linear", "cosine")
PARTS = {"start": "delimiter", "end": "delimiter", "pause": "delimiter", "mixing": "mixing"}


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019). Defaults: Quiet-STaR's Appendix A.

    `delimiter_lr_scale` and `mixing_lr_scale` multiply the learning rate of start, end and pause embeddings and of the
    mixing head. The paper weights the delimiters' gradients by 100, which Adam would cancel: the step is what counts.
    """

    lr: float = 1e-6
    schedule: str = "constant"
    warmup_steps: int = 20
    final_lr: float = 0.0  # as a share of lr, reached at the last step by linear and cosine
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-3  # not on norms, biases and delimiters
    clip: float = 1.0  # global norm of the gradient; 0 clips nothing
    delimiter_lr_scale: float = 100.0
    mixing_lr_scale: float = 1.0
    ema: float = 0.0  # decay of the exponential moving average of the weights; 0 keeps none

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optim.schedule = {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        for name in ("lr", "eps", "delimiter_lr_scale", "mixing_lr_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optim.{name} = {getattr(self, name)}: a positive number is wanted")
        for name in ("warmup_steps", "weight_decay", "clip", "final_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} = {getattr(self, name)}: it may not be negative")
        for name in ("beta1", "beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"optim.{name} = {getattr(self, name)}: a number from 0 up to, not including, 1 is wanted"
                )


def schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, linear or cosine down to `final_lr` of it."""
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


def optimizer(cfg: OptimConfig, steps: int) -> optax.GradientTransformation:
    scales = {"delimiter": cfg.delimiter_lr_scale, "mixing": cfg.mixing_lr_scale}

    def scale(updates: Params, params: Params | None) -> Params:
        return jax.tree_util.tree_map_with_path(lambda path, u: u * scales.get(PARTS.get(path[0].key), 1.0), updates)

    return optax.chain(
        optax.clip_by_global_norm(cfg.clip) if cfg.clip else optax.identity(),
        optax.scale_by_adam(cfg.beta1, cfg.beta2, cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, lambda params: jax.tree_util.tree_map_with_path(_decays, params)),
        optax.stateless(scale),
        optax.scale_by_learning_rate(schedule(cfg, steps)),
    )
