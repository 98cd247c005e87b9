"""Formulas of the policies from their papers, in NumPy, without any code of the package."""

import math

import numpy as np


def ucb1_index(mean, n, trials):
    """Auer, Cesa-Bianchi & Fischer 2002, Figure 1."""
    return mean + math.sqrt(2.0 * math.log(trials) / n)


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


def kl_ucb_index(mean, bound):
    """Garivier & Cappé 2011: the largest q in [mean, 1] with KL(mean, q) <= bound, by bisection."""
    mean, bound = np.broadcast_arrays(np.asarray(mean, float), np.asarray(bound, float))
    low, high = mean.copy(), np.ones(mean.shape)
    for _ in range(60):
        q = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            first = np.where(mean > 0, mean * np.log(mean / q), 0.0)
            second = np.where(mean < 1, (1 - mean) * np.log((1 - mean) / (1 - q)), 0.0)
        inside = first + second <= bound
        low, high = np.where(inside, q, low), np.where(inside, high, q)
    return low


class Textbook:
    """A policy as it stands in its paper, for `runs` runs abreast; each arm is tried once first unless it samples."""

    tries_first = True

    def __init__(self, runs, n_arms, rng):
        self.rng, self.everyone = rng, np.arange(runs)
        self.n, self.total, self.squares = (np.zeros((runs, n_arms)) for _ in range(3))

    def choose(self):
        step = int(self.n[0].sum())
        if self.tries_first and step < self.n.shape[1]:
            return np.full(len(self.n), step)
        return self.chosen()

    def update(self, arms, rewards):
        self.n[self.everyone, arms] += 1
        self.total[self.everyone, arms] += rewards
        self.squares[self.everyone, arms] += rewards**2

    @property
    def means(self):
        return self.total / self.n

    def largest(self, values):
        """A tie is drawn evenly: the first of those that tie would often be the best arm of a test."""
        best = values == values.max(axis=1, keepdims=True)
        return (best * (1.0 + self.rng.random(values.shape))).argmax(axis=1)

    def drawn(self, shares):
        return (self.rng.random((len(shares), 1)) < shares.cumsum(axis=1)).argmax(axis=1)


class Thompson(Textbook):
    """Chapelle & Li 2011, Algorithm 2."""

    tries_first = False

    def draws(self, rows=slice(None)):
        return self.rng.beta(1 + self.total[rows], 1 + self.n[rows] - self.total[rows])

    def chosen(self):
        return self.draws().argmax(axis=1)


class NormalThompson(Thompson):
    """Murphy 2007, equations 85-89 and 99, with the package's default prior."""

    def draws(self, rows=slice(None)):
        mean, kappa, alpha, beta = 0.0, 1e-4, 0.5, 1.0
        n, total = self.n[rows], self.total[rows]
        average = total / np.maximum(n, 1)
        spread = np.maximum(self.squares[rows] - n * average**2, 0.0)
        beta_n = beta + 0.5 * spread + kappa * n * (average - mean) ** 2 / (2 * (kappa + n))
        scale = np.sqrt(beta_n / ((alpha + n / 2) * (kappa + n)))
        location = (kappa * mean + total) / (kappa + n)
        return location + scale * self.rng.standard_t(2 * (alpha + n / 2))


class TopTwo:
    """Russo 2016, Algorithm 3, with beta 1/2; after 50 draws in vain the second of the last draw challenges."""

    def chosen(self):
        leader = self.draws().argmax(axis=1)
        arms = leader.copy()
        waiting = np.flatnonzero(self.rng.random(len(leader)) >= 0.5)
        for attempt in range(50):
            if not len(waiting):
                break
            draws = self.draws(waiting)
            if attempt == 49:
                draws[np.arange(len(waiting)), leader[waiting]] = -np.inf
            arms[waiting] = draws.argmax(axis=1)
            waiting = waiting[arms[waiting] == leader[waiting]]
        return arms


class TopTwoThompson(TopTwo, Thompson):
    pass


class NormalTopTwoThompson(TopTwo, NormalThompson):
    pass


class UCB1(Textbook):
    """Auer, Cesa-Bianchi & Fischer 2002, Figure 1."""

    def chosen(self):
        return self.largest(self.means + np.sqrt(2 * np.log(self.n[0].sum()) / self.n))


class KLUCB(Textbook):
    """Garivier & Cappé 2011, Algorithm 1, with c = 0."""

    def chosen(self):
        return self.largest(kl_ucb_index(self.means, np.log(self.n[0].sum()) / self.n))


class EpsilonGreedy(Textbook):
    """Sutton & Barto 1998, section 2.2, with epsilon 0.1."""

    def chosen(self):
        explored = self.rng.random(len(self.n)) < 0.1
        anywhere = self.rng.integers(0, self.n.shape[1], len(self.n))
        return np.where(explored, anywhere, self.largest(self.means))


class Softmax(Textbook):
    """Sutton & Barto 1998, equation 2.2, with temperature 0.05."""

    def chosen(self):
        weights = np.exp((self.means - self.means.max(axis=1, keepdims=True)) / 0.05)
        return self.drawn(weights / weights.sum(axis=1, keepdims=True))


class Exp3(Textbook):
    """Auer, Cesa-Bianchi, Freund & Schapire 2002, Figure 1, with gamma by Corollary 3.2 for the time so far."""

    tries_first = False

    def chosen(self):
        n_arms, time = self.n.shape[1], max(1.0, self.n[0].sum())
        gamma = min(1.0, math.sqrt(n_arms * math.log(n_arms) / ((math.e - 1) * time)))
        weights = np.exp(gamma * (self.squares - self.squares.max(axis=1, keepdims=True)) / n_arms)
        self.shares = (1 - gamma) * weights / weights.sum(axis=1, keepdims=True) + gamma / n_arms
        return self.drawn(self.shares)

    def update(self, arms, rewards):
        """The estimated gains stand where others have sums of squares."""
        self.n[self.everyone, arms] += 1
        self.total[self.everyone, arms] += rewards
        self.squares[self.everyone, arms] += rewards / self.shares[self.everyone, arms]


def regrets(textbook, means, horizon, runs, seed, sigma=None):
    """Each run's regret: Bernoulli rewards, or Normal ones of standard deviation `sigma`."""
    rng = np.random.default_rng(seed)
    means = np.asarray(means)
    policy = textbook(runs, means.size, rng)
    regret = np.zeros(runs)
    for _ in range(horizon):
        arms = policy.choose()
        if sigma is None:
            rewards = (rng.random(runs) < means[arms]).astype(float)
        else:
            rewards = means[arms] + sigma * rng.standard_normal(runs)
        policy.update(arms, rewards)
        regret += means.max() - means[arms]
    return regret
