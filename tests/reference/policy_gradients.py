"""Policy gradients by loops: rollouts are lists of log-probs of sampled tokens, a list for each text."""

import math


def kl(estimate, now, reference):
    r = now - reference
    return {"k1": r, "k2": r * r / 2, "k3": math.exp(-r) - 1 + r}[estimate]


def group_advantages(rewards, samples, leave_one_out=False, scale="none", epsilon=0.0):
    found = []
    for start in range(0, len(rewards), samples):
        group = rewards[start : start + samples]
        mean = sum(group) / samples
        for i, reward in enumerate(group):
            others = [other for j, other in enumerate(group) if j != i]
            difference = reward - (sum(others) / len(others) if leave_one_out else mean)
            if scale in ("population", "sample"):
                count = samples - (scale == "sample")
                difference /= math.sqrt(sum((other - mean) ** 2 for other in group) / count) + epsilon
            if scale == "mean":
                difference = difference / (mean + epsilon) if mean > 0 else 0.0
            found.append(difference if len(set(group)) > 1 else 0.0)
    return found


def surrogate(now, old, advantages, low=None, high=None, sequence=False, dual=None):
    """The loss of every token."""
    rows = []
    for row, before, earned in zip(now, old, advantages, strict=True):
        logs = [a - b for a, b in zip(row, before, strict=True)]
        if sequence and logs:
            logs = [sum(logs) / len(logs)] * len(logs)
        losses = []
        for log, advantage in zip(logs, earned, strict=True):
            ratio = math.exp(log)
            clipped = max(ratio, 1 - low) if low is not None else ratio
            clipped = min(clipped, 1 + high) if high is not None else clipped
            value = min(ratio * advantage, clipped * advantage)
            if dual is not None and advantage < 0:
                value = max(value, dual * advantage)
            losses.append(-value)
        rows.append(losses)
    return rows


def aggregated(rows, aggregation, constant=1.0):
    rows = [row for row in rows if row]
    if aggregation == "token_mean":
        tokens = [loss for row in rows for loss in row]
        return sum(tokens) / len(tokens)
    if aggregation == "sequence_mean_token_mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(sum(row) / constant for row in rows) / len(rows)


def whitened(rows):
    tokens = [value for row in rows for value in row]
    mean = sum(tokens) / len(tokens)
    variance = sum((value - mean) ** 2 for value in tokens) / len(tokens)
    return [[(value - mean) / math.sqrt(variance + 1e-8) for value in row] for row in rows]


def to_go(rows):
    return [[sum(row[i:]) for i in range(len(row))] for row in rows]


def gae(rewards, values, gamma, lam):
    found = []
    for row, value in zip(rewards, values, strict=True):
        following = [*value[1:], 0.0]
        deltas = [r + gamma * after - v for r, v, after in zip(row, value, following, strict=True)]
        found.append([sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[i:])) for i in range(len(row))])
    return found


def value_errors(now, old, returns, clip):
    return [
        [
            max((v - r) ** 2, (min(max(v, o - clip), o + clip) - r) ** 2) if clip else (v - r) ** 2
            for v, o, r in zip(*each, strict=True)
        ]
        for each in zip(now, old, returns, strict=True)
    ]
