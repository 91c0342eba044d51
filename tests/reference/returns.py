"""Returns, advantages and group baselines by loops over single tokens."""

import numpy as np


def gae(reward, value, mask, gamma, lam):
    out = np.zeros(reward.shape)
    for b in range(reward.shape[0]):
        places = np.flatnonzero(mask[b])
        for t in places:
            for k, s in enumerate(places[places >= t]):
                after = value[b, s + 1] if s + 1 < mask.shape[1] and mask[b, s + 1] else 0.0
                out[b, t] += (gamma * lam) ** k * (reward[b, s] + gamma * after - value[b, s])
    return out


def discounted(reward, mask, gamma):
    out = np.zeros(reward.shape)
    for b in range(reward.shape[0]):
        places = np.flatnonzero(mask[b])
        for t in places:
            out[b, t] = sum(gamma ** (s - t) * reward[b, s] for s in places[places >= t])
    return out


def group_advantage(reward, leave_one_out, spread, epsilon):
    out = np.zeros(reward.shape)
    for q, group in enumerate(reward):
        for i, own in enumerate(group):
            others = np.delete(group, i) if leave_one_out else group
            out[q, i] = own - sum(others) / len(others)
            if spread != "none":
                squares = sum((one - sum(group) / len(group)) ** 2 for one in group)
                out[q, i] /= (squares / (len(group) - (spread == "sample"))) ** 0.5 + epsilon
    return out
