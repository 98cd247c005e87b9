"""Drawing of arms from a share vector, with or without a holdout."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.folds._assignment import Rendezvous
from bandit_serve.policies._draw import ShareSampler, choose_one

Vector = NDArray[np.float64]


class Draw:
    """Share vector that arms are drawn from. The vector in `shares` is the one that is logged.

    With a holdout h, `shares` is the mixture (1 - h) · v + h/E over the E arms with a positive share: a decision is in
    the holdout with probability h. Its arm is then drawn evenly, and otherwise from v.
    """

    __slots__ = (
        "_even",
        "_even_sampler",
        "_learned",
        "_sampler",
        "holdout",
        "propensities",
        "shares",
        "used",
    )

    def __init__(self, shares: Vector, holdout: float = 0.0, *, once: bool = False) -> None:
        """shares: float64 (K,), made read-only. once: only `arm` is called, about once, so no lookup table is built."""
        shares.flags.writeable = False
        self.shares = shares
        self.propensities: list[float] = shares.tolist()
        self.used = False
        self.holdout = holdout
        self._learned = shares
        self._sampler: ShareSampler | None = None
        self._even_sampler: ShareSampler | None = None
        if holdout:
            self._even = (shares > 0.0) / np.count_nonzero(shares)
            self._learned = _unmixed(shares, self._even, holdout)
        if not once:
            self._sampler = ShareSampler(self._learned)
            self._even_sampler = ShareSampler(self._even) if holdout else None

    def arm(self, rendezvous: Rendezvous, unit: int, held_out: bool = False) -> int:
        """Draws an arm by a unit's hash, or at random if the hash is 0."""
        shares, sampler = (self._even, self._even_sampler) if held_out else (self._learned, self._sampler)
        if unit:
            return rendezvous.arm(unit, shares)
        return choose_one(shares) if sampler is None else sampler.choose()

    def arms(
        self,
        rendezvous: Rendezvous,
        units: NDArray[np.uint64] | None,
        n: int,
        held_out: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.uint16]:
        """Draws n arms, by the hashes in `units`, uint64 (n,), or at random without them.

        held_out: bool (n,), the decisions in the holdout; without it, none are.
        """
        arms = np.empty(n, np.uint16)
        rows: list[tuple[Any, Vector, ShareSampler | None]] = [(slice(None), self._learned, self._sampler)]
        if held_out is not None:
            rows = [(~held_out, self._learned, self._sampler), (held_out, self._even, self._even_sampler)]
        for mine, shares, sampler in rows:
            if units is not None:
                arms[mine] = rendezvous.arms(units[mine], shares)
            else:
                assert sampler is not None
                arms[mine] = sampler.choose_many(len(arms[mine]))
        return arms


def _unmixed(shares: Vector, even: Vector, holdout: float) -> Vector:
    """Solves `shares` = (1 - holdout) · v + holdout · even for v. Rounding errors are scaled out, so v sums to 1."""
    if holdout >= 1.0:
        return even
    learned = np.maximum(shares - holdout * even, 0.0)
    return np.asarray(learned / learned.sum())
