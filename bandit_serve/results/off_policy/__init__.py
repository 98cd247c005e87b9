"""Off-policy estimates: what another policy would have earned, from decisions with their logged propensities.

Every function takes columns of n decisions, float64 (n,): `reward`; `propensity`, with which the arm was chosen, in
(0, 1]; `target`, the probability with which the other policy would have chosen it. Those with a model of outcomes take
`q`, its prediction for the chosen arm, and `q_target`, its mean under the other policy.
"""

from bandit_serve.results.off_policy.arm_mean import ArmMean
from bandit_serve.results.off_policy.clipping import ClippedEstimate, clipped
from bandit_serve.results.off_policy.crossing import Crossed, cross_fitted
from bandit_serve.results.off_policy.diagnosis import Diagnostics, diagnostics
from bandit_serve.results.off_policy.estimate import Estimate
from bandit_serve.results.off_policy.estimators import dm, dr, dros, ips, sndr, snips, switch
from bandit_serve.results.off_policy.outcome_machine import OutcomeMachine
from bandit_serve.results.off_policy.overlap import Overlap, overlap
from bandit_serve.results.off_policy.positions import PerPosition, per_position
from bandit_serve.results.off_policy.ridge import Ridge

__all__ = [
    "ArmMean",
    "ClippedEstimate",
    "Crossed",
    "Diagnostics",
    "Estimate",
    "OutcomeMachine",
    "Overlap",
    "PerPosition",
    "Ridge",
    "clipped",
    "cross_fitted",
    "diagnostics",
    "dm",
    "dr",
    "dros",
    "ips",
    "overlap",
    "per_position",
    "sndr",
    "snips",
    "switch",
]
