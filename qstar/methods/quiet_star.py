"""Quiet-STaR: every position of a text thinks, and thoughts that make what follows likelier become likelier.

    1. sample  R thoughts of T tokens at every anchor, no gradient            thoughts/sample.py
    2. talk    one differentiable pass: thought log-probs, base and mixed     thoughts/talk.py
    3. credit  reward = gain in log-likelihood of the next N tokens           thoughts/credit.py
    4. loss    NLL of base and mixed predictions + beta * REINFORCE

The defaults are the paper's (Zelikman et al. 2024, Algorithm 1 and Appendix A); preset `quiet_star_official` is the
released code; the fields say what differs.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qstar.methods.protocol import Vocabulary, single_token
from qstar.models import thinker as thinker_model
from qstar.models.definition import Definition
from qstar.models.lm import LMConfig
from qstar.models.thinker import Thinker, ThinkerConfig
from qstar.ops import masked
from qstar.structs import Batch, Credit, Mean, Metrics, Talk, Text
from qstar.thoughts import anchors as where
from qstar.thoughts.credit import BASELINES, credit, reinforce
from qstar.thoughts.fill import FILLS, Inner, fill
from qstar.thoughts.predict import Prediction, predict
from qstar.thoughts.talk import MIXES, talk
from qstar.typing import Array, Float, Int, Key, Params

POSITIONS = ("counted", "official")


@dataclass(frozen=True)
class QuietStar:
    """Hyper-parameters of Quiet-STaR."""

    thought_len: int = 12  # T: sampled tokens, delimiters not counted (the released code's n_ahead - 3)
    num_thoughts: int = 2  # R
    lookahead: int = 4  # N: true tokens that judge a thought
    # Paper: w blends log-probs, which nothing normalises: a weight outside [0, 1] can be paid for making the true token
    # less likely. Official: `hidden` states are blended before the output layer, so the softmax normalises.
    mix: str = "logprobs"
    base_weight: float = 0.5  # share of the base prediction's NLL in the NLL
    beta: float = 1e6  # weight of REINFORCE
    baseline: str = "mean"  # of the reward: `mean` over the R thoughts, `leave_one_out`, or `base` (no thought)
    clamp: bool = True  # only thoughts better than the baseline are reinforced
    reinforce_temperature: float = 3.0  # divides the logits of the thought's log-probs in REINFORCE
    temperature: float = 1.0  # of sampling
    positions: str = "counted"  # which positions count: `official` reproduces the released code's windows and means
    fill: str = "sampled"  # what fills a thought: see thoughts/fill.py
    think_fraction: float = 1.0  # share of positions that think, drawn anew each step
    delimiter: str = "---"  # token whose embedding start, end and pause begin as
    delimiter_scale: float = 1.0  # official: 100, see ThinkerConfig
    dot: str = "."  # token that `fill=dots` repeats
    forbidden: tuple[str, ...] = ()  # tokens never sampled in a thought
    delimiter_id: int = -1  # the three below are found by `resolve`
    dot_id: int = -1
    forbidden_ids: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "forbidden", tuple(self.forbidden))
        object.__setattr__(self, "forbidden_ids", tuple(self.forbidden_ids))
        for name, choices in (("mix", MIXES), ("baseline", BASELINES), ("fill", FILLS), ("positions", POSITIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"method.{name} = {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        for name in ("thought_len", "num_thoughts", "lookahead"):
            if getattr(self, name) < 1:
                raise ValueError(f"method.{name} = {getattr(self, name)}: at least 1 is wanted")
        for name in ("reinforce_temperature", "delimiter_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"method.{name} = {getattr(self, name)}: a positive number is wanted")
        if self.temperature < 0 or self.beta < 0:
            raise ValueError(
                f"method.temperature = {self.temperature}, method.beta = {self.beta}: neither may be negative"
            )
        if not 0 <= self.base_weight <= 1:
            raise ValueError(f"method.base_weight = {self.base_weight}: a share between 0 and 1 is wanted")
        if not 0 < self.think_fraction <= 1:
            raise ValueError(f"method.think_fraction = {self.think_fraction}: a share above 0, up to 1, is wanted")
        if self.positions == "official" and self.think_fraction < 1:
            raise ValueError("method.positions=official counts all positions: it wants method.think_fraction=1")
        if self.num_thoughts == 1 and self.baseline != "base" and self.reinforces:
            raise ValueError(
                f"method.num_thoughts = 1 with method.baseline = {self.baseline!r} gives every thought an advantage "
                "of 0; use method.baseline=base, or two thoughts"
            )

    @property
    def reinforces(self) -> bool:
        return self.fill == "sampled" and self.beta > 0

    def resolve(self, vocabulary: Vocabulary) -> "QuietStar":
        return dataclasses.replace(
            self,
            delimiter_id=single_token(vocabulary, self.delimiter, "delimiter"),
            dot_id=single_token(vocabulary, self.dot, "dot") if self.fill == "dots" else -1,
            forbidden_ids=tuple(single_token(vocabulary, text, "forbidden") for text in self.forbidden),
        )

    def thinker(self, lm: LMConfig) -> ThinkerConfig:
        return ThinkerConfig(lm, self.delimiter_scale, pause=self.fill == "pause")

    def definition(self, lm: LMConfig) -> Definition:
        return thinker_model.definition(self.thinker(lm))

    def start_from(self, lm_cfg: LMConfig, lm: Params, key: Key) -> Params:
        return thinker_model.from_lm(self.thinker(lm_cfg), lm, self.delimiter_id, key)

    def inner(
        self,
        thinker: Thinker,
        text: Text,
        batch: Batch,
        anchors: Array,
        key: Key,
        num_thoughts: int,
        temperature: float,
    ) -> Inner:
        return fill(
            self.fill,
            thinker,
            text,
            batch,
            anchors,
            key,
            thought_len=self.thought_len,
            num_thoughts=num_thoughts,
            temperature=temperature,
            forbidden=self.forbidden_ids,
            dot=self.dot_id,
        )

    def talk(self, thinker: Thinker, text: Text, batch: Batch, anchors: Array, inner: Inner) -> Talk:
        return talk(
            thinker,
            text,
            batch,
            anchors,
            inner.embedding,
            inner.tokens if self.reinforces else None,
            lookahead=self.lookahead,
            mix=self.mix,
            temperature=self.reinforce_temperature,
            forbidden=self.forbidden_ids,
        )

    def loss(self, model: Thinker, batch: Batch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        where_key, fill_key = jax.random.split(key)
        anchors = where.choose(batch, self.think_fraction, where_key)
        text = model.lm.text(batch)
        inner = self.inner(model, text, batch, anchors, fill_key, self.num_thoughts, self.temperature)
        return self.objective(self.talk(model, text, batch, anchors, inner), batch)

    def objective(self, talk: Talk, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Loss and metrics of scored thoughts.

        loss = base_weight * NLL(base) + (1 - base_weight) * mean over n of NLL(mixed_n) + beta * REINFORCE
        """
        base_where, mixed_where, judged = self.counted(talk, batch)
        base_nll = masked.mean(-talk.text, base_where)
        mixed_nll = jnp.stack(
            [masked.mean(-talk.mixed[..., n], mixed_where[..., n]) for n in range(self.lookahead)]
        ).mean()
        earned = credit(talk, judged, self.baseline, self.clamp)
        # The released code divides by all judged rows, padded ones included; ours by the positions that were judged.
        rows = judged.any(-1) if self.positions == "counted" else self._window(batch)
        policy = reinforce(talk.thought, earned.advantage, rows)
        loss = self.base_weight * base_nll + (1 - self.base_weight) * mixed_nll + self.beta * policy
        return loss, self.metrics(talk, earned, base_where, mixed_where, judged, policy, loss)

    def counted(self, talk: Talk, batch: Batch) -> tuple[Array, Array, Array]:
        """Which entries count: of the base NLL [B S-1], the mixed NLL [B R A N], the reward [B A N].

        Differs from the official code, unless `positions=official`: there entries whose loss is exactly zero drop out
        of the means, and anchors without N tokens and one more behind them earn nothing.
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

    def metrics(
        self,
        talk: Talk,
        earned: Credit,
        base_where: Array,
        mixed_where: Array,
        judged: Array,
        policy: Array,
        loss: Array,
    ) -> Metrics:
        samples = jnp.broadcast_to(judged.any(-1)[:, None], earned.reward.shape)
        logged = {
            "loss": Mean.of(loss),
            "nll": Mean.of(-talk.text, base_where),
            "nll_mixed": Mean.of(-talk.mixed, mixed_where),
            "reward": Mean.of(earned.reward, samples),
            "helped": Mean.of((earned.reward > 0).astype(earned.reward.dtype), samples),
            "weight": Mean.of(talk.weight, mixed_where),
        }
        if self.reinforces:
            logged["policy_loss"] = Mean.of(policy)
            logged["thought_nll"] = Mean.of(-talk.thought.mean(-1), samples)
        return logged

    def predict(
        self, model: Thinker, batch: Batch, anchors: Int[Array, "B A"], key: Key, think: bool, greedy: bool
    ) -> Float[Array, "B A V"]:
        found = self.predictions(model, batch, anchors, key, greedy)[1]
        return found.mixed[:, 0] if think else found.base

    def predictions(
        self, model: Thinker, batch: Batch, anchors: Array, key: Key, greedy: bool, num_thoughts: int = 1
    ) -> tuple[Inner, Prediction]:
        """Thoughts at the anchors and what they do to the next token."""
        return self.think(model, model.lm.text(batch), batch, anchors, key, greedy, num_thoughts)

    def think(
        self,
        model: Thinker,
        text: Text,
        batch: Batch,
        anchors: Array,
        key: Key,
        greedy: bool,
        num_thoughts: int = 1,
    ) -> tuple[Inner, Prediction]:
        """The same where the text has been read already."""
        inner = self.inner(model, text, batch, anchors, key, num_thoughts, 0.0 if greedy else self.temperature or 1.0)
        return inner, predict(model, text, batch, anchors, inner, self.mix)
