"""Quiet-STaR: every position of a text thinks, and thoughts that make what follows likelier become likelier.

    1. sample  R thoughts of T tokens at every anchor, no gradient            thoughts/draw.py
    2. talk    one differentiable pass: thought log-probs, base and mixed     thoughts/talk.py
    3. credit  reward = gain in log-likelihood of the next N tokens           thoughts/credit.py
    4. loss    NLL of base and mixed predictions + beta * REINFORCE

Preset `quiet_star` is Algorithm 1 with the values of Appendix A (Zelikman et al. 2024), `quiet_star_official` the
released code; the fields say what differs, and experiments/quiet_star/switches.md lists it.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from qstar import settings
from qstar.methods.protocol import LossOfTerms, Models, Vocabulary, thought_tokens
from qstar.models import thinker as thinker_model
from qstar.models.cost import Pass
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.models.thinker import INITS, MIXINGS, SIDES, Thinker, ThinkerConfig
from qstar.settings import Count, NonNegative, OneOf, Positive, PositiveShare, Share, Whole
from qstar.structs import Batch, Context, Credit, Loss, Mean, Metrics, Talk, Term
from qstar.thoughts import anchors as where
from qstar.thoughts.credit import BASELINES, credit, importance, reinforce
from qstar.thoughts.fill import FILLS, Inner
from qstar.thoughts.predict import Prediction
from qstar.thoughts.talk import MIXES
from qstar.thoughts.thinking import Thinking
from qstar.typing import Array, Float, Key, Params

POSITIONS = ("counted", "official")


@struct.dataclass
class Terms:
    """What the loss is made of, in nats."""

    base_nll: Term
    mixed_nll: Term  # N means
    reinforced: Term | None  # None without REINFORCE
    credit: Credit

    @property
    def base(self) -> Float[Array, ""]:
        """NLL without thoughts."""
        return self.base_nll.mean

    @property
    def mixed(self) -> Float[Array, "N"]:
        """NLL of the n-th token after a thought."""
        return self.mixed_nll.means

    @property
    def policy(self) -> Float[Array, ""]:
        """REINFORCE, before beta."""
        return jnp.zeros_like(self.base) if self.reinforced is None else self.reinforced.mean

    @property
    def parts(self) -> Loss:
        reinforced = () if self.reinforced is None else (self.reinforced,)
        return Loss((self.base_nll, self.mixed_nll, *reinforced))

    @property
    def loss(self) -> Float[Array, ""]:
        return self.parts.value


@dataclass(frozen=True)
class QuietStar(LossOfTerms):
    """Hyper-parameters of Quiet-STaR."""

    headline: ClassVar[tuple[str, ...]] = ("nll", "nll_mixed", "reward")

    # T: sampled tokens, delimiters not counted (the released code's n_ahead - 3). 0: start and end alone, no REINFORCE.
    thought_len: Whole = 12
    num_thoughts: Count = 2  # R: thoughts at each position
    lookahead: Count = 4  # N: true tokens that judge a thought
    # What is blended. Paper: log-probs, which nothing normalises: with a share outside [0, 1] "probabilities" sum to
    # more than 1, and a thought is rewarded for making the true token less likely. Seen on SmolLM2 in 20 steps: a share
    # of -0.014 and a reward of 0.17 nats, with no better answers. Official: `hidden` states are blended before the
    # output layer, so the softmax normalises. Train with that, or with mixing=sigmoid, which keeps the share in [0, 1].
    mix: Annotated[str, OneOf(MIXES)] = "logprobs"
    # the head's output is the weight w as it is, its `sigmoid`, or there is `none` and w = 1
    mixing: Annotated[str, OneOf(MIXINGS)] = "raw"
    # Which prediction w multiplies; the other gets 1 - w. Algorithm 1 and preset quiet_star: `base`. Official, and runs
    # from before there was a choice: `thought`. From the same start both are the same method, the head's sign flipped.
    mixing_side: Annotated[str, OneOf(SIDES)] = "thought"
    # Share of the thought before the first step. None: where a head that outputs zero puts it, 0 for `raw` on the
    # thought's side, 1 for `raw` on the base's side (predictions after thoughts only), 1/2 for `sigmoid`.
    mixing_start: Share | None = None
    base_weight: Share = 0.5  # share of the base prediction's NLL in the NLL; Algorithm 1 and preset quiet_star: 0
    beta: NonNegative = 1e6  # weight of REINFORCE
    # What a reward is compared with. Paper: `log_mean`, the log of the mean over the R thoughts of the likelihood, log
    # p-bar. Official: `mean` of the log-likelihoods, and `base`, the prediction without a thought, where R = 1; or
    # `leave_one_out`.
    baseline: Annotated[str, OneOf(BASELINES)] = "log_mean"
    clamp: bool = True  # only thoughts better than the baseline are reinforced
    reinforce_temperature: Positive = 3.0  # divides the logits of the thought's log-probs in REINFORCE
    # Weigh each token by p at the REINFORCE temperature over p where it was sampled. The paper calls its samples
    # importance samples, but neither Algorithm 1 nor the released code has such a weight.
    importance_weights: bool = False
    temperature: NonNegative = 1.0  # of sampling
    # which positions count: `official` reproduces the released code's windows and means
    positions: Annotated[str, OneOf(POSITIONS)] = "counted"
    fill: Annotated[str, OneOf(FILLS)] = "sampled"  # content of a thought: see thoughts/fill.py
    think_fraction: PositiveShare = 1.0  # share of positions that think, drawn again in each step
    # initial start, end and pause embeddings: `token`, `random` or `mean`, see from_lm
    delimiter_init: Annotated[str, OneOf(INITS)] = "token"
    delimiter: str = "---"  # the token for delimiter_init=token
    # What start and end are stored divided by. Official: 100, see ThinkerConfig. The paper's "weight of 1e2 on the
    # gradients" is optim.delimiter_lr_scale = 100.
    delimiter_scale: Positive = 1.0
    dot: str = "."  # token that `fill=dots` repeats
    forbidden: tuple[str, ...] = ()  # tokens never sampled in a thought

    def __post_init__(self):
        object.__setattr__(self, "forbidden", tuple(self.forbidden))
        settings.check(self, "method")
        thinker_model.check_start(self.mixing, self.mixing_start)
        if self.positions == "official" and self.think_fraction < 1:
            raise ValueError("method.positions=official counts all positions: expected method.think_fraction=1")
        if self.num_thoughts == 1 and self.baseline != "base" and self.reinforces:
            raise ValueError(
                f"method.num_thoughts = 1 with method.baseline = {self.baseline!r} gives every thought an advantage "
                "of 0; use method.baseline=base, or two thoughts"
            )
        if self.importance_weights and not (self.reinforces and self.temperature > 0):
            raise ValueError(
                f"method.importance_weights with method.temperature = {self.temperature}, method.fill = {self.fill!r}, "
                f"method.beta = {self.beta}: they weight sampled thoughts in REINFORCE; set a temperature above 0, "
                "fill=sampled and a positive beta, or leave them out"
            )

    @property
    def reinforces(self) -> bool:
        return self.fill == "sampled" and self.beta > 0 and self.thought_len > 0

    @property
    def thinking(self) -> Thinking:
        return Thinking(
            thought_len=self.thought_len,
            num_thoughts=self.num_thoughts,
            lookahead=self.lookahead,
            mix=self.mix,
            temperature=self.temperature,
            score_temperature=self.reinforce_temperature,
            fill=self.fill,
            scored=self.reinforces,
            mixing=self.mixing != "none",
        )

    def thinker(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> ThinkerConfig:
        delimiter = self.delimiter if self.delimiter_init == "token" else None
        return ThinkerConfig(
            lm,
            self.delimiter_scale,
            pause=self.fill == "pause",
            mixing=self.mixing,
            mixing_side=self.mixing_side,
            mixing_start=self.mixing_start,
            tokens=thought_tokens(vocabulary, delimiter, self.forbidden, self.dot if self.fill == "dots" else None),
        )

    def definition(self, lm: LMConfig, vocabulary: Vocabulary | None = None) -> Definition:
        return thinker_model.definition(self.thinker(lm, vocabulary))

    def start_from(self, definition: Definition, lm: Params, key: Key) -> Params:
        return thinker_model.from_lm(definition.abstract_model.cfg, lm, key, self.delimiter_init)

    def loss_terms(self, models: Models, batch: Batch, key: Key) -> tuple[Loss, Metrics]:
        return self.judged(models.policy, *self.drawn(models.policy, batch, key))

    def drawn(self, model: Thinker, batch: Batch, key: Key) -> tuple[Context, Talk]:
        """The thoughts of a step, scored."""
        where_key, fill_key = jax.random.split(key)
        anchors = where.choose(batch, self.think_fraction, where_key)
        context = Context(model.lm.text(batch), batch, anchors)
        inner = self.thinking.drawn(model, context, fill_key)
        return context, self.thinking.talk(model, context, inner)

    def judged(self, model: Thinker, context: Context, talk: Talk) -> tuple[Loss, Metrics]:
        """Loss and metrics of scored thoughts."""
        terms = self.terms(talk, context.batch)
        return terms.parts, self.metrics(talk, context.batch, terms)

    def objective(self, talk: Talk, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Loss and metrics of scored thoughts.

        loss = base_weight * NLL(base) + (1 - base_weight) * mean over n of NLL(mixed_n) + beta * REINFORCE
        """
        terms = self.terms(talk, batch)
        return terms.loss, self.metrics(talk, batch, terms) | terms.parts.logged

    def terms(self, talk: Talk, batch: Batch) -> Terms:
        """The parts of `objective`."""
        base_where, mixed_where, judged = self.counted(talk, batch)
        base = Term.of(-talk.text, base_where, self.base_weight)
        mixed = [Term.of(-talk.mixed[..., n], mixed_where[..., n]) for n in range(self.lookahead)]
        earned = credit(talk, judged, self.baseline, self.clamp)
        # The released code divides by all judged rows, padded ones included; ours by the positions that were judged.
        rows = judged.any(-1) if self.positions == "counted" else self._window(batch)
        weights = importance(talk.thought, talk.behaviour) if self.importance_weights else None
        policy = None
        if self.reinforces:
            policy = reinforce(talk.thought, earned.advantage, rows, weights)
            policy = policy.replace(weight=self.beta, name="policy_loss")
        return Terms(base, Term.stack(mixed, 1 - self.base_weight), policy, earned)

    def counted(self, talk: Talk, batch: Batch) -> tuple[Array, Array, Array]:
        """Which entries count: of the base NLL [B S-1], the mixed NLL [B R A N], the reward [B A N].

        Differs from the official code, unless `positions=official`: there entries whose loss is exactly zero drop out
        of the means, and anchors without N tokens and one more after them earn nothing.
        """
        base = where.next_counts(batch)
        mixed = jnp.broadcast_to(talk.counts[:, None], talk.mixed.shape)
        if self.positions == "counted":
            return base, mixed, talk.counts
        judged = talk.counts & self._window(batch)[:, :, None]
        return base & (talk.text != 0), mixed & (talk.mixed != 0), judged

    def _window(self, batch: Batch) -> Array:
        size = batch.tokens.shape[1]
        return jnp.broadcast_to((jnp.arange(size) < size - self.lookahead - 1)[None], batch.tokens.shape)

    def metrics(self, talk: Talk, batch: Batch, terms: Terms) -> Metrics:
        base_where, mixed_where, judged = self.counted(talk, batch)
        reward = terms.credit.reward
        samples = jnp.broadcast_to(judged.any(-1)[:, None], reward.shape)
        logged = {
            "nll": Mean.of(-talk.text, base_where),
            "nll_mixed": Mean.of(-talk.mixed, mixed_where),
            "reward": Mean.of(reward, samples),
            "helped": Mean.of((reward > 0).astype(reward.dtype), samples),
            "weight": Mean.of(talk.weight, mixed_where),
        }
        if self.reinforces:
            logged["thought_nll"] = Mean.of(-talk.thought.mean(-1), samples)
        return logged

    def passes(self, length: int) -> tuple[Pass, ...]:
        return self.thinking.passes(where.how_many(self.think_fraction, length), length)

    def think(
        self, model: Thinker, context: Context, key: Key, greedy: bool, num_thoughts: int = 1
    ) -> tuple[Inner, Prediction]:
        return self.thinking.think(model, context, key, greedy, num_thoughts)
