"""Overlap of a policy with the log: whether what it does was ever tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats

MAX_UNTRIED = 1e-9
"""Probability that rounding may leave on an arm without a chance."""


class Overlap(Struct, frozen=True, kw_only=True):
    """Mean probability with which a policy would choose what the log gave no chance: in all, and by arm, (K,)."""

    untried: float
    by_arm: tuple[float, ...]

    def refusal(self, arms: Sequence[str]) -> str | None:
        """Sentence that says why the log can not answer; None where it can."""
        if self.untried <= MAX_UNTRIED:
            return None
        worst = int(np.argmax(self.by_arm))
        return (
            f"The policy would choose with probability {self.untried:.3g} what the log gave no chance (most of it the "
            f"arm {arms[worst]!r}): nothing is known of that."
        )


def overlap(shares: Floats, target: Floats, rows: NDArray[np.intp] | None = None) -> Overlap:
    """Overlap of `target` float64 (n, K) or (K,) with the logged share vectors.

    shares: float64 (n, K); with `rows` (n,) its distinct rows (V, K), and for each decision which of them it had.
    """
    logged = shares if rows is None else shares[rows]
    missed = np.where(logged > 0.0, 0.0, np.broadcast_to(target, logged.shape)).mean(axis=0)
    return Overlap(untried=float(missed.sum()), by_arm=tuple(missed.tolist()))
