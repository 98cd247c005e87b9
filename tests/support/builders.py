"""Builders of experiments, log entries and stores, and a bounded wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.spec import Experiment, Record, Status
from bandit_serve.log.events import FIRST, REVISION, REWARD, Change, Changed, Exposed

INCARNATION = 0xFEED


def description(**fields: Any) -> dict[str, Any]:
    """Body of an experiment: two arms, a binary objective, missing rewards ignored."""
    return {
        "id": "e",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "click", "kind": "binary"}],
        "policy": {"kind": "thompson"},
        "attribution": {"window": "1h", "missing": "ignore"},
        **fields,
    }


def experiment(**fields: Any) -> Experiment:
    return validated(msgspec.convert(description(**fields), Experiment))


def record(made: Experiment, *, uid: int = 7, status: Status = "running", revision: int = 1) -> Record:
    return Record(made, uid, status, revision, created_ms=1, updated_ms=1)


def created(made: Experiment, **fields: Any) -> Changed:
    return Changed(record(made, **fields), Change("create", "test"))


def rewards(
    counters: Sequence[int],
    *,
    values: Sequence[float] | float = 1.0,
    times_ms: Sequence[int] | int = 0,
    arms: Sequence[int] | int = 0,
    metric: int = 0,
    incarnation: int = INCARNATION,
) -> NDArray[np.void]:
    """Reward rows, `REWARD` (n,)."""
    rows = np.zeros(len(counters), REWARD)
    rows["incarnation"], rows["counter"] = incarnation, counters
    rows["time_ms"], rows["value"], rows["arm"], rows["metric"] = times_ms, values, arms, metric
    rows["propensity"], rows["revision"] = 0.5, 1
    return rows


def revisions(
    counters: Sequence[int],
    formers: Sequence[float] | float,
    values: Sequence[float] | float,
    since_ms: Sequence[int] | int = FIRST,
    **columns: Any,
) -> NDArray[np.void]:
    """Rows of values that are sums of events, `REVISION` (n,); `columns` as in `rewards`."""
    rows = np.zeros(len(counters), REVISION)
    plain = rewards(counters, values=values, **columns)
    for name in plain.dtype.names or ():
        rows[name] = plain[name]
    rows["former"], rows["since_ms"] = formers, since_ms
    return rows


def exposed(
    first: int,
    arms: Sequence[int],
    times_ms: Sequence[int],
    *,
    n_arms: int = 2,
    incarnation: int = INCARNATION,
) -> Exposed:
    """Exposures numbered from `first`, drawn from even shares; `times_ms` is ascending."""
    ages = np.array(times_ms, np.int64) - times_ms[0]
    assert (ages >= 0).all()
    return Exposed(
        incarnation=incarnation,
        first=first,
        revision=1,
        time_ms=times_ms[0],
        arms=np.array(arms, np.uint16).tobytes(),
        ages_ms=ages.astype(np.uint32).tobytes(),
        units=b"",
        vectors=np.full(n_arms, 1.0 / n_arms).tobytes(),
        runs=np.array([len(arms)], np.uint32).tobytes(),
    )


async def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Returns as soon as `condition` holds; fails the test when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
