"""Decisions for an experiment that is set aside: everyone gets control, and nothing is logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.decisions import Context, ModelName
from bandit_serve.base.names import check_all_outside, check_outside
from bandit_serve.decisions.decider import Choice
from bandit_serve.decisions.draw import Vector
from bandit_serve.errors import Conflict
from bandit_serve.experiments.spec import Record
from bandit_serve.log.token import Keyring
from bandit_serve.serving.servable import Check


class ControlDecider:
    """Stands in for a `Decider`, with the same interface, and needs only the experiment's record."""

    contextless = False
    covariates: tuple[str, ...] = ()
    n_logged = 0
    measured = False
    interleaves = False
    context_fields: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    membership = None
    features = None
    ejected: Sequence[str] = ()

    def __init__(self, record: Record) -> None:
        experiment = record.experiment
        self.id = experiment.id
        self.status = record.status
        self.revision = record.revision
        self.uid = record.uid
        self.slots = experiment.slots or 1
        self.decides = not experiment.interleaves and self.slots == 1
        self.sticky = self.needs_unit = experiment.unit == "user"
        self.arm_names = list(experiment.arm_names)
        self.payloads = [arm.payload for arm in experiment.arms]
        self.models = [
            ModelName(arm.model, arm.version) if arm.model and arm.version else None
            for arm in experiment.arms
        ]
        self.checks: tuple[Check, ...] | None = None
        self._arm = record.fallback
        self.active = [self._arm]
        self._there = frozenset(
            k for k in range(len(self.arm_names)) if record.standing(k).status == "active"
        )

    @property
    def shares(self) -> Vector:
        shares = np.zeros(len(self.arm_names))
        shares[self._arm] = 1.0
        return shares

    def encoded(self, context: Context | None, covariates: Mapping[str, float | None] | None = None) -> None:
        """Returns None: contexts and covariates are ignored."""

    def choose(
        self,
        unit: str | None,
        eligible: Sequence[str] | None,
        x: NDArray[np.float32] | None = None,
        context: Context | None = None,
    ) -> Choice:
        if unit is not None:
            check_outside(unit, "unit")
        if self.status == "draft":
            raise Conflict(f"The experiment {self.id!r} is a draft; start it first.")
        return Choice(self._arm, 1.0, 0, None, None)

    @property
    def within_reach(self) -> Sequence[int]:
        """Control alone."""
        return self.active

    def may_get(self, arm: str, eligible: Sequence[str] | None) -> bool:
        """Returns True: control is for everyone, whatever is eligible."""
        return True

    def takers(self, eligible: Sequence[str] | None) -> frozenset[int]:
        """Arms that may follow control in a list."""
        if eligible is None:
            return self._there
        return frozenset(arm for arm in self._there if self.arm_names[arm] in eligible)

    def eject(self, choice: Choice) -> bool:
        """Returns False: there is no other arm."""
        return False

    def record(
        self,
        choice: Choice,
        keyring: Keyring,
        time_ms: int,
        pair: Any = None,
        outcome: Any = None,
        name: str | None = None,
    ) -> None:
        """Returns None for the token: the decision is not logged, and takes no reward."""

    def decide_columns(
        self, names: list[str], keyring: Keyring, time_ms: int
    ) -> tuple[list[None], list[int], list[float]]:
        check_all_outside(names, "units")
        n = len(names)
        return [None] * n, [self.choose(None, None).arm] * n, [1.0] * n
