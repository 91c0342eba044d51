"""TRICE on a space of rationales that can be listed: success, its gradient's slope, and every draw with its chance."""

import itertools

import numpy as np
from reference import sequential


def logprobs(params, cfg, batch, prompt):
    """Log-prob of the tokens behind the prompt of every row, [rows], by the sequential reference."""
    lm = sequential.as_numpy(params)
    hidden = sequential.text_hidden({"lm": lm}, cfg, batch)
    tokens = np.asarray(batch.tokens)
    return np.array(
        [
            sum(
                sequential.log_softmax(sequential.logits(lm, hidden[row, at - 1]))[tokens[row, at]]
                for at in range(prompt, tokens.shape[1])
            )
            for row in range(len(tokens))
        ]
    )


def log_success(logp, right):
    """log sum over the right rationales of their probability."""
    return np.log(np.exp(logp)[list(right)].sum())


def draws(logp, right):
    """Every (new sample of each question, memory of each question) with its chance: samples are the policy's, memories
    its posterior given the right answer, where a chain that ran for long is.

    Args:
        logp: [questions][rationales]; right: [questions] indices of the right ones.
    """
    chance = [np.exp(one) for one in logp]
    posterior = [{z: one[z] / one[list(good)].sum() for z in good} for one, good in zip(chance, right, strict=True)]
    for sampled in itertools.product(*(range(len(one)) for one in chance)):
        for memory in itertools.product(*right):
            p = np.prod([one[z] for one, z in zip(chance, sampled, strict=True)])
            yield sampled, memory, p * np.prod([one[z] for one, z in zip(posterior, memory, strict=True)])
