"""State of the results in a snapshot: its columns by part, and which of them it may have."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from msgspec import Struct

from bandit_serve.log.snapshot import Codec, Layout
from bandit_serve.results.horizon import HorizonLooks
from bandit_serve.results.room import State

StateColumns = dict[str, State]
"""Columns by part of the fold and by name."""


class ResultsState(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """State of `ResultsFold`; `record` as MessagePack."""

    record: bytes
    columns: StateColumns


RESULTS = "an experiment's results"
CODEC = Codec(ResultsState, RESULTS, version=3, layout=Layout.DEFLATED)


SOMETIMES: StateColumns = {
    "decision": {"noted": np.zeros(3, np.int64)},
    "looks": vars(HorizonLooks.none(0, 0)),
}
"""Parts that a state has once there is something in them."""

FIXED: dict[str, frozenset[str] | None] = {
    "fold": frozenset({"now_ms", "omitted", "exposures"}),
    "sums": None,
    "beginnings": frozenset({"closed", "counts"}),
    "evidence": None,
    "harm": None,
    "failure_runs": None,
    "decision": None,
    "raw": None,
    "quantiles": frozenset({"kept", "halvings", "sizes"}),
    "pairs": None,
    "companions": None,
    "pair_evidence": None,
}
"""Columns whose shape and dtype the experiment says, by part; None: all of them. The others' kernels look at them."""


def require_shapes(state: State, known: State, names: Collection[str] | None) -> None:
    for name, column in state.items():
        if name in (known if names is None else names) and name in known:
            shape, dtype = known[name].shape, known[name].dtype
            if (column.shape, column.dtype) != (shape, dtype):
                raise ValueError(f"{name} is {column.dtype}{column.shape}, not {dtype}{shape}")


def require_known(state: Collection[str], known: Collection[str], whose: str) -> None:
    unknown = sorted(set(state) - set(known))
    if unknown:
        raise ValueError(f"{whose} have a part {unknown[0]!r} that it does not know")
