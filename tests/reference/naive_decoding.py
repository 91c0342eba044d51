"""Generation the slow and obvious way, in numpy float64: the whole text is read again for every new token.

The next token is the arg-max of masked logits / temperature plus Gumbel noise; the noise is a function of the row's key
and of the number of the new token. `likely` sorts the vocabulary and walks down the sorted list.
"""

from dataclasses import dataclass

import jax
import numpy as np
from reference import sequential


@dataclass
class Row:
    tokens: list[int]
    logprobs: list[float]  # the model's own
    behaviour: list[float]  # of what was drawn from
    margins: list[float]
    finished: bool


def noise(key, step, vocab):
    drawing = jax.random.split(jax.random.fold_in(key, step))[1]
    return np.asarray(jax.random.gumbel(drawing, (vocab,), "float64"))


def likely(logits, top_k, top_p):
    """Ids of the tokens that may be drawn: the top_k (0: all), of these the fewest that have top_p; ties are kept."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if top_k:
        last = logits[order[min(top_k, len(order)) - 1]]
        order = [token for token in order if logits[token] >= last]
    weights = {token: np.exp(logits[token] - logits[order[0]]) for token in order}
    total, kept = sum(weights.values()), []
    for token in order:
        reached = sum(weights[before] for before in kept) / total >= top_p
        if reached and top_p < 1 and weights[token] < weights[kept[-1]]:
            break
        kept.append(token)
    return kept


def generate(params, cfg, prompt, key, sampling):
    """One row."""
    params, text = sequential.as_numpy(params), list(prompt)
    row = Row([], [], [], [], False)
    while len(row.tokens) < sampling.max_new_tokens and not row.finished:
        hidden = sequential.hidden_states(params, cfg, params["embedding"][text])[-1]
        logits = sequential.logits(params, hidden)
        token, behaviour = choose(logits, key, len(row.tokens), sampling)
        allowed = sorted(value for id, value in enumerate(logits) if id not in sampling.forbidden_ids)
        row.tokens.append(token)
        row.logprobs.append(sequential.log_softmax(logits)[token])
        row.behaviour.append(behaviour)
        row.margins.append(allowed[-1] - allowed[-2])
        row.finished = token in sampling.stop_ids
        text.append(token)
    return row


def choose(logits, key, step, sampling):
    """A token, and its log-prob where it was drawn."""
    logits = np.array(logits)
    logits[list(sampling.forbidden_ids)] = -np.inf
    if sampling.temperature == 0:
        return int(np.argmax(logits)), 0.0
    logits = logits / sampling.temperature
    kept = likely(logits, sampling.top_k, sampling.top_p)
    masked = np.full(len(logits), -np.inf)
    masked[kept] = logits[kept]
    token = int(np.argmax(masked + noise(key, step, len(logits))))
    return token, sequential.log_softmax(masked)[token]
