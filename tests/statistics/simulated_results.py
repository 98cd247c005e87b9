"""Experiments with known arms, run through `ResultsFold` with real events: error rates, coverage, power.

`python tests/statistics/simulated_results.py` plays each at full size and prints what it found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from bandit_serve.experiments import checks
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Record
from bandit_serve.experiments.stopping import Stopping
from bandit_serve.log.events import FIRST, REVISION, REWARD, Change, Changed, Exposed, Revised, Rewarded, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.policies import POLICIES
from bandit_serve.policies.context import ContextField
from bandit_serve.results import ResultsFold, report

Draw = Callable[[np.random.Generator, int, int], NDArray[np.float64]]
START_MS = 1_700_000_000_000
STEP_MS = 1_000


def record(
    n_arms: int = 2,
    kind: str = "binary",
    policy: PolicySpec | None = None,
    unit: str = "request",
    missing: str = "ignore",
    window: str = "1h",
    goal: str = "maximize",
    alpha: float = 0.05,
    min_samples: int = 0,
    metrics: tuple[Metric, ...] | None = None,
    context: tuple[ContextField, ...] = (),
    **fields: object,
) -> Record:
    bounds = {"low": 0.0, "high": 1.0} if kind == "bounded" else {}
    experiment = Experiment(
        id="e",
        arms=tuple(Arm(name) for name in "abcdefghijklmnopqrstuvwxyz"[:n_arms]),
        metrics=metrics or (Metric(name="m", kind=kind, goal=goal, **bounds),),
        unit=unit,
        policy=policy or PolicySpec(kind="fixed_split"),
        attribution=Attribution(window=window, missing=missing),
        context=context,
        stopping=Stopping(alpha=alpha, min_samples=min_samples),
    )
    about = {"uid": 7, "status": "running", "revision": 2, "created_ms": 0, "updated_ms": 0}
    return Record(experiment=validated(experiment), **(about | fields))


def exposed(
    first: int,
    arms: NDArray[np.integer],
    vectors: NDArray[np.float64],
    runs: list[int],
    *,
    time_ms: int = START_MS,
    ages_ms: NDArray[np.integer] | None = None,
    units: NDArray[np.uint64] | None = None,
    incarnation: int = 1,
    revision: int = 2,
    x: NDArray[np.floating] | None = None,
) -> Exposed:
    ages = np.zeros(len(arms), "<u4") if ages_ms is None else ages_ms.astype("<u4")
    return Exposed(
        incarnation=incarnation,
        first=first,
        revision=revision,
        time_ms=time_ms,
        arms=arms.astype("<u2").tobytes(),
        ages_ms=ages.tobytes(),
        units=b"" if units is None else units.astype("<u8").tobytes(),
        vectors=np.ascontiguousarray(vectors, "<f8").tobytes(),
        runs=np.array(runs, "<u4").tobytes(),
        x=b"" if x is None else x.astype("<f4").tobytes(),
    )


def rewarded(*, x: NDArray[np.floating] | None = None, **columns: object) -> Rewarded:
    """Rows from columns by name; what is not given is that of `exposed`. `x` [n, d]: the decisions' features."""
    n = max(np.size(column) for column in columns.values())
    rows = np.zeros(n, REWARD)
    for name, value in (
        {"incarnation": 1, "time_ms": START_MS, "propensity": 1.0, "revision": 2} | columns
    ).items():
        rows[name] = value
    return Rewarded(rows, None if x is None else x.astype("<f4"))


def revised(
    *,
    former: object = np.nan,
    since_ms: object = FIRST,
    x: NDArray[np.floating] | None = None,
    **columns: object,
) -> Revised:
    """Rows of values that are sums of events, by name as in `rewarded`; a first value unless `since_ms` is given."""
    plain = rewarded(x=x, **columns)
    rows = np.zeros(len(plain.rows), REVISION)
    for name in plain.rows.dtype.names or ():
        rows[name] = plain.rows[name]
    rows["former"], rows["since_ms"] = former, since_ms
    return Revised(rows, plain.x)


def beta_shares(successes: NDArray[np.float64], n: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Thompson's shares of two arms: P(best) of two Betas by quadrature over their densities, over the
    floor.
    """
    a, b = successes + 1.0, n - successes + 1.0
    middle, width = a / (a + b), np.sqrt(a * b / (a + b) ** 2 / (a + b + 1))
    x = np.linspace(max((middle - 8 * width).min(), 1e-6), min((middle + 8 * width).max(), 1 - 1e-6), 600)
    log_f = (a[:, None] - 1) * np.log(x) + (b[:, None] - 1) * np.log1p(-x)
    f = np.exp(log_f + (gammaln(a + b) - gammaln(a) - gammaln(b))[:, None])
    cdf = np.cumsum(f, axis=1)
    cdf = (cdf - 0.5 * f) / cdf[:, -1:]
    best = float((f[1] * cdf[0]).sum() / f[1].sum())
    return floor + (1.0 - 2 * floor) * np.array([1.0 - best, best])


def drawn_shares(
    rng: np.random.Generator, mean: NDArray[np.float64], error: NDArray[np.float64], floor: float
) -> NDArray[np.float64]:
    """Thompson's shares of any arms with normal posteriors, by counting draws."""
    draws = rng.normal(mean, error, (400, len(mean)))
    best = np.bincount(draws.argmax(axis=1), minlength=len(mean)) / 400
    return floor + (1.0 - len(mean) * floor) * best


@dataclass
class Play:
    """One experiment under way: `step` makes decisions with given shares and rewards them."""

    fold: ResultsFold
    rng: np.random.Generator
    draw: Draw
    n_arms: int = 2
    counter: int = 0
    now_ms: int = START_MS
    arms: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[NDArray[np.float64]] = field(default_factory=list)

    def step(
        self,
        shares: NDArray[np.float64],
        n: int,
        units: NDArray[np.uint64] | None = None,
        x: NDArray[np.floating] | None = None,
    ) -> None:
        """`n` decisions; those with a value that is not 0 are rewarded, or all when missing means ignore."""
        arms = np.searchsorted(np.cumsum(shares)[:-1], self.rng.random(n), side="right")
        self.play(arms, shares, units, x)

    def play(
        self,
        arms: NDArray[np.int64],
        shares: NDArray[np.float64],
        units: NDArray[np.uint64] | None = None,
        x: NDArray[np.floating] | None = None,
    ) -> None:
        n = len(arms)
        values = np.empty(n)
        for k in range(self.n_arms):
            mine = arms == k
            values[mine] = self.draw(self.rng, k, int(mine.sum()))
        ages = np.sort(self.rng.integers(0, STEP_MS, n))
        reported = (
            np.flatnonzero(values != 0.0) if self.fold.record.experiment.missing == "zero" else np.arange(n)
        )
        self.fold.apply(
            Offset(self.now_ms + STEP_MS, 0),
            exposed(
                self.counter, arms, shares[None], [n], time_ms=self.now_ms, ages_ms=ages, units=units, x=x
            ),
        )
        if len(reported):
            rows = rewarded(
                counter=(self.counter + reported).astype(np.uint64),
                time_ms=self.now_ms + ages[reported],
                value=values[reported],
                propensity=shares[arms[reported]],
                unit=0 if units is None else units[reported],
                arm=arms[reported],
                x=None if x is None else x[reported],
            )
            self.fold.apply(Offset(self.now_ms + STEP_MS, 0), rows)
        self.counter += n
        self.now_ms += STEP_MS
        self.arms.append(arms)
        self.values.append(values)

    def finish(self) -> None:
        """Closes every window."""
        self.fold.apply(
            Offset(self.now_ms + self.fold.record.experiment.attribution.window_ms + 1, 0), Tick()
        )


def random_log(
    rng: np.random.Generator,
    n_arms: int,
    n_metrics: int,
    window_ms: int,
    *,
    steps: int = 40,
) -> list[tuple[int, Exposed | Rewarded | Tick]]:
    """A log as workers on a bad day write it: rewards before, long after and without their exposures;
    exposures lost, late, sent twice, in another order; ages that fall; shares that move and that are 0.
    """
    entries: list[tuple[int, Exposed | Rewarded | Tick]] = []
    counters = {int(w): int(rng.integers(0, 2**40)) for w in rng.integers(0, 2**64, 3, dtype=np.uint64)}
    vector = rng.dirichlet(np.full(n_arms, 5.0))
    for step in range(steps):
        now = START_MS + step * 97
        worker = int(rng.choice(np.array(list(counters), np.uint64)))
        n, first = int(rng.integers(1, 12)), counters[worker]
        counters[worker] += n
        if rng.random() < 0.5:
            vector = rng.dirichlet(np.full(n_arms, 5.0))
            if rng.random() < 0.3:
                vector[rng.integers(n_arms)] = 0.0
                vector /= vector.sum()
        runs = [n] if n < 4 else [3, n - 3]
        vectors = np.stack([rng.dirichlet(np.full(n_arms, 5.0)), vector][-len(runs) :])
        of_row = np.repeat(np.arange(len(runs)), runs)
        arms = np.array([rng.choice(n_arms, p=vectors[v]) for v in of_row])
        ages = rng.integers(0, 90, n)
        if rng.random() < 0.7:
            ages.sort()
        units = rng.integers(0, 25, n).astype(np.uint64)
        fate = rng.random()
        exposure = exposed(
            first, arms, vectors, runs, time_ms=now, ages_ms=ages, units=units, incarnation=worker
        )
        delay = 100 if fate < 0.6 else int(rng.integers(0, 2 * window_ms))
        if fate < 0.9:
            entries.append((now + delay, exposure))
        if fate < 0.1:
            entries.append((now + delay + int(rng.integers(0, window_ms)), exposure))
        for i in np.flatnonzero(rng.random(n) < 0.5):
            for metric in np.flatnonzero(rng.random(n_metrics) < 0.7):
                at = now + int(ages[i]) + int(rng.choice([0, rng.integers(0, window_ms), window_ms + 3]))
                row = rewarded(
                    incarnation=worker,
                    counter=first + i,
                    time_ms=now + ages[i],
                    value=float(rng.integers(0, 2) if metric == 0 else np.round(rng.normal(3, 2), 3)),
                    propensity=vectors[of_row[i], arms[i]],
                    unit=units[i],
                    arm=arms[i],
                    metric=metric,
                )
                entries.append((at, row))
        if rng.random() < 0.2:
            entries.append((now, Tick()))
    entries.sort(key=lambda entry: entry[0])
    return entries


@dataclass
class Outcome:
    """What many plays came to: how many ever found a difference between equal arms, whether the intervals of
    the arms' means (`arms`) and of their differences to control (`differences`) held the truth at the end.
    """

    rejected: list[bool] = field(default_factory=list)
    arms: list[bool] = field(default_factory=list)
    differences: list[bool] = field(default_factory=list)
    mismatches: int = 0
    shares: set[float] = field(default_factory=set)

    def take(self, play: Play, truth: NDArray[np.float64] | None, ever: bool) -> None:
        about = play.fold.record
        final = report(play.fold, about, {}, play.now_ms)
        rows = [arm.metrics["m"] for arm in final.arms]
        self.rejected.append(ever or any(row.p_value is not None and row.p_value <= 0.05 for row in rows))
        self.mismatches += final.srm.verdict == "mismatch"
        if truth is None:
            return
        for k, row in enumerate(rows):
            if row.interval is not None:
                self.arms.append(row.interval[0] <= truth[k] <= row.interval[1])
            if row.difference_interval is not None:
                low, high = row.difference_interval
                self.differences.append(low <= truth[k] - truth[0] <= high)

    def __str__(self) -> str:
        covered = [f"{np.mean(held):.3f} of {len(held)}" for held in (self.arms, self.differences) if held]
        return (
            f"{sum(self.rejected)} of {len(self.rejected)} ever rejected; mismatches {self.mismatches}; "
            f"coverage of means and differences: {', '.join(covered) or 'not looked at'}"
        )


def significant(play: Play) -> bool:
    """Whether a look now shows a difference: by p-value, or by an interval without 0."""
    rows = [arm.metrics["m"] for arm in report(play.fold, play.fold.record, {}, play.now_ms).arms]
    by_p = any(row.p_value is not None and row.p_value <= 0.05 for row in rows)
    intervals = [row.difference_interval for row in rows if row.difference_interval is not None]
    return by_p or any(low > 0 or high < 0 for low, high in intervals)


def bernoulli(*means: float) -> Draw:
    return lambda rng, k, n: (rng.random(n) < means[k]).astype(np.float64)


def fixed_split(n: int, means: tuple[float, float] = (0.1, 0.1), looks: int = 23, each: int = 200) -> Outcome:
    """A/B tests by an even split, looked at `looks` times."""
    outcome = Outcome()
    for run in range(n):
        play = Play(ResultsFold(record()), np.random.default_rng([1, run]), bernoulli(*means))
        ever = False
        for _ in range(looks):
            play.step(np.array([0.5, 0.5]), each)
            ever |= significant(play)
        outcome.take(play, np.array(means), ever)
    return outcome


def thompson(n: int, means: tuple[float, float] = (0.1, 0.1), steps: int = 100, every: int = 1) -> Outcome:
    """Thompson on two arms, floor .05, refreshed every 100 decisions, looked at every `every` refreshes."""
    outcome = Outcome()
    policy = PolicySpec(kind="thompson", min_share=0.05)
    for run in range(n):
        play = Play(ResultsFold(record(policy=policy)), np.random.default_rng([2, run]), bernoulli(*means))
        tried, won, ever = np.zeros(2), np.zeros(2), False
        for _ in range(steps):
            shares = beta_shares(won, tried, 0.05)
            outcome.shares.add(float(shares[0]))
            play.step(shares, 100)
            tried += np.bincount(play.arms[-1], minlength=2)
            won += np.bincount(play.arms[-1], play.values[-1], minlength=2)
            ever = ever or (len(play.arms) % every == 0 and significant(play))
        outcome.take(play, np.array(means), ever)
    return outcome


def adaptive(
    n: int, kind: str, missing: str, draw: Draw, truth: tuple[float, ...], steps: int = 100, every: int = 4
) -> Outcome:
    """Three arms under Thompson-like shares, floor .02, refreshed every 100 decisions, looked at as above."""
    outcome = Outcome()
    about = record(3, kind, PolicySpec(kind="thompson", min_share=0.02), missing=missing, window="5s")
    for run in range(n):
        play, ever = Play(ResultsFold(about), np.random.default_rng([3, run]), draw, 3), False
        tried, total, squares = np.zeros((3, 3))
        for _ in range(steps):
            seen = np.maximum(tried, 1.0)
            spread = np.sqrt(np.maximum(squares / seen - (total / seen) ** 2, 0.1))
            shares = drawn_shares(play.rng, total / seen, spread / np.sqrt(seen) + 3 * (tried == 0), 0.02)
            outcome.shares.add(float(shares[0]))
            play.step(shares, 100)
            tried += np.bincount(play.arms[-1], minlength=3)
            total += np.bincount(play.arms[-1], play.values[-1], minlength=3)
            squares += np.bincount(play.arms[-1], play.values[-1] ** 2, minlength=3)
            ever = ever or (len(play.arms) % every == 0 and significant(play))
        play.finish()
        outcome.take(play, np.array(truth), ever)
    return outcome


def uneven(n: int, draw: Draw, truth: float, steps: int = 20, each: int = 200, every: int = 1) -> Outcome:
    """Five arms that are alike, by a fixed split of 80/5/5/5/5, looked at after every `every` steps."""
    outcome, shares = Outcome(), np.array([0.8, 0.05, 0.05, 0.05, 0.05])
    policy = PolicySpec(kind="fixed_split", shares=dict(zip("abcde", shares.tolist(), strict=True)))
    for run in range(n):
        fold = ResultsFold(record(5, "continuous", policy))
        play, ever = Play(fold, np.random.default_rng([8, run]), draw, 5), False
        for step in range(steps):
            play.step(shares, each)
            ever = ever or (step % every == 0 and significant(play))
        outcome.take(play, np.full(5, truth), ever)
    return outcome


Z = ContextField(name="z", kind="numeric")
"""A number; with it the features of a decision are 1, z, and whether z is missing."""


def swapped(n: int, kind: str, steps: int = 20, each: int = 100, *, known: bool = False) -> Outcome:
    """A contextual policy, floor .05, where z = ±1 says which of two arms pays .9 and which .1; looked at each step.
    `known`: the fold is shown z.
    """
    outcome = Outcome()
    about = record(policy=PolicySpec(kind=kind, min_share=0.05), context=(Z,) if known else ())
    for run in range(n):
        play, ever = Play(ResultsFold(about), np.random.default_rng([9, run]), bernoulli()), False
        policy = POLICIES[kind](2, 2, objective="binary", min_share=0.05, seed=run)
        for _ in range(steps):
            n_high = int(play.rng.binomial(each, 0.5))
            for z, count in ((1.0, n_high), (-1.0, each - n_high)):
                x = np.array([[1.0, z]])
                play.draw = bernoulli(0.5 + 0.4 * z, 0.5 - 0.4 * z)
                shown = np.tile([1.0, z, 0.0], (count, 1)) if known else None
                play.step(policy.shares_many(x)[0], count, x=shown)
                policy.update_many(play.arms[-1], play.values[-1], np.repeat(x, count, axis=0))
            ever = ever or significant(play)
        outcome.take(play, np.full(2, 0.5), ever)
    return outcome


def with_arm(about: Record, name: str) -> Record:
    """The experiment with one arm more, at its next revision."""
    experiment = checks.with_arm(about.experiment, Arm(name))
    return msgspec.structs.replace(about, experiment=experiment, revision=about.revision + 1)


def growing(
    n: int,
    before: float = 0.1,
    after: float = 0.1,
    *,
    steps: int = 60,
    every: int = 1,
    split: bool = False,
    third: float | None = None,
) -> Outcome:
    """Equal Bernoulli arms, under Thompson-like shares of floor .05 or an even split; half-way a third arm comes.

    It has a ramp from .02 that rises within 15 of the `steps` of 100 decisions. All arms are worth `before` at first
    and `after` from then on, the third one `third` if that is given. Only differences are compared with the truth:
    where the worth moves, the means of two arms have no common one.
    """
    outcome = Outcome()
    policy = PolicySpec(kind="fixed_split") if split else PolicySpec(kind="thompson", min_share=0.05)
    for run in range(n):
        play, ever = (
            Play(ResultsFold(record(2, policy=policy)), np.random.default_rng([6, run]), bernoulli()),
            False,
        )
        tried, won = np.zeros(3), np.zeros(3)
        for step in range(steps):
            since = step - steps // 2
            if since == 0:
                play.n_arms = 3
                play.fold.apply(
                    Offset(play.now_ms, 0), Changed(with_arm(play.fold.record, "c"), Change("add_arm", "me"))
                )
            k, worth = play.n_arms, before if since < 0 else after
            play.draw = bernoulli(worth, worth, worth if third is None else third)
            mean = (won[:k] + 1) / (tried[:k] + 2)
            shares = np.full(k, 1 / k)
            if not split:
                shares = drawn_shares(play.rng, mean, np.sqrt(mean * (1 - mean) / (tried[:k] + 2)), 0.05)
            if k == 3:
                cap = min(1.0, 0.02 + 0.98 * since / 15)
                if shares[2] > cap:
                    shares = np.append(shares[:2] * (1 - cap) / shares[:2].sum(), cap)
            outcome.shares.add(float(shares[0]))
            play.step(shares, 100)
            tried += np.bincount(play.arms[-1], minlength=3)
            won += np.bincount(play.arms[-1], play.values[-1], minlength=3)
            ever = ever or (len(play.arms) % every == 0 and significant(play))
        held = Outcome()
        held.take(play, np.array([after, after, after if third is None else third]), ever)
        outcome.rejected += held.rejected
        outcome.differences += held.differences
        outcome.mismatches += held.mismatches
        if before == after:
            outcome.arms += held.arms
    return outcome


def users(n: int, missing: str) -> Outcome:
    """A/A by unit: 3,000 sticky users of unequal worth, rewards summed, 23 looks 400 visits apart."""
    outcome = Outcome()
    about = record(kind="count", unit="user", missing=missing, window="5s")
    for run in range(n):
        rng = np.random.default_rng([4, run])
        units, worth = rng.integers(0, 2**63, 3000).astype(np.uint64), rng.gamma(1.0, 0.3, 3000)
        arm_of, ever = rng.integers(0, 2, 3000), False
        play = Play(ResultsFold(about), rng, bernoulli())
        for _ in range(23):
            visit = rng.integers(0, 3000, 400)
            value = rng.poisson(worth[visit]).astype(np.float64)
            play.draw = lambda _, k, n, arms=arm_of[visit], value=value: value[arms == k]
            play.play(arm_of[visit], np.array([0.5, 0.5]), units[visit])
            ever |= significant(play)
        play.finish()
        outcome.take(play, None, ever)
    return outcome


def changing(
    n: int,
    missing: str,
    values: tuple[float, float] = (1.0, 1.0),
    steps: int = 20,
    each: int = 200,
    unit: str = "request",
) -> Outcome:
    """An even split of lognormal values times `values` by arm, of which half comes at once, and all a step later.

    One in ten is then taken back. With `unit: user`, each decision is a unit's only one.
    """
    outcome, shares = Outcome(), np.array([0.5, 0.5])
    about = record(kind="continuous", missing=missing, window="5s", unit=unit)
    mean = np.exp(0.5) * np.array(values) * (0.9 if missing == "zero" else 1.0)
    for run in range(n):
        rng = np.random.default_rng([11, run])
        play, ever = Play(ResultsFold(about), rng, bernoulli()), False
        former: dict[str, NDArray[np.float64]] = {}
        for _ in range(steps + 1):
            if former:
                whole = np.where(rng.random(each) < 0.1, np.nan, 2.0 * former["value"])
                event = revised(
                    **former | {"former": former["value"], "value": whole, "since_ms": play.now_ms}
                )
                play.fold.apply(Offset(play.now_ms + STEP_MS - 1, 0), event)
                ever |= significant(play)
            arms = rng.integers(0, 2, each)
            counters = play.counter + np.arange(each)
            units = counters.astype(np.uint64) + 1
            exposure = exposed(
                play.counter,
                arms,
                shares[None],
                [each],
                time_ms=play.now_ms,
                units=units if unit == "user" else None,
            )
            former = {
                "counter": counters,
                "time_ms": np.full(each, play.now_ms),
                "value": 0.5 * np.array(values)[arms] * rng.lognormal(0.0, 1.0, each),
                "propensity": shares[arms],
                "arm": arms,
                "unit": units,
            }
            play.counter, play.now_ms = play.counter + each, play.now_ms + STEP_MS
            play.fold.apply(Offset(play.now_ms, 0), exposure)
            play.fold.apply(Offset(play.now_ms, 0), revised(**former))
        last = {"former": former["value"], "value": 2.0 * former["value"], "since_ms": play.now_ms}
        play.fold.apply(Offset(play.now_ms + 1, 0), revised(**former | last))
        play.finish()
        outcome.take(play, mean, ever)
    return outcome


def split_of(n: int, share: float, count: int, runs: int, moving: bool = False) -> int:
    """How many of `n` experiments with `count` units raise the sample-ratio alarm at one of `runs` looks.

    The log says even shares (`moving`: about even ones); the first arm really gets `share` more.
    """
    alarms = 0
    for run in range(n):
        rng = np.random.default_rng([5, run])
        play = Play(ResultsFold(record()), rng, bernoulli(0.1, 0.1))
        alarm = False
        for look in range(runs):
            logged = 0.5 + (0.2 * (-1) ** look if moving else 0.0)
            arms = (rng.random(count // runs) >= logged + share).astype(np.int64)
            play.play(arms, np.array([logged, 1 - logged]))
            alarm |= report(play.fold, play.fold.record, {}, 0).srm.verdict == "mismatch"
        alarms += alarm
    return alarms


def normal(*means: float) -> Draw:
    return lambda rng, k, n: rng.normal(means[k], 1.0 + k, n)


def lognormal(rng: np.random.Generator, k: int, n: int) -> NDArray[np.float64]:
    return rng.lognormal(0.0, 1.0, n)


def orders(rng: np.random.Generator, k: int, n: int) -> NDArray[np.float64]:
    """Mostly nothing: a twentieth buys, 2 on average."""
    return rng.poisson(0.05, n) * rng.poisson(2.0, n).astype(np.float64)


def at_full_size() -> None:
    for name, play in {
        "A/A, fixed split, 23 looks": lambda: fixed_split(200),
        "A/A, fixed split, 1,000 plays": lambda: fixed_split(1000),
        "Thompson, .1 and .1, 100 looks": lambda: thompson(200),
        "Thompson, .1 and .1, 1,000 plays": lambda: thompson(1000),
        "Thompson, .1 and .16": lambda: thompson(200, (0.1, 0.16)),
        "fixed split, .10 and .16, 2,000 an arm (one look)": lambda: fixed_split(60, (0.1, 0.16), 1, 4000),
        "found by Thompson of floor .05, .10 and .12, 10,000 decisions": lambda: thompson(
            120, (0.1, 0.12), every=5
        ),
        "found by an even split, the same": lambda: fixed_split(120, (0.1, 0.12), 20, 500),
        "three normal arms, adaptive": lambda: adaptive(
            200, "continuous", "ignore", normal(1, 1, 1), (1, 1, 1)
        ),
        "three normal arms that differ": lambda: adaptive(
            200, "continuous", "ignore", normal(1, 1.2, 0.9), (1, 1.2, 0.9)
        ),
        "three lognormal arms, adaptive": lambda: adaptive(
            200, "continuous", "ignore", lognormal, (np.exp(0.5),) * 3
        ),
        "three arms of sparse counts, missing zero": lambda: adaptive(
            200, "count", "zero", orders, (0.1,) * 3
        ),
        "A/A, fixed split, a third arm from half-way on": lambda: growing(1000, split=True),
        "Thompson, .1 and .1, a third arm from half-way on": lambda: growing(1000),
        "Thompson, all arms from .1 to .2 when a third one comes": lambda: growing(500, 0.1, 0.2),
        "fixed split, all arms from .1 to .2 when a third one comes": lambda: growing(
            500, 0.1, 0.2, split=True
        ),
        "Thompson, .1 and .1, a third arm of .2 from half-way on": lambda: growing(200, third=0.2),
        "five lognormal arms, 80/5/5/5/5": lambda: uneven(200, lognormal, float(np.exp(0.5))),
        "five arms of sparse counts, 80/5/5/5/5": lambda: uneven(200, orders, 0.1),
        "lin_ts where the context swaps the arms": lambda: swapped(200, "lin_ts"),
        "squarecb where the context swaps the arms": lambda: swapped(200, "squarecb"),
        "lin_ts, the same with a model of outcomes": lambda: swapped(200, "lin_ts", known=True),
        "squarecb, the same with a model of outcomes": lambda: swapped(200, "squarecb", known=True),
        "A/A by unit, missing ignore": lambda: users(200, "ignore"),
        "A/A by unit, missing zero": lambda: users(200, "zero"),
        "lognormal sums that change, missing ignore": lambda: changing(1000, "ignore"),
        "lognormal sums that change, missing zero": lambda: changing(1000, "zero"),
        "lognormal sums that change, by unit": lambda: changing(1000, "ignore", unit="user"),
        "lognormal sums that change and differ by .4": lambda: changing(200, "ignore", (1.0, 1.4)),
        "SRM: alarms of 200 at 50/50": lambda: split_of(200, 0.0, 40_000, 20),
        "SRM: alarms of 50 at 52/48": lambda: split_of(50, 0.02, 40_000, 20),
        "SRM, moving shares: alarms of 200 as logged": lambda: split_of(200, 0.0, 40_000, 20, True),
        "SRM, moving shares: alarms of 50 off by .02": lambda: split_of(50, 0.02, 40_000, 20, True),
    }.items():
        print(f"{name}: {play()}", flush=True)


if __name__ == "__main__":
    at_full_size()
