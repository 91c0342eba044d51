"""Quiet-STaR the slow and obvious way, in numpy float64: every thought of every position is one plain sequence.

`hidden_states` is a Llama forward of one sequence, position by position, without batch, cache, packing or padding. A
thought of position j is judged by running the literal sequence

    x_0 ... x_j  start  t_1 ... t_T  end  x_{j+1} ... x_{j+N-1}

of j's document through it and reading the predictions. Entries without meaning (no target) are NaN.
"""

from dataclasses import dataclass

import jax
import numpy as np


@dataclass
class Talk:
    text: np.ndarray  # [B S-1]
    base: np.ndarray  # [B A N]
    mixed: np.ndarray  # [B R A N]
    thought: np.ndarray  # [B R A T]
    weight: np.ndarray  # [B R A N]


def as_numpy(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def rms_norm(x, scale, eps):
    return x / np.sqrt(np.mean(x**2) + eps) * scale


def rotate(x, position, theta):
    """Turn the pair (x[i], x[i + K/2]) by the angle position * theta^(-2i/K), as a complex number."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * theta ** (-2 * np.arange(half) / len(x)))
    return np.concatenate([turned.real, turned.imag])


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def silu(x):
    return x / (1 + np.exp(-x))


def attend(block, cfg, inputs):
    """Causal grouped-query attention of a list of normed inputs, at positions 0, 1, 2, ..."""
    outputs = []
    keys = [
        [rotate(x @ block["key"][:, g], s, cfg.rope_theta) for g in range(cfg.kv_heads)] for s, x in enumerate(inputs)
    ]
    values = [[x @ block["value"][:, g] for g in range(cfg.kv_heads)] for x in inputs]
    for s, x in enumerate(inputs):
        out = np.zeros(cfg.width)
        for h in range(cfg.heads):
            g = h // (cfg.heads // cfg.kv_heads)
            query = rotate(x @ block["query"][:, h], s, cfg.rope_theta)
            weights = softmax(np.array([query @ keys[u][g] for u in range(s + 1)]) / np.sqrt(cfg.head_size))
            out += sum(weights[u] * values[u][g] for u in range(s + 1)) @ block["out"][h]
        outputs.append(out)
    return outputs


def hidden_states(lm, cfg, embedded):
    """Final hidden states [n D] of the sequence of embeddings [n D]."""
    xs = list(embedded)
    for layer in range(cfg.layers):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], lm["blocks"])
        normed = [rms_norm(x, block["attention_norm"]["scale"], cfg.norm_eps) for x in xs]
        xs = [x + out for x, out in zip(xs, attend(block, cfg, normed), strict=True)]
        for s, x in enumerate(xs):
            normed = rms_norm(x, block["mlp_norm"]["scale"], cfg.norm_eps)
            xs[s] = x + (silu(normed @ block["gate"]) * (normed @ block["up"])) @ block["down"]
    return np.array([rms_norm(x, lm["norm"]["scale"], cfg.norm_eps) for x in xs])


def logits(lm, hidden):
    return lm.get("head", lm["embedding"]) @ hidden


def document(batch, row, position):
    """First and one-past-last position of the document that covers a position."""
    segment = np.asarray(batch.segment)[row]
    first = last = position
    while first > 0 and segment[first - 1] == segment[position]:
        first -= 1
    while last < len(segment) and segment[last] == segment[position]:
        last += 1
    return first, last


def real_anchors(batch, anchors):
    """(row, slot, position) of the anchors that lie in a document."""
    segment = np.asarray(batch.segment)
    found = np.ndenumerate(np.asarray(anchors))
    return [(row, slot, int(position)) for (row, slot), position in found if segment[row, position] > 0]


def counts(batch, anchors, lookahead):
    """[B A N]: the n-th token after the anchor exists, is a target, and lies in the anchor's document."""
    marks = np.zeros((*anchors.shape, lookahead), bool)
    for row, slot, position in real_anchors(batch, anchors):
        last = document(batch, row, position)[1]
        for n in range(lookahead):
            after = position + 1 + n
            marks[row, slot, n] = after < last and bool(np.asarray(batch.mask)[row, after])
    return marks


def sequence(params, scale, batch, row, position, thought, true):
    """Embeddings of the document up to `position`, start, the tokens of `thought`, and, unless `true` is None, end and
    the tokens of `true`."""
    table = params["lm"]["embedding"]
    first = document(batch, row, position)[0]
    rows = [table[t] for t in np.asarray(batch.tokens)[row, first : position + 1]]
    rows += [params["start"] * scale] + [table[t] for t in thought]
    if true is not None:
        rows += [params["end"] * scale] + [table[t] for t in true]
    return np.array(rows)


def gumbel_noise(key, slot, shape):
    """The noise that `ops.vocabulary.sample` documents: a function of the pass's key and the anchor's slot."""
    return np.asarray(jax.random.gumbel(jax.random.fold_in(key, slot), shape, "float64"))


def sample(params, cfg, scale, batch, anchors, key, thought_len, num_thoughts, temperature=1.0, forbidden=()):
    """Tokens and log-probs [B R A T] of thoughts, each grown by itself from the plain sequence before it."""
    params, rows = as_numpy(params), np.asarray(anchors).shape[0]
    shape = (rows, num_thoughts, anchors.shape[1], thought_len)
    tokens, logprobs = np.full(shape, -1), np.full(shape, np.nan)
    keys = jax.random.split(key, thought_len)
    for row, slot, position in real_anchors(batch, anchors):
        noise = [gumbel_noise(key, slot, (rows, num_thoughts, cfg.vocab)) for key in keys]
        for r in range(num_thoughts):
            for t in range(thought_len):
                embedded = sequence(params, scale, batch, row, position, tokens[row, r, slot, :t], None)
                scores = logits(params["lm"], hidden_states(params["lm"], cfg, embedded)[-1])
                scores[list(forbidden)] = -np.inf
                scores = scores / (temperature or 1.0)
                chosen = np.argmax(scores + noise[t][row, r] if temperature else scores)
                tokens[row, r, slot, t] = chosen
                logprobs[row, r, slot, t] = log_softmax(scores)[chosen]
    return tokens, logprobs


@dataclass
class Mixing:
    kind: str = "raw"
    side: str = "thought"
    start: float = 0.0  # share of the thought where the head outputs zero


def share_of_thought(params, base, thought, how):
    """The head makes a weight w of one side; the other side gets 1 - w."""
    if how.kind == "none":
        return 1.0
    head = params["mixing"]
    x = np.maximum(np.concatenate([base, thought]) @ head["first"] + head["first_bias"], 0)
    x = np.maximum(x @ head["second"] + head["second_bias"], 0)
    out = float((x @ head["last"])[0])
    first = how.start if how.side == "thought" else 1 - how.start
    w = first + out if how.kind == "raw" else 1 / (1 + (1 - first) / first * np.exp(-out))
    return w if how.side == "thought" else 1 - w


def text_hidden(params, cfg, batch):
    """Hidden states [B S D] of the documents, each run by itself; padding is NaN."""
    tokens, segment = np.asarray(batch.tokens), np.asarray(batch.segment)
    hidden = np.full((*tokens.shape, cfg.width), np.nan)
    for row in range(tokens.shape[0]):
        for position in range(tokens.shape[1]):
            first, last = document(batch, row, position)
            if segment[row, position] > 0 and position == first:
                embedded = params["lm"]["embedding"][tokens[row, first:last]]
                hidden[row, first:last] = hidden_states(params["lm"], cfg, embedded)
    return hidden


def talk(params, cfg, scale, batch, anchors, thoughts, lookahead, mix, temperature=1.0, forbidden=(), how=Mixing()):  # noqa: B008
    """What `thoughts.talk` computes, for thoughts given as tokens [B R A T]."""
    params, tokens, thoughts = as_numpy(params), np.asarray(batch.tokens), np.asarray(thoughts)
    lm, (rows, samples, slots, length) = params["lm"], thoughts.shape
    hidden = text_hidden(params, cfg, batch)
    marks = counts(batch, anchors, lookahead)
    found = Talk(
        text=np.full((rows, tokens.shape[1] - 1), np.nan),
        base=np.full((rows, slots, lookahead), np.nan),
        mixed=np.full((rows, samples, slots, lookahead), np.nan),
        thought=np.full(thoughts.shape, np.nan),
        weight=np.full((rows, samples, slots, lookahead), np.nan),
    )
    for row, s, position in real_anchors(batch, np.broadcast_to(np.arange(tokens.shape[1] - 1), found.text.shape)):
        if position + 1 < document(batch, row, position)[1]:
            found.text[row, s] = log_softmax(logits(lm, hidden[row, position]))[tokens[row, position + 1]]
    for row, slot, position in real_anchors(batch, anchors):
        first, last = document(batch, row, position)
        for r in range(samples):
            thought, before = thoughts[row, r, slot], position + 1 - first
            true = tokens[row, position + 1 : min(position + lookahead, last)]
            embedded = sequence(params, scale, batch, row, position, thought, true)
            states = hidden_states(lm, cfg, embedded)
            for t in range(length):
                scores = logits(lm, states[before + t]) / temperature
                scores[list(forbidden)] = -np.inf
                found.thought[row, r, slot, t] = log_softmax(scores)[thought[t]]
            for n in np.flatnonzero(marks[row, slot]):
                base, after = hidden[row, position + n], states[before + 1 + length + n]
                w = share_of_thought(params, base, after, how)
                target = tokens[row, position + 1 + n]
                before_thinking = log_softmax(logits(lm, base))[target]
                if mix == "hidden":
                    mixed = log_softmax(logits(lm, (1 - w) * base + w * after))[target]
                else:
                    mixed = (1 - w) * before_thinking + w * log_softmax(logits(lm, after))[target]
                found.base[row, slot, n] = before_thinking
                found.mixed[row, r, slot, n] = mixed
                found.weight[row, r, slot, n] = w
    return found


def credit(talk, marks, baseline, clamp):
    """Rewards and advantages [B R A]."""
    rows, samples, slots = talk.mixed.shape[:3]
    reward, advantage = np.zeros((rows, samples, slots)), np.zeros((rows, samples, slots))
    for row, r, slot in np.ndindex(rows, samples, slots):
        reward[row, r, slot] = sum(
            talk.mixed[row, r, slot, n] - talk.base[row, slot, n] for n in np.flatnonzero(marks[row, slot])
        )
    for row, r, slot in np.ndindex(rows, samples, slots):
        mine, all_of_them = reward[row, r, slot], reward[row, :, slot]
        there = np.flatnonzero(marks[row, slot])
        likelihoods = [np.exp(talk.mixed[row, q, slot, there].sum()) for q in range(samples)]
        without = talk.base[row, slot, there].sum()
        others = [reward[row, q, slot] for q in range(samples) if q != r]
        against = {
            "base": lambda: 0.0,
            "mean": lambda a=all_of_them: a.mean(),
            "log_mean": lambda p=likelihoods, q=without: np.log(np.mean(p)) - q,
            "leave_one_out": lambda o=others: np.mean(o),
        }
        gain = mine - against[baseline]()
        advantage[row, r, slot] = max(gain, 0.0) if clamp else gain
    return reward, advantage


def loss_terms(talk, batch, marks, advantage, weights=1.0):
    """Base NLL, mixed NLL and REINFORCE loss, each the mean over what counts; `weights` [B R A T] of the tokens."""
    scored = weights * talk.thought
    rows, samples, slots, lookahead = talk.mixed.shape
    targets = np.asarray(batch.mask)[:, 1:] & ~np.isnan(talk.text)
    base = np.mean([-talk.text[at] for at in zip(*np.nonzero(targets), strict=True)])
    mixed = np.mean(
        [
            np.mean([-talk.mixed[b, r, a, n] for b, r, a in np.ndindex(rows, samples, slots) if marks[b, a, n]])
            for n in range(lookahead)
        ]
    )
    policy = np.mean(
        [
            -advantage[b, r, a] * scored[b, r, a].mean()
            for b, r, a in np.ndindex(rows, samples, slots)
            if marks[b, a].any()
        ]
    )
    return base, mixed, policy
