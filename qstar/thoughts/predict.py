"""The next token, with and without a thought, at chosen positions: what evaluation, reading and generation look at."""

import jax
import jax.numpy as jnp
from flax import struct

from qstar.models.thinker import Thinker
from qstar.structs import Context
from qstar.thoughts.fill import Inner
from qstar.thoughts.talk import base_hidden, mix_hidden, thought_columns
from qstar.typing import Array, Float, typed


@struct.dataclass
class Prediction:
    """Log-probs of the next token at every anchor."""

    base: Float[Array, "B A V"]  # without a thought
    mixed: Float[Array, "B R A V"]  # with one
    weight: Float[Array, "B R A"]  # share of the thought
    helpful: Float[Array, "B R A"] | None = None  # log-odds that it helps; None without such a head


@typed
def predict(thinker: Thinker, context: Context, inner: Inner, mix: str) -> Prediction:
    """Distributions after each thought. Keeps logits: ask for few anchors at a time."""
    lm = thinker.lm
    after = thought_columns(thinker, context, inner.embedding, 1)[:, :, :, -1]
    hidden = base_hidden(context.text, context.anchors, 1)[:, :, 0]
    weight = thinker.share(hidden[:, None], after)
    base = jax.nn.log_softmax(lm.logits(hidden))
    if mix == "hidden":
        blend = lm.logits(mix_hidden(jnp.broadcast_to(hidden[:, None], after.shape), after, weight))
    else:
        share = weight[..., None]
        blend = (1 - share) * base[:, None] + share * jax.nn.log_softmax(lm.logits(after))
    return Prediction(base, jax.nn.log_softmax(blend), weight, thinker.helpful(hidden[:, None], after))
