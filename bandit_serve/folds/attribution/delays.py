"""Delays of rewards: each arm's distribution of delays within the window, from what has arrived so far.

Long delays are missing among the rewards that have arrived, the more so the younger the decisions are. So a count of
arrivals tells nothing before it is held against the decisions that were old enough to show it: when D_j rewards came
in bin j of delays, and A_j decisions (rewarded or not) have been open for that long, D_j estimates A_j θ g_j,
with θ the probability of a reward and g the distribution. Under D_j ~ Poisson(A_j θ g_j) and θ ~ Gamma(½, b),

    P(g | D) ∝ P(g) · Π_j g_j^(D_j) / (b + Σ_j A_j g_j)^(½ + Σ_j D_j)

and θ has, given g, the posterior mean (1 + Σ_j D_j) / (2 + Σ_j A_j g_j) (as of a Beta; Vernade, Cappé and Perchet 2017
have the same estimate for a known g). In young experiments rate and delay can not be told apart: few slow rewards
are those of a low rate or of a long delay. The posterior keeps both in mind, where the most likely g would not.
How long it does so for an arm of which no reward comes is up to b: with 1, rates of a half are expected, and delays
must be the reason; with the decisions to a reward of all arms together, all arms are thought alike, and a slow best
arm starves at first. It is the square root of the latter, half way between, as simulations showed best.

P(g) is over `SHAPES`: gamma distributions, cut at the window, of three shapes and of means from 2^-15 to 2 windows,
evenly over their logarithms. What they expect of θ g_j is the mean of a Gamma prior that weighs as much as
`SHAPE_WEIGHT` rewards against D_j and A_j. So in the end arrivals decide, whatever shape their delays have, and the
shapes where no decision is old enough yet. Delays are supposed to stay as they are, and to be each arm's own: to draw
them towards those of all arms starves a slow arm among fast ones.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.folds.attribution import _delays

BINS_PER_OCTAVE = 4
BINS = 16 * BINS_PER_OCTAVE
SHAPES = {0.5: 1.0, 1.0: 2.0, 3.0: 1.0}
"""Gamma distributions' shape parameters, and how likely each is beforehand."""
MEANS = 2.0 ** np.arange(-15.0, 1.25, 0.5)
SHAPE_WEIGHT = 20.0

Counts = NDArray[np.int64]
Matrix = NDArray[np.float64]


def _upper_edges() -> NDArray[np.float64]:
    """Upper edges, float64 (BINS,), of the bins of delays, in windows."""
    edges: NDArray[np.float64] = 2.0 ** (np.arange(1 - BINS, 1) / BINS_PER_OCTAVE)
    return edges


def _shapes() -> tuple[Matrix, NDArray[np.float64]]:
    """Masses of the distributions in the bins, (M, BINS), and their prior, (M,)."""
    edges = np.concatenate([[0.0], _upper_edges()])
    masses, prior = [], []
    for shape, weight in SHAPES.items():
        for mean in MEANS:
            mass = np.diff(_delays.gamma_below(shape, edges * shape / mean))
            # Nothing is impossible: an arrival where all shapes have no mass must not end the search.
            masses.append(np.maximum(mass / mass.sum(), 1e-12))
            prior.append(weight)
    mass = np.array(masses)
    return mass / mass.sum(axis=1, keepdims=True), np.array(prior) / sum(prior)


_BY_SHAPE, _PRIOR = _shapes()
_MASSES = np.ascontiguousarray(_BY_SHAPE.T)
_LOG_MASSES = np.log(_MASSES)


class DelaysState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of `Delays`: `arrivals` by arm and bin, `closed` by arm."""

    arrivals: list[list[int]]
    closed: list[int]


class Delays:
    """Delays of K arms. Its counts are integers, so the fold is the same wherever it runs."""

    def __init__(self, window_ms: int, n_arms: int) -> None:
        self.edges_ms: Counts = np.zeros(BINS + 1, np.int64)
        """Bin j holds the delays above edge j up to edge j + 1."""
        self.edges_ms[1:] = np.ceil(_upper_edges() * window_ms)
        self.arrivals: Counts = np.zeros((n_arms, BINS), np.int64)
        """Rewards by arm and bin."""
        self.closed: Counts = np.zeros(n_arms, np.int64)
        """Decisions whose window has closed: they have shown all that there was."""

    def rates(self, reach: Matrix) -> Matrix:
        """Probabilities, float64 (K, BINS), that a decision gets a reward in the bin.

        reach: float64 (K, BINS), open decisions that have been open for at least as long as the bin.
        """
        shown = reach + self.closed[:, None]
        decisions, rewards = shown[:, 0].sum() + 1.0, self.arrivals.sum() + 1.0
        trials_before = math.sqrt(max(decisions / rewards, 1.0))
        return _delays.arrival_rates(
            self.arrivals, shown, _MASSES, _LOG_MASSES, _BY_SHAPE, _PRIOR, trials_before, SHAPE_WEIGHT
        )

    def shown(self, reach: Matrix) -> NDArray[np.float64]:
        """Expected numbers, float64 (K,), of open decisions that would have a reward by now, if each were to get one.

        This is Σ G_k(age) over the open decisions; `reach` as in `rates`.
        """
        rates = self.rates(reach)
        weights: NDArray[np.float64] = (rates * reach).sum(axis=1) / rates.sum(axis=1)
        return weights

    def within_ms(self, part: float) -> Counts:
        """Delays, int64 (K,), within which this part (0, 1] of each arm's rewards so far came; 0 where none came.

        They are upper edges of bins: at most a fifth above the delay itself.
        """
        reached = np.cumsum(self.arrivals, axis=1)
        wanted = np.ceil(part * reached[:, -1])
        bins = (reached < wanted[:, None]).sum(axis=1)
        return np.where(reached[:, -1] > 0, self.edges_ms[np.minimum(bins + 1, BINS)], 0)

    def grown(self, n_arms: int) -> Delays:
        """Same delays with more arms, of which nothing is known yet."""
        grown = Delays(1, n_arms)
        grown.edges_ms = self.edges_ms.copy()
        grown.arrivals[: len(self.arrivals)] = self.arrivals
        grown.closed[: len(self.closed)] = self.closed
        return grown

    def state(self) -> DelaysState:
        return DelaysState(self.arrivals.tolist(), self.closed.tolist())

    @classmethod
    def from_state(cls, window_ms: int, n_arms: int, state: DelaysState) -> Delays:
        """Delays that had this state. Raises `ValueError` where it has another number of arms."""
        delays = cls(window_ms, n_arms)
        delays.arrivals[:] = np.array(state.arrivals, np.int64).reshape(n_arms, BINS)
        delays.closed[:] = np.array(state.closed, np.int64).reshape(n_arms)
        return delays
