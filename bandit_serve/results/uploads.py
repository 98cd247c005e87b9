"""Covariates that were uploaded by unit before an experiment began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.covariates import MAX_UPLOADED_UNITS
from bandit_serve.log.events import Covariates

Units = NDArray[np.uint64]
Values = NDArray[np.float32]


class Uploads:
    """The last upload that is whole, and the parts so far of one that is not.

    `units` uint64 (n,), ascending; `values` float32 (n, c) by the place of the covariates' `names`, NaN for one that
    was not uploaded.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self.units: Units = np.zeros(0, np.uint64)
        self.values: Values = np.zeros((0, len(names)), np.float32)
        self._upload, self._n_parts = 0, 0
        self._parts: list[tuple[Units, Values]] = []

    def __bool__(self) -> bool:
        return bool(len(self.units) or self._parts)

    def take(self, event: Covariates) -> None:
        """Takes a part; the last one of an upload replaces what was uploaded before."""
        units, values = event.columns()
        if not set(event.names) <= set(self._names):
            # Another draft has overtaken it.
            return
        parts = self._parts if event.part else []
        if event.part and (event.upload, event.parts, event.part) != (
            self._upload,
            self._n_parts,
            len(parts),
        ):
            # The rest of an upload that another one has overtaken.
            return
        if sum(len(part) for part, _ in parts) + len(units) > MAX_UPLOADED_UNITS:
            raise UnreadableEntry(f"The log holds covariates of more than {MAX_UPLOADED_UNITS:,} units.")
        self._upload, self._n_parts, self._parts = event.upload, event.parts, parts
        wide = np.full((len(units), len(self._names)), np.nan, np.float32)
        wide[:, [self._names.index(name) for name in event.names]] = values
        self._parts.append((units, wide))
        if len(self._parts) == self._n_parts:
            self._finish()

    def _finish(self) -> None:
        units = np.concatenate([units for units, _ in self._parts])
        values = np.concatenate([values for _, values in self._parts])
        # Of two units with one hash the first counts.
        self.units, first = np.unique(units, return_index=True)
        self.values = values[first]
        self._parts, self._n_parts = [], 0

    def put_into(self, notes: Values, units: Units) -> None:
        """Puts what was uploaded of n `units` into the first columns of `notes`, float32 (n, w)."""
        if not len(self.units):
            return
        places = np.minimum(np.searchsorted(self.units, units), len(self.units) - 1)
        values = self.values[places]
        known = (self.units[places] == units)[:, None] & ~np.isnan(values)
        n_covariates = len(self._names)
        notes[:, :n_covariates] = np.where(known, values, notes[:, :n_covariates])

    def state(self) -> dict[str, NDArray[Any]]:
        none = np.zeros(0, np.uint64), np.zeros((0, len(self._names)), np.float32)
        parts = [none, *self._parts]
        return {
            "units": self.units,
            "values": self.values,
            "upload": np.array([self._upload, self._n_parts, len(self._parts)], np.int64),
            "sizes": np.array([len(units) for units, _ in self._parts], np.int64),
            "part_units": np.concatenate([units for units, _ in parts]),
            "part_values": np.concatenate([values for _, values in parts]),
        }

    @classmethod
    def from_state(cls, names: Sequence[str], state: dict[str, NDArray[Any]]) -> Uploads:
        """Uploads that had this `state`; `ValueError` for anything else."""
        uploads = cls(names)
        sizes = state["sizes"]
        for units, values in (("units", "values"), ("part_units", "part_values")):
            shape = len(state[units]), len(names)
            if (
                state[units].dtype != np.uint64
                or state[values].shape != shape
                or state[values].dtype != np.float32
            ):
                raise ValueError("the snapshot's covariates are not those of its units")
        ascending = bool((state["units"][1:] > state["units"][:-1]).all())
        if not ascending or (sizes < 0).any() or sizes.sum() != len(state["part_units"]):
            raise ValueError("the snapshot's units of covariates are not in order")
        if np.isinf(state["values"]).any() or np.isinf(state["part_values"]).any():
            raise ValueError("the snapshot has covariates that there can not be")
        uploads.units, uploads.values = state["units"].copy(), state["values"].copy()
        uploads._upload, uploads._n_parts = (int(number) for number in state["upload"][:2])
        ends = np.cumsum(sizes)[:-1]
        if len(sizes):
            parts = zip(
                np.split(state["part_units"], ends), np.split(state["part_values"], ends), strict=True
            )
            uploads._parts = [(units.copy(), values.copy()) for units, values in parts]
        return uploads
