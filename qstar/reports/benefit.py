"""What thoughts did to tokens: gains of a text's tokens one by one, and of those that questions ask for.

The gain of a token is the change in its log-likelihood, in nats. Intervals over texts are 95 % bootstraps, since tokens
of one text are not independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from qstar.evals.intervals import bootstrap_ratio
from qstar.models.definition import Definition
from qstar.ops import rows
from qstar.reports import tables
from qstar.reports.glyphs import Decoder
from qstar.structs import Batch, Context
from qstar.tasks.items import Item
from qstar.thoughts.read import Reading
from qstar.thoughts.thinking import Thinks
from qstar.typing import Params

PARTS = 5  # of the tokens, from those that are easiest without a thought to the hardest
SHOWN = 12  # of the thoughts that helped most
CONTEXT = 60  # characters before a token that are shown with its thought
QUANTILES = {0.01: "1 %", 0.05: "5 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 0.95: "95 %", 0.99: "99 %"}


@dataclass(frozen=True)
class Tokens:
    """Every token of the texts, in order; N of them."""

    text: np.ndarray  # number of the text
    position: np.ndarray
    base: np.ndarray  # log-likelihood without a thought, nats
    gain: np.ndarray  # change with it
    weight: np.ndarray  # mixing weight


def gathered(readings: Sequence[Reading]) -> Tokens:
    """The likeliest thought's effect on every token but the first of each text."""
    tokens = [
        (number, position, step.base, step.thoughts[0].gain, step.thoughts[0].weight)
        for number, reading in enumerate(readings)
        for position, step in enumerate(reading.steps, 1)
    ]
    return Tokens(*map(np.asarray, zip(*tokens, strict=True)))


def mean_gain(tokens: Tokens, chosen: np.ndarray) -> tuple[float, float, float]:
    """Mean over the chosen tokens and its interval; what is drawn again are the texts that have any."""
    counts = np.bincount(tokens.text[chosen]).astype(float)
    gains = np.bincount(tokens.text[chosen], tokens.gain[chosen])[counts > 0]
    counts = counts[counts > 0]
    low, high = bootstrap_ratio(gains, counts, seed=0)
    return float(gains.sum() / counts.sum()), low, high


def parts(tokens: Tokens) -> list[tuple[float, float, np.ndarray]]:
    """Equal parts by difficulty without a thought: lowest and highest NLL, and which tokens."""
    edges = np.quantile(-tokens.base, np.linspace(0, 1, PARTS + 1))
    part = np.clip(np.searchsorted(edges, -tokens.base, side="right") - 1, 0, PARTS - 1)
    return [(edges[p], edges[p + 1], part == p) for p in range(PARTS)]


def summary(tokens: Tokens, readings: Sequence[Reading], decoder: Decoder) -> str:
    """Markdown: the distribution, the gain by difficulty, the best thoughts."""
    mean = tables.interval(*mean_gain(tokens, np.ones_like(tokens.text, bool)), "+.5f")
    points = np.quantile(tokens.gain, list(QUANTILES))
    by_part = [
        (f"{low:.2f} to {high:.2f}", chosen.sum(), tables.interval(*mean_gain(tokens, chosen), "+.5f"))
        for low, high, chosen in parts(tokens)
    ]
    best = [_shown(tokens, int(i), readings, decoder) for i in np.argsort(-tokens.gain)[:SHOWN]]
    return "\n".join(
        [
            f"{len(tokens.text)} tokens of {len(readings)} texts; mean gain {mean} nats; "
            f"{(tokens.gain > 0).mean():.3f} of the tokens became likelier; mean mixing weight "
            f"{tokens.weight.mean():+.5f}.\n",
            tables.markdown(
                ("quantile of the gain", *QUANTILES.values()), [("nats", *(f"{point:+.5f}" for point in points))]
            ),
            tables.markdown(("NLL without a thought", "tokens", "mean gain [95 %]"), by_part),
            tables.markdown(("text before", "token", "thought", "gain", "NLL without it"), best),
        ]
    )


def _shown(tokens: Tokens, i: int, readings: Sequence[Reading], decoder: Decoder) -> tuple[str, ...]:
    reading, place = readings[int(tokens.text[i])], int(tokens.position[i])
    before = decoder.decode(list(reading.tokens[:place]))[-CONTEXT:]
    thought = decoder.decode(list(reading.steps[place - 1].thoughts[0].tokens))
    texts = map(code, (before, decoder.decode([reading.tokens[place]]), thought))
    return (*texts, f"{tokens.gain[i]:+.3f}", f"{-tokens.base[i]:.2f}")


def code(text: str) -> str:
    """As a cell of a table."""
    return "`" + text.replace("\n", "⏎").replace("|", "¦").replace("`", "'") + "`"


# --- questions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Questions with their answers, padded, every position an anchor."""

    batch: Batch
    anchors: np.ndarray  # [B S]
    counts: np.ndarray  # [B S], a token comes next
    scored: np.ndarray  # [B S], and it is one that the question asks for

    @classmethod
    def of(cls, items: Sequence[Item]) -> "Texts":
        texts = [list(item.ids) for item in items]
        batch = rows.padded(texts, rows.bucket(max(map(len, texts))))
        anchors = np.broadcast_to(np.arange(batch.tokens.shape[1])[None], batch.tokens.shape)
        scored = np.zeros_like(batch.mask)
        for number, item in enumerate(items):
            scored[number, list(item.anchors)] = True
        return cls(batch, anchors, anchors < batch.mask.sum(1, keepdims=True) - 1, scored)


def question_gains(
    method: Thinks, definition: Definition, params: Params, items: Sequence[Item], seed: int, batch_size: int
) -> tuple[float, float]:
    """Mean gain by one sampled thought of the tokens that questions ask for, and of their other tokens."""

    @jax.jit
    def gain(params, batch, anchors, key):
        thinker = definition.bind(params)
        context = Context(thinker.lm.text(batch), batch, anchors)
        predicted = method.think(thinker, context, key, greedy=False)[1]
        true = jnp.roll(batch.tokens, -1, 1)[..., None]
        return jnp.take_along_axis(predicted.mixed[:, 0] - predicted.base, true, -1)[..., 0]

    params, pairs = jax.device_put(params), []
    for first in range(0, len(items), batch_size):
        texts = Texts.of(items[first : first + batch_size])
        key = jax.random.fold_in(jax.random.key(seed), first)
        gains = np.asarray(gain(params, *jax.device_put((texts.batch, texts.anchors)), key))
        pairs.append((gains[texts.scored], gains[texts.counts & ~texts.scored]))
    scored, others = (float(np.concatenate(part).mean()) for part in zip(*pairs, strict=True))
    return scored, others
