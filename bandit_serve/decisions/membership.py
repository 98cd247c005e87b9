"""Membership in an experiment: which requests its arms are drawn for. The others get control, and nothing is logged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.api.decisions import Context, OutsideReason
from bandit_serve.base.names import OUTSIDE
from bandit_serve.base.turns import Turn
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.audience import AudienceRule, condition, fields_of
from bandit_serve.experiments.layer import N_SLOTS
from bandit_serve.experiments.spec import Record
from bandit_serve.folds._assignment import UnitSlots
from bandit_serve.registry.layers import Layers, Spans, mask_of

NOTHING: dict[str, Any] = {}


def held_out_units(namespace: str, share: float) -> UnitSlots | None:
    """Units that are in no experiment of a namespace: this share of them, in steps of 1/`N_SLOTS`. None without any."""
    n_slots = round(share * N_SLOTS)
    return _slots(b"no experiment", namespace, ((0, n_slots),)) if n_slots else None


def _slots(person: bytes, name: str, spans: Spans) -> UnitSlots:
    salt = blake2b(name.encode(), digest_size=16, person=person).digest()
    return UnitSlots(salt, mask_of(spans))


class Membership:
    """Rules of one experiment on who is in it.

    `fields` are those that its audience asks for. `needs_unit`: whether a request must name its unit. `spans` are its
    slots, as the registry has them.
    """

    def __init__(
        self,
        audience: AudienceRule | None,
        layer: str | None,
        spans: Spans,
        held_out: UnitSlots | None,
    ) -> None:
        self.fields = frozenset() if audience is None else fields_of(audience)
        self.needs_unit = layer is not None
        self.spans = spans
        self._fits = None if audience is None else condition(audience)
        self._members = None if layer is None else _slots(b"layer", layer, spans)
        self._held_out = held_out
        self._share = 0.0 if held_out is None else held_out.share

    @classmethod
    def of(cls, record: Record, layers: Layers, held_out: UnitSlots | None) -> Membership | None:
        """Membership of an experiment; None where every request is in it."""
        audience, layer = record.experiment.audience, record.experiment.layer
        if audience is UNSET and layer is UNSET and held_out is None:
            return None
        return cls(
            None if audience is UNSET else audience,
            None if layer is UNSET else layer.name,
            spans_of(record, layers),
            held_out,
        )

    def keeps_out(self, unit: str | None, context: Context | None) -> OutsideReason | None:
        """Reason why a request is outside; None for one that is in. Raises `InvalidInput` for a wrong `unit`.

        The service's holdout is asked first, the layer last. Of requests that name no unit the holdout takes its share
        at random.
        """
        if unit is None:
            if self.needs_unit:
                raise _wrong_unit("expected a unit: this experiment is in a layer")
            if self._share and random.random() < self._share:
                return "holdout"
        try:
            if unit is not None and self._held_out is not None and self._held_out.has(unit):
                return "holdout"
            if self._fits is not None and not self._fits(NOTHING if context is None else context):
                return "audience"
            if unit is not None and self._members is not None and not self._members.has(unit):
                return "layer"
        except ValueError:
            raise _wrong_unit(OUTSIDE) from None
        return None

    async def keeps_out_each(
        self, units: list[str], contexts: Sequence[Context | None] | None
    ) -> list[OutsideReason | None]:
        """`keeps_out` of n requests whose units are names from outside, in turns of the event loop."""
        reasons: list[OutsideReason | None] = [None] * len(units)
        if self._members is not None:
            _say(reasons, ~self._members.has_many(units), "layer")
        if self._fits is not None:
            turn = Turn()
            for i, context in enumerate(contexts or [None] * len(units)):
                if not self._fits(NOTHING if context is None else context):
                    reasons[i] = "audience"
                if turn.over:
                    await turn.give_way()
        if self._held_out is not None:
            _say(reasons, self._held_out.has_many(units), "holdout")
        return reasons


def spans_of(record: Record, layers: Layers) -> Spans:
    """Slots of an experiment in its layer; none without a layer."""
    layer = record.experiment.layer
    if layer is UNSET:
        return ()
    holding = layers.get(layer.name, {}).get(record.uid)
    return () if holding is None else holding.spans


def _say(reasons: list[OutsideReason | None], where: NDArray[np.bool_], reason: OutsideReason) -> None:
    for i in np.flatnonzero(where).tolist():
        reasons[i] = reason


def _wrong_unit(detail: str) -> InvalidInput:
    return InvalidInput(f"unit: {detail}.", [FieldError("unit", detail)])
