"""Quiet-STaR as one differentiated pass per token, in jax.

The shape of the released code's loop: the rows are repeated for every thought, each pass appends one column of all
positions to a growing cache and a diagonal block to a dense mask, and one gradient goes through all passes. The chosen
tokens are given. Written for any batch (documents, padding), so that it serves the paper's loss and the released one.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Setting:
    lookahead: int
    mix: str
    official: bool  # the windows and means of the released code
    base_weight: float
    beta: float
    temperature: float
    scale: float  # of start and end
    baseline: str = "mean"


def normed(x, scale, eps):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps) * scale.reshape(1, 1, -1)


def rotated(x, position, theta):
    """x [M S G K] at positions [M S]."""
    half = x.shape[-1] // 2
    angle = position[:, :, None, None] * (theta ** (-np.arange(half) / half)).reshape(1, 1, 1, -1)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], -1)


def one_pass(lm, cfg, x, position, mask, cache):
    """All layers over one column of every position; `mask` [M S n*S] covers the n columns so far, this one last."""
    grown = []
    for layer in range(cfg.layers):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], lm["blocks"])
        h = normed(x, block["attention_norm"]["scale"], cfg.norm_eps)
        query = rotated(jnp.einsum("msd,dhk->mshk", h, block["query"]), position, cfg.rope_theta)
        key = rotated(jnp.einsum("msd,dgk->msgk", h, block["key"]), position, cfg.rope_theta)
        value = jnp.einsum("msd,dgk->msgk", h, block["value"])
        if cache is not None:
            key = jnp.concatenate([cache[layer][0], key], axis=1)
            value = jnp.concatenate([cache[layer][1], value], axis=1)
        grown.append((key, value))
        repeats = cfg.heads // cfg.kv_heads
        scores = jnp.einsum("mshk,muhk->mhsu", query, jnp.repeat(key, repeats, axis=2)) / cfg.head_size**0.5
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
        mixed = jnp.einsum("mhsu,muhk->mshk", weights, jnp.repeat(value, repeats, axis=2))
        x = x + jnp.einsum("mshk,hkd->msd", mixed, block["out"])
        h = normed(x, block["mlp_norm"]["scale"], cfg.norm_eps)
        x = x + (jax.nn.silu(h @ block["gate"]) * (h @ block["up"])) @ block["down"]
    return normed(x, lm["norm"]["scale"], cfg.norm_eps), grown


def passes(params, cfg, setting, batch, thoughts):
    """Hidden states [M S D] of the text and of every column; M = B * R rows, thoughts [M S T]."""
    lm, size = params["lm"], batch.tokens.shape[1]
    causal = np.tril(np.ones((size, size), bool))
    documents = np.asarray(batch.segment)
    mask = causal[None] & (documents[:, :, None] == documents[:, None, :])
    inputs = [lm["embedding"][batch.tokens]]
    everywhere = jnp.ones(batch.tokens.shape)[:, :, None]
    inputs += [everywhere * (params["start"] * setting.scale).reshape(1, 1, -1)]
    inputs += [lm["embedding"][thoughts[:, :, t]] for t in range(thoughts.shape[2])]
    inputs += [everywhere * (params["end"] * setting.scale).reshape(1, 1, -1)]
    inputs += [lm["embedding"][jnp.roll(batch.tokens, -n, axis=1)] for n in range(1, setting.lookahead)]
    states, cache = [], None
    for column, x in enumerate(inputs):
        if column:
            diagonal = np.broadcast_to(np.eye(size, dtype=bool)[None], (mask.shape[0], size, size))
            mask = np.concatenate([mask, diagonal], axis=2)
        hidden, cache = one_pass(lm, cfg, x, batch.position + column, mask, cache)
        states.append(hidden)
    return states


def chosen_logprobs(logits, targets):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]


def mixing_weight(mixing, base, thought):
    x = jnp.concatenate([base, thought], axis=-1)
    x = jax.nn.relu(x @ mixing["first"] + mixing["first_bias"].reshape(1, 1, -1))
    x = jax.nn.relu(x @ mixing["second"] + mixing["second_bias"].reshape(1, 1, -1))
    return x @ mixing["last"]


def nonzero_mean(values, where):
    values = jnp.where(where, values, 0.0)
    return values.sum() / (values != 0).sum()


def loss(params, cfg, setting, batch, thoughts):
    """The loss of the batch [B S] and thoughts [B R S T] with baseline `mean` or `log_mean` and the clamp."""
    rows, samples, size, length = thoughts.shape
    batch = jax.tree.map(lambda x: np.repeat(np.asarray(x), samples, axis=0), batch)
    states = passes(params, cfg, setting, batch, thoughts.reshape(rows * samples, size, length))
    table = params["lm"].get("head", params["lm"]["embedding"])
    head = lambda hidden: hidden @ table.T  # noqa: E731
    target = lambda n: jnp.roll(batch.tokens, -n, axis=1)  # noqa: E731

    def is_target(n):
        """[M S]: the n-th token after each position exists, counts and is of the same document."""
        marks = np.zeros(batch.tokens.shape, bool)
        marks[:, : size - n] = batch.mask[:, n:] & (batch.segment[:, n:] == batch.segment[:, : size - n])
        return marks & (batch.segment > 0)

    window = np.broadcast_to((np.arange(size) < size - setting.lookahead - 1)[None], batch.tokens.shape)
    base_next = chosen_logprobs(head(states[0]), target(1))
    reward, mixed_nll, judged = 0.0, 0.0, np.zeros(batch.tokens.shape, bool)
    for n in range(1, setting.lookahead + 1):
        base_hidden, base = jnp.roll(states[0], 1 - n, axis=1), jnp.roll(base_next, 1 - n, axis=1)
        after = states[length + 1 + n]
        w = mixing_weight(params["mixing"], base_hidden, after)
        if setting.mix == "hidden":
            mixed = chosen_logprobs(head((1 - w) * base_hidden + w * after), target(n))
        else:
            mixed = (1 - w[..., 0]) * base + w[..., 0] * chosen_logprobs(head(after), target(n))
        judged = judged | is_target(n)
        reward += jnp.where(is_target(n), mixed - base, 0.0)
        mixed_nll += nonzero_mean(-mixed, is_target(n)) / setting.lookahead
    reward = jax.lax.stop_gradient(reward).reshape(rows, samples, size)
    average = {"mean": lambda x: x.mean(axis=1), "log_mean": lambda x: jnp.log(jnp.exp(x).mean(axis=1))}
    baseline = average[setting.baseline](reward)[:, None]
    advantage = jnp.maximum(reward - baseline, 0).reshape(rows * samples, size)
    divisor = window if setting.official else judged
    policy = 0.0
    for t in range(length):
        logprobs = chosen_logprobs(
            head(states[1 + t]) / setting.temperature, thoughts.reshape(-1, size, length)[..., t]
        )
        policy += jnp.where(divisor, -advantage * logprobs, 0.0).sum() / divisor.sum() / length
    base_nll = nonzero_mean(-base_next, is_target(1))
    return setting.base_weight * base_nll + (1 - setting.base_weight) * mixed_nll + setting.beta * policy
