"""Folds of all logs in a store, as this build computes them."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
import numpy as np

from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log import events
from bandit_serve.log.fold import EXPOSURES_FOLD, RESULTS_FOLD
from bandit_serve.log.offset import START
from bandit_serve.log.reader import event_of, pages
from bandit_serve.log.repairs import Repairs
from bandit_serve.registry.api_keys import tenants_of
from bandit_serve.registry.registry import Registry, decode_registry_event
from bandit_serve.replication.replay import replay
from bandit_serve.replication.tail import READ_COUNT, Tail
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.state import CODEC
from bandit_serve.store.keys import COMMON, OF_TENANT
from bandit_serve.store.store import Store

StoredFold = TypeVar("StoredFold", ResultsFold, UnitExposures)

AS_OF_MS = 1_800_000_000_000


async def fold_all(url: str) -> dict[str, Any]:
    """Folds all logs; returns, by owner, digests of the folds, and the results at `AS_OF_MS`. Owners of a tenant's logs
    begin with `TENANT/`.

    Asserts that every snapshot equals the fold of its log. Of units that a build of before scored otherwise, that is
    what hangs on no score, and `results` are samples.
    """
    store = Store(url)
    try:
        registry = await registry_of(store)
        folded = await fold_logs(store, registry)
    finally:
        await store.close()
    for tenant in tenants_of(registry.keys, AS_OF_MS):
        store = Store(url, namespace=f"{store.keys.namespace.partition(OF_TENANT)[0]}{OF_TENANT}{tenant}")
        try:
            of_tenant = await fold_logs(store, await registry_of(store))
        finally:
            await store.close()
        folded |= {f"{tenant}{OF_TENANT}{owner}": each for owner, each in of_tenant.items()}
    return folded


async def registry_of(store: Store) -> Registry:
    replica = Replica()
    await Tail(store, replica).load_registry()
    return replica.registry


async def fold_logs(store: Store, registry: Registry) -> dict[str, Any]:
    folded: dict[str, Any] = {COMMON: {"digest": sha256(registry.state()).hexdigest()}}
    assert await snapshot_of_the_registry(store) in (None, registry.state())
    for owner in sorted(registry.experiments):
        replayed = await replay(store, owner, registry.repairs)
        assert replayed.equal is not False, replayed
        results = await fold_snapshots(store, owner, registry.repairs, RESULTS_FOLD, ResultsFold)
        about = msgspec.to_builtins(report(results, results.record, {}, AS_OF_MS))
        otherwise = [
            is_scored_otherwise(snapshot.state)
            for offset in await store.snapshot_offsets(owner, RESULTS_FOLD)
            if (snapshot := await store.read_snapshot(owner, RESULTS_FOLD, offset)) is not None
        ]
        folded[owner] = {
            "digest": replayed.digest,
            "snapshots": len(replayed.snapshots),
            "results": samples_in(about) if any(otherwise) else about,
            "scored_otherwise": any(otherwise),
        }
        if results.record.experiment.unit == "user":
            units = await fold_snapshots(store, owner, registry.repairs, EXPOSURES_FOLD, UnitExposures)
            folded[owner]["units"] = sha256(units.state()).hexdigest()
    return folded


def agrees(now: Any, then: Any) -> bool:
    """Whether what is there now has all that was there then, numbers within what kinds of CPU differ by."""
    match then:
        case {"reason": str(reason), **others}:
            # More may be told now.
            clauses = reason.rstrip(".").split("; ")
            return all(clause in now["reason"] for clause in clauses) and agrees(now, others)
        case {"interval": [low, high], "mean": float(mean), **others} if isinstance(now, dict):
            # Builds of before did not widen an interval to its mean.
            widened = [min(low, mean), max(high, mean)]
            same = agrees(now["interval"], [low, high]) or agrees(now["interval"], widened)
            return same and agrees(now["mean"], mean) and agrees(now, others)
        case dict():
            return isinstance(now, dict) and all(agrees(now.get(name), each) for name, each in then.items())
        case list() | tuple():
            return len(now) == len(then) and all(map(agrees, now, then))
        case float():
            return isinstance(now, float) and math.isclose(now, then, rel_tol=1e-9, abs_tol=1e-12)
    return bool(now == then)


async def snapshot_of_the_registry(store: Store) -> bytes | None:
    """State of the registry from its snapshot and the entries after it; None without a snapshot."""
    snapshot = await store.read_snapshot(COMMON, "registry")
    if snapshot is None:
        return None
    registry = Registry.from_state(snapshot.offset, snapshot.state)
    for entry in await store.read(COMMON, snapshot.offset, READ_COUNT):
        registry.apply(entry.offset, decode_registry_event(entry.kind, entry.data))
    return registry.state()


OF_SAMPLES = (
    "n",
    "total",
    "shifted",
    "m2",
    "cube",
    "balance",
    "spread",
    "analysed",
    "origin",
    "grand",
    "split",
)
"""Columns of sums that hang on no score."""
OF_SCORES = {
    "sums",
    "outcome",
    "epochs",
    "pairs",
    "companions",
    "companion_epochs",
    "pair_evidence",
    "evidence",
    "history",
}
"""Parts of a state that hang on scores."""


def is_scored_otherwise(state: bytes) -> bool:
    """Whether a state has units that a build of before scored around centres that they did not keep."""
    decisions = CODEC.unpack(state).columns["decisions"]
    if "unit" not in decisions:
        return False
    dated = decisions.get("dated", decisions["entered"][:0])
    return not np.array_equal(dated, decisions["entered"]) and bool(decisions["entered"].any())


def of_samples(state: bytes) -> bytes:
    """State without all that hangs on scores."""
    read = CODEC.unpack(state)
    columns = {part: dict(each) for part, each in read.columns.items() if part not in OF_SCORES}
    del columns["decisions"]["dated"]
    columns["samples"] = {name: read.columns["sums"][name] for name in OF_SAMPLES}
    return CODEC.pack(msgspec.structs.replace(read, columns=columns))


def samples_in(results: dict[str, Any]) -> dict[str, Any]:
    """Results without all that hangs on scores."""
    arms = [
        {
            **arm,
            "metrics": {
                metric: {name: each[name] for name in ("n", "mean", "std")}
                for metric, each in arm["metrics"].items()
            },
        }
        for arm in results["arms"]
    ]
    return {"arms": arms, **{name: results[name] for name in ("status", "pending", "crossovers", "srm")}}


def columns_of(state: bytes) -> dict[str, set[str]]:
    """Names of a state's columns, by part."""
    return {part: set(columns) for part, columns in CODEC.unpack(state).columns.items()}


def with_columns(state: bytes, names: dict[str, set[str]]) -> bytes:
    """State with those columns only: builds of before kept fewer."""
    read = CODEC.unpack(state)
    kept = {
        part: {name: column for name, column in columns.items() if name in names[part]}
        for part, columns in read.columns.items()
        if part in names
    }
    return CODEC.pack(msgspec.structs.replace(read, columns=kept))


def without_history(then: bytes, now: bytes) -> tuple[bytes, bytes]:
    """States without what was shown over time; asserts that this agrees, as kinds of CPU differ in logarithms."""
    read = [CODEC.unpack(each) for each in (then, now)]
    shown = [each.columns.pop("history", {}) for each in read]
    assert shown[0].keys() == shown[1].keys()
    for name, column in shown[0].items():
        np.testing.assert_allclose(shown[1][name], column, rtol=1e-9, atol=1e-12, err_msg=name)
    return CODEC.pack(read[0]), CODEC.pack(read[1])


async def fold_snapshots(
    store: Store, owner: str, repairs: Repairs, kind: str, make: type[StoredFold]
) -> StoredFold:
    """Folds a whole log; asserts that the snapshots of this kind equal the fold at their offsets."""
    snapshots, names = {}, {}
    for offset in await store.snapshot_offsets(owner, kind):
        snapshot = await store.read_snapshot(owner, kind, offset)
        assert snapshot is not None
        snapshots[offset] = make.from_state(offset, snapshot.state).state()
        names[offset] = (
            {**columns_of(snapshot.state), "samples": {*OF_SAMPLES}} if kind == RESULTS_FOLD else {}
        )
    fold = None
    async for page in pages(store, owner, START):
        for entry in page.entries:
            if fold is None:
                created = events.decode(entry.kind, entry.data)
                assert isinstance(created, events.Changed)
                fold = make(created.record)
            fold.apply(entry.offset, event_of(entry, owner, repairs, fold.n_features))
            state = snapshots.pop(entry.offset, None)
            if state is None:
                continue
            now = fold.state()
            if kind == RESULTS_FOLD:
                if is_scored_otherwise(state):
                    state, now = of_samples(state), of_samples(now)
                state, now = (with_columns(each, names[entry.offset]) for each in (state, now))
                state, now = without_history(state, now)
            assert state == now, f"the {kind} of {owner} at {entry.offset}"
    assert not snapshots, f"of {owner}: {list(snapshots)}"
    assert fold is not None
    return fold
