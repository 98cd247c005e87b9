"""Diagnostics of importance weights: whether a log can answer for another policy."""

from __future__ import annotations

import math

from msgspec import Struct
from numpy.typing import ArrayLike

from bandit_serve.results.off_policy.estimate import error_of_mean
from bandit_serve.results.off_policy.logged import weights

MIN_EFFECTIVE = 100.0
"""Effective samples below which there is a warning."""
MAX_ERRORS = 4.0
"""Standard errors between the mean weight and 1, above which there is a warning."""
MIN_USABLE = 2.0
"""Effective samples below which no interval means anything."""


class Diagnostics(Struct, frozen=True, kw_only=True):
    """Weights of n decisions: their mean, which is 1 but for chance where the log has what the other policy does; its
    standard error; the largest; and (sum w)^2 / sum w^2, the samples that they are worth.
    """

    n: int
    mean_weight: float
    mean_weight_error: float
    max_weight: float
    effective_sample_size: float

    @property
    def warnings(self) -> list[str]:
        """Sentences on what makes estimates doubtful."""
        said = []
        if self.effective_sample_size < MIN_EFFECTIVE:
            said.append(
                f"The {self.n:,} decisions are worth {self.effective_sample_size:,.1f} samples of this policy, fewer "
                f"than {MIN_EFFECTIVE:.0f}."
            )
        off = abs(self.mean_weight - 1.0)
        if off > MAX_ERRORS * self.mean_weight_error and off > 1e-9:
            said.append(
                f"The mean weight is {self.mean_weight:.4g}, more than {MAX_ERRORS:.0f} standard errors from 1: the "
                "log lacks what this policy does, or the propensities are not those that were drawn with."
            )
        return said

    @property
    def refusal(self) -> str | None:
        """Sentence that says why nothing can be estimated; None where something can."""
        if self.max_weight == 0.0:
            return "The policy would have made none of the logged decisions."
        if self.effective_sample_size < MIN_USABLE:
            return (
                f"The {self.n:,} decisions are worth {self.effective_sample_size:.2f} samples of this policy: one of "
                "them has nearly all the weight."
            )
        return None


def diagnostics(propensity: ArrayLike, target: ArrayLike) -> Diagnostics:
    """Diagnostics of n decisions. Raises ValueError for columns that `logged` refuses."""
    weight = weights(propensity, target)
    total, error = float(weight.sum()), error_of_mean(weight)
    return Diagnostics(
        n=len(weight),
        mean_weight=float(weight.mean()),
        mean_weight_error=error if math.isfinite(error) else 0.0,
        max_weight=float(weight.max()),
        effective_sample_size=total * total / float(weight @ weight) if total else 0.0,
    )
