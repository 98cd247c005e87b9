"""Set-ups of experiments without differences: traffic by a fixed split, by a policy, with or without context.

Each runs experiments by laws, from seeds, and looks at them all the time. If shares do not depend on outcomes, all laws
are metrics of the same experiments; otherwise each experiment has one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from scipy.stats import norm
from validity_laws import LAWS, Law
from validity_runs import STEP_MS, Floats, Play, Scale, Visits, Watch, blocks, drawn, record, sums_by_metric

from bandit_serve.experiments.checks import with_arm
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm
from bandit_serve.log.events import FIRST, Change, Changed, Tick
from bandit_serve.policies import POLICIES
from bandit_serve.policies.context import ContextField
from bandit_serve.results import report

Watches = dict[str, Watch]
Player = Callable[[list[str], Scale], Watches]


@dataclass(frozen=True)
class SetUp:
    """Set-up for `laws`; `play(laws, scale)` returns the watches by law.

    together: the laws are metrics of the same experiments, so that many laws cost little more than one.
    """

    laws: tuple[str, ...]
    play: Player
    together: bool = True


def generators(name: str, runs: int) -> list[np.random.Generator]:
    """Generators by the run's number and the CRC-32 of the set-up's name."""
    return [np.random.default_rng([run, zlib.crc32(name.encode())]) for run in range(runs)]


def watched(laws: list[str], runs: int, n_arms: int, *, means: bool = True) -> list[Watch]:
    """Watches of equal arms; without `means` only differences are compared with the truth."""
    truth = [LAWS[law].mean if means else np.nan for law in laws]
    return [Watch(runs, np.full(n_arms, mean), np.zeros(n_arms)) for mean in truth]


def look(plays: list[Play], watches: list[Watch], number: int) -> None:
    for metric, (watch, sums) in enumerate(zip(watches, sums_by_metric(plays, len(watches)), strict=True)):
        watch.look(plays, metric, sums)
    if number % 50 == 49:
        for run, play in enumerate(plays[:20]):
            results = report(play.fold, play.fold.record, {}, play.now_ms)
            for metric, watch in enumerate(watches):
                watch.note(results, run, f"m{metric}")


def scheduled(name: str, n_arms: int, shares_at: Callable[[float], Floats]) -> SetUp:
    """Shares that follow the clock: `shares_at` is a function of the part of the observations so far."""

    def play(laws: list[str], scale: Scale) -> Watches:
        about = record([LAWS[law].kind for law in laws], n_arms)
        plays = [Play.of(about, rng) for rng in generators(name, scale.runs)]
        watches, so_far = watched(laws, scale.runs, n_arms), 0
        for number, size in enumerate(blocks(scale)):
            shares = shares_at(so_far / scale.total)
            for each in plays:
                values = np.stack([LAWS[law].draw(each.rng, size) for law in laws])
                each.step(shares, drawn(each.rng, np.broadcast_to(shares, (size, n_arms))), values)
            so_far += size
            look(plays, watches, number)
        return dict(zip(laws, watches, strict=True))

    return SetUp(tuple(LAWS), play)


def steps(*of: tuple[float, tuple[float, ...]]) -> Callable[[float], Floats]:
    """Shares that change at given parts of the observations."""

    def at(part: float) -> Floats:
        return np.array([shares for since, shares in of if since <= part][-1], float)

    return at


def added_late(name: str) -> SetUp:
    """Even shares of two arms, and of three from the middle on."""

    def play(laws: list[str], scale: Scale) -> Watches:
        about = record([LAWS[law].kind for law in laws])
        plays = [Play.of(about, rng) for rng in generators(name, scale.runs)]
        watches, so_far, n_arms = watched(laws, scale.runs, 3), 0, 2
        for number, size in enumerate(blocks(scale)):
            if n_arms == 2 and 2 * so_far >= scale.total:
                n_arms = 3
                for each in plays:
                    known = each.fold.record
                    grown = msgspec.structs.replace(
                        known, experiment=with_arm(known.experiment, Arm("c")), revision=known.revision + 1
                    )
                    each.apply(Changed(grown, Change("add_arm", "me")))
            shares = np.full(n_arms, 1 / n_arms)
            for each in plays:
                values = np.stack([LAWS[law].draw(each.rng, size) for law in laws])
                each.step(shares, drawn(each.rng, np.broadcast_to(shares, (size, n_arms))), values)
            so_far += size
            look(plays, watches, number)
        return dict(zip(laws, watches, strict=True))

    return SetUp(tuple(LAWS), play)


def eligibility(name: str) -> SetUp:
    """Three arms with shares .6, .3 and .1; every third request is eligible for the first two only."""

    def play(laws: list[str], scale: Scale) -> Watches:
        plays = [
            Play.of(record([LAWS[law].kind for law in laws], 3), rng) for rng in generators(name, scale.runs)
        ]
        watches = watched(laws, scale.runs, 3)
        vectors = np.array([[0.6, 0.3, 0.1], [2 / 3, 1 / 3, 0.0]])
        for number, size in enumerate(blocks(scale)):
            for each in plays:
                values = np.stack([LAWS[law].draw(each.rng, size) for law in laws])
                shares = vectors[(each.rng.random(size) < 1 / 3).astype(int)]
                each.step(shares, drawn(each.rng, shares), values)
            look(plays, watches, number)
        return dict(zip(laws, watches, strict=True))

    return SetUp(tuple(LAWS), play)


def users(name: str, shares: tuple[float, ...]) -> SetUp:
    """Sticky units: 5,000 users who return to the same arm, with rewards summed by user.

    A visit's reward is a law's value times a factor of the user. Half of the users never return.
    """

    def play(laws: list[str], scale: Scale) -> Watches:
        about = record([LAWS[law].kind for law in laws], len(shares), unit="user")
        plays, watches = [], watched(laws, scale.runs, len(shares), means=False)
        people = []
        for rng in generators(name, scale.runs):
            plays.append(Play.of(about, rng))
            arms = drawn(rng, np.broadcast_to(np.array(shares), (5_000, len(shares))))
            people.append(
                (rng.integers(0, 2**63, 5_000).astype(np.uint64), arms, rng.poisson(1.0, 5_000) + 1.0)
            )
        binary = np.array([LAWS[law].kind == "binary" for law in laws])[:, None]
        for number, size in enumerate(blocks(scale)):
            for each, (units, arms, worth) in zip(plays, people, strict=True):
                who = np.minimum(each.rng.geometric(1 / 1_500, size), 5_000) - 1
                values = np.stack([LAWS[law].draw(each.rng, size) for law in laws])
                values = np.where(binary, values, values * worth[who])
                if any(LAWS[law].kind == "bounded" for law in laws):
                    values = np.where(
                        [[LAWS[law].kind == "bounded"] for law in laws], np.minimum(values, 1.0), values
                    )
                each.step(np.array(shares), arms[who], values, units=units[who])
            look(plays, watches, number)
        return dict(zip(laws, watches, strict=True))

    return SetUp(tuple(LAWS), play)


def delayed(name: str, shares: tuple[float, ...]) -> SetUp:
    """Late rewards with `missing: zero`: a window of ten blocks, and delays of one block or nine, by arm."""

    def play(laws: list[str], scale: Scale) -> Watches:
        about = record([LAWS[law].kind for law in laws], len(shares), missing="zero", window="10s")
        plays = [Play.of(about, rng) for rng in generators(name, scale.runs)]
        watches = watched(laws, scale.runs, len(shares))
        coming: list[list[Any]] = [[] for _ in plays]
        for number, size in enumerate(blocks(scale)):
            for each, due in zip(plays, coming, strict=True):
                arms = drawn(each.rng, np.broadcast_to(np.array(shares), (size, len(shares))))
                values = np.stack([LAWS[law].draw(each.rng, size) for law in laws])
                waits = np.where(arms == 0, STEP_MS, 9 * STEP_MS)
                due += each.step(np.array(shares), arms, values, is_rewarded=values != 0.0, waits_ms=waits)
                for at_ms, event in [one for one in due if one[0] <= each.now_ms]:
                    each.apply(event, at_ms)
                due[:] = [one for one in due if one[0] > each.now_ms]
                each.apply(Tick())
            look(plays, watches, number)
        return dict(zip(laws, watches, strict=True))

    return SetUp(tuple(law for law in LAWS if not law.startswith("100 sd")), play)


def corrected(rng: np.random.Generator, values: Floats, laws: list[str]) -> Floats:
    """Paths of values of which 3 in 10 are another draw of their law at first and are corrected later.

    Of these, a third is taken back for a while.
    """
    wrong = np.stack([LAWS[law].draw(rng, values.shape[1]) for law in laws])
    turn = rng.integers(1, CHANGES, values.shape[1])
    is_wrong, goes = rng.random((2, values.shape[1])) < np.array([[0.3], [1 / 3]])
    at = np.arange(CHANGES)[:, None, None]
    paths = np.where(is_wrong & (at < turn), wrong, values)
    paths[np.broadcast_to(is_wrong & goes & (at == turn - 1) & (turn > 1), paths.shape)] = np.nan
    return paths


def growing(rng: np.random.Generator, values: Floats, laws: list[str]) -> Floats:
    """Paths of sums of two events: half of the value at once, of 0 and 1 nothing, and the rest later."""
    kinds = np.array([LAWS[law].kind for law in laws])[:, None]
    half = np.where(kinds == "count", values // 2, values / 2)
    turn = rng.integers(1, CHANGES, values.shape[1])
    return np.where(np.arange(CHANGES)[:, None, None] < turn, np.where(kinds == "binary", 0.0, half), values)


CHANGES = 9
"""Blocks after which a value is final, within the window of ten."""
Paths = Callable[[np.random.Generator, Floats, list[str]], Floats]


def revised(name: str, missing: str, paths: Paths, *, means: bool = True, policy: str = "") -> SetUp:
    """Values that are sums of events and change within their window, by a fixed even split or by a policy.

    means: whether an arm's mean so far is that of its final values.
    """

    def play(laws: list[str], scale: Scale) -> Watches:
        settings = PolicySpec(kind=policy, min_share=0.05) if policy else None
        about = record([LAWS[law].kind for law in laws], 2, settings, missing=missing, window="10s")
        plays = [Play.of(about, rng) for rng in generators(name, scale.runs)]
        watches = watched(laws, scale.runs, 2, means=means)
        waiting: list[list[Visits]] = [[] for _ in plays]
        options = {"objective": LAWS[laws[0]].kind, "min_share": 0.05}
        policies = [POLICIES[policy](2, seed=run, **options) if policy else None for run in range(scale.runs)]
        for number, size in enumerate(blocks(scale)):
            for each, visits, learner in zip(plays, waiting, policies, strict=True):
                shares = np.array([0.5, 0.5]) if learner is None else learner.shares()
                arms = drawn(each.rng, np.broadcast_to(shares, (size, 2)))
                values = np.stack([LAWS[law].draw(each.rng, size) for law in laws])
                counters = each.counter + np.arange(size)
                each.step(shares, arms, values, is_rewarded=np.zeros(values.shape, bool))
                visits.append(
                    Visits(counters, arms, shares[arms], each.now_ms, paths(each.rng, values, laws))
                )
                for visit in visits:
                    age = (each.now_ms - visit.since_ms) // STEP_MS
                    now = visit.paths[age]
                    former = visit.paths[age - 1] if age else np.full_like(now, np.nan)
                    each.revise(visit, former, now, FIRST if age == 0 else visit.since_ms)
                    if learner is not None:
                        there = ~(np.isnan(former[0]) & np.isnan(now[0]))
                        learner.revise_many(visit.arms[there], former[0][there], now[0][there])
                visits[:] = [one for one in visits if each.now_ms - one.since_ms < (CHANGES - 1) * STEP_MS]
                each.apply(Tick())
            look(plays, watches, number)
        return dict(zip(laws, watches, strict=True))

    def by_law(laws: list[str], scale: Scale) -> Watches:
        return {law: play([law], scale)[law] for law in laws}

    some = tuple(law for law in LAWS if not law.startswith("100 sd"))
    return SetUp(some, by_law if policy else play, together=not policy)


def adaptive(name: str, kind: str, floor: float, n_arms: int, **parameters: Any) -> SetUp:
    """Policy without context: its shares before each look hold for the next 1 % of observations."""

    def play(laws: list[str], scale: Scale) -> Watches:
        return {law: one_law(law, scale) for law in laws}

    def one_law(law: str, scale: Scale) -> Watch:
        of: Law = LAWS[law]
        about = record([of.kind], n_arms, PolicySpec(kind=kind, min_share=floor, **parameters))
        options = {"objective": of.kind, "min_share": floor, **parameters}
        plays = [Play.of(about, rng) for rng in generators(name + law, scale.runs)]
        policies = [POLICIES[kind](n_arms, seed=run, **options) for run in range(scale.runs)]
        (watch,) = watched([law], scale.runs, n_arms, means="half_life" not in parameters)
        for number, size in enumerate(blocks(scale)):
            for each, policy in zip(plays, policies, strict=True):
                policy.advance(each.now_ms)
                shares = policy.shares()
                arms = drawn(each.rng, np.broadcast_to(shares, (size, n_arms)))
                values = of.draw(each.rng, size)
                if "half_life" in parameters and of.kind == "binary":
                    values = np.minimum(values + (each.rng.random(size) < 0.1 * (number // 100 % 2)), 1.0)
                each.step(shares, arms, values[None])
                policy.update_many(arms, values)
            look(plays, [watch], number)
        return watch

    kinds = POLICIES[kind].objectives
    return SetUp(tuple(law for law in LAWS if LAWS[law].kind in kinds), play, together=False)


World = Callable[[np.random.Generator, Floats], Floats]
"""What both arms would bring, f8[n, 2], for features f8[n, 3], of which the second is z."""


def swap(rng: np.random.Generator, x: Floats) -> Floats:
    """Crossing rewards: one arm has .9 at z = 1 and .1 at z = -1, the other the reverse."""
    p = np.where(x[:, 1] > 0, 0.9, 0.1)
    return (rng.random((len(x), 2)) < np.stack([p, 1 - p], axis=1)).astype(float)


def linear(rng: np.random.Generator, x: Floats) -> Floats:
    """Gaussian rewards with crossing means: 1 ± z/2."""
    return 1.0 + np.stack([x[:, 1], -x[:, 1]], axis=1) / 2 + rng.normal(0, 1, (len(x), 2))


def logistic(rng: np.random.Generator, x: Floats) -> Floats:
    """Binary rewards of rate about 1/4, with crossing log odds."""
    p = 1 / (1 + np.exp(1.2 - np.stack([x[:, 1], -x[:, 1]], axis=1)))
    return (rng.random((len(x), 2)) < p).astype(float)


def rare(rng: np.random.Generator, x: Floats) -> Floats:
    """Rare lognormal rewards, 1 in 20 for each arm; the sign of z decides which arm."""
    p = np.where(x[:, 1] > 0, 0.09, 0.01)
    buys = rng.random((len(x), 2)) < np.stack([p, 0.1 - p], axis=1)
    return buys * rng.lognormal(0.0, 1.0, (len(x), 2))


def noise_by_context(rng: np.random.Generator, x: Floats) -> Floats:
    """Slightly crossing means, with ten times the noise where z > 1."""
    sd = np.where(x[:, 1] > 1, 5.0, 0.5)[:, None]
    return np.stack([x[:, 1], -x[:, 1]], axis=1) / 4 + sd * rng.normal(0, 1, (len(x), 2))


WORLDS: dict[str, tuple[World, str, bool]] = {
    "swap": (swap, "binary", True),
    "linear": (linear, "continuous", False),
    "logistic": (logistic, "binary", False),
    "rare sums": (rare, "continuous", True),
    "noise by context": (noise_by_context, "continuous", False),
}
"""By name: the world, the kind of its metric, and whether z is ±1 or standard normal, to the nearest half."""

UNKNOWN = ", z unknown"
"""Suffix of a world's name for folds that do not see z, and so have no outcome model."""
MAX_RUNS_WITHOUT_Z = 50
"""Runs that are also folded without z, to compare widths."""


def means_in(world: str) -> tuple[float, float]:
    """Mean and standard deviation of a reward, the same for both arms, by 4,000,000 draws.

    The mean is computed exactly where the draws are not symmetrical.
    """
    pays, _, even = WORLDS[world]
    rng = np.random.default_rng(0)
    values = np.concatenate([pays(rng, features(drawn_z(rng, 400_000, even))).ravel() for _ in range(5)])
    if world == "logistic":
        z = np.arange(-20, 21) / 2
        p = 1 / (1 + np.exp(1.2 - z))
        mean = float((p * (norm.cdf(z + 0.25) - norm.cdf(z - 0.25))).sum())
    else:
        mean = {"swap": 0.5, "linear": 1.0, "rare sums": 0.05 * np.exp(0.5), "noise by context": 0.0}[world]
    return mean, float(values.std())


def drawn_z(rng: np.random.Generator, n: int, even: bool) -> Floats:
    return rng.choice([-1.0, 1.0], n) if even else np.rint(2.0 * rng.normal(0, 1, n)) / 2.0


def features(z: Floats) -> Floats:
    """Features (n, 3): intercept, z, and whether z is missing."""
    return np.stack([np.ones_like(z), z, np.zeros_like(z)], axis=1)


def contextual(name: str, kind: str, floor: float) -> SetUp:
    """Contextual policy in environments where the best arm depends on the context and all arms have equal means.

    Some runs are also folded without features. Widths are compared with that of an even split's 95 % interval, for one
    look at as many observations.
    """

    def play(worlds: list[str], scale: Scale) -> Watches:
        watches: Watches = {}
        for world in worlds:
            watches |= one_world(world, scale)
        return watches

    def one_world(world: str, scale: Scale) -> Watches:
        pays, metric, even = WORLDS[world]
        mean, sd = means_in(world)
        field = ContextField(name="z", kind="numeric")
        about = record([metric], 2, PolicySpec(kind=kind, min_share=floor), context=(field,))
        plays = [Play.of(about, rng) for rng in generators(name + world, scale.runs)]
        blind = [Play.of(about, rng) for rng in generators("", min(scale.runs, MAX_RUNS_WITHOUT_Z))]
        policies = [
            POLICIES[kind](2, 3, objective=metric, min_share=floor, seed=run) for run in range(scale.runs)
        ]
        of_split = 1.96 * sd * (4 / scale.total) ** 0.5
        watch, other = (Watch(len(of), np.full(2, mean), np.zeros(2), of_split) for of in (plays, blind))
        for number, size in enumerate(blocks(scale)):
            for run, (each, policy) in enumerate(zip(plays, policies, strict=True)):
                z = drawn_z(each.rng, size, even)
                x = features(z)
                distinct, which = np.unique(z, return_inverse=True)
                shares = policy.shares_many(features(distinct))[which]
                arms = drawn(each.rng, shares)
                values = pays(each.rng, x)[np.arange(size), arms]
                each.step(shares, arms, values[None], x=x)
                if run < len(blind):
                    blind[run].step(shares, arms, values[None])
                policy.update_many(arms, values, x)
            look(plays, [watch], number)
            look(blind, [other], number)
        return {world: watch, world + UNKNOWN: other}

    kinds = POLICIES[kind].objectives
    return SetUp(tuple(world for world in WORLDS if WORLDS[world][1] in kinds), play, together=False)


def _named() -> dict[str, SetUp]:
    of: dict[str, SetUp] = {}
    for name, shares in {
        "even": (0.5, 0.5),
        "90/10": (0.9, 0.1),
        "99/1": (0.99, 0.01),
        "80/5/5/5/5": (0.8, 0.05, 0.05, 0.05, 0.05),
    }.items():
        of[name] = scheduled(name, len(shares), steps((0.0, shares)))
    of["weights changed once"] = scheduled("changed", 2, steps((0.0, (0.5, 0.5)), (0.5, (0.9, 0.1))))
    ramp = steps((0.0, (0.99, 0.01)), (0.25, (0.95, 0.05)), (0.5, (0.8, 0.2)), (0.75, (0.5, 0.5)))
    of["ramp 1, 5, 20, 50 %"] = scheduled("ramp", 2, ramp)
    of["an arm added late"] = added_late("added")
    of["eligibility by request"] = eligibility("eligibility")
    of["users, even"] = users("users", (0.5, 0.5))
    of["users, 90/10"] = users("users 90/10", (0.9, 0.1))
    of["missing zero, delays by arm"] = delayed("delayed", (0.5, 0.5))
    of["missing zero, delays by arm, 90/10"] = delayed("delayed 90/10", (0.9, 0.1))
    of["values corrected, missing ignored"] = revised("corrected", "ignore", corrected)
    of["values growing, missing ignored"] = revised("growing", "ignore", growing, means=False)
    of["values corrected, missing zero"] = revised("corrected zero", "zero", corrected)
    of["values growing, missing zero"] = revised("growing zero", "zero", growing)
    name = "thompson, floor 0.05, values corrected"
    of[name] = revised(name, "ignore", corrected, policy="thompson")
    for kind in ("thompson", "kl_ucb", "exp3"):
        for floor in (0.05, 0.02, 0.005):
            for n_arms in (2, 5):
                name = f"{kind}, floor {floor:g}, {n_arms} arms"
                of[name] = adaptive(name, kind, floor, n_arms)
    of["thompson, half_life, drift"] = adaptive("drift", "thompson", 0.05, 2, half_life="100s")
    for kind in ("lin_ts", "lin_ucb", "logistic_ts", "squarecb"):
        for floor in (0.05, 0.02):
            name = f"{kind}, floor {floor:g}"
            of[name] = contextual(name, kind, floor)
    return of


SET_UPS = _named()
