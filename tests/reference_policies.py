"""The formulas of the policies as they stand in the papers, in NumPy, with nothing from the package."""

import math

import numpy as np


def ucb1_index(mean, n, trials):
    """Auer, Cesa-Bianchi & Fischer 2002, Figure 1."""
    return mean + math.sqrt(2.0 * math.log(trials) / n)


def ucb1_shares(n, total):
    untried = n == 0
    if untried.any():
        return untried / untried.sum()
    index = [ucb1_index(t / k, k, n.sum()) for t, k in zip(total, n, strict=True)]
    best = np.array(index) == max(index)
    return best / best.sum()


def normal_posterior(rewards, mean, kappa, alpha, beta):
    """Murphy 2007, equations 85-89, from the raw rewards of one arm: location, scale, degrees of freedom."""
    n = len(rewards)
    average = np.mean(rewards) if n else 0.0
    kappa_n = kappa + n
    mean_n = (kappa * mean + n * average) / kappa_n
    alpha_n = alpha + n / 2
    beta_n = beta + 0.5 * np.sum((np.asarray(rewards) - average) ** 2)
    beta_n += kappa * n * (average - mean) ** 2 / (2 * kappa_n)
    return mean_n, math.sqrt(beta_n / (alpha_n * kappa_n)), 2 * alpha_n


def capped(shares, cap):
    """Water-filling as one equation, Σ min(cap, level · share) = 1, by bisection of log level."""
    cap = max(cap, 1 / len(shares))
    positive = shares > 0
    if positive.sum() * cap < 1:
        rest = (1 - positive.sum() * cap) / max(1, (~positive).sum())
        return np.where(positive, cap, rest)
    low, high = -1.0, 700.0
    for _ in range(200):
        level = (low + high) / 2
        if np.minimum(cap, math.exp(level) * shares).sum() < 1:
            low = level
        else:
            high = level
    return np.minimum(cap, math.exp(low) * shares)


def thompson_regret(means, horizon, runs, seed):
    """Mean regret of Beta-Bernoulli Thompson sampling (Chapelle & Li 2011, Algorithm 2), all runs abreast."""
    rng = np.random.default_rng(seed)
    means = np.asarray(means)
    wins, losses = np.ones((runs, means.size)), np.ones((runs, means.size))
    everyone = np.arange(runs)
    regret = np.zeros(runs)
    for _ in range(horizon):
        arms = rng.beta(wins, losses).argmax(axis=1)
        won = rng.random(runs) < means[arms]
        wins[everyone, arms] += won
        losses[everyone, arms] += ~won
        regret += means.max() - means[arms]
    return regret
