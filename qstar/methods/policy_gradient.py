"""Policy gradients on rollouts: REINFORCE, RLOO, GRPO, Dr. GRPO, DAPO, GSPO, REINFORCE++ and MaxRL as settings.

    loss = mean over tokens of -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) + kl_coef KL(pi | reference)

Samples of a question are compared with each other, or with the batch: that is the advantage A. ratio is that of the
weights now to the weights that sampled; what "mean" means is a setting (`ops.surrogates.aggregated`). With one update
from the rollouts of a step, as in GRPO's and Dr. GRPO's papers, every ratio is 1 and no clip acts. Presets that bear
a paper's name are in `configs/method/`; sources of each are named there. `ops/returns.py` and `ops/surrogates.py` have
the equations.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from qstar import settings
from qstar.decoding import score
from qstar.methods.plain_lm import PlainLM
from qstar.methods.protocol import Models, Reference
from qstar.models.cost import Pass
from qstar.ops import masked, returns, surrogates
from qstar.ops.surrogates import AGGREGATIONS, KL_ESTIMATES, RATIOS
from qstar.settings import Count, NonNegative, OneOf, Positive, Whole
from qstar.structs import Credited, Judged, Loss, Mean, Metrics, Rollouts, Term
from qstar.typing import Array, Float, Key

BASELINES = ("none", "batch", "moving", "group", "leave_one_out")
SCALES = ("none", "population", "sample", "mean")
PLACES = ("reward", "loss")


@dataclass(frozen=True)
class OnPolicy(PlainLM):
    """What all methods that train on rollouts share: how often, how far from the weights that sampled and from others.

    A step of training samples once, and updates the weights epochs x minibatches times.
    """

    told: ClassVar[tuple[str, ...]] = ("entropy", "sampled_tokens", "dead")  # what the progress of training shows
    compares_samples: ClassVar[bool] = False  # a question needs two samples or more

    epochs: Count = 1  # passes over the rollouts of a step
    minibatches: Count = 1  # updates in an epoch, each on an equal part of the rows
    ratio: Annotated[str, OneOf(RATIOS)] = "token"  # ratio of probabilities, per token or per text
    clip_low: NonNegative = 0.2  # lower clip of the ratio at 1 - clip_low; 0: at 0
    clip_high: NonNegative = 0.2  # upper clip of the ratio at 1 + clip_high; 0: none
    dual_clip: NonNegative = 0.0  # bound of the ratio for negative advantages; 0: none
    # sequence_mean_token_mean, token_mean, sequence_sum_over_constant (method.constant)
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "token_mean"
    constant: Whole = 0  # divisor of sums over texts, in tokens, such as the maximal number sampled
    kl_coef: NonNegative = 0.0  # weight of the KL to the reference, the initial weights; 0: none
    kl: Annotated[str, OneOf(KL_ESTIMATES)] = "k3"  # estimate of the KL
    kl_in: Annotated[str, OneOf(PLACES)] = "loss"  # the KL is part of the reward of each token, or of the loss
    entropy_coef: NonNegative = 0.0  # weight of -log pi in each token's reward: its policy gradient is the entropy's
    # Largest weight pi(trainer) / pi(sampler) of a token, for samplers that compute otherwise; 0: not weighted.
    truncation: NonNegative = 0.0
    # nats between the log-probs of sampler and trainer, a mean over tokens: above it training stops
    mismatch_limit: Positive = 0.1

    def __post_init__(self):
        settings.check(self, "method")
        if self.aggregation == "sequence_sum_over_constant" and not self.constant:
            raise ValueError(
                "method.aggregation=sequence_sum_over_constant divides by method.constant = 0: give the longest number "
                "of tokens that is sampled, as in method.constant=64"
            )
        if self.dual_clip and self.dual_clip <= 1:
            raise ValueError(
                f"method.dual_clip = {self.dual_clip}: expected a number above 1, such as 3, or 0 for none"
            )
        if self.kl_coef and self.kl == "k1" and self.kl_in == "loss":
            raise ValueError(
                "method.kl=k1 has no gradient in the loss: give method.kl_in=reward, or method.kl=k3 in the loss"
            )

    @property
    def headline(self) -> tuple[str, ...]:
        return ("reward", *("kl",) * bool(self.kl_coef), *self.told)

    @property
    def reference(self) -> Reference | None:
        return Reference() if self.kl_coef else None

    @property
    def updates(self) -> int:
        """Of the weights, in a step."""
        return self.epochs * self.minibatches

    def passes(self, length: int) -> tuple[Pass, ...]:
        """Of a rollout in a row of its own: read by the weights that sampled, where that is asked for, and by the
        reference, then trained on in every epoch. A prompt that several rollouts share costs less than this."""
        before = Pass(length, length, length - 1, gradient=False)
        return (before,) * (self.asks_old + bool(self.kl_coef)) + (Pass(length, length, length - 1),) * self.epochs

    @property
    def asks_old(self) -> bool:
        """Are log-probs needed before the weights are updated: as part of the rewards, or for later updates?

        Otherwise those of the only update are the same numbers, and a pass is saved.
        """
        return self.updates > 1 or self.entropy_coef > 0 or (self.kl_coef > 0 and self.kl_in == "reward")

    def judged(self, models: Models, batch: Rollouts) -> Judged:
        """What the models say of rollouts before the weights are updated."""
        model, reference = models.policy, models.reference
        before = model.lm.before(batch.prompt, batch.tokens)
        return Judged(
            model.lm.logprobs_after(before, batch.tokens) if self.asks_old else None,
            reference=None if reference is None else _logprobs(reference, batch),
            value=self.value(model, before, batch),
        )

    def value(self, model: Any, before: Float[Array, "B R T D"], batch: Rollouts) -> Float[Array, "B R T"] | None:
        """What is expected before each token is sampled; None for a method without values."""
        return None

    def credited(self, batch: Rollouts, judged: Judged) -> tuple[Credited, Metrics]:
        """What every sampled token earned, from all rollouts of a step."""
        batch = batch.replace(mask=batch.mask & batch.live[..., None])
        counts = batch.mask
        reward = jnp.where(counts, batch.reward, 0)
        if self.kl_coef and self.kl_in == "reward":
            reward -= self.kl_coef * jnp.where(counts, surrogates.kl(judged.old, judged.reference, self.kl), 0)
        if self.entropy_coef:
            reward -= self.entropy_coef * jnp.where(counts, judged.old, 0)
        advantage, earned = self.advantage(batch, judged, reward)
        fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        credited = Credited(**fields, judged=judged, advantage=jnp.where(counts, advantage, 0), returns=earned)
        told = _told(batch) | (_compared(batch, judged) if self.asks_old else {})
        return jax.lax.stop_gradient(credited), told

    def advantage(
        self, batch: Rollouts, judged: Judged, reward: Float[Array, "B R T"]
    ) -> tuple[Float[Array, "B R T"], Float[Array, "B R T"] | None]:
        """Of every token, and what its value is trained towards, where there is one."""
        raise NotImplementedError(f"{type(self).__name__} does not define advantage")

    def loss_terms(self, models: Models, batch: Credited, key: Key) -> tuple[Loss, Metrics]:
        terms, metrics = self.policy_terms(_logprobs(models.policy, batch), batch)
        return Loss(terms), metrics

    def policy_terms(self, logprobs: Float[Array, "B R T"], batch: Credited) -> tuple[tuple[Term, ...], Metrics]:
        """The clipped surrogate, and the distance to the reference where it is in the loss."""
        judged, counts, metrics = batch.judged, batch.mask, {}
        if judged.old is None:  # these are they: no weight was updated
            judged = judged.replace(old=jax.lax.stop_gradient(logprobs))
            metrics = _compared(batch, judged)
        weigh = (self.aggregation, float(self.constant or 1))
        ratio = surrogates.ratio(logprobs, judged.old, counts, self.ratio)
        bounds = (self.clip_low or None, self.clip_high or None)
        surrogate = surrogates.clipped_surrogate(ratio, batch.advantage, *bounds, self.dual_clip or None)
        if self.truncation:
            surrogate *= jnp.minimum(jnp.exp(judged.old - batch.behaviour), self.truncation)
        terms = (surrogates.aggregated(surrogate, counts, *weigh, name="policy"),)
        if self.kl_coef and self.kl_in == "loss":
            distance = surrogates.kl(logprobs, judged.reference, self.kl)
            terms += (surrogates.aggregated(distance, counts, *weigh, weight=self.kl_coef, name="kl_term"),)
        return terms, metrics | {"clipped": Mean.of(_clipped(ratio, batch.advantage, *bounds), counts)}


@dataclass(frozen=True)
class PolicyGradient(OnPolicy):
    """Advantages without a value: what a text earned, against other texts."""

    # What is subtracted: nothing, the mean of the batch, of earlier steps (moving), of the samples of the question
    # (group), or of the others among them (leave_one_out).
    baseline: Annotated[str, OneOf(BASELINES)] = "group"
    # What it is divided by: nothing, the standard deviation of the question's samples, divided by their number
    # (population) or by one less (sample), or their mean (MaxRL)
    scale: Annotated[str, OneOf(SCALES)] = "none"
    epsilon: NonNegative = 1e-4  # added to the divisor
    to_go: bool = False  # the return of a token is the reward from it on, not that of the whole text
    whiten: bool = False  # normalise over all tokens of the batch: mean 0, variance 1

    def __post_init__(self):
        super().__post_init__()
        if self.scale != "none" and self.baseline not in ("group", "leave_one_out"):
            raise ValueError(
                f"method.scale = {self.scale!r} is that of a question's samples, and method.baseline = "
                f"{self.baseline!r} compares none of them with another: give method.baseline=group or method.scale=none"
            )

        if self.scale != "none" and self.to_go:
            raise ValueError(
                "method.to_go=true takes the baseline from what a token still earns, which method.scale = "
                f"{self.scale!r} would divide: choose one"
            )

    @property
    def compares_samples(self) -> bool:
        return self.baseline in ("group", "leave_one_out")

    def advantage(
        self, batch: Rollouts, judged: Judged, reward: Float[Array, "B R T"]
    ) -> tuple[Float[Array, "B R T"], None]:
        total, counts = reward.sum(-1), batch.mask
        against = self._against_others(batch, total)
        tokens = against[..., None]
        if self.to_go:  # the baseline is that of the whole text
            tokens = returns.discounted(reward, counts, 1.0) - (total - against)[..., None]
        tokens = jnp.where(counts, jnp.broadcast_to(tokens, counts.shape), 0)
        return (returns.whitened(tokens, counts) if self.whiten else tokens), None

    def _against_others(self, batch: Rollouts, total: Float[Array, "B R"]) -> Float[Array, "B R"]:
        if self.baseline == "none":
            return total
        if self.baseline == "batch":
            return total - masked.mean(total, batch.live)
        if self.baseline == "moving":
            return total - batch.past
        grouped = total.reshape(-1, batch.samples)
        leave_one_out = self.baseline == "leave_one_out"
        if self.scale == "mean":
            centred = returns.group_advantage(grouped, leave_one_out)
            mean = grouped.mean(1, keepdims=True)
            return jnp.where(mean > 0, centred / (mean + self.epsilon), 0).reshape(total.shape)
        return returns.group_advantage(grouped, leave_one_out, self.scale, self.epsilon).reshape(total.shape)


def _logprobs(model: Any, batch: Rollouts) -> Float[Array, "B R T"]:
    return model.lm.logprobs_after(model.lm.before(batch.prompt, batch.tokens), batch.tokens)


def _clipped(ratio: Array, advantage: Array, low: float | None, high: float | None) -> Array:
    """1 where the ratio is out of its bounds on the side that the advantage pushes to."""
    above = ratio > 1 + high if high is not None else jnp.zeros_like(ratio, bool)
    below = ratio < 1 - low if low is not None else jnp.zeros_like(ratio, bool)
    return jnp.where(advantage > 0, above, below).astype(ratio.dtype)


def _told(batch: Rollouts) -> Metrics:
    """What a step shows of its rollouts, the ones that are not trained on included where they were graded."""
    total = jnp.where(batch.mask, batch.reward, 0).sum(-1)
    grouped = batch.reward.sum(-1).reshape(-1, batch.samples)
    return {
        "reward": Mean.of(batch.reward.sum(-1)),
        "right": Mean.of(batch.right.astype(jnp.float32)),
        **{f"reward_{name}": Mean.of(values) for name, values in batch.rewards.items()},
        "live_reward": Mean.of(total, batch.live),
        "sampled_tokens": Mean.of(batch.mask.sum(-1).astype(jnp.float32), batch.live),
        "dead": Mean.of((grouped == grouped[:, :1]).all(1).astype(jnp.float32)),
    }


def _compared(batch: Rollouts, judged: Judged) -> Metrics:
    """How the log-probs under the weights that sampled compare with the sampler's own and with the reference's."""
    metrics = {"entropy": Mean.of(-judged.old, batch.mask), **score.mismatch(batch.behaviour, judged.old, batch.mask)}
    if judged.reference is not None:
        metrics["kl"] = Mean.of(surrogates.kl(judged.old, judged.reference, "k1"), batch.mask)
    return metrics
