"""Reference of the results fold, as the contract states it: one dict per decision or unit, row after row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.events import Event, Exposed, Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.log.times import EARLY_REWARD_MS
from bandit_serve.policies import POLICIES

Vector = list[float]
COUNTED = -1
"""In place of the arm of an exposure whose decision was analysed before it came."""


@dataclass
class Entered:
    """What has been analysed on one metric: arm, share vector, value and every arm's score.

    The first value is what all are shifted by, and has no scores. `scores` are those that the squares are made from:
    of a value that changed, as if it had been scored around the centres at that time; of a `dated` one, around those of
    its epoch. `expected` are what scores were made around. `epochs`: centres by the time that they follow.
    """

    n_arms: int
    contextual: bool = False
    arms: list[int] = field(default_factory=list)
    shares: list[Vector] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    scores: list[Vector] = field(default_factory=list)
    expected: list[Vector] = field(default_factory=list)
    residual_changes: list[tuple[int, float, float]] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    changes: list[tuple[int, float, Vector]] = field(default_factory=list)
    dated: bool = False
    epochs: list[tuple[int, Vector]] = field(default_factory=list)
    next_epoch: int = 8
    latest_ms: int = -(2**62)

    @property
    def origin(self) -> float:
        return self.firsts[0] if self.firsts else 0.0

    def centres(self) -> Vector:
        pooled = sum(self.values) / len(self.values) if self.values else 0.0
        centres = []
        for k in range(self.n_arms):
            mine = [v for a, v in zip(self.arms, self.values, strict=True) if a == k]
            centres.append((sum(mine) + pooled) / (len(mine) + 1))
        return centres

    def centres_of(self, time_ms: int) -> Vector:
        """Centres of the epoch of a decision, which may be the first of a new one."""
        if not self.arms:
            self.latest_ms = time_ms - 1
        if time_ms > self.latest_ms:
            if len(self.arms) >= self.next_epoch:
                self.epochs.append((self.latest_ms, self.centres()))
                self.next_epoch = len(self.arms) + len(self.arms) // 2
            self.latest_ms = time_ms
        before = [centres for at_ms, centres in self.epochs if at_ms < time_ms]
        return list(before[-1]) if before else [self.origin] * self.n_arms

    def enter(self, arm: int, shares: Vector, value: float, time_ms: int = 0) -> int:
        expected = self.centres_of(time_ms) if self.dated else self.centres()
        if not self.arms:
            expected = [0.0] * self.n_arms
        self.scores.append(
            [mu + (value - mu) / shares[k] if k == arm else mu for k, mu in enumerate(expected)]
        )
        self.expected.append(expected)
        self.arms.append(arm)
        self.shares.append(shares)
        self.values.append(value)
        self.firsts.append(value)
        return len(self.arms) - 1

    def change(self, row: int, value: float) -> None:
        arm, centres = self.arms[row], self.expected[row] if self.dated else self.centres()
        before = list(centres)
        before[arm] += (self.values[row] - centres[arm]) / self.shares[row][arm]
        step = (value - self.values[row]) / self.shares[row][arm]
        self.changes.append((row, step, before))
        self.residual_changes.append((row, self.values[row] - centres[arm], value - centres[arm]))
        self.values[row] = value

    def weight(self, shares: Vector, k: int, control: int) -> float:
        if self.contextual:
            return 0.5 / self.n_arms
        return shares[k] * shares[control] / (shares[k] + shares[control])

    def sums(self, control: int) -> dict[str, list[float]]:
        rows = list(zip(self.arms, self.shares, self.values, strict=True))
        scored = [(e, s) for e, s in zip(self.shares[1:], self.scores[1:], strict=True)]
        changed = [
            (self.arms[row], self.shares[row], step, before) for row, step, before in self.changes if row
        ]
        by_arm: dict[str, list[float]] = {}
        for k in range(self.n_arms):
            own = np.array([v for a, _, v in rows if a == k])
            have = [(a, e) for a, e, _ in rows if e[k] > 0]
            mine = [(e, s[k] - self.origin) for e, s in scored if e[k] > 0]
            columns = {
                "n": len(own),
                "total": own.sum(),
                "shifted": (own - self.origin).sum(),
                "cube": ((own - self.origin) ** 3).sum(),
                "m2": ((own - own.mean()) ** 2).sum() if len(own) else 0.0,
                "eligible": len(mine),
                "score": sum(s for _, s in mine),
                "square": sum(s**2 for _, s in mine),
                "inverse": sum(1 / e[k] for e, _ in mine),
                "balance": sum((a == k) - e[k] for a, e in have),
                "spread": sum(e[k] * (1 - e[k]) for _, e in have),
            }
            around = [
                mu[k] - self.origin
                for e, mu in zip(self.shares[1:], self.expected[1:], strict=True)
                if e[k] > 0
            ]
            off = [
                first - mu[k]
                for a, first, mu in zip(self.arms[1:], self.firsts[1:], self.expected[1:], strict=True)
                if a == k
            ]
            moved = [(old, new) for row, old, new in self.residual_changes if row and self.arms[row] == k]
            columns |= {
                "predicted": sum(around),
                "predicted_square": sum(mu**2 for mu in around),
                "residual": sum(r**2 for r in off) + sum(new**2 - old**2 for old, new in moved),
                "residual_cube": sum(r**3 for r in off) + sum(new**3 - old**3 for old, new in moved),
            }
            both = [(e, s) for e, s in scored if e[k] > 0 and e[control] > 0 and k != control]
            pair = [
                (self.weight(e, k, control), e, s[k] - s[control], s[control] - self.origin) for e, s in both
            ]
            apart = [
                self.weight(e, k, control) ** 2 * np.array([mu[k] - mu[control], (mu[k] - mu[control]) ** 2])
                for e, mu in zip(self.shares[1:], self.expected[1:], strict=True)
                if e[k] > 0 and e[control] > 0 and k != control
            ]
            columns |= {
                "pair_eligible": len(pair),
                "pair_weight": sum(w for w, _, _, _ in pair),
                "pair_score": sum(w * d for w, _, d, _ in pair),
                "pair_control_score": sum(w * s for w, _, _, s in pair),
                "pair_weight_square": sum(w**2 for w, _, _, _ in pair),
                "pair_square_score": sum(w**2 * d for w, _, d, _ in pair),
                "pair_square": sum(w**2 * d**2 for w, _, d, _ in pair),
                "pair_inverse": sum(w**2 / e[k] for w, e, _, _ in pair),
                "pair_control_inverse": sum(w**2 / e[control] for w, e, _, _ in pair),
                "pair_predicted": sum(first for first, _ in apart),
                "pair_predicted_square": sum(second for _, second in apart),
            }
            for arm, e, step, before in changed:
                if arm == k:
                    columns["score"] += step
                    old = before[k] - self.origin
                    columns["square"] += (old + step) ** 2 - old**2
                if k != control and arm in (k, control) and e[k] > 0 and e[control] > 0:
                    w, old = self.weight(e, k, control), before[k] - before[control]
                    new = old + (step if arm == k else -step)
                    columns["pair_score"] += w * (new - old)
                    columns["pair_control_score"] += w * step * (arm == control)
                    columns["pair_square_score"] += w**2 * (new - old)
                    columns["pair_square"] += w**2 * (new**2 - old**2)
            for name, value in columns.items():
                by_arm.setdefault(name, []).append(float(value))
        return by_arm


@dataclass
class Held:
    arm: int
    propensity: float
    time_ms: int
    values: dict[int, float]
    arrival: int


@dataclass
class Unit:
    arm: int
    shares: Vector
    time_ms: int
    values: dict[int, float] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    crossed: bool = False
    exposed: bool = False
    order: int = 0


class ReferenceFold:
    def __init__(self, experiment: Experiment, current: Vector) -> None:
        self.experiment = experiment
        self.n_arms, self.n_metrics = len(experiment.arms), len(experiment.metrics)
        self.zero, self.by_unit = experiment.missing == "zero", experiment.unit == "user"
        self.window = experiment.attribution.window_ms
        self.current = current
        contextual = POLICIES[experiment.policy.kind].contextual
        self.entered = [Entered(self.n_arms, contextual, dated=self.by_unit) for _ in range(self.n_metrics)]
        self.exposures = [0] * self.n_arms
        self.seen: dict[int, dict[int, Vector]] = {}
        self.blocks: list[list[tuple[int, tuple[int, int], int, Vector]]] = []
        self.held: dict[tuple[int, int], Held] = {}
        self.closed: dict[tuple[int, int], list[int]] = {}
        self.orphans: set[tuple[int, int]] = set()
        self.units: dict[int, Unit] = {}
        self.now = -(2**53)
        self.arrivals = 0
        self.reached: dict[int, int] = {}
        self.early: list[tuple[int, dict[str, Any]]] = []

    def shares_of(self, incarnation: int, counter: int, arm: int, propensity: float) -> Vector:
        seen = self.seen.get(incarnation, {})
        before = [c for c in seen if c <= counter]
        shares = seen[max(before)] if before else self.current
        if abs(shares[arm] - propensity) <= 1e-9 * propensity:
            return shares
        rest = sum(e for k, e in enumerate(shares) if k != arm)
        others = self.n_arms - 1
        return [
            propensity if k == arm else e * (1 - propensity) / rest if rest > 0 else (1 - propensity) / others
            for k, e in enumerate(shares)
        ]

    def apply(self, offset: Offset, event: Event) -> None:
        time_ms = offset.time_ms
        if isinstance(event, Exposed):
            self.expose(event)
            end = event.first + len(event.arms) // 2
            self.reached[event.incarnation] = max(end, self.reached.get(event.incarnation, 0))
            self.go_on(lambda at_ms, row: row["counter"] < self.reached.get(row["incarnation"], 0))
        elif isinstance(event, Rewarded):
            for row in event.rows:
                self.early.append((time_ms, {name: row[name].item() for name in event.rows.dtype.names}))
            self.go_on(
                lambda at_ms, row: self.zero or row["counter"] < self.reached.get(row["incarnation"], 0)
            )
        self.now = max(self.now, time_ms)
        self.go_on(lambda at_ms, row: at_ms + EARLY_REWARD_MS < self.now)
        if self.zero:
            self.close()

    def go_on(self, goes: Callable[[int, dict[str, Any]], bool]) -> None:
        """Rewards whose exposures are on their way wait for them, for a while."""
        waiting, self.early = self.early, []
        for at_ms, row in waiting:
            if goes(at_ms, row):
                self.reward(row)
            else:
                self.early.append((at_ms, row))

    def complete(self) -> None:
        self.go_on(lambda at_ms, row: True)

    def expose(self, event: Exposed) -> None:
        arms = np.frombuffer(event.arms, "<u2").tolist()
        ages = np.frombuffer(event.ages_ms, "<u4").tolist()
        units = np.frombuffer(event.units, "<u8").tolist()
        vectors = np.frombuffer(event.vectors, "<f8").reshape(-1, self.n_arms)
        shares = np.repeat(vectors, np.frombuffer(event.runs, "<u4"), axis=0).tolist()
        seen = self.seen.setdefault(event.incarnation, {})
        block: list[tuple[int, tuple[int, int], int, Vector]] = []
        last, fresh = -1, False
        for i, arm in enumerate(arms):
            if event.first + i in seen:
                self.blocks.append(block)
                block = []
                continue
            seen[event.first + i] = shares[i]
            fresh = True
            self.exposures[arm] += 1
            if self.by_unit:
                self.see_unit(units[i], arm, shares[i], event.time_ms + ages[i]).exposed = True
                continue
            if ages[i] < last:
                self.blocks.append(block)
                block = []
            last = ages[i]
            key = (event.incarnation, event.first + i)
            block.append((event.time_ms + ages[i], key, COUNTED if key in self.orphans else arm, shares[i]))
        self.blocks.append(block)
        if fresh:
            self.current = shares[-1]

    def see_unit(self, name: int, arm: int, shares: Vector, time_ms: int) -> Unit:
        unit = self.units.get(name)
        if unit is None:
            unit = self.units[name] = Unit(arm, shares, time_ms, order=len(self.units))
            return unit
        unit.crossed |= arm != unit.arm
        earlier = time_ms < unit.time_ms or (time_ms == unit.time_ms and not unit.exposed)
        if not unit.rows and earlier:
            unit.arm, unit.shares, unit.time_ms = arm, shares, time_ms
        return unit

    def reward(self, row: dict[str, float]) -> None:
        key = (int(row["incarnation"]), int(row["counter"]))
        m, arm, p, value = int(row["metric"]), int(row["arm"]), row["propensity"], row["value"]
        shares = self.shares_of(*key, arm, p)
        if self.by_unit:
            self.reward_unit(int(row["unit"]), arm, shares, int(row["time_ms"]), m, value)
        elif not self.zero:
            self.entered[m].enter(arm, shares, value)
        elif key in self.closed:
            self.entered[m].change(self.closed[key][m], value)
        else:
            self.arrivals += 1
            fresh = Held(arm, p, int(row["time_ms"]), {}, self.arrivals)
            self.held.setdefault(key, fresh).values[m] = value

    def reward_unit(self, name: int, arm: int, shares: Vector, time_ms: int, m: int, value: float) -> None:
        if name in self.units:
            unit = self.units[name]
            unit.crossed |= arm != unit.arm
        else:
            unit = self.see_unit(name, arm, shares, time_ms)
        old = unit.values.get(m, 0.0)
        unit.values[m] = max(old, value) if self.experiment.metrics[m].kind == "binary" else old + value
        if m in unit.rows:
            self.entered[m].change(unit.rows[m], unit.values[m])
        elif not self.zero:
            unit.rows[m] = self.entered[m].enter(unit.arm, list(unit.shares), unit.values[m], unit.time_ms)

    def close(self) -> None:
        before = self.now - self.window
        if self.by_unit:
            due = [u for u in self.units.values() if not u.rows and u.time_ms < before]
            for unit in sorted(due, key=lambda u: (u.time_ms, u.order)):
                for m in range(self.n_metrics):
                    value = unit.values.get(m, 0.0)
                    unit.rows[m] = self.entered[m].enter(unit.arm, list(unit.shares), value, unit.time_ms)
            return
        self.blocks = [block for block in self.blocks if block]
        for block in sorted(self.blocks, key=lambda block: block[0][0]):
            while block and block[0][0] < before:
                _, key, arm, shares = block.pop(0)
                if arm != COUNTED:
                    self.analyse(key, arm, shares)
        exposed = {(i, c) for i, counters in self.seen.items() for c in counters}
        due_held = [(h.time_ms, h.arrival, key) for key, h in self.held.items() if h.time_ms < before]
        for _, _, key in sorted(due_held):
            assert key not in exposed, "an exposure and its token name the same time"
            held = self.held[key]
            self.orphans.add(key)
            self.analyse(key, held.arm, self.shares_of(*key, held.arm, held.propensity))

    def analyse(self, key: tuple[int, int], arm: int, shares: Vector) -> None:
        held = self.held.pop(key, None)
        values = held.values if held else {}
        self.closed[key] = [
            self.entered[m].enter(arm, list(shares), values.get(m, 0.0)) for m in range(self.n_metrics)
        ]

    @property
    def pending(self) -> int:
        if not self.zero:
            return 0
        if self.by_unit:
            return sum(not unit.rows for unit in self.units.values())
        opened = {key for block in self.blocks for _, key, arm, _ in block if arm != COUNTED}
        return len(opened | set(self.held))

    @property
    def crossovers(self) -> int:
        return sum(unit.crossed for unit in self.units.values())
