"""Chances that a log gave its arms, which a replay has to know beforehand."""

from __future__ import annotations

import numpy as np

from bandit_serve.results.off_policy.learning.logged_part import LoggedPart
from bandit_serve.results.sequence import Floats


class Chances:
    """Chances of the arms in all decisions of a log of K arms, taken in parts.

    `least` float64 (K,) is the smallest share that an arm had where it had one, infinite where it never had. `masked`:
    whether some decisions were without some arms. `in_context`: whether decisions have features. `n` counts decisions,
    and `without` int64 (K,) those in which an arm had no chance. by_request: whether shares go by the unit, as where
    units keep what they were first drawn from.
    """

    def __init__(self, n_arms: int, *, by_request: bool = False) -> None:
        self._by_request = by_request
        self.n = 0
        self.least: Floats = np.full(n_arms, np.inf)
        self.without = np.zeros(n_arms, np.int64)
        self.in_context = False

    def add(self, decided: LoggedPart) -> None:
        shares = decided.shares
        self.n += len(shares)
        if len(shares):
            self.least = np.minimum(self.least, np.where(shares > 0.0, shares, np.inf).min(axis=0))
            self.without += (shares <= 0.0).sum(axis=0)
            self.in_context |= decided.x.shape[1] > 0

    @property
    def masked(self) -> bool:
        return bool(self.without.any())

    @property
    def by_request(self) -> bool:
        """Whether the shares of a decision may go by what was asked, and not by the past alone."""
        return self._by_request or self.in_context or self.masked
