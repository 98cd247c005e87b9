"""P(arm is best) and expected loss by another method than the kernel's.

An arm's share is written over its own probability p = F_k(x) in place of x, so that no density occurs in it:

    P(k is best) = integral over p in [0, 1] of prod_{j != k} F_j(F_k^-1(p))

The integrand rises from 0 to 1, however sharp or wide the other arms are: cutting where two rules disagree
finds every step, and a piece of width w over which it rises by r is wrong by at most w r.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, special

Vector = NDArray[np.float64]

# Gauss-Lobatto: with nodes at both ends no step can hide between a piece's outermost node and its end.
LAST = np.polynomial.Legendre.basis(9)
NODES = np.concatenate([[-1.0], LAST.deriv().roots(), [1.0]])
WEIGHTS = 2.0 / (90.0 * LAST(NODES) ** 2)
NARROWEST = 1e-11
# SciPy's inverses err; an error of p shifts the integral by no more, as the integrand rises by 1 in all.
ROUND_TRIP = 2e-7


def integral_of_rising(g: Callable[[Vector], Vector], tolerance: float = 1e-12) -> float:
    """The integral over [0, 1] of a function that never falls, cut into pieces until it is smooth on each."""

    def lobatto(low: Vector, high: Vector) -> tuple[Vector, NDArray[np.bool_]]:
        """Each piece's integral, and whether its rise is spread out: a step may please two rules at once."""
        half = 0.5 * (high - low)
        x = low[:, None] + half[:, None] * (1.0 + NODES)
        y = g(x.ravel()).reshape(x.shape)
        steepest = np.max(np.diff(y, axis=1), axis=1)
        rise = y[:, -1] - y[:, 0]
        return half * (y @ WEIGHTS), (steepest <= 0.6 * rise) | (half * rise < 0.1 * tolerance)

    # Graded towards both ends, where a step may hide below the innermost node.
    edges = np.concatenate([[0.0], 0.5 ** np.arange(28, 1, -1), 1.0 - 0.5 ** np.arange(1, 29), [1.0]])
    low, high = edges[:-1], edges[1:]
    whole, spread = lobatto(low, high)
    total = 0.0
    while low.size:
        middle = low + 0.4 * (high - low)
        (left, left_spread), (right, right_spread) = lobatto(low, middle), lobatto(middle, high)
        good = (np.abs(left + right - whole) < tolerance) & spread | (high - low < NARROWEST)
        total += float(np.sum((left + right)[good]))
        bad = ~good
        low, high = np.concatenate([low[bad], middle[bad]]), np.concatenate([middle[bad], high[bad]])
        whole = np.concatenate([left[bad], right[bad]])
        spread = np.concatenate([left_spread[bad], right_spread[bad]])
    return total


def beta_share(alpha: ArrayLike, beta: ArrayLike, k: int) -> float:
    a, b = np.asarray(alpha, float), np.asarray(beta, float)
    others = np.arange(a.size) != k

    def others_below(p: Vector) -> Vector:
        x, y = special.betaincinv(a[k], b[k], p), special.betaincinv(b[k], a[k], 1.0 - p)
        round_trip = np.where(x < 0.5, special.betainc(a[k], b[k], x), 1.0 - special.betainc(b[k], a[k], y))
        assert np.max(np.abs(round_trip - p)) < ROUND_TRIP
        x, y = x[:, None], y[:, None]
        below = np.where(
            x < 0.5, special.betainc(a[others], b[others], x), 1.0 - special.betainc(b[others], a[others], y)
        )
        return np.asarray(np.prod(below, axis=1))

    return integral_of_rising(others_below)


def gamma_share(shape: ArrayLike, rate: ArrayLike, k: int) -> float:
    a, b = np.asarray(shape, float), np.asarray(rate, float)
    others = np.arange(a.size) != k

    def others_below(p: Vector) -> Vector:
        lower = p < 0.5
        x = np.where(lower, special.gammaincinv(a[k], p), special.gammainccinv(a[k], 1.0 - p))
        round_trip = np.where(lower, special.gammainc(a[k], x), 1.0 - special.gammaincc(a[k], x))
        # What is no more than the least double is 0 to all arms that are of another size.
        assert np.max(np.abs(round_trip - p)[x > 0.0], initial=0.0) < ROUND_TRIP
        return np.asarray(np.prod(special.gammainc(a[others], b[others] * (x / b[k])[:, None]), axis=1))

    return integral_of_rising(others_below)


def student_quantile(df: float, p: Vector) -> Vector:
    """From the incomplete beta function's inverse, whichever way round keeps the digits."""
    tail = np.minimum(p, 1.0 - p)
    centre = special.betaincinv(0.5, 0.5 * df, np.abs(1.0 - 2.0 * p))
    outer = special.betaincinv(0.5 * df, 0.5, 2.0 * tail)
    with np.errstate(divide="ignore", over="ignore"):
        squared = np.where(tail > 0.1, centre / (1.0 - centre), (1.0 - outer) / outer)
    return np.asarray(np.sign(p - 0.5) * np.sqrt(df * squared))


def student_share(loc: ArrayLike, scale: ArrayLike, df: ArrayLike, k: int) -> float:
    m, s, v = np.asarray(loc, float), np.asarray(scale, float), np.asarray(df, float)
    others = np.arange(m.size) != k

    def others_below(p: Vector) -> Vector:
        z = student_quantile(v[k], p)
        assert np.max(np.abs(special.stdtr(v[k], z) - p)) < ROUND_TRIP
        with np.errstate(over="ignore"):
            at = (m[k] - m[others] + s[k] * z[:, None]) / s[others]
        return np.asarray(np.prod(special.stdtr(v[others], at), axis=1))

    return integral_of_rising(others_below)


def beta_loss(alpha: ArrayLike, beta: ArrayLike) -> Vector:
    """E[max] = 1 - integral of prod_j F_j over [0, 1], less each mean."""
    a, b = np.asarray(alpha, float), np.asarray(beta, float)
    expected_best = 1.0 - integral_of_rising(lambda x: np.prod(special.betainc(a, b, x[:, None]), axis=1))
    return np.asarray(expected_best - a / (a + b))


def student_loss(loc: ArrayLike, scale: ArrayLike, df: ArrayLike) -> Vector:
    """E[max] = integral of P(max > x) over x > 0 less that of P(max <= x) over x < 0, at x = sinh y."""
    m, s, v = np.asarray(loc, float), np.asarray(scale, float), np.asarray(df, float)

    def above(y: float) -> float:
        exceeds = special.stdtr(v, (m - np.sinh(y)) / s)
        return float(-np.expm1(np.sum(np.log1p(-exceeds))) * np.cosh(y))

    def below(y: float) -> float:
        return float(np.prod(special.stdtr(v, (-np.sinh(y) - m) / s)) * np.cosh(y))

    pieces = np.arange(0.0, 80.0, 2.0)
    expected_best = sum(
        integrate.quad(above, y, y + 2.0, epsabs=1e-12)[0]
        - integrate.quad(below, y, y + 2.0, epsabs=1e-12)[0]
        for y in pieces
    )
    return np.asarray(expected_best - m)
