"""Replay of a learning policy in several runs, each on decisions of its own.

Li, Chu, Langford, Wang, "Unbiased offline evaluation of contextual-bandit-based news article recommendation
algorithms", WSDM 2011, theorem 1: what a run accepts of an even split has the law of a course of the policy itself.
Here decisions are accepted by their exact propensities, as in Dudik, Erhan, Langford, Li, "Sample-efficient
nonstationary policy evaluation for contextual bandits", UAI 2012, whose doubly robust estimator uses the rejected ones,
too. Their chance of acceptance adapts to ratios that were seen, at the price of some bias. Here it stays below every
ratio that can be, which costs decisions and no bias.

It supposes what every replay does: contexts and rewards come alike all the time, and decisions do not touch each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import Struct
from numpy.random import SeedSequence, default_rng
from numpy.typing import ArrayLike, NDArray

from bandit_serve.policies import AnyPolicy
from bandit_serve.results.off_policy.learning.chances import Chances
from bandit_serve.results.off_policy.learning.logged_part import LoggedPart
from bandit_serve.results.off_policy.learning.outcomes import PastOutcomes
from bandit_serve.results.off_policy.learning.replay_result import Curve, ReplayResult
from bandit_serve.results.off_policy.learning.run import ReplayRun, marks_up_to
from bandit_serve.results.off_policy.logged import columns
from bandit_serve.results.off_policy.student import of_runs

A_PART = 1_000
"""Decisions, behind which the model of outcomes learns from them."""
MIN_RUNS, MAX_RUNS = 2, 100
MIN_ACCEPTED = 20
"""Accepted decisions of the shortest run, below which there is no estimate."""
FEW_ACCEPTED = 100
MAX_HORIZON = 10**9


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """Options of a replay.

    runs: independent courses, each on an equal part of the decisions. horizon: decisions of a run; None: as many as the
    shortest run has, rounded down to one digit and zeros. seed: of parts, acceptance and holdout. alpha: of intervals.
    """

    runs: int = 10
    horizon: int | None = None
    seed: int = 0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not MIN_RUNS <= self.runs <= MAX_RUNS:
            raise ValueError(f"runs: expected a number from {MIN_RUNS} to {MAX_RUNS}, not {self.runs}")
        if self.horizon is not None and not MIN_ACCEPTED <= self.horizon <= MAX_HORIZON:
            raise ValueError(
                f"horizon: expected a number from {MIN_ACCEPTED} to {MAX_HORIZON}, not {self.horizon}"
            )
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha: expected a number between 0 and 1, not {self.alpha}")


class LearningReplay:
    """Replay of one policy on a log that comes in parts, in the order of time. Nothing of the log is kept.

    policy: makes the policy as it begins. chances: those of the whole log. utility: a reward as the policy takes it.
    """

    def __init__(
        self,
        policy: Callable[[], AnyPolicy],
        chances: Chances,
        options: ReplayOptions,
        *,
        utility: Callable[[float], float] = float,
    ) -> None:
        lanes, *runs = SeedSequence(options.seed).spawn(options.runs + 1)
        self._options = options
        self._lanes = default_rng(lanes)
        self._marks = marks_up_to(max(chances.n, 1) if options.horizon is None else options.horizon)
        if options.horizon is not None and self._marks[-1] < options.horizon:
            self._marks.append(options.horizon)
        self._runs = [ReplayRun(policy(), chances, utility, default_rng(seed), self._marks) for seed in runs]
        self._outcomes: PastOutcomes | None = None
        self._chances = chances
        self._n = 0
        self._first_ms = 0

    @property
    def is_over(self) -> bool:
        """Whether all runs have their horizon, so that further decisions say nothing."""
        return all(run.is_over for run in self._runs)

    def take(self, decided: LoggedPart) -> None:
        """Takes n decisions that come behind those that it took."""
        for start in range(0, len(decided.arms), A_PART):
            self._take_part(decided.those(slice(start, start + A_PART)))

    def _take_part(self, decided: LoggedPart) -> None:
        if self._outcomes is None:
            self._outcomes = PastOutcomes(len(self._chances.least), decided.x.shape[1])
            self._first_ms = int(decided.time_ms[0])
        predicted = self._outcomes.predicted(decided.x)
        lanes = self._lanes.integers(len(self._runs), size=len(decided.arms))
        for lane, run in enumerate(self._runs):
            own = np.flatnonzero(lanes == lane)
            run.take(decided.those(own), predicted[own], self._clock(self._n + own, decided.time_ms[own]))
        self._outcomes.add(decided)
        self._n += len(decided.arms)

    def _clock(self, numbers: NDArray[np.intp], times: NDArray[np.int64]) -> Callable[[int, int], int]:
        """Times of accepted decisions: as if they had come one upon the other at the pace of the log so far."""

        def clock(accepted: int, i: int) -> int:
            pace_ms = (int(times[i]) - self._first_ms) / (int(numbers[i]) + 1)
            return self._first_ms + round(accepted * pace_ms)

        return clock

    def result(self) -> ReplayResult:
        """Estimates over all runs, or the refusal."""
        runs, options = self._runs, self._options
        least = min(run.accepted for run in runs)
        n_marks = min(len(run.sums) for run in runs)
        horizon = self._marks[n_marks - 1] if n_marks else 0
        offered, accepted = (sum(getattr(run, name) for run in runs) for name in ("offered", "accepted"))
        arms = np.sum([run.arms for run in runs], axis=0)
        refusal = self._refusal(least, accepted, offered)
        curve, estimates = None, {}
        if refusal is None:
            sums = np.array([run.sums[:n_marks] for run in runs])
            means = sums / np.array(self._marks[:n_marks])[:, None]
            estimates = {
                name: of_runs(means[:, -1, place], options.alpha)
                for place, name in enumerate(("replay", "dr"))
            }
            errors = means[:, :, 1].std(axis=0, ddof=1) / np.sqrt(len(runs))
            curve = Curve(
                decisions=tuple(self._marks[:n_marks]),
                value=tuple(means[:, :, 1].mean(axis=0).tolist()),
                standard_error=tuple(errors.tolist()),
            )
        warnings = []
        if refusal is None and horizon < FEW_ACCEPTED:
            warnings.append(
                f"The runs are of {horizon} decisions each: what the policy learns later is not seen."
            )
        return ReplayResult(
            runs=len(runs),
            horizon=horizon,
            offered=offered,
            accepted=accepted,
            least_accepted=least,
            shares=tuple((arms / max(1, arms.sum())).tolist()),
            estimates=estimates,
            curve=curve,
            warnings=warnings,
            refusal=refusal,
        )

    def _refusal(self, least: int, accepted: int, offered: int) -> str | None:
        wanted = self._options.horizon
        had = f"of {offered:,} decisions the {len(self._runs)} runs accepted {accepted:,}, and the shortest {least:,}"
        if wanted is not None and least < wanted:
            return f"The log is too short for runs of {wanted:,} decisions: {had}."
        if least < MIN_ACCEPTED:
            return f"Too few decisions are such that this policy might have made them: {had}."
        return None


def replay(
    policy: Callable[[], AnyPolicy],
    reward: ArrayLike,
    arms: ArrayLike,
    shares: ArrayLike,
    x: ArrayLike | None = None,
    *,
    time_ms: ArrayLike | None = None,
    runs: int = 10,
    horizon: int | None = None,
    seed: int = 0,
    alpha: float = 0.05,
) -> ReplayResult:
    """Mean reward that a policy would have had while it learned.

    policy: makes it as it begins, for K arms, and with x for d features. reward: (n,), in the order of time. arms: int
    (n,). shares: (n, K), what each arm was drawn from, 0 for an arm that could not be chosen by anybody. x: (n, d).
    time_ms: (n,), Unix ms, for a policy that forgets. The rest is as in `ReplayOptions`. Raises ValueError for columns
    that do not fit together, and for arms that were drawn with a share of 0.
    """
    options = ReplayOptions(runs=runs, horizon=horizon, seed=seed, alpha=alpha)
    (rewards,) = columns(reward=reward)
    n = len(rewards)
    table = np.asarray(shares, np.float64)
    if table.ndim != 2 or len(table) != n or not (np.isfinite(table).all() and (table >= 0.0).all()):
        raise ValueError("shares: expected a row of numbers of at least 0 for each reward")
    chosen = np.asarray(arms)
    if chosen.shape != (n,) or ((chosen < 0) | (chosen >= table.shape[1])).any():
        raise ValueError(f"arms: expected a number from 0 to {table.shape[1] - 1} for each reward")
    if (table[np.arange(n), chosen] <= 0.0).any():
        raise ValueError("shares: expected a share above 0 of each arm that was chosen")
    rows = np.zeros((n, 0), np.float32) if x is None else np.asarray(x, np.float32)
    if rows.ndim != 2 or len(rows) != n or not np.isfinite(rows).all():
        raise ValueError("x: expected a row of finite numbers for each reward")
    times = np.zeros(n, np.int64) if time_ms is None else np.asarray(time_ms, np.int64)
    if times.shape != (n,) or (np.diff(times) < 0).any():
        raise ValueError("time_ms: expected times in order, one for each reward")
    decided = LoggedPart(chosen.astype(np.intp), table, rewards, rows, times)
    chances = Chances(table.shape[1])
    chances.add(decided)
    replaying = LearningReplay(policy, chances, options)
    replaying.take(decided)
    return replaying.result()
