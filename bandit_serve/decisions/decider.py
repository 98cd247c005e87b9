"""Deciding for one experiment: from shares in memory to an arm, and from an arm to a signed, logged decision."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from bandit_serve._assignment import Rendezvous
from bandit_serve._draw import ShareSampler
from bandit_serve.decisions.exposures import ExposureBuffer
from bandit_serve.decisions.messages import ModelName
from bandit_serve.errors import Conflict, FieldError, InvalidInput
from bandit_serve.live import LiveExperiment
from bandit_serve.names import OUTSIDE, check_outside
from bandit_serve.token import Keyring

MAX_SUBSETS = 256

Vector = NDArray[np.float64]


class Draw:
    """A share vector, ready to be drawn from. What is drawn from is what is logged: `shares`, and nothing else."""

    __slots__ = ("_sampler", "propensities", "shares", "used")

    def __init__(self, shares: Vector) -> None:
        shares.flags.writeable = False
        self.shares = shares
        self.propensities: list[float] = shares.tolist()
        self.used = False
        self._sampler = ShareSampler(shares)

    def arm(self, rendezvous: Rendezvous, unit: int) -> int:
        """The arm of a unit's hash, or of chance where that is 0."""
        return rendezvous.arm(unit, self.shares) if unit else self._sampler.choose()

    def arms(self, rendezvous: Rendezvous, units: NDArray[np.uint64] | None, n: int) -> NDArray[np.uint16]:
        if units is not None:
            return rendezvous.arms(units, self.shares)
        return self._sampler.choose_many(n).astype(np.uint16)


class Choice:
    """An arm, and all that its log entry needs. `draw` is None where nothing is logged (paused, stopped)."""

    __slots__ = ("arm", "draw", "propensity", "unit")

    def __init__(self, arm: int, propensity: float, unit: int, draw: Draw | None) -> None:
        self.arm = arm
        self.propensity = propensity
        self.unit = unit
        self.draw = draw


class Decider:
    """One experiment in one worker. `renew` takes over a configuration, `refresh` new evidence."""

    def __init__(self, live: LiveExperiment, incarnation: int) -> None:
        self._incarnation = incarnation
        self.exposures = ExposureBuffer(incarnation)
        self.renew(live)

    def renew(self, live: LiveExperiment) -> None:
        experiment = live.experiment
        self.live = live
        self.revision = live.record.revision
        self.status = live.record.status
        self.sticky = experiment.unit == "user"
        self.arm_names = list(experiment.arm_names)
        self.payloads = [arm.payload for arm in experiment.arms]
        self.models = [
            ModelName(arm.model, arm.version) if arm.model and arm.version else None
            for arm in experiment.arms
        ]
        self._index = {name: k for k, name in enumerate(self.arm_names)}
        winner = live.record.winner if self.status == "stopped" else None
        self._fallback = self._index[winner] if winner else experiment.control_arm
        self._uid = live.record.uid
        self._rendezvous = Rendezvous(
            blake2b(live.record.uid.to_bytes(8, "little"), digest_size=16).digest(), self.arm_names
        )
        self._subsets: dict[frozenset[int], Draw] = {}
        self.evidence = live.evidence
        self.draw = Draw(live.shares())

    def refresh(self) -> None:
        """Takes over what the log has said since; shares over subsets are forgotten, and made anew when asked."""
        self.evidence = self.live.evidence
        self.take(self.live.shares(), {})

    def take(self, shares: Vector, subsets: dict[frozenset[int], Vector]) -> None:
        self.draw = Draw(shares)
        self._subsets = {key: Draw(vector) for key, vector in subsets.items()}

    def subsets_in_use(self) -> list[frozenset[int]]:
        return [key for key, draw in self._subsets.items() if draw.used]

    def mask(self, arms: frozenset[int]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self.arm_names), np.bool_)
        mask[list(arms)] = True
        return mask

    def choose(self, unit: str | None, eligible: Sequence[str] | None) -> Choice:
        """Draws an arm and logs nothing yet. `Conflict` for a draft."""
        draw = self.draw if eligible is None else self._draw_among(eligible)
        if self.status != "running":
            if self.status == "draft":
                raise Conflict(f"The experiment {self.live.experiment.id!r} is a draft; start it first.")
            return Choice(self._fallback, 1.0, 0, None)
        hashed = 0
        if self.sticky:
            hashed = self._hash(unit)
        elif unit is not None:
            check_outside(unit, "unit")
        arm = draw.arm(self._rendezvous, hashed)
        return Choice(arm, draw.propensities[arm], hashed, draw)

    def _hash(self, unit: str | None) -> int:
        if unit is None:
            detail = 'expected a unit: this experiment has "unit": "user"'
            raise InvalidInput(f"unit: {detail}.", [FieldError("unit", detail)])
        try:
            return self._rendezvous.hash_unit(unit)
        except ValueError:
            raise InvalidInput(f"unit: {OUTSIDE}.", [FieldError("unit", OUTSIDE)]) from None

    def _draw_among(self, eligible: Sequence[str]) -> Draw:
        try:
            arms = frozenset([self._index[name] for name in eligible])
        except KeyError as error:
            detail = f"expected names of arms, not {error.args[0]!r}"
            raise InvalidInput(f"eligible: {detail}.", [FieldError("eligible", detail)]) from None
        if not arms:
            detail = "expected at least one arm"
            raise InvalidInput(f"eligible: {detail}.", [FieldError("eligible", detail)])
        if len(arms) == len(self.arm_names):
            return self.draw
        draw = self._subsets.get(arms)
        if draw is None:
            if len(self._subsets) >= MAX_SUBSETS:
                self._subsets.pop(next(iter(self._subsets)))
            draw = self._subsets[arms] = Draw(self.live.shares(self.mask(arms)))
        draw.used = True
        return draw

    def record(self, choice: Choice, keyring: Keyring, time_ms: int) -> str | None:
        """Takes the decision into the log's next flush and signs it."""
        draw = choice.draw
        if draw is None:
            return None
        counter = self.exposures.next
        self.exposures.add(choice.arm, choice.unit, draw.shares, self.revision, time_ms)
        return keyring.seal.sign(
            self._uid,
            self._incarnation,
            counter,
            time_ms,
            self.revision,
            choice.arm,
            choice.propensity,
            choice.unit,
        )

    def decide_columns(
        self, units: list[str], keyring: Keyring, time_ms: int
    ) -> tuple[list[str] | list[None], list[int], list[float]]:
        """Decides for n units at once: tokens, arms, propensities."""
        n = len(units)
        if self.status != "running":
            choice = self.choose(None, None)
            return [None] * n, [choice.arm] * n, [1.0] * n
        try:
            hashes = self._rendezvous.hash_units(units)
        except ValueError:
            detail = f"every unit: {OUTSIDE}"
            raise InvalidInput(f"units: {detail}.", [FieldError("units", detail)]) from None
        draw, first = self.draw, self.exposures.next
        arms = draw.arms(self._rendezvous, hashes if self.sticky else None, n)
        logged = hashes if self.sticky else hashes[:0]
        propensities = draw.shares[arms]
        self.exposures.add_many(arms, logged, draw.shares, self.revision, time_ms)
        tokens = keyring.seal.sign_many(
            self._uid, self._incarnation, first, time_ms, self.revision, arms, propensities, logged
        )
        return tokens, arms.tolist(), propensities.tolist()
