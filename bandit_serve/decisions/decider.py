"""Decisions of one experiment: an arm is drawn from shares in memory, then the decision is logged and signed."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import isfinite
from typing import Any

import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve.api.decisions import Context, ModelName, OutsideReason
from bandit_serve.base.clock import Clock, now_ms
from bandit_serve.base.names import OUTSIDE, check_all_outside, check_outside
from bandit_serve.decisions.draw import Draw, Vector
from bandit_serve.decisions.ejections import Ejections
from bandit_serve.decisions.exposures import ExposureBuffer
from bandit_serve.decisions.membership import Membership
from bandit_serve.decisions.outcomes import Outcome, ServedMetrics
from bandit_serve.errors import Conflict, FieldError, InvalidInput
from bandit_serve.experiments.covariates import with_covariates
from bandit_serve.folds._kept_arms import KeptArms
from bandit_serve.folds.assignment import rendezvous
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log._token import MAX_FEATURES
from bandit_serve.log.events import HELD_OUT
from bandit_serve.log.token import Keyring
from bandit_serve.serving.servable import Check

MAX_SUBSETS = 256
# Of a place in `KeptArms`: the low bits are the arm, the others number the vector.
ARM_BITS = 16
ARM_MASK = (1 << ARM_BITS) - 1
_NONE = np.empty(0, np.float32)


class Choice(Struct, frozen=True, eq=False):
    """Arm that was drawn, with all that its log entry needs. `draw` is None if nothing is logged (paused, stopped).

    x: what the log has of the decision, float32 (d,). `reason` says why a request is outside of a running experiment.
    """

    arm: int
    propensity: float
    unit: int
    draw: Draw | None
    x: NDArray[np.float32] | None
    held_out: bool = False
    reason: OutsideReason | UnsetType = UNSET


def outside_choice(control: int, reason: OutsideReason) -> Choice:
    """Control, for a request that is outside of a running experiment."""
    return Choice(control, 1.0, 0, None, None, reason=reason)


class Decider:
    """Decides for one experiment in one worker. `renew` takes over a configuration, `refresh` computes new shares.

    clock: returns log time. exposures: the buffer of a former decider of this experiment in this worker, so that
    decisions are numbered on. membership: who is in the experiment; None if everyone is. `admit` takes over another.
    """

    def __init__(
        self,
        live: LiveExperiment,
        incarnation: int,
        clock: Clock = now_ms,
        exposures: ExposureBuffer | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.membership = membership
        self._incarnation = incarnation
        self._now_ms = clock
        self._generator = np.random.default_rng()
        self.ejections = Ejections()
        self.exposures = ExposureBuffer(incarnation) if exposures is None else exposures
        self.renew(live)

    def renew(self, live: LiveExperiment) -> None:
        """Takes over a changed configuration, or another state of the experiment."""
        experiment = live.experiment
        self.id = experiment.id
        self.live = live
        self.revision = live.record.revision
        self.status = live.record.status
        self.interleaves = experiment.interleaves
        self.slots = experiment.slots or 1
        # Whether a request gets one arm, so that it can be asked as a flag or as a model.
        self.decides = not self.interleaves and self.slots == 1
        self._draws = self.status == "running" and not self.interleaves
        self.sticky = experiment.unit == "user"
        self.features = live.features
        self.covariates = experiment.covariates
        self.n_logged = live.n_logged
        self.contextual = live.policy.contextual
        self.arm_names = list(experiment.arm_names)
        self.payloads = [arm.payload for arm in experiment.arms]
        self.models = [
            ModelName(arm.model, arm.version) if arm.model and arm.version else None
            for arm in experiment.arms
        ]
        self._index = {name: k for k, name in enumerate(self.arm_names)}
        self.fallback = live.record.fallback
        self.uid = live.record.uid
        self.context_fields = frozenset(field.name for field in experiment.context)
        self.window_ms = experiment.attribution.window_ms
        self._rendezvous = rendezvous(live.record)
        self._holdout = experiment.policy.holdout or 0.0
        self._holdout_below = round(self._holdout * 2.0**64)
        self._holdout_salt = int.from_bytes(
            blake2b(live.record.uid.to_bytes(8, "little"), digest_size=8, person=b"holdout").digest(),
            "little",
        )
        self.exposures.n_features = self.n_logged
        self.exposures.served = ServedMetrics.of(experiment)
        # Whether what becomes of predictions is measured.
        self.measured = bool(self.exposures.served)
        self._active = frozenset(np.flatnonzero(live.active).tolist())
        weights = experiment.policy.shares
        # Arms of weight 0, which a list leaves out, also where it has room.
        self.weightless = frozenset(
            k for k, name in enumerate(self.arm_names) if weights is not None and not weights.get(name)
        )
        self._subsets: dict[frozenset[int], Draw] = {}
        self._masks: dict[frozenset[int], NDArray[np.bool_]] = {}
        # Draws of vectors that units keep, by their numbers.
        self._kept_draws: dict[int, Draw] = {}
        self.admit(self.membership)
        self.refresh()

    def admit(self, membership: Membership | None) -> None:
        """Takes over who is in the experiment."""
        self.membership = membership
        # What is asked of requests to predict by the versions of all arms that they may get, once it is known.
        self.checks: tuple[Check, ...] | None = None
        fields = frozenset() if membership is None else membership.fields
        self.attributes = self.context_fields | fields
        # What the audience asks for is not unexpected in a context.
        self._beside = fields - self.context_fields
        self.needs_unit = self.sticky or (membership is not None and membership.needs_unit)
        self._is_settled_first = (
            self.status != "running"
            or self.interleaves
            or membership is not None
            or self.live.kept is not None
        )

    def is_stale(self, now_ms: int) -> bool:
        """Whether the shares are out of date, by new evidence or by time alone (ramps, readmitted arms)."""
        return self.evidence != self.live.evidence or now_ms >= self.moves_at_ms

    def refresh(self) -> None:
        """Computes the shares anew. Those over subsets are dropped, and computed again when they are needed.

        A contextual policy computes shares for each decision instead.
        """
        time_ms = self._now_ms()
        everyone = self.everyone()
        shares = {} if self.contextual else {everyone: self.live.shares(self.mask(everyone), time_ms)}
        self.take(everyone, shares, self.live.evidence, time_ms)

    def take(
        self,
        everyone: frozenset[int],
        shares: Mapping[frozenset[int], Vector],
        evidence: int,
        time_ms: int,
    ) -> None:
        """Takes over `shares`, by sets of arms, that were computed at `time_ms` from `evidence`."""
        self.evidence = evidence
        self.moves_at_ms = self._moves_at_ms(time_ms)
        if everyone != self.everyone():
            # An arm came back while these shares were computed; nothing else would bring it into them.
            self.moves_at_ms = time_ms
        draws = {arms: Draw(vector, self._holdout) for arms, vector in shares.items()}
        self._drawn_among = everyone
        self.draw = draws.pop(everyone, None)
        self._subsets = draws

    @property
    def shares(self) -> Vector:
        """Shares, float64 (K,), of the requests that the arms get now.

        It is the vector that arms are drawn from; with a contextual policy, the mean of the latest such vectors.
        """
        if not self.live.record.draws:
            return self.live.undrawn_shares()
        return self.live.latest_shares() if self.draw is None else self.draw.shares

    def everyone(self) -> frozenset[int]:
        """Arms for a request that names no eligible ones: all active arms that are not ejected."""
        return (self._active - self.ejections.out(time.monotonic())) or self._active

    def _moves_at_ms(self, time_ms: int) -> float:
        """Log time at which shares are out of date by time alone; infinity if that does not happen."""
        now_s = time.monotonic()
        back_ms = time_ms + 1000.0 * (self.ejections.next_back_s(now_s) - now_s)
        standings = [self.live.record.standing(arm) for arm in self._active]
        return min([back_ms, *(standing.next_cap_ms(time_ms) for standing in standings)])

    @property
    def ejected(self) -> list[str]:
        """Names of the active arms that are ejected in this worker now."""
        return [self.arm_names[arm] for arm in sorted(self._active & self.ejections.out(time.monotonic()))]

    def eject(self, choice: Choice) -> bool:
        """Ejects an arm whose model failed, for a time, unless it is the last one.

        Returns whether another arm can be drawn in its place.
        """
        if choice.draw is None:
            return False
        if self.ejections.eject(choice.arm, self._active, time.monotonic()):
            self.refresh()
        is_out = choice.arm in self.ejections.out(time.monotonic())
        return is_out and bool(np.count_nonzero(choice.draw.shares) > 1)

    def leave_out(self, model: ModelName) -> None:
        """Ejects the arms of a model that can not be loaded here, but never the last arm."""
        ejected = [
            self.ejections.eject(arm, self._active, time.monotonic())
            for arm in self.active
            if self.models[arm] == model
        ]
        if any(ejected):
            self.refresh()

    def readmit(self, model: ModelName) -> None:
        """Readmits the arms of a model that can be loaded again."""
        back = [
            self.ejections.readmit(arm, time.monotonic()) for arm in self.active if self.models[arm] == model
        ]
        if any(back):
            self.refresh()

    @property
    def active(self) -> list[int]:
        """Arms that are neither paused nor removed, in order."""
        return sorted(self._active)

    @property
    def within_reach(self) -> list[int]:
        """Arms that a request gets now, in order: one alone where nothing is drawn, control where some are outside."""
        if self.status in ("paused", "stopped"):
            return [self.fallback]
        return sorted(self._active if self.membership is None else {*self._active, self.fallback})

    def may_get(self, arm: str, eligible: Sequence[str] | None) -> bool:
        """Whether a request that names these eligible arms may get one that is within reach."""
        if eligible is None or arm in eligible or self.status != "running":
            return True
        serves_outside = self.membership is not None and arm == self.arm_names[self.fallback]
        return serves_outside or self._named(eligible).isdisjoint(self._active)

    def subsets_in_use(self) -> list[frozenset[int]]:
        """Sets of eligible arms that were drawn from since the last refresh.

        None of lists: what is left of many lists is many sets, of which few are left again.
        """
        return [key for key, draw in self._subsets.items() if draw.used] if self.slots == 1 else []

    def _mask_of(self, arms: frozenset[int]) -> NDArray[np.bool_]:
        mask = self._masks.get(arms)
        if mask is None:
            if len(self._masks) >= MAX_SUBSETS:
                self._masks.pop(next(iter(self._masks)))
            mask = self._masks[arms] = self.mask(arms)
        return mask

    def mask(self, arms: frozenset[int]) -> NDArray[np.bool_]:
        """Mask, bool (K,), that is True at `arms`."""
        mask = np.zeros(len(self.arm_names), np.bool_)
        mask[list(arms)] = True
        return mask

    @property
    def contextless(self) -> bool:
        """Whether the experiment asks for nothing in a context, so that requests may not have one."""
        return not self.attributes

    def encoded(
        self, context: Context | None, covariates: Mapping[str, float | None] | None = None
    ) -> NDArray[np.float32] | None:
        """What the log has of a decision, float32 (d,): features of its context, covariates; None if it has neither."""
        x = None
        if context:
            require_finite(context)
        if self.features is not None:
            x = self.features.vector(context or {})
            if self._beside and context:
                self.features.unexpected -= len(self._beside & context.keys())
        elif context and not self.attributes:
            raise no_context("context")
        if self.covariates or covariates:
            return with_covariates(x, self.covariates, covariates or {})
        return x

    def choose(
        self,
        unit: str | None,
        eligible: Sequence[str] | None,
        x: NDArray[np.float32] | None = None,
        context: Context | None = None,
    ) -> Choice:
        """Draws an arm; `record` logs it.

        x: what `encoded` gave, float32 (d,). context: what the audience is asked of. Raises `InvalidInput` for a wrong
        `unit` or `eligible`, and `Conflict` for a draft or if no eligible arm is active.
        """
        if self._is_settled_first:
            settled = self._settled(unit, eligible, x, context)
            if settled is not None:
                return settled
        draw = self.draw
        if eligible is not None or draw is None:
            draw = self._draw_among(self._drawn_among if eligible is None else self._allowed(eligible), x)
        hashed = 0
        if self.sticky:
            hashed = self._hash(unit)
        elif unit is not None:
            check_outside(unit, "unit")
        held_out = bool(self._holdout) and self._is_held_out(hashed)
        arm = draw.arm(self._rendezvous, hashed, held_out)
        return Choice(arm, draw.propensities[arm], hashed, draw, x, held_out)

    def choose_from(self, arms: frozenset[int], x: NDArray[np.float32] | None) -> Choice:
        """Draws one of these arms at random, where there is no holdout; `record` logs it."""
        draw = self._draw_among(arms, x)
        arm = draw.arm(self._rendezvous, 0)
        return Choice(arm, draw.propensities[arm], 0, draw, x)

    def _settled(
        self,
        unit: str | None,
        eligible: Sequence[str] | None,
        x: NDArray[np.float32] | None,
        context: Context | None,
    ) -> Choice | None:
        """Choice that is not drawn: nothing is at all, the request is outside, or its unit keeps its arm."""
        if self.status != "running":
            if unit is not None:
                check_outside(unit, "unit")
            if eligible is not None:
                self._named(eligible)
            if self.status == "draft":
                raise Conflict(f"The experiment {self.live.experiment.id!r} is a draft; start it first.")
            return Choice(self.fallback, 1.0, 0, None, None)
        outside = self.outside(unit, eligible, context)
        if outside is not None:
            return outside
        if self.interleaves:
            raise self._no_arm()
        kept = self.live.kept
        return None if kept is None else self._kept(kept, self._hash(unit), eligible, x)

    def outside(
        self, unit: str | None, eligible: Sequence[str] | None, context: Context | None
    ) -> Choice | None:
        """Control for a request that is outside of a running experiment; None for one that is in it.

        Whoever names no unit may be told otherwise the next time, so ask once. Raises `InvalidInput` for a wrong `unit`
        or `eligible` of a request that is outside.
        """
        reason = None if self.membership is None else self.membership.keeps_out(unit, context)
        if reason is None:
            return None
        if self.sticky:
            self._hash(unit)
        elif unit is not None:
            check_outside(unit, "unit")
        if eligible is not None:
            self._named(eligible)
        return outside_choice(self.fallback, reason)

    def _no_arm(self) -> Conflict:
        return Conflict(f"The experiment {self.id!r} interleaves two lists: ask it to predict, with k.")

    def _kept(
        self,
        kept: KeptArms,
        hashed: int,
        eligible: Sequence[str] | None,
        x: NDArray[np.float32] | None,
    ) -> Choice | None:
        """Choice of the arm that a unit was first given; None if it was not met, or gets no such arm now."""
        place = kept.find(hashed)
        allowed = self._drawn_among if eligible is None else self._allowed(eligible)
        arm = place & ARM_MASK
        if place < 0 or arm not in allowed:
            return None
        draw = self._kept_draw(kept, place >> ARM_BITS)
        held_out = bool(self._holdout) and self._is_held_out(hashed)
        return Choice(arm, draw.propensities[arm], hashed, draw, x, held_out)

    def _kept_draw(self, kept: KeptArms, number: int) -> Draw:
        draw = self._kept_draws.get(number)
        if draw is None:
            if len(self._kept_draws) >= MAX_SUBSETS:
                self._kept_draws.pop(next(iter(self._kept_draws)))
            shares = kept.shares(number)[: len(self.arm_names)].copy()
            draw = self._kept_draws[number] = Draw(shares, once=True)
        return draw

    def _is_held_out(self, unit: int) -> bool:
        """Whether a unit is in the holdout: by its hash, so that it never changes; at random if the hash is 0."""
        if unit == 0:
            return random.random() < self._holdout
        return self._rendezvous.mixed(unit, self._holdout_salt) < self._holdout_below

    def _held_out(self, units: NDArray[np.uint64] | None, n: int) -> NDArray[np.bool_] | None:
        """Mask, bool (n,), of the units in the holdout, as `_is_held_out`; None if there is no holdout."""
        if not self._holdout:
            return None
        if units is None:
            return self._generator.random(n) < self._holdout
        return self._rendezvous.mixed_many(units, self._holdout_salt) < self._holdout_below

    def _hash(self, unit: str | None) -> int:
        if unit is None:
            detail = 'expected a unit: this experiment has "unit": "user"'
            raise InvalidInput(f"unit: {detail}.", [FieldError("unit", detail)])
        try:
            return self._rendezvous.hash_unit(unit)
        except ValueError:
            raise InvalidInput(f"unit: {OUTSIDE}.", [FieldError("unit", OUTSIDE)]) from None

    def _named(self, eligible: Sequence[str]) -> frozenset[int]:
        try:
            arms = frozenset([self._index[name] for name in eligible])
        except KeyError as error:
            detail = f"expected names of arms, not {error.args[0]!r}"
            raise InvalidInput(f"eligible: {detail}.", [FieldError("eligible", detail)]) from None
        if not arms:
            detail = "expected at least one arm"
            raise InvalidInput(f"eligible: {detail}.", [FieldError("eligible", detail)])
        return arms

    def takers(self, eligible: Sequence[str] | None) -> frozenset[int]:
        """Arms that a request may get now; none where all that it names are paused or were removed."""
        arms = self._active if eligible is None else self._named(eligible) & self._active
        return (arms & self._drawn_among) or arms

    def _allowed(self, eligible: Sequence[str]) -> frozenset[int]:
        arms = self.takers(eligible)
        if not arms:
            raise Conflict("None of the arms in eligible takes traffic now: they are paused or were removed.")
        return arms

    def _draw_among(self, arms: frozenset[int], x: NDArray[np.float32] | None) -> Draw:
        if self.contextual:
            features = x if x is None or not self.covariates else x[: self.live.n_features]
            shares = self.live.shares(self._mask_of(arms), self._now_ms(), features)
            return Draw(shares, self._holdout, once=True)
        draw = self.draw if arms == self._drawn_among else self._subsets.get(arms)
        if draw is None:
            if len(self._subsets) >= MAX_SUBSETS:
                self._subsets.pop(next(iter(self._subsets)))
            vector = self.live.shares(self.mask(arms), self._now_ms())
            draw = self._subsets[arms] = Draw(vector, self._holdout)
        draw.used = True
        return draw

    def record(
        self,
        choice: Choice,
        keyring: Keyring,
        time_ms: int,
        pair: tuple[str, str, dict[str, Any] | None] | None = None,
        outcome: Outcome | None = None,
        name: str | None = None,
    ) -> str | None:
        """Adds the decision to the next flush of the log and returns its signed token, or None if nothing is logged.

        pair: the user, the item and the features of its prediction, for models that learn from the reward. outcome:
        what became of the prediction, for metrics that the service measures. name: the unit's.
        """
        draw = choice.draw
        if draw is None:
            return None
        counter = self.exposures.next
        self.exposures.add(
            choice.arm,
            choice.unit,
            draw.shares,
            self.revision,
            time_ms,
            choice.held_out,
            choice.x,
            pair,
            outcome,
            name,
        )
        return keyring.seal.sign(
            self.uid,
            self._incarnation,
            counter,
            time_ms,
            self.revision,
            choice.arm,
            choice.propensity,
            choice.unit,
            HELD_OUT if choice.held_out else 0,
            choice.x,
        )

    def sign_demanded(
        self, choice: Choice, keyring: Keyring, time_ms: int, incarnation: int, number: int
    ) -> str:
        """Token of a decision that is logged only on demand, with all that its exposure needs.

        Where features and shares are too many for a token, the shares are left out.
        """
        assert choice.draw is not None
        x = _NONE if choice.x is None else choice.x
        behind = np.concatenate([x, choice.draw.shares.view(np.float32)])
        return keyring.seal.sign(
            self.uid,
            incarnation,
            number,
            time_ms,
            self.revision,
            choice.arm,
            choice.propensity,
            choice.unit,
            HELD_OUT if choice.held_out else 0,
            behind if len(behind) <= MAX_FEATURES else x,
        )

    def decide_columns(
        self, names: list[str], keyring: Keyring, time_ms: int
    ) -> tuple[list[str] | list[None], list[int], list[float]]:
        """Decides for n units at once, all of them in the experiment, without context.

        Returns tokens, arms and propensities.
        """
        n = len(names)
        if not self._draws:
            check_all_outside(names, "units")
            if self.status == "running":
                raise self._no_arm()
            choice = self.choose(None, None)
            return [None] * n, [choice.arm] * n, [1.0] * n
        try:
            hashes = self._rendezvous.hash_units(names)
        except ValueError:
            detail = f"every unit: {OUTSIDE}"
            raise InvalidInput(f"units: {detail}.", [FieldError("units", detail)]) from None
        draw, first = self._draw_among(self._drawn_among, None), self.exposures.next
        units = hashes if self.sticky else None
        held_out = self._held_out(units, n)
        arms = draw.arms(self._rendezvous, units, n, held_out)
        logged = hashes if self.sticky else hashes[:0]
        propensities = draw.shares[arms]
        if self.live.kept is None:
            self.exposures.add_many(arms, logged, draw.shares, self.revision, time_ms, held_out, names=names)
        else:
            self._add_kept(self.live.kept, draw, arms, propensities, hashes, time_ms, held_out, names)
        flags = None if held_out is None else held_out.astype(np.uint8) * np.uint8(HELD_OUT)
        tokens = keyring.seal.sign_many(
            self.uid, self._incarnation, first, time_ms, self.revision, arms, propensities, logged, flags
        )
        return tokens, arms.tolist(), propensities.tolist()

    def _add_kept(
        self,
        kept: KeptArms,
        draw: Draw,
        arms: NDArray[np.uint16],
        propensities: NDArray[np.float64],
        hashes: NDArray[np.uint64],
        time_ms: int,
        held_out: NDArray[np.bool_] | None,
        names: list[str],
    ) -> None:
        """Adds n decisions to the next flush, after units that were met have got their arms and propensities back."""
        places = kept.find_many(hashes)
        former = np.where(places >= 0, places & ARM_MASK, 0)
        known = (places >= 0) & self.mask(self._drawn_among)[former]
        arms[known] = former[known]
        numbers = np.where(known, places >> ARM_BITS, -1)
        edges = np.flatnonzero(np.diff(numbers)) + 1
        bounds = [0, *edges.tolist(), len(arms)]
        for start, end in itertools.pairwise(bounds if len(arms) else []):
            rows, number = slice(start, end), int(numbers[start])
            one = draw if number < 0 else self._kept_draw(kept, number)
            propensities[rows] = one.shares[arms[rows]]
            self.exposures.add_many(
                arms[rows],
                hashes[rows],
                one.shares,
                self.revision,
                time_ms,
                None if held_out is None else held_out[rows],
                names=names[rows],
            )


def require_finite(context: Context) -> None:
    """Raises `InvalidInput` for a number that only MessagePack can send."""
    for name, value in context.items():
        if type(value) is float and not isfinite(value):
            detail = "expected a finite number"
            raise InvalidInput(f"context.{name}: {detail}.", [FieldError(f"context.{name}", detail)])


def no_context(at: str) -> InvalidInput:
    """Error for a context in an experiment that has none."""
    detail = "this experiment has no context fields"
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
