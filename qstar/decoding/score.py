"""What was written, scored by the trainer's own pass, and how far the sampler's log-probs are from that.

The two run different programs: the trainer whole rows at once, the sampler one column at a time over a cache. In exact
arithmetic they agree; in floating point sums are taken in other orders. Policy gradients assume that they agree, so
the difference is measured (`mismatch`) wherever both are known.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qstar import sharding
from qstar.models.definition import Definition
from qstar.ops import rows
from qstar.structs import Batch, Mean, Metrics
from qstar.typing import Array, Bool, Float, Params, typed


def score(
    definition: Definition,
    params: Params,
    prompts: Sequence[Sequence[int]],
    written: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
    mesh: jax.sharding.Mesh | None = None,
) -> list[np.ndarray]:
    """Log-probs of every written token after its prompt and what was written before it, at temperature 1.

    By the functions of `PlainLM.loss`: one ordinary pass over the text, the vocabulary in slices.

    Raises ValueError for texts that the model cannot read.
    """
    if len(prompts) != len(written):
        raise ValueError(f"{len(prompts)} prompts for {len(written)} texts: expected one each")
    texts = [[*map(int, prompt), *map(int, text)] for prompt, text in zip(prompts, written, strict=True)]
    cfg = definition.abstract_model.lm.cfg
    rows.check(prompts, cfg.vocab, cfg.max_len)
    rows.check(texts, cfg.vocab, cfg.max_len)
    token_logprobs: list[np.ndarray] = [np.empty(0)] * len(texts)
    with sharding.on(mesh):
        params = placed(definition, params, mesh)
        for index, batch in padded(texts, batch_size):
            logprobs = np.asarray(_score(definition, params, batch))
            for row, i in enumerate(index):
                token_logprobs[i] = logprobs[row, len(prompts[i]) - 1 : len(texts[i]) - 1]
    return token_logprobs


def logits(definition: Definition, params: Params, tokens: np.ndarray) -> np.ndarray:
    """Logits [B S V] after every token of texts [B S] of equal length, all read at once."""
    return np.asarray(_logits(definition, params, rows.padded(tokens.tolist(), tokens.shape[1])))


@functools.partial(jax.jit, static_argnames="definition")
def _logits(definition: Definition, params: Params, batch: Batch) -> Float[Array, "B S V"]:
    lm = definition.bind(params).lm
    return lm.logits(lm.text(batch).hidden)


@functools.partial(jax.jit, static_argnames="definition")
def _score(definition: Definition, params: Params, batch: Batch) -> Float[Array, "B J"]:
    lm = definition.bind(params).lm
    batch = jax.tree.map(lambda leaf: sharding.shard(leaf, "batch", None), batch)
    return lm.next_logprobs(lm.text(batch), batch.tokens)


@typed
def mismatch(sampler: Float[Array, "*rows"], trainer: Float[Array, "*rows"], mask: Bool[Array, "*rows"]) -> Metrics:
    """Two log-probs of the same tokens, which the sampler drew, compared where the mask is True.

    `mismatch`: mean of their distance, in nats. `mismatch_max`: the largest, a mean over batches or micro-batches.
    `mismatch_k1` and `mismatch_k3`: estimates of KL(sampler | trainer) a token, without bias where the sampler's are of
    the distribution that was drawn from: k1 = s - t, k3 = r - 1 - log r with r = exp(t - s), which is never negative
    and varies less (Schulman 2020, "Approximating KL divergence").
    """
    log_ratio = jnp.where(mask, trainer - sampler, 0)
    distance = jnp.abs(log_ratio)
    return {
        "mismatch": Mean.of(distance, mask),
        "mismatch_max": Mean.of(distance.max()),
        "mismatch_k1": Mean.of(-log_ratio, mask),
        "mismatch_k3": Mean.of(jnp.expm1(log_ratio) - log_ratio, mask),
    }


# --- batches ------------------------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], size: int) -> Iterator[tuple[int, list[int]]]:
    """Width and members of batches of at most `size` texts, every text in one of the bucket for its own length.

    So which program computes a text depends on no other text. The longest come first: where one is too long for the
    memory, it shows soon.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for width in sorted({rows.bucket(length) for length in lengths}, reverse=True):
        members = [i for i in order if rows.bucket(lengths[i]) == width]
        for start in range(0, len(members), size):
            yield width, members[start : start + size]


def padded(texts: Sequence[Sequence[int]], size: int) -> Iterator[tuple[list[int], Batch]]:
    """The members of `batches`, and their texts as `size` rows: those that are missing repeat the last one."""
    for width, index in batches([len(text) for text in texts], size):
        yield index, rows.padded([texts[i] for i in index] + [texts[index[-1]]] * (size - len(index)), width)


def placed(definition: Definition, params: Params, mesh: jax.sharding.Mesh | None) -> Params:
    return jax.device_put(params, sharding.places(definition.axes, mesh)) if mesh else params
