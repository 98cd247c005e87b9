"""Upload of covariates by unit, before an experiment begins."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.changes.experiments import ExperimentChanges
from bandit_serve.errors import Conflict, FieldError, InvalidInput
from bandit_serve.experiments.covariates import MAX_COVARIATE, MAX_UPLOADED_UNITS
from bandit_serve.folds.assignment import rendezvous
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import Covariates
from bandit_serve.replication.acknowledgements import wait_for_acknowledgements
from bandit_serve.replication.tail import Tail
from bandit_serve.store.store import Store

PART_UNITS = 2**16
"""Units in one entry of the log."""


class CovariateColumns(NamedTuple):
    """Covariates of n units: `values` float64 (n, c), by the place of their `names`.

    `within` is where the columns of covariates are in what was sent.
    """

    units: Sequence[str]
    names: tuple[str, ...]
    values: NDArray[np.float64]
    within: str = ""

    def place(self, name: str) -> str:
        return f"{self.within}.{name}" if self.within else name


class CovariateChanges:
    """Puts covariates into the logs of drafts. Each upload replaces what was uploaded before."""

    def __init__(self, store: Store, tail: Tail, experiments: ExperimentChanges) -> None:
        self._store = store
        self._tail = tail
        self._experiments = experiments

    async def put(self, name: str, columns: CovariateColumns) -> None:
        """Uploads covariates for an experiment.

        Raises `NotFound`, `InvalidInput` for columns that it can not have, and `Conflict` where it is no draft:
        covariates are of before the start.
        """
        live = await self._experiments.known(name)
        _require_draft(live)
        require_fit(live, columns)
        parts = await asyncio.to_thread(_parts, live, columns)
        for part in parts:
            offset = await self._store.append(live.owner, events.COVARIATES, part)
        await self._tail.wait_for(live.owner, offset)
        await wait_for_acknowledgements(self._store, live.owner, offset)
        # What came after the start does not count, and of another draft, what came before it.
        now = await self._experiments.known(name)
        _require_draft(now)
        if now.record.revision != live.record.revision:
            raise Conflict(f"The draft {name!r} was changed meanwhile; upload the covariates again.")


def require_fit(live: LiveExperiment, columns: CovariateColumns) -> None:
    """Raises `InvalidInput` unless these are covariates of the experiment's units, each unit once."""
    experiment = live.experiment
    fault = None
    if not experiment.covariates:
        fault = "", "no metric of this experiment has a covariate"
    elif experiment.unit != "user":
        fault = "", 'covariates by unit need "unit": "user"; decide takes those of a request'
    elif not columns.names:
        fault = "", f"expected a column of a covariate: one of {', '.join(experiment.covariates)}"
    elif unknown := [name for name in columns.names if name not in experiment.covariates]:
        fault = (
            columns.place(unknown[0]),
            f"{expected_one_of(unknown[0], experiment.covariates)}, not {unknown[0]!r}",
        )
    elif not 1 <= len(columns.units) <= MAX_UPLOADED_UNITS:
        fault = "unit", f"expected 1 to {MAX_UPLOADED_UNITS:,} units, not {len(columns.units):,}"
    elif len(set(columns.units)) < len(columns.units):
        fault = "unit", "expected each unit once"
    elif not (np.abs(columns.values) <= MAX_COVARIATE).all():
        row, place = np.argwhere(~(np.abs(columns.values) <= MAX_COVARIATE))[0]
        fault = (
            f"{columns.place(columns.names[place])}[{row}]",
            f"expected a number within ±{MAX_COVARIATE:g}",
        )
    if fault is not None:
        at, detail = fault
        raise InvalidInput(f"{at or 'The covariates are not valid'}: {detail}.", [FieldError(at, detail)])


def _require_draft(live: LiveExperiment) -> None:
    if live.record.status != "draft":
        raise Conflict(
            f"The experiment {live.experiment.id!r} is {live.record.status}; covariates are uploaded before the start."
        )


def _parts(live: LiveExperiment, columns: CovariateColumns) -> list[bytes]:
    try:
        units = rendezvous(live.record).hash_units(list(columns.units))
    except ValueError:
        detail = "expected texts of 1 to 256 bytes"
        raise InvalidInput(f"unit: {detail}.", [FieldError("unit", detail)]) from None
    values = columns.values.astype("<f4")
    starts = range(0, len(units), PART_UNITS)
    upload = secrets.randbits(62)
    return [
        events.encode(
            Covariates(
                upload,
                part,
                len(starts),
                columns.names,
                units[start : start + PART_UNITS].astype("<u8").tobytes(),
                values[start : start + PART_UNITS].tobytes(),
            )
        )
        for part, start in enumerate(starts)
    ]
