"""Guardrails: whether an arm is shown to be worse than control, or not worse by more than a margin, at any time.

Both are one-sided (Waudby-Smith et al., arXiv 2103.06476v7, eq. 134): `safe`, where the lower end of the gain on
control is above minus the margin; `harm`, where the upper end on the other side is below 0. Of K arms, each of the
K - 1 that are compared with control is at level alpha/(K - 1).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from bandit_serve.experiments.metric import Metric
from bandit_serve.results.estimates import Estimates
from bandit_serve.results.finite import finite
from bandit_serve.results.harm_evidence import gains, log_e_of_harm
from bandit_serve.results.sequence import Floats

GuardrailVerdict = Literal["safe", "harm", "undecided"]
Arms = NDArray[np.bool_]


class GuardrailResult(Struct, frozen=True):
    """Verdict on one arm. `margin` is the loss that is allowed, 0 or more, in units of the metric; null where it is
    relative to a mean of control that is not known. `bound` is the difference to control that is as bad as can be, at
    level 1 - alpha/(K - 1): the verdict is `safe` where it is within the margin.
    """

    verdict: GuardrailVerdict
    margin: float | None
    bound: float | None


class Guard:
    """Every arm against control on a guardrail, arrays of the shape of the sums', (K,) or (K, R).

    Where an arm is not `compared`, numbers mean nothing.

    `harm`: it is shown at some look that the arm is worse than control, and it still looks worse. An arm that is now
    shown to be within the margin is `safe` all the same. `log_e`: the evidence of harm.
    """

    def __init__(
        self,
        metric: Metric,
        estimates: Estimates,
        valid: bool,
        evidence: Floats,
        peers: NDArray[np.int64],
        alpha: float,
    ) -> None:
        """`evidence` (K,): the largest log e-values of harm so far; `peers` int64 (K,): as in `Evidence`."""
        assert metric.margin is not UNSET
        self.stated = metric.margin
        self.alpha = alpha
        self.parts = np.maximum(peers - 1, 1).reshape(-1, *(1,) * (evidence.ndim - 1))
        self.compared: Arms = estimates.comparable & valid
        self.sign = 1.0 if metric.goal == "maximize" else -1.0
        self.controls = estimates.controls.mean
        self.gain = gains(estimates, metric)
        self.margin, self.slack = self._margin(estimates)
        self.safe: Arms = self.compared & (self.slack > 0.0)
        self.log_e = np.maximum(evidence, log_e_of_harm(estimates, metric, alpha))
        shown = self.log_e >= np.log(self.parts) - math.log(alpha)
        self.harm: Arms = self.compared & shown & (self.gain.total < 0.0) & ~self.safe

    def _margin(self, estimates: Estimates) -> tuple[Floats, Floats]:
        """Margins, and the lower ends of gain plus margin.

        A relative one is estimated, too: its variance, and that it goes with the gain, are counted in.
        """
        margin, variance = self.stated, self.gain.variance_of_mean
        if margin.absolute is not UNSET:
            allowed, together = np.full(variance.shape, margin.absolute), variance
        else:
            assert margin.relative is not UNSET
            allowed = margin.relative * np.abs(self.controls)
            control = margin.relative**2 * estimates.control_variance
            most = np.sqrt(variance) * np.sqrt(control)
            tied = self.sign * np.sign(self.controls) * margin.relative * estimates.covariance
            together = variance + control + 2.0 * np.clip(tied, -most, most)
        # Both may be so sure of each other that nothing is left. Parts of an arm that is not compared are of any size.
        ratio = np.divide(together, variance, out=np.ones(variance.shape), where=self.compared)
        ratio = np.maximum(ratio, np.finfo(np.float64).eps)
        plus = replace(
            self.gain,
            total=self.gain.total + allowed * self.gain.observations,
            variance=self.gain.variance * ratio,
            tightest_at=self.gain.tightest_at * ratio,
        )
        return allowed, plus.mean - plus.one_sided_reach(self.alpha, self.parts)

    def worst(self) -> Floats:
        """Differences to control that are as bad as can be: within the margin exactly where the arm is `safe`."""
        return self.sign * (self.slack - self.margin)

    def least_harm(self) -> Floats:
        """Differences to control on the other side: where the present evidence shows harm, they are harmful, too."""
        return self.sign * (self.gain.mean + self.gain.one_sided_reach(self.alpha, self.parts))

    def row(self, arm: int) -> GuardrailResult:
        """Result of one arm that is not control."""
        verdict: GuardrailVerdict = "safe" if self.safe[arm] else "harm" if self.harm[arm] else "undecided"
        known = bool(self.compared[arm])
        return GuardrailResult(
            verdict,
            finite(self.margin[arm]) if known or self.stated.relative is UNSET else None,
            finite(self.worst()[arm]) if known else None,
        )

    def worse_by(self, arm: int) -> str:
        """Loss of an arm in words: in per cent of control, or in units of the metric where control is 0."""
        loss, control = abs(float(self.gain.mean[arm])), abs(float(self.controls[arm]))
        if not control or not math.isfinite(loss / control):
            return f"{loss:.3g}"
        percent = 100.0 * loss / control
        return f"{percent:.2g} %" if percent < 10.0 else f"{percent:.0f} %"
