"""Results with `keep_assigned`: right when shares change while units of another kind come, and units come again."""

from __future__ import annotations

import msgspec
import numpy as np
from builders import experiment, record
from scale import scaled

from bandit_serve.decisions.decider import Decider
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Change, Changed, Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.log.token import Keyring, new_key
from bandit_serve.results import report
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.report import Report

KEYRING = Keyring({0: new_key(0)}, 10**12)
R = scaled(20, 400)
UNITS = 1_000
# Of each half of the units: the share of the second arm, and the mean of both arms.
SHARES, MEANS = (0.5, 0.1), (0.2, 0.6)


class World:
    """An experiment of two arms that are the same, while its shares and the units that come change."""

    def __init__(self, keep: bool, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._time = 0
        # Another experiment each time: units fall otherwise.
        made = experiment(unit="user", policy=split(SHARES[0]), keep_assigned=keep)
        self._changed(Changed(record(made, uid=seed + 1), Change("create", "test")), first=True)

    def _changed(self, event: Changed, first: bool = False) -> None:
        if first:
            self.live, self.fold = LiveExperiment(event), ResultsFold(event.record)
        self._apply(event)
        if first:
            self._decider = Decider(self.live, 1)
        else:
            self._decider.renew(self.live)

    def _apply(self, event: object) -> None:
        self._time += 1_000
        for fold in (self.live, self.fold):
            fold.apply(Offset(self._time, 0), event)

    def share(self, second: float) -> None:
        policy = msgspec.convert(split(second), PolicySpec)
        about = msgspec.structs.replace(
            self.live.record,
            experiment=msgspec.structs.replace(self.live.experiment, policy=policy),
            revision=self.live.record.revision + 1,
        )
        self._changed(Changed(about, Change("policy", "test")))

    def visit(self, units: list[str], mean: float | None) -> None:
        """Units come, and with a mean they are rewarded."""
        tokens, _, _ = self._decider.decide_columns(units, KEYRING, self._time)
        while (waiting := self._decider.exposures.first_waiting()) is not None:
            self._apply(waiting.exposed)
            self._decider.exposures.done(waiting.exposed)
        if mean is not None:
            values = (self._random.random(len(units)) < mean).astype(float)
            self._apply(Rewarded(KEYRING.open(tokens, values)[0]))

    def report(self) -> Report:
        return report(self.fold, self.live.record, {"a": 0.5, "b": 0.5}, self._time)


def split(second: float) -> dict[str, object]:
    return {"kind": "fixed_split", "shares": {"a": 1.0 - second, "b": second}}


def played(keep: bool, seed: int) -> World:
    world = World(keep, seed)
    early = [f"early-{i}" for i in range(UNITS // 2)]
    late = [f"late-{i}" for i in range(UNITS // 2)]
    world.visit(early, MEANS[0])
    world.share(SHARES[1])
    for some in (late[:200], late[200:]):
        world.visit([*early[:100], *some], None)
        world.visit(some, MEANS[1])
    return world


def test_the_difference_of_equal_arms_is_none_and_nobody_crosses() -> None:
    differences, covered = [], 0
    for seed in range(R):
        result = played(True, seed).report()
        assert result.crossovers == 0
        assert result.srm.verdict != "mismatch"
        one, other = (arm.metrics["click"] for arm in result.arms)
        assert one.n + other.n == UNITS
        assert other.difference is not None
        assert other.difference_interval is not None
        differences.append(other.difference)
        low, high = other.difference_interval
        covered += low <= 0.0 <= high
    mean, error = np.mean(differences), np.std(differences) / np.sqrt(R)
    assert abs(mean) <= 3 * error
    assert covered / R >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / R)
    naive = [pooled(played(True, seed)) for seed in range(3)]
    assert max(naive) < -0.1, "means without propensities would say that the second arm is worse"


def pooled(world: World) -> float:
    """Difference of the arms' plain means, which takes no account of who came when."""
    means = world.live.means()
    return float(means[1] - means[0])


def test_without_it_units_cross() -> None:
    assert played(False, 1).report().crossovers > 10
