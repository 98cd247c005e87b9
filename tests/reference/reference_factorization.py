"""Biased matrix factorization as its formula reads, in NumPy, one sample a call."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def score(mean, user_biases, item_biases, user_factors, item_factors, user, item):
    """mean + b_u + b_i + p_u·q_i, with what is known when a row is -1."""
    total = float(mean)
    if user >= 0:
        total += float(user_biases[user])
    if item >= 0:
        total += float(item_biases[item])
    if user >= 0 and item >= 0:
        total += float(user_factors[user].astype(np.float64) @ item_factors[item].astype(np.float64))
    return total


def sgd_pass(order: Iterable, p, q, bu, bi, mean, rate, bias_regularization, factor_regularization):
    """One pass over (user, item, rating) in the order given, in place; the mean squared error on the way."""
    squares = []
    for user, item, rating in order:
        error = rating - (mean + bu[user] + bi[item] + p[user] @ q[item])
        squares.append(error * error)
        bu[user] += rate * (error - bias_regularization * bu[user])
        bi[item] += rate * (error - bias_regularization * bi[item])
        old = p[user].copy()
        p[user] += rate * (error * q[item] - factor_regularization * p[user])
        q[item] += rate * (error * old - factor_regularization * q[item])
    return float(np.mean(squares))


def top_k(scores, k, exclude=()):
    """{item id: score} to its k best, by falling score, then by id."""
    left = [(-value, name) for name, value in scores.items() if name not in set(exclude)]
    return [(name, -value) for value, name in sorted(left)[:k]]
