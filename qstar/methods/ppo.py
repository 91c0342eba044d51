"""Proximal policy optimisation with a value at every token (Schulman et al. 2017), as ReFT trains (Luong et al. 2024).

    reward of a token = what graders say, at the last one - kl_coef (log pi - log reference)
    A = generalised advantage estimate, whitened over the batch;  R = A + V
    loss = clipped surrogate + value_coef / 2 max((V - R)^2, (clip(V, V_old - value_clip, V_old + value_clip) - R)^2)

ReFT writes lambda = 1 for the discount and gamma = 0.95 for the estimate, its code has gamma = 1 and lambda = 0.95: the
defaults here.

The value is a linear head on the final hidden state, where the next token is sampled from: that of the policy, or with
`critic=apart` of a second model that starts from the same weights. It starts at zero.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax.numpy as jnp

from qstar import settings
from qstar.methods.policy_gradient import OnPolicy
from qstar.methods.protocol import Models, Vocabulary
from qstar.models import heads
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.heads import ActorCritic, Scorer
from qstar.models.lm import LMConfig
from qstar.ops import returns, surrogates
from qstar.settings import NonNegative, OneOf, Share
from qstar.structs import Batch, Credited, Judged, Loss, Mean, Metrics, Rollouts
from qstar.typing import Array, Bool, Float, Int, Key, Params

CRITICS = ("trunk", "apart")
FLAT = 1e-8  # a sum of squares up to which returns are equal


@dataclass(frozen=True)
class PPO(OnPolicy):
    """Hyper-parameters."""

    told: ClassVar[tuple[str, ...]] = ("entropy", "sampled_tokens", "explained")

    # what the value is read off: the policy's own hidden states (trunk), or those of a second model (apart)
    critic: Annotated[str, OneOf(CRITICS)] = "trunk"
    gamma: Share = 1.0  # discount of later rewards
    lam: Share = 0.95  # lambda of generalised advantage estimation: 0 trusts the value, 1 the sampled return
    value_coef: NonNegative = 0.1  # weight of the value's error
    value_clip: NonNegative = 0.2  # clip of a value's change in a step; 0: none
    whiten: bool = True  # normalise advantages over all tokens of the batch

    def __post_init__(self):
        settings.check(self, "method")
        super().__post_init__()

    def definition(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> Definition:
        return heads.actor_critic(lm) if self.critic == "apart" else heads.definition(lm)

    def start_from(self, definition: Definition, lm: Params, key: Key) -> Params:
        scorer = heads.from_lm(definition.abstract_model.cfg, lm)
        params = {"lm": lm, "critic": scorer} if self.critic == "apart" else scorer
        definition.check(params, "the language model's weights")
        return params

    def passes(self, length: int) -> tuple[Pass, ...]:
        if self.critic == "trunk":
            return super().passes(length)
        read = Pass(length, length, 0, gradient=False)
        return (*super().passes(length), read, *(Pass(length, length, 0),) * self.epochs)

    def predict(self, model: Scorer | ActorCritic, batch: Batch, anchors: Int[Array, "B A"]) -> Float[Array, "B A V"]:
        return super().predict(model.lm, batch, anchors)

    def value(
        self, model: Scorer | ActorCritic, before: Float[Array, "B R T D"], batch: Rollouts
    ) -> Float[Array, "B R T"]:
        if self.critic == "apart":
            return model.critic.score(model.critic.lm.before(batch.prompt, batch.tokens))
        return model.score(before)

    def advantage(
        self, batch: Rollouts, judged: Judged, reward: Float[Array, "B R T"]
    ) -> tuple[Float[Array, "B R T"], Float[Array, "B R T"]]:
        counts = batch.mask
        value = jnp.where(counts, judged.value, 0)
        estimate = returns.gae(reward, value, counts, self.gamma, self.lam)
        return (returns.whitened(estimate, counts) if self.whiten else estimate), estimate + value

    def loss_terms(self, models: Models, batch: Credited, key: Key) -> tuple[Loss, Metrics]:
        model = models.policy
        before = model.lm.before(batch.prompt, batch.tokens)
        terms, metrics = self.policy_terms(model.lm.logprobs_after(before, batch.tokens), batch)
        value = self.value(model, before, batch)
        term = surrogates.aggregated(
            self.value_error(value, batch) / 2,
            batch.mask,
            self.aggregation,
            float(self.constant or 1),
            self.value_coef,
            "value",
        )
        return Loss((*terms, term)), metrics | {"explained": _explained(batch, batch.mask)}

    def value_error(self, value: Float[Array, "B R T"], batch: Credited) -> Float[Array, "B R T"]:
        error = (value - batch.returns) ** 2
        if not self.value_clip:
            return error
        old = batch.judged.value
        near = jnp.clip(value, old - self.value_clip, old + self.value_clip)
        return jnp.maximum(error, (near - batch.returns) ** 2)


def _explained(batch: Credited, counts: Bool[Array, "B R T"]) -> Mean:
    """Share of the variance of the returns that the values before the update explain; negative where they mislead.

    Of nothing, a mean of 0, where all returns are equal: there is nothing to explain.
    """
    number = jnp.maximum(counts.sum(), 1)
    mean = jnp.where(counts, batch.returns, 0).sum() / number
    spread = jnp.where(counts, (batch.returns - mean) ** 2, 0).sum()
    left = jnp.where(counts, (batch.returns - batch.judged.value) ** 2, 0).sum()
    return Mean.of(1 - left / jnp.maximum(spread, FLAT), spread > FLAT)
